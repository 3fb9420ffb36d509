"""Stable for ever, ragged without cost, and close to the exact law of what it learned from."""

import math

import pytest
import torch

import tsdyn
from tsdyn.batch import Paths, query, stack, take
from tsdyn.data.synthetic import OrnsteinUhlenbeck
from tsdyn.data.tasks import Forecasting, Imputation
from tsdyn.evaluation import evaluate
from tsdyn.maths.score import gaussian_crps, masked_mean
from tsdyn.maths.steps import Noise
from tsdyn.models import fields
from tsdyn.models.fields import SIGMA
from tsdyn.models.scaled import Scaled
from tsdyn.models.stable_sde import StableSDE

KINDS = ["langevin", "linear_noise", "geometric"]


def small(kind: str, dim: int = 1, **options) -> StableSDE:
    return StableSDE(dim, kind, hidden=8, depth=2, neighbours=2, **{"draws": 3, **options})


def question(n: int = 5, dim: int = 2, missing: float = 0.2) -> tuple[Paths, Paths]:
    paths = OrnsteinUhlenbeck(n=n, length=12, dim=dim, missing=missing)()
    return Imputation(0.4, "row")(paths, torch.Generator().manual_seed(0))


@pytest.fixture
def no_noise(monkeypatch):
    """Brownian increments of zero: a path is then decided by its question alone."""
    real = fields.increments

    def still(*args):
        noise = real(*args)
        return noise._replace(**{k: 0.0 * f for k, f in noise._asdict().items() if f is not None})

    monkeypatch.setattr(fields, "increments", still)


FAMILY = [(k, m) for k in KINDS for m in ("stable", "paper", "repo")] + [
    (k, m) for k in ("neural", "ode") for m in ("stable", "repo")
]


@pytest.mark.parametrize("kind, mode", FAMILY)
@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
@pytest.mark.parametrize("tails", ["gaussian", "student"])
def test_the_gradient_reaches_every_parameter(kind, mode, noise, tails):
    model = small(kind, 2, mode=mode, noise=noise, tails=tails, dt=0.5)
    model.loss(*question()).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.any(), name


@pytest.mark.parametrize("kind", KINDS)
def test_loss_is_the_mixture_density_of_its_draws(kind):
    """-log (1/K) sum_k N(x; mean_k, scale_k^2), by torch's own mixture."""
    model, (given, want) = small(kind, 2), question()
    torch.manual_seed(1)
    loss = model.loss(given, want)
    torch.manual_seed(1)
    mean, scale = (f.movedim(0, -1) for f in model.predict(given, want.t, 3)[:2])
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(3)), torch.distributions.Normal(mean, scale)
    )
    exact = -mixture.log_prob(want.x.nan_to_num())[want.mask].mean()
    torch.testing.assert_close(loss, exact)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dt, tolerance", [(None, 1e-5), (0.05, 2e-3)])
def test_a_ragged_batch_is_its_series_one_by_one(kind, dt, tolerance, no_noise):
    """Rows that pad the shorter series are steps of length zero.

    Series of one batch share the number of steps, so with dt they differ by the error of a step.
    """
    model = small(kind, 1, dt=dt)
    pairs = [question(1, 1)]
    for length in (3, 30):
        paths = OrnsteinUhlenbeck(n=1, length=length, seed=length)()
        pairs.append(Forecasting(fraction=0.6)(paths))
    given, want = (stack([pair[i] for pair in pairs]) for i in range(2))
    together = model.predict(given, want.t, 2)
    for b, (g, w) in enumerate(pairs):
        alone = model.predict(g, w.t, 2)
        T = w.t.shape[1]
        for many, one in zip(together[:2], alone[:2]):
            torch.testing.assert_close(many[:, b, :T], one[:, 0], rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_series_and_of_channels_unseen_rows_and_the_origin_do_not_matter(
    kind, no_noise
):
    model, (given, want) = small(kind, 2), question()
    plain = model.predict(given, want.t, 1).mean
    order = torch.tensor([4, 2, 0, 1, 3])
    turned = model.predict(take(given, order), take(want, order).t, 1).mean
    torch.testing.assert_close(turned, plain[:, order][:, :, : turned.shape[2]])
    blank = query(given.t[:, :1].expand(-1, 3), given)
    more = given._replace(**{k: torch.cat([getattr(blank, k), getattr(given, k)], 1)
                             for k in ("t", "x", "mask")})  # fmt: skip
    torch.testing.assert_close(model.predict(more, want.t, 1).mean, plain)
    later = model.predict(given._replace(t=given.t + 64), want.t + 64, 1).mean
    torch.testing.assert_close(later, plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dt, horizon", [(None, 1e6), (1.0, 1e3)])
def test_extreme_horizons_stay_finite(kind, dt, horizon):
    """Far beyond anything that was trained on, in one step or in all of them."""
    torch.manual_seed(3)
    model, (given, _) = small(kind, 1), question(4, 1)
    model.dt = dt
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3.0)  # not only where training starts
        at = given.t.amax(1, keepdim=True) + torch.tensor([[1e-4, 1.0, 100.0, horizon]])
        draws = model.sample(given, at, 4)
    assert draws.isfinite().all()


def latent(model: StableSDE, horizon: float = 200.0, n: int = 64):
    """Paths of z from random controls: (n, B, T, H)."""
    at = torch.linspace(0, horizon, 40).expand(3, -1)
    return model.solve(5 * torch.randn(3, 40, 8), at[:, 0], at, n)


def test_geometric_paths_never_change_their_sign():
    model = small("geometric")
    with torch.no_grad():
        z = latent(model)
    assert (z > 0).all() and z.isfinite().all()


def test_langevin_paths_stay_where_the_docstring_says():
    """|z| <= 1/kappa + noise of stationary variance sigma^2 / (2 kappa): 8 of its deviations."""
    model = small("langevin")
    kappa = float(torch.nn.functional.softplus(torch.tensor(-2.0)))
    with torch.no_grad():
        z = latent(model)
    assert z.abs().max() < 1 + 1 / kappa + 8 * SIGMA[1] / math.sqrt(2 * kappa)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_differ_by_the_noise_of_the_latent_path_too(kind):
    """Laws of different draws have different means: the noise is not an ornament."""
    model, (given, want) = small(kind, 2), question()
    later = want.mask & (want.t > given.t[:, :1])[..., None]  # before the first given z has no past
    mean = model.predict(given, want.t, 6).mean
    assert mean.std(0)[later].min() > 0


def test_the_scale_of_the_noise_lies_between_its_bounds():
    model = small("langevin")
    with torch.no_grad():
        for p in model.field.volatility.parameters():
            p.mul_(100)
    sigma = model.field.sigma(torch.logspace(-3, 5, 50)[:, None, None])
    assert sigma.min() >= SIGMA[0] and sigma.max() <= SIGMA[1]


def test_covariates_known_ahead_reach_the_path():
    c = torch.randn(3, 12, 2)
    paths = OrnsteinUhlenbeck(n=3, length=12)()._replace(covariates=c)
    given, want = Forecasting(steps=3)(paths)
    model = StableSDE(1, hidden=8, neighbours=2, covariates=2)
    means = []
    for factor in (1.0, 2.0):
        torch.manual_seed(0)
        means.append(model.predict(given._replace(covariates=factor * c), want.t, 1).mean)
    assert not torch.allclose(*means)


def test_a_series_of_which_nothing_is_given():
    model, (given, want) = small("langevin", 2), question()
    nothing = given._replace(mask=torch.zeros_like(given.mask))
    assert model.loss(nothing, want).isfinite()
    assert model.sample(nothing, want.t, 2).isfinite().all()


def learned(kind: str, task, n: int, **recipe) -> tuple[float, float, float, float]:
    """(crps, coverage of 80 %, crps of the exact law, crps of the last value) on fresh series."""
    system = OrnsteinUhlenbeck(n=n, length=20, rate=1.0, sigma=1.0)
    model = Scaled(StableSDE(1, kind, hidden=16, neighbours=2, draws=4), 1)
    tsdyn.fit(model, system(), task, device="cpu", **recipe)
    fresh = OrnsteinUhlenbeck(n=400, length=20, rate=1.0, sigma=1.0, seed=9)
    given, want = task(fresh(), torch.Generator().manual_seed(1))
    result = evaluate(model, given, want, samples=200)
    law = fresh.law(given, want.t)
    exact = float(masked_mean(gaussian_crps(law.mean, law.var.sqrt(), want.x), want.mask))
    row = result["Scaled(StableSDE)"]
    return row["crps"], row["cover80"], exact, result["last value"]["crps"]


def test_it_learns_most_of_the_law_in_seconds():
    crps, coverage, exact, last = learned("langevin", Forecasting(steps=4), 256, epochs=6, lr=1e-2)
    assert exact * 0.97 < crps < exact + 0.35 * (last - exact)
    assert 0.7 < coverage < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", [Forecasting(steps=4), Imputation(0.3, "row")], ids=str)
def test_it_comes_within_five_percent_of_the_exact_law(kind, task):
    recipe = {"epochs": 60, "lr": 3e-3, "val": 0.2, "patience": 10}
    crps, coverage, exact, _ = learned(kind, task, 1024, **recipe)
    assert exact * 0.97 < crps < 1.05 * exact
    # the four values of a series depend on each other: between 400 and 1600 independent ones
    assert abs(coverage - 0.8) < 4 * math.sqrt(0.8 * 0.2 / 1600) + 0.01


def one_step(kind: str, mode: str):
    """z after one step of size .1 from random z by the model, and drift r, noise and sigma behind it."""
    model = small(kind, mode=mode)
    z, c = 0.5 + torch.rand(4, 8), torch.randn(4, 8)
    t, h = torch.zeros(4, 1), torch.full((4, 1), 0.1)
    dw, sigma = torch.randn(4, 8) * 0.1**0.5, torch.rand(4, 8)
    step = model.field.step()
    u = (c, sigma)[: 1 if kind in ("neural", "ode") else 2]
    prepared = step.prepare(t[None], h[None], Noise(dw[None]), *(f[None] for f in u))
    with torch.no_grad():
        r = model.field.drift(c + model.field.state(z))
        return model, z, r, sigma, dw, step.advance(t, z, u, *(f[0] for f in prepared))


def test_a_step_of_the_paper_is_its_equation():
    _, z, r, sigma, dw, after = one_step("langevin", "paper")
    torch.testing.assert_close(after, z + 0.1 * r + sigma * dw)
    _, z, r, sigma, dw, after = one_step("linear_noise", "paper")
    torch.testing.assert_close(after, (z + 0.1 * r) * (sigma * dw - 0.05 * sigma**2).exp())
    _, z, r, sigma, dw, after = one_step("geometric", "paper")
    torch.testing.assert_close(after, z * (0.1 * r + sigma * dw - 0.05 * sigma**2).exp())


def test_a_stable_step_is_its_equation():
    model, z, r, sigma, dw, after = one_step("langevin", "stable")
    kappa = torch.nn.functional.softplus(model.field.kappa.detach())
    held = (1 - (-kappa * 0.1).exp()) / kappa
    spread = ((1 - (-2 * kappa * 0.1).exp()) / (2 * kappa * 0.1)).sqrt()
    exact = z * (-kappa * 0.1).exp() + held * r.tanh() + sigma * spread * dw
    torch.testing.assert_close(after.detach(), exact)
    model, z, r, sigma, dw, after = one_step("geometric", "stable")
    kappa = torch.nn.functional.softplus(model.field.kappa.detach())
    held, decay = (1 - (-kappa * 0.1).exp()) / kappa, (-kappa * 0.1).exp()
    spread = ((1 - (-2 * kappa * 0.1).exp()) / (2 * kappa * 0.1)).sqrt()
    level = z.log() * decay + (2 * kappa * r.tanh() - sigma**2 / 2) * held + sigma * spread * dw
    torch.testing.assert_close(after.detach(), level.exp())
    model, z, r, sigma, dw, after = one_step("linear_noise", "stable")
    kappa = torch.nn.functional.softplus(model.field.kappa.detach())
    held = (1 - (-kappa * 0.1).exp()) / kappa
    drifted = z * (-kappa * 0.1).exp() + r.tanh() * held
    torch.testing.assert_close(after.detach(), drifted * (sigma * dw - 0.05 * sigma**2).exp())


@pytest.mark.parametrize("kind", KINDS)
def test_steps_may_be_far_longer_than_the_memory(kind):
    """kappa h = 1000: Euler would throw z out by that factor at every step."""
    model = small(kind, dt=None)
    model.field.kappa.data.fill_(10.0)  # per unit of time
    t = 100 * torch.arange(30.0)[None]
    z = model.solve(torch.randn(1, 30, 8), t[:, 0] - 100, t, 2)
    assert z.isfinite().all() and z.abs().max() < 8.0  # e² and 1 are the bounds without noise


def test_an_ode_has_one_path_and_a_plain_sde_many():
    for kind, same in (("ode", True), ("neural", False)):
        z = latent(small(kind))
        assert torch.equal(z[0], z[1]) == same

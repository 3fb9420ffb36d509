"""Exact where the exact posterior is known, and close to the law of what it learned from."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

import tsdyn
from tsdyn.batch import Paths, query, stack, take
from tsdyn.data.synthetic import Lorenz, OrnsteinUhlenbeck
from tsdyn.data.tasks import Forecasting, Imputation
from tsdyn.errors import ConfigError
from tsdyn.maths.pull import Pull
from tsdyn.maths.score import crps, gaussian_crps, masked_mean
from tsdyn.models import latent_sde
from tsdyn.models.baselines import LinearInterpolation
from tsdyn.models.latent_sde import QUICK, SMALLEST, LatentSDE
from tsdyn.models.scaled import Scaled

BOUNDS = [
    {"bound": "elbo"},
    {"bound": "elbo", "sticking_the_landing": True},
    {"bound": "iwae"},
]
RATE, SIGMA, NOISE = 0.8, 0.6, 0.3
SYSTEM = OrnsteinUhlenbeck(
    n=3, length=9, span=6.0, rate=RATE, sigma=SIGMA, noise=NOISE, missing=0.2, seed=1
)


def small(dim: int = 2, **options) -> LatentSDE:
    return LatentSDE(dim, **{"latent": 3, "hidden": 8, "neighbours": 2, **options})


def question(n: int = 5, dim: int = 2) -> tuple[Paths, Paths]:
    paths = OrnsteinUhlenbeck(n=n, length=12, dim=dim, missing=0.2)()
    return Imputation(0.4, "row")(paths, torch.Generator().manual_seed(0))


def in_double(paths: Paths) -> Paths:
    return paths._replace(t=paths.t.double(), x=paths.x.double().where(paths.mask, torch.nan))


def linear(**options) -> LatentSDE:
    """Of the law of `SYSTEM`: no residual, one coordinate, seen as it is."""
    model = LatentSDE(1, latent=1, hidden=4, depth=1, neighbours=1, **options).double()
    raw = lambda value: math.log(value - SMALLEST) / QUICK
    with torch.no_grad():
        for p in (model.residual[-1].weight, model.residual[-1].bias):
            p.zero_()
        model.kappa.fill_(math.log(math.expm1(RATE)))
        model.log_sigma.fill_(raw(SIGMA))
        model.log_start_std.fill_(raw(SIGMA / math.sqrt(2 * RATE)))
        model.log_noise.fill_(raw(NOISE))
        model.readout.weight.fill_(1.0)
    return model


def exact_pull(seen: Paths, at: torch.Tensor) -> Pull:
    """What everything seen from a time on says about z there: its likelihood, by dense algebra.

    y_j = e^{-kappa (t_j - t)} z + noise of covariance (transition + observation noise).
    """
    target, precision = torch.zeros(2, *at.shape, 1, dtype=torch.float64)
    for b in range(len(at)):
        for q, now in enumerate(at[b]):
            rows = seen.mask[b, :, 0] & (seen.t[b] >= now)
            gap, y = seen.t[b, rows] - now, seen.x[b, rows, 0]
            decay = torch.exp(-RATE * gap)
            apart = torch.exp(-RATE * (gap[:, None] - gap).abs())
            cov = SIGMA**2 / (2 * RATE) * (apart - decay[:, None] * decay)
            solved = torch.linalg.solve(cov + NOISE**2 * torch.eye(len(gap)).double(), decay)
            precision[b, q, 0] = solved @ decay
            target[b, q, 0] = (solved @ y) / (solved @ decay) if len(gap) else 0.0
    return Pull(target, precision)


def exact_evidence(seen: Paths) -> torch.Tensor:
    """log p(seen) of each series, by the dense Gaussian."""
    found = []
    for t, x, mask in zip(seen.t, seen.x[..., 0], seen.mask[..., 0]):
        t, x = t[mask], x[mask]
        cov = SYSTEM.covariance(t[:, None], t) + NOISE**2 * torch.eye(len(t)).double()
        found.append(MultivariateNormal(torch.zeros_like(x), cov).log_prob(x))
    return torch.stack(found)


@pytest.fixture
def no_noise(monkeypatch):
    """A path is then decided by its question alone."""
    real = latent_sde.increments

    def still(*args):
        noise = real(*args)
        return noise._replace(dw=torch.zeros_like(noise.dw))

    monkeypatch.setattr(latent_sde, "increments", still)
    monkeypatch.setattr(latent_sde.torch, "randn_like", torch.zeros_like)


# --- against the exact law of a linear-Gaussian case -----------------------------------------------


@pytest.mark.parametrize("dt", [None, 0.3])
@pytest.mark.parametrize("options", BOUNDS[1:])
def test_with_the_exact_posterior_every_weight_is_the_evidence(options, dt):
    """log p(x, z) - log q(z | x) = log p(x) whatever z, for steps of any length."""
    model, seen = linear(draws=5, dt=dt, **options), in_double(SYSTEM())
    model.pull = exact_pull
    weights = model.log_weights(seen)
    torch.testing.assert_close(weights, exact_evidence(seen).expand(5, 3))


def test_with_the_exact_posterior_the_elbo_is_the_evidence_on_average():
    model, seen = linear(draws=20_000), in_double(SYSTEM())
    model.pull = exact_pull
    weights = model.log_weights(seen)
    error = 4 * weights.std(0) / math.sqrt(20_000)
    assert ((weights.mean(0) - exact_evidence(seen)).abs() < error).all()


def test_untrained_bounds_lie_below_the_evidence_and_more_draws_raise_them():
    seen, exact = in_double(SYSTEM()), exact_evidence(in_double(SYSTEM()))
    torch.manual_seed(2)
    bounds, last = [], None
    for bound, draws in [("elbo", 4), ("iwae", 4), ("iwae", 64)]:
        model = linear(bound=bound, draws=draws)
        last = last or model.state_dict()
        model.load_state_dict(last)
        with torch.no_grad():
            many = torch.stack([model.evidence(seen) for _ in range(400)])
        bounds.append(many.mean(0))
        assert (many.mean(0) < exact + 4 * many.std(0) / 20).all()
    elbo, few, more = bounds
    assert (elbo < few).all() and (few < more).all()


def test_draws_with_the_exact_posterior_have_the_exact_law():
    """Before, between and after the given times; moments of single times and of pairs."""
    n = 40_000
    given = in_double(SYSTEM())
    given = given._replace(mask=given.mask & (given.t < 4.0)[..., None])
    at = torch.tensor([[0.0, 0.7, 2.5, 4.5, 9.0]], dtype=torch.float64).expand(3, -1)
    model = linear()
    model.pull = exact_pull
    with torch.no_grad():
        draws = model.sample(given, at, n)[..., 0]  # (n, B, T)
    law, joint = SYSTEM.law(given, at), SYSTEM.sample_law(given, at, n)[..., 0]
    sd = law.var[..., 0].sqrt()
    assert ((draws.mean(0) - law.mean[..., 0]).abs() < 5 * sd / math.sqrt(n)).all()
    assert ((draws.std(0) / sd - 1).abs() < 5 / math.sqrt(2 * n)).all()
    for b in range(3):
        found, wanted = torch.corrcoef(draws[:, b].T), torch.corrcoef(joint[:, b].T)
        assert ((found - wanted).abs() < 5 * math.sqrt(2 / n)).all()


def test_without_observations_it_is_the_prior():
    n = 40_000
    model = linear()
    at = torch.tensor([[1.0, 1.5, 4.0]], dtype=torch.float64)
    with torch.no_grad():
        draws = model.prior_sample(at, n)
        again = model.sample(query(at, Paths(at, at[..., None], at[..., None] > 9)), at, n)
    var = SIGMA**2 / (2 * RATE) + NOISE**2
    for each in (draws, again):
        assert each.shape == (n, 1, 3, 1)
        assert (each.mean(0).abs() < 5 * math.sqrt(var / n)).all()
        assert ((each.var(0) / var - 1).abs() < 5 * math.sqrt(2 / n)).all()
        corr = torch.corrcoef(each[:, 0, :, 0].T)[0, 1:]
        exact = SIGMA**2 / (2 * RATE) / var * torch.exp(-RATE * (at[0, 1:] - 1.0))
        assert ((corr - exact).abs() < 5 / math.sqrt(n)).all()


# --- sticking the landing ------------------------------------------------------------------------------


def pull_gradients(landing: bool, pull: Pull, repeats: int, draws: int) -> torch.Tensor:
    """Gradients of the ELBO with respect to target and precision: (repeats, 2, B, Q)."""
    model, seen = linear(draws=draws, sticking_the_landing=landing), in_double(SYSTEM())
    leaves = Pull(*(f.clone().requires_grad_() for f in pull))
    model.pull = lambda seen, at: leaves
    found = [torch.autograd.grad(model.evidence(seen).sum(), leaves) for _ in range(repeats)]
    return torch.stack([torch.stack(each)[..., 0] for each in found])


def test_sticking_the_landing_leaves_the_mean_gradient_alone():
    """At a posterior that is not exact; Welch's statistic of each of the 54 coordinates."""
    seen = in_double(SYSTEM())
    pull = exact_pull(seen, seen.t)
    wrong = Pull(pull.target + 0.3, 0.5 * pull.precision)
    plain, stuck = (pull_gradients(how, wrong, 400, 16) for how in (False, True))
    error = ((plain.var(0) + stuck.var(0)) / 400).sqrt()
    assert ((plain - stuck).mean(0).abs() <= 4.5 * error + 1e-12).all()
    assert (plain.mean(0).abs() > 4.5 * error).any()  # there is something to agree on


def test_sticking_the_landing_has_no_variance_at_the_exact_posterior():
    seen = in_double(SYSTEM())
    plain, stuck = (pull_gradients(how, exact_pull(seen, seen.t), 20, 2) for how in (False, True))
    torch.testing.assert_close(stuck, torch.zeros_like(stuck), rtol=0, atol=1e-9)
    assert plain.std(0).amax() > 0.1


def test_sticking_the_landing_is_refused_where_it_is_biased():
    with pytest.raises(ConfigError, match="X01"):
        small(bound="iwae", sticking_the_landing=True)


# --- as a model ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", BOUNDS)
@pytest.mark.parametrize("more", [{}, {"periods": (3.0,), "dt": 0.3}, {"checkpoint": 4}])
def test_the_gradient_reaches_every_parameter(options, more):
    given, want = (p._replace(x=p.x.where(p.mask, torch.nan)) for p in question())
    model = small(**options, **more)
    model.loss(given, want).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.any(), name


def test_checkpoints_change_neither_loss_nor_gradient():
    found = []
    for checkpoint in (0, 4):
        with tsdyn.seed(0):
            model = small(checkpoint=checkpoint)
            loss = model.loss(*question())
            loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("dt, tolerance", [(None, 1e-5), (0.02, 2e-3)])
def test_a_ragged_batch_is_its_series_one_by_one(dt, tolerance, no_noise):
    """Rows that pad the shorter series are steps of length zero.

    Series of one batch share the number of steps, so with dt they differ by the error of a step.
    """
    model, pairs = small(1, dt=dt), [question(1, 1)]
    for length in (3, 30):
        paths = OrnsteinUhlenbeck(n=1, length=length, seed=length)()
        pairs.append(Forecasting(fraction=0.6)(paths))
    given, want = (stack([pair[i] for pair in pairs]) for i in range(2))
    together = model.sample(given, want.t, 2)
    for b, (g, w) in enumerate(pairs):
        alone, T = model.sample(g, w.t, 2), w.t.shape[1]
        torch.testing.assert_close(together[:, b, :T], alone[:, 0], rtol=0, atol=tolerance)


def test_the_loss_is_the_mean_over_wanted_values_of_the_bounds_per_observed_value(no_noise):
    model, (given, want) = small(), question()
    count = want.mask.sum((1, 2))
    losses = torch.stack([model.loss(take(given, [b]), take(want, [b])) for b in range(5)])
    torch.testing.assert_close(model.loss(given, want), (losses * count).sum() / count.sum())


def test_order_of_the_series_unseen_rows_and_the_origin_do_not_matter(no_noise):
    model, (given, want) = small(), question()
    plain = model.sample(given, want.t, 1)
    order = torch.tensor([4, 2, 0, 1, 3])
    turned = model.sample(take(given, order), want.t[order], 1)
    torch.testing.assert_close(turned, plain[:, order])
    blank = query(given.t[:, 3:6], given)
    order = torch.cat([given.t, blank.t], 1).argsort(dim=1, stable=True)
    both = (torch.cat([getattr(given, k), getattr(blank, k)], 1) for k in ("t", "x", "mask"))
    t, x, mask = (f.take_along_dim(order.view(*order.shape, *[1] * (f.ndim - 2)), 1) for f in both)
    torch.testing.assert_close(model.sample(Paths(t, x, mask), want.t, 1), plain)
    later = model.sample(given._replace(t=given.t + 64), want.t + 64, 1)
    torch.testing.assert_close(later, plain, rtol=1e-3, atol=1e-3)


def test_seasons_move_with_their_period_and_nothing_else_does(no_noise):
    model, (given, want) = small(periods=(4.0,)), question()
    plain, whole, half = (
        model.sample(given._replace(t=given.t + s), want.t + s, 1) for s in (0.0, 8.0, 10.0)
    )
    torch.testing.assert_close(whole, plain, rtol=1e-3, atol=1e-4)
    assert (half - plain).abs().amax() > 1e-3


@pytest.mark.parametrize("dt, horizon", [(None, 1e6), (1.0, 1e3)])
def test_extreme_horizons_stay_finite(dt, horizon):
    """Far beyond anything that was trained on, in one step or in all of them."""
    torch.manual_seed(3)
    model, (given, _) = small(1, dt=dt), question(4, 1)
    with torch.no_grad():
        for module in (model.residual, model.encoder):
            for p in module.parameters():
                p.mul_(5.0)
        at = given.t.amax(1, keepdim=True) + torch.tensor([[1e-4, 1.0, 100.0, horizon]])
        assert model.sample(given, at, 4).isfinite().all()


# --- what it learns ------------------------------------------------------------------------------------


def trained(system, task, epochs: int, batch_size: int, **options) -> Scaled:
    paths = system()
    dim = paths.x.shape[-1]
    with tsdyn.seed(0):
        model = Scaled(LatentSDE(dim, **options), dim)
    return tsdyn.fit(model, paths, task, epochs=epochs, batch_size=batch_size, lr=3e-3)


@pytest.mark.slow
def test_it_learns_the_ornstein_uhlenbeck_law_from_noisy_irregular_observations():
    """rate 1, sigma .5, noise .1: stationary sd .3536, correlation e^{-1/2} after half a unit of time.

    A thousand series of about ten correlation times: what they tell of the sd is good to 1 %, of the
    mean to .005. The model may miss by ten times that, and CRPS by 5 %.
    """
    system = OrnsteinUhlenbeck(n=1000, noise=0.1, seed=7)
    task = Forecasting(steps=10)
    model = trained(system, task, 10, 64, latent=2, hidden=32)
    with tsdyn.seed(1), torch.no_grad():
        at = torch.arange(0.0, 12.0, 0.1)[None]
        blank = query(at, system())
        x = model.sample(blank, at, 4000)[:, 0, :, 0]
        late = x[:, -1]
        assert abs(late.mean()) < 0.05
        assert late.var() == pytest.approx(0.125 + 0.01, rel=0.15)
        covariance = torch.cov(torch.stack([x[:, -6], late]))[0, 1]
        assert covariance == pytest.approx(0.125 * math.exp(-0.5), rel=0.2)

        given, want = task(OrnsteinUhlenbeck(n=400, noise=0.1, seed=8)())
        law = system.law(given, want.t)
        exact = masked_mean(gaussian_crps(law.mean, law.var.sqrt(), want.x), want.mask)
        draws = model.sample(given, want.t, 200)
        assert masked_mean(crps(draws, want.x), want.mask) < 1.05 * exact


@pytest.mark.slow
def test_it_learns_the_stochastic_lorenz_attractor():
    """A third of the values imputed, and the marginal law of the prior at times like those it saw.

    Linear interpolation scores .37 in CRPS. After 25 epochs means of the prior are within a quarter
    of a standard deviation and standard deviations within a quarter; no closed form says how near
    they should be.
    """
    system = Lorenz(n=400, length=100)
    model = trained(system, Imputation(0.33), 25, 16, latent=4, draws=1)
    test = Lorenz(n=100, length=100, seed=1)()
    with tsdyn.seed(1), torch.no_grad():
        given, want = Imputation(0.33)(test)
        draws, lines = (m.sample(given, want.t, 100) for m in (model, LinearInterpolation()))
        ours, line = (masked_mean(crps(f, want.x), want.mask) for f in (draws, lines))
        prior = model.sample(query(test.t, test), test.t, 10)[:, :, 50:].flatten(0, 2)
    assert ours < 0.7 * line
    truth = test.x[:, 50:].flatten(0, 1)
    assert ((prior.mean(0) - truth.mean(0)).abs() < 0.25 * truth.std(0)).all()
    assert ((prior.std(0) / truth.std(0)).log().abs() < math.log(1.25)).all()

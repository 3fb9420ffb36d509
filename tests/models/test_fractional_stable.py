"""Stable neural SDEs with fractional noise: exact latent laws, gradients to the index, training, checkpoints."""

import math

import pytest
import torch
from torch.nn.functional import softplus
from torch.testing import assert_close

import tsdyn
from tsdyn.batch import Paths
from tsdyn.data.synthetic import OrnsteinUhlenbeck
from tsdyn.data.tasks import Forecasting, Imputation
from tsdyn.errors import ConfigError
from tsdyn.maths.steps import Noise
from tsdyn.models.fractional_motion import FractionalMotion
from tsdyn.models.scaled import Scaled
from tsdyn.models.stable_sde import StableSDE

KINDS = ["langevin", "linear_noise", "geometric", "neural"]


def small(kind: str = "langevin", dim: int = 1, **options) -> StableSDE:
    return StableSDE(
        dim, kind, hidden=8, depth=2, neighbours=2, **{"draws": 3, "hurst": 0.7, **options}
    )


def question(n: int = 5, dim: int = 2) -> tuple[Paths, Paths]:
    paths = OrnsteinUhlenbeck(n=n, length=12, dim=dim, missing=0.2)()
    return Imputation(0.4, "row")(paths, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "kind, mode",  # the paper's geometric equation may blow up before it is trained
    [*((k, "stable") for k in KINDS), ("langevin", "paper"), ("linear_noise", "paper")],
)
@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
def test_the_gradient_reaches_the_index_and_every_other_parameter(kind, mode, noise):
    model = small(kind, 2, mode=mode, noise=noise, index="learned", dt=0.5)
    model.loss(*question()).backward()
    assert model.motion.raw.grad is not None
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.any(), name


@pytest.mark.parametrize("hurst", [0.3, 0.7])
def test_latent_noise_has_its_hurst_index(hurst):
    """z without drift: Var (z(t) - z(s)) = σ² |t - s|^{2H} from the start, wherever in time that is."""
    model, n = small(hurst=hurst, mode="paper"), 4000
    with torch.no_grad():
        for part in (model.field.drift, model.field.state, model.field.control):
            for p in part.parameters():
                p.zero_()
        for p in model.field.volatility.parameters():
            p.zero_()
        at = torch.tensor([[1.0, 4.0, 30.0]]) + 500.0
        z = model.solve(torch.zeros(1, 3, 8), torch.tensor([500.0]), at, n)[:, 0]  # (n, T, H)
        start = model.field.start(model.start(torch.zeros(8)))
        sigma = float(model.field.sigma(torch.zeros(1, 1))[0, 0])
    ratio = (z - start).square().mean((0, 2)) / (sigma**2 * (at[0] - 500.0) ** (2 * hurst))
    assert ((ratio - 1).abs() < 5 * math.sqrt(2 / (8 * n)) + 0.01).all()  # and of the approximation


def one_step(kind: str, mode: str):
    """z after one step of size .1 from random z by the model, and drift r, increment and sigma behind it."""
    model = small(kind, mode=mode)
    z, c = 0.5 + torch.rand(4, 8), torch.randn(4, 8)
    t, h = torch.zeros(4, 1), torch.full((4, 1), 0.1)
    db, sigma = 0.3 * torch.randn(4, 8), torch.rand(4, 8)
    step = model.field.step()
    prepared = step.prepare(t[None], h[None], Noise(db[None]), c[None], sigma[None])
    with torch.no_grad():
        r = model.field.drift(c + model.field.state(z))
        after = step.advance(t, z, (c, sigma), *(f[0] for f in prepared))
        return softplus(model.field.kappa) if mode == "stable" else None, z, r, sigma, db, after


def test_a_step_has_no_term_of_ito():
    _, z, r, sigma, db, after = one_step("langevin", "paper")
    assert_close(after, z + 0.1 * r + sigma * db)
    _, z, r, sigma, db, after = one_step("linear_noise", "paper")
    assert_close(after, (z + 0.1 * r) * (sigma * db).exp())
    _, z, r, sigma, db, after = one_step("geometric", "paper")
    assert_close(after, z * (0.1 * r + sigma * db).exp())
    kappa, z, r, sigma, db, after = one_step("langevin", "stable")
    decay, held = (-0.1 * kappa).exp(), (1 - (-0.1 * kappa).exp()) / kappa
    assert_close(after, z * decay + held * (r.tanh() + sigma * db / 0.1))
    kappa, z, r, sigma, db, after = one_step("linear_noise", "stable")
    decay, held = (-0.1 * kappa).exp(), (1 - (-0.1 * kappa).exp()) / kappa
    assert_close(after, (z * decay + held * r.tanh()) * (sigma * db).exp())
    kappa, z, r, sigma, db, after = one_step("geometric", "stable")
    decay, held = (-0.1 * kappa).exp(), (1 - (-0.1 * kappa).exp()) / kappa
    level = z.log() * decay + held * (2 * kappa * r.tanh() + sigma * db / 0.1)
    assert_close(after, level.exp())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index", ["fixed", "learned"])
def test_it_trains_samples_and_comes_back_from_a_file(kind, index, tmp_path):
    model = Scaled(small(kind, index=index), 1)
    before = model.model.motion.hurst()
    paths = OrnsteinUhlenbeck(n=32, length=20, dim=1)()
    tsdyn.fit(model, paths, Forecasting(steps=4), device="cpu", epochs=2, lr=1e-2)
    assert (model.model.motion.hurst() != before) == (index == "learned")
    given, want = Forecasting(steps=4)(paths)
    tsdyn.save(model, tmp_path / "model.ckpt")
    again = tsdyn.load(tmp_path / "model.ckpt", "cpu")
    draws = []
    for each in (model, again):
        torch.manual_seed(1)
        with torch.no_grad():
            draws.append(each.sample(given, want.t, 6))
    assert torch.equal(*draws) and draws[0].isfinite().all()
    assert draws[0].std(0).min() > 0


def test_nothing_of_a_motion_is_left_without_an_index():
    model = small(hurst=None)
    assert model.motion is None and not any("motion" in name for name in model.state_dict())


def test_a_motion_is_that_of_its_index():
    motion = FractionalMotion(0.3, "learned", 50.0, 1.0)
    found = motion()
    assert_close(motion.hurst().detach(), torch.tensor(0.3, dtype=torch.float64), rtol=0, atol=1e-7)
    assert found.weights.requires_grad and len(found.speeds) == 7
    assert FractionalMotion(0.5, "fixed", 50.0, 1.0)().speeds.tolist() == [0.0]  # Brownian motion


@pytest.mark.parametrize(
    "options, word",
    [
        ({"hurst": 1.0}, "hurst=1.0"),
        ({"hurst": 0.01}, "hurst=0.01"),
        ({"hurst": float("nan")}, "hurst=nan"),
        ({"horizon": 0.5}, "horizon=0.5"),
        ({"step": 0.0}, "step=0.0"),
        ({"kind": "ode"}, "ode"),
        ({"mode": "repo"}, "repo"),
        ({"hurst": None, "index": "learned"}, "hurst"),
    ],
)
def test_indices_without_a_meaning_are_refused(options, word):
    with pytest.raises(ConfigError, match=rf"TSD-X01.*{word}"):
        small(**options)

"""Models with fractional noise against exact Gaussian laws, simulation from the prior, and known bridges."""

import math
import warnings

import pytest
import torch

import tsdyn
from tsdyn.batch import Paths
from tsdyn.errors import ConfigError
from tsdyn.maths import gaussian_evidence
from tsdyn.maths.fractional import covariance, mandelbrot_van_ness, riemann_liouville
from tsdyn.maths.fractional_exact import (
    riemann_liouville as exact_motion,
    riemann_liouville_variance,
)
from tsdyn.maths.fractional_mean_reversion import fractional_ou
from tsdyn.maths.gaussian_paths import factored
from tsdyn.models.fractional_prior import QUICK, SMALLEST
from tsdyn.models.fractional_sde import FractionalSDE

# exact, of Riemann and Liouville's motion with its kernel's variance: log evidence, deviation of x(1)
BRIDGES = {
    (0.3, 0.0): (-1.2329, 0.9131),
    (0.5, 0.0): (-1.2680, 0.7089),
    (0.7, 0.0): (-1.3235, 0.5764),
    (0.9, 0.0): (-1.3705, 0.4767),
    (0.6, 1.0): (-0.5717, 0.5628),
    (0.8, 1.0): (-0.6141, 0.4668),
    (0.8, 2.0): (-0.1807, 0.3797),
}


def raw_scale(value):
    return math.log(value - SMALLEST) / QUICK if value > SMALLEST + 1e-9 else -10.0


def set_law(model, hurst, kappa, sigma, std, noise):
    """The parameters of the prior and the noise, and no gradient to them."""
    prior = model.prior
    with torch.no_grad():
        prior.kappa.fill_(math.log(math.expm1(kappa)) if kappa else -40.0)
        prior.log_sigma.fill_(raw_scale(sigma))
        prior.log_std.fill_(raw_scale(std))
        model.log_noise.fill_(raw_scale(noise))
        if prior.raw_hurst is not None:
            prior.raw_hurst.fill_(math.log((hurst - 0.02) / (0.98 - hurst)))
    for p in (*prior.parameters(), model.log_noise, model.level):
        p.requires_grad_(False)
    return model


def bridge(hurst, kappa, **arguments):
    """dx = -κ x dt + dB from near 0, seen at T = 2 as 0 ± .1; asked also at 1."""
    model = FractionalSDE(1, hurst=hurst, horizon=2.0, step=0.05, **arguments)
    sigma = float(riemann_liouville_variance(hurst)) ** 0.5
    mask = torch.tensor([[False, False, True]])[..., None]
    seen = Paths(torch.tensor([[0.0, 1.0, 2.0]]), torch.zeros(1, 3, 1), mask)
    return set_law(model, hurst, kappa, sigma, SMALLEST, 0.1), seen


@pytest.mark.parametrize("hurst, kappa", BRIDGES)
def test_a_bridge_needs_no_training(hurst, kappa):
    """One step from each time to the next; 4,000 paths, so that a deviation has an error of 1.1 %."""
    model, seen = bridge(hurst, kappa)
    evidence, deviation = BRIDGES[hurst, kappa]
    assert float(model.evidence(seen)) == pytest.approx(evidence, abs=0.003)
    torch.manual_seed(0)
    found = model.paths(seen, 4000).x[:, 0, 1, 0].std()
    assert float(found) == pytest.approx(deviation, rel=4 * 0.011)


def learned(hurst, kappa, steps):
    torch.manual_seed(0)
    model, seen = bridge(
        hurst,
        kappa,
        by="network",
        draws=32,
        bound="landing",
        neighbours=1,
        grading=(100, 4.0),
        speeds=5,
    )
    free = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(free, lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        (-model.evidence(seen).mean()).backward()
        torch.nn.utils.clip_grad_norm_(free, 10.0)
        optimizer.step()
        scheduler.step()
    return model, seen


@pytest.mark.slow
@pytest.mark.parametrize("hurst, kappa", [(0.7, 0.0), (0.5, 0.0), (0.8, 1.0)])
def test_a_bridge_learned_by_a_network_alone(hurst, kappa):
    """200 steps between 0 and 2, shorter before the end, 32 paths: at most a quarter of a nat below the evidence, never above."""
    model, seen = learned(hurst, kappa, 300)
    evidence, deviation = BRIDGES[hurst, kappa]
    torch.manual_seed(1)
    with torch.no_grad():
        model.draws = 4000
        walk = model.paths(seen, 4000)
        u = walk.x[:, 0, -1, 0] / 0.1
        weight = -(u**2) / 2 - math.log(0.1) - math.log(2 * math.pi) / 2 - walk.log_ratio[:, 0]
    error = float(weight.std()) / math.sqrt(4000)
    assert evidence - 0.25 < float(weight.mean()) < evidence + 3 * error
    assert float(walk.x[:, 0, 1, 0].std()) == pytest.approx(deviation, rel=0.04 + 2 * 0.011)


def scattered(law, series=3, rows=20, noise=0.2, seed=0, span=10.0):
    """Irregular noisy observations of a Gaussian process that starts at 0."""
    torch.manual_seed(seed)
    t = torch.rand(series, rows - 1, dtype=torch.float64).mul(span).sort(1).values
    t = torch.cat([torch.zeros(series, 1, dtype=torch.float64), t], 1)
    C = law(t[:, :, None], t[:, None]) + 1e-9 * torch.eye(rows, dtype=torch.float64)
    y = torch.stack([factored(c) for c in C]) + noise * torch.randn(series, rows).double()
    return Paths(t.float(), y.float()[..., None], torch.ones(series, rows, 1, dtype=torch.bool))


@pytest.mark.parametrize("kind", [riemann_liouville, mandelbrot_van_ness])
@pytest.mark.parametrize("hurst", [0.3, 0.8])
def test_evidence_and_forecasts_are_those_of_the_gaussian_process(kind, hurst):
    """With holes and two rows of one time; forecasts from 4,000 draws."""
    model = FractionalSDE(1, hurst=hurst, kind=kind.__name__, horizon=14.0, step=0.2)
    approximation = kind(hurst, model.prior.speeds, 14.0)

    def law(s, t):
        return 0.8**2 * covariance(approximation, s, approximation, t)

    seen = scattered(law)
    t, mask = seen.t.clone(), seen.mask.clone()
    t[:, 5], mask[1, 3:9] = t[:, 6], False
    seen = seen._replace(t=t, mask=mask)
    set_law(model, hurst, 0.0, 0.8, SMALLEST, 0.2)

    def started(s, t):  # x(0) has the least deviation there is
        return law(s, t) + SMALLEST**2

    known = seen.t.double(), seen.x[..., 0].double(), 0.2**2
    want = gaussian_evidence.log_evidence(started, *known, mask[..., 0])
    torch.testing.assert_close(model.evidence(seen).double(), want, atol=1e-3, rtol=0)

    at = seen.t[:, -1:] + torch.tensor([0.5, 3.0])
    torch.manual_seed(0)
    draws = model.sample(seen, at, 4000)[..., 0].double()
    mean, C = gaussian_evidence.condition(started, *known, at.double(), mask[..., 0])
    std = (C.diagonal(dim1=-2, dim2=-1) + 0.04).sqrt()
    assert float(((draws.mean(0) - mean) / std).abs().max()) < 4 / math.sqrt(4000)
    torch.testing.assert_close(draws.std(0), std, atol=0, rtol=4 * 0.011)


def test_an_index_of_time_and_the_index_it_equals():
    """With H(t) constant, as the function starts, it is the motion of that index."""
    seen = scattered(exact_motion(0.3))
    fixed = FractionalSDE(1, hurst=0.3, horizon=10.0, step=0.5)
    moving = FractionalSDE(1, hurst=0.3, index="of_time", horizon=10.0, step=0.5)
    torch.testing.assert_close(fixed.evidence(seen), moving.evidence(seen), atol=1e-3, rtol=1e-4)
    moving.evidence(seen).sum().backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in list(moving.prior.hurst_net.parameters())[2:])
    assert moving.hurst(torch.linspace(0, 10, 5)).shape == (5, 1)


@pytest.mark.parametrize("by", ["guide_and_network", "network"])
def test_a_nonlinear_equation(by):
    """log p(y) by paths under the guide, against paths of the prior: both unbiased, within four standard errors."""
    torch.manual_seed(3)
    model = FractionalSDE(
        2, hurst=0.7, hidden=8, diffusion="state", horizon=3.0, step=0.2, by=by, dt=0.25
    )
    with torch.no_grad():
        for p in (*model.prior.residual.parameters(), *model.prior.factor.parameters()):
            p.mul_(2.0)
        if by == "network":  # a posterior that does nothing would be the prior itself
            for p in model.posterior.parameters():
                p.add_(0.02 * torch.randn_like(p))
        model.log_noise.fill_(raw_scale(0.5))
    t = torch.tensor([[0.0, 1.0, 2.5]])
    seen = Paths(t, torch.tensor([[[0.3, -0.2], [0.8, 0.1], [1.2, -0.7]]]), torch.ones(1, 3, 2) > 0)
    n = 20_000

    def estimate(log_weight):
        top = log_weight.max()
        w = torch.exp(log_weight - top)
        return float(w.mean().log() + top), float(w.std() / w.mean() / math.sqrt(n))

    def density(x):
        u = (seen.x - x) / 0.5
        return (-(u**2) / 2 - math.log(0.5) - math.log(2 * math.pi) / 2).sum((-2, -1))[:, 0]

    with torch.no_grad():
        walk = model.paths(seen, n)
        blind = model.paths(seen._replace(mask=torch.zeros_like(seen.mask)), n)
        if by == "guide_and_network":  # nothing is seen, so that the posterior is the prior
            assert float(blind.log_ratio.abs().max()) < 1e-4
        here, error = estimate(density(walk.x) - walk.log_ratio[:, 0])
        there, other = estimate(density(blind.x) - blind.log_ratio[:, 0])
    assert abs(here - there) < 4 * math.hypot(error, other)
    assert float((density(walk.x) - walk.divergence[:, 0]).mean()) < here + 4 * error


@pytest.mark.parametrize("hurst", [0.8, 0.3])
def test_the_index_is_found(hurst):
    """From 1/2, on 8 noisy irregular mean-reverting paths of 120 observations: within .1."""
    law = fractional_ou(hurst, 0.5)
    seen = scattered(law, series=8, rows=120, noise=0.03, span=36.0)
    model = FractionalSDE(1, horizon=36.0, step=0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        (-model.evidence(seen).mean() / 120).backward()
        optimizer.step()
    assert model.hurst().item() == pytest.approx(hurst, abs=0.1)


def test_gradients_reach_everything():
    seen = scattered(exact_motion(0.6))
    for arguments in (
        {},
        {"hidden": 8, "diffusion": "state", "by": "network", "kind": "mandelbrot_van_ness"},
        {"hidden": 8, "bound": "iwae"},
        {"hidden": 8, "bound": "landing"},
        {"index": "of_time"},
    ):
        model = FractionalSDE(1, horizon=10.0, step=0.5, draws=2, **arguments)
        with torch.no_grad():  # last layers of zeros hide the layers before them
            for p in model.parameters():
                p.add_(0.05 * torch.randn_like(p))
        model.loss(*(seen._replace(mask=m) for m in (seen.mask, seen.mask))).backward()
        silent = [k for k, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert not silent, (arguments, silent)


def test_series_longer_than_the_memory_are_warned_of():
    seen = scattered(exact_motion(0.6))  # over 10 units of time
    with pytest.warns(UserWarning, match="made for 3"):
        FractionalSDE(1, hurst=0.6, horizon=3.0, step=0.5).evidence(seen)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FractionalSDE(1, hurst=0.6, horizon=10.0, step=0.5).evidence(seen)
        FractionalSDE(1, index="fixed", horizon=3.0, step=0.5).evidence(seen)


def test_saved_and_loaded(tmp_path):
    seen = scattered(exact_motion(0.6))
    model = FractionalSDE(1, hurst=0.6, horizon=10.0, step=0.5)
    tsdyn.save(model, tmp_path / "model.ckpt")
    again = tsdyn.load(tmp_path / "model.ckpt")
    torch.testing.assert_close(again.evidence(seen), model.evidence(seen))


@pytest.mark.parametrize(
    "arguments",
    [
        {"hurst": 1.2},
        {"index": "of_time", "kind": "mandelbrot_van_ness"},
        {"step": 0.0},
        {"dt": 0.1, "grading": (10, 4.0)},
        {"by": "guided"},
        {"bound": "iwea"},
        {"index": "free"},
        {"kind": "mvn"},
        {"diffusion": "states"},
    ],
)
def test_arguments_that_do_not_fit(arguments):
    with pytest.raises(ConfigError, match="X01"):
        FractionalSDE(1, **arguments)

"""Interpolants between Gaussians, whose regressions and marginals are known in closed form."""

import math
from typing import NamedTuple, get_args

import pytest
import torch
from torch import Tensor

from tsdyn.errors import ConfigError
from tsdyn.maths.gaussian_bridge import Gaussian, gaussian_bridge
from tsdyn.maths.gaussian_flow import affine_flow, bridge_moments
from tsdyn.maths.interpolants import Interpolant, Kind

KINDS = get_args(Kind)
TIMES = torch.tensor([0.07, 0.3, 0.45, 0.55, 0.92], dtype=torch.float64)
D = 2


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Pair(NamedTuple):
    """The Gaussian law of (x_0, x_1)."""

    mean: Tensor  # (2 D,)
    cov: Tensor  # (2 D, 2 D)


def pair(coupled: bool) -> Pair:
    A = normal(2 * D, 2 * D, seed=3)
    cov = A @ A.mT / 4 + 0.1 * torch.eye(2 * D, dtype=torch.float64)
    if not coupled:
        cov[:D, D:] = cov[D:, :D] = 0
    return Pair(normal(2 * D, seed=4), cov)


def mixing(a: Tensor, b: Tensor) -> Tensor:
    """(D, 2 D): a x_0 + b x_1."""
    one = torch.eye(D, dtype=torch.float64)
    return torch.cat([a * one, b * one], 1)


def marginal(of: Interpolant, law: Pair, s: Tensor) -> Gaussian:
    alpha, beta, gamma = of.at(s)
    M = mixing(alpha, beta)
    noise = gamma.square() * torch.eye(D, dtype=torch.float64)
    return Gaussian(M @ law.mean, M @ law.cov @ M.mT + noise)


def regressions(of: Interpolant, law: Pair, s: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """E[α' x_0 + β' x_1 | x_s = x] and ∇ log p_s(x), for x (N, D)."""
    alpha, beta, _ = of.at(s)
    slopes, now = of.slopes(s), marginal(of, law, s)
    V, M = mixing(slopes.alpha, slopes.beta), mixing(alpha, beta)
    off = torch.linalg.solve(now.cov, (x - now.mean).mT).mT
    return V @ law.mean + off @ (M @ law.cov @ V.mT), -off


@pytest.mark.parametrize("kind", KINDS)
def test_slopes_are_the_derivatives(kind: Kind) -> None:
    of = Interpolant(kind, 0.7, rate=-1.9)
    s = TIMES.clone().requires_grad_()
    alpha, beta, gamma = of.at(s)
    for value, slope in zip((alpha, beta, gamma.square()), of.slopes(TIMES), strict=True):
        (want,) = torch.autograd.grad(value.sum() + 0 * s.sum(), s, retain_graph=True)
        torch.testing.assert_close(slope, want)


@pytest.mark.parametrize("kind", KINDS)
def test_it_joins_its_two_ends(kind: Kind) -> None:
    x0, x1, z = normal(4, D), normal(4, D, seed=1), normal(4, D, seed=2)
    of = Interpolant(kind, 0.4, rate=2.0)
    for at, end in ((0.0, x0), (1.0, x1)):
        s = torch.full((4, 1), at, dtype=torch.float64)
        gamma = 0.4 if kind in ("linear", "trigonometric") else 0.0
        torch.testing.assert_close(of.point(s, x0, x1, z), end + gamma * z)


def test_the_trigonometric_one_preserves_variance() -> None:
    alpha, beta, _ = Interpolant("trigonometric", 1.0).at(TIMES)
    torch.testing.assert_close(alpha.square() + beta.square(), torch.ones_like(TIMES))


@pytest.mark.parametrize(("kind", "rate"), [("brownian", 0.0), ("ornstein_uhlenbeck", 1.3)])
def test_bridges_are_those_of_the_process(kind: Kind, rate: float) -> None:
    """On an interval of length 2.5: c = σ √span, r = rate span."""
    sigma, span = 0.8, 2.5
    x0, x1 = normal(3, D), normal(3, D, seed=1)
    A = -rate * torch.eye(D, dtype=torch.float64)
    nodes = torch.cat([torch.zeros(1), TIMES, torch.ones(1)]).double() * span
    flow = affine_flow(x0, A, torch.zeros(D), sigma, nodes)
    mean, cov = bridge_moments(flow, torch.arange(3), x1)
    of = Interpolant(kind, sigma * math.sqrt(span), rate=(rate or 1.0) * span)
    s = TIMES[:, None]
    found = of.point(s, x0[:, None], x1[:, None], torch.zeros(D).double())
    torch.testing.assert_close(found, mean[:, 1:-1])
    want = of.at(TIMES).gamma.square()[:, None, None] * torch.eye(D, dtype=torch.float64)
    torch.testing.assert_close(cov[0, 1:-1], want, rtol=1e-9, atol=1e-12)


def test_a_small_rate_is_brownian_and_a_large_one_does_not_overflow() -> None:
    near = Interpolant("ornstein_uhlenbeck", 0.7, rate=1e-6)
    limit = Interpolant("brownian", 0.7)
    for found, want in zip(near.at(TIMES), limit.at(TIMES), strict=True):
        torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-11)
    far = Interpolant("ornstein_uhlenbeck", 0.7, rate=500.0)
    s = TIMES.float()
    assert all(f.isfinite().all() for f in (*far.at(s), *far.slopes(s)))
    torch.testing.assert_close(far.at(s).gamma, torch.full_like(s, 0.7 / math.sqrt(1000)))


@pytest.mark.parametrize("kind", KINDS)
def test_regression_on_points_finds_the_conditional_means(kind: Kind) -> None:
    """Least squares of both targets on x_s, for 100,000 draws: within 5 standard errors of the closed form."""
    law, of, n = pair(coupled=True), Interpolant(kind, 0.6), 100_000
    s = torch.tensor(0.35, dtype=torch.float64)
    both = law.mean + normal(n, 2 * D, seed=5) @ torch.linalg.cholesky(law.cov).mT
    z = normal(n, D, seed=6)
    x0, x1 = both.split(D, 1)
    x = of.point(s, x0, x1, z)
    X = torch.cat([x, torch.ones(n, 1)], 1)
    for values, exact in zip(
        (of.flow(s, x0, x1), of.score(s, z)), regressions(of, law, s, x), strict=True
    ):
        gap = values - exact  # has no mean given x
        found = torch.linalg.lstsq(X, gap).solution
        error = (torch.linalg.inv(X.mT @ X).diagonal()[:, None] * gap.var(0)).sqrt()
        assert (found.abs() < 5 * error + 1e-9).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("diffusion", [0.0, 0.5, 1.7])
def test_the_equation_has_the_marginals_at_every_diffusion(
    kind: Kind, coupled: bool, diffusion: float
) -> None:
    """Moments of dX = (K x + k) ds + e dW by Runge-Kutta steps of order 4, from s = 0 to 1."""
    law, of, steps = pair(coupled), Interpolant(kind, 0.6, rate=1.5), 100
    one = torch.eye(D, dtype=torch.float64)

    def speed(s: Tensor, now: Gaussian) -> Gaussian:
        x = torch.cat([torch.zeros(1, D).double(), one])
        at = of.drift(s, *regressions(of, law, s, x), diffusion)
        K = (at[1:] - at[0]).mT
        return Gaussian(K @ now.mean + at[0], K @ now.cov + now.cov @ K.mT + diffusion**2 * one)

    def moved(now: Gaussian, by: float, rate: Gaussian) -> Gaussian:
        return Gaussian(now.mean + by * rate.mean, now.cov + by * rate.cov)

    now, h = marginal(of, law, torch.zeros(()).double()), 1 / steps
    for k in range(steps):
        s = torch.tensor(k * h, dtype=torch.float64)
        a = speed(s, now)
        b = speed(s + h / 2, moved(now, h / 2, a))
        c = speed(s + h / 2, moved(now, h / 2, b))
        d = speed(s + h, moved(now, h, c))
        for part, weight in ((a, 1), (b, 2), (c, 2), (d, 1)):
            now = moved(now, h * weight / 6, part)
        if k in (steps // 5, steps // 2, steps - 1):
            want = marginal(of, law, s + h)
            torch.testing.assert_close(now.mean, want.mean, rtol=0, atol=1e-6)
            torch.testing.assert_close(now.cov, want.cov, rtol=0, atol=1e-6)


def test_the_brownian_one_under_the_entropic_coupling_is_the_schroedinger_bridge() -> None:
    sigma, none = 0.9, torch.zeros(D, dtype=torch.float64)
    law = pair(coupled=False)
    start = Gaussian(law.mean[:D], law.cov[:D, :D])
    end = Gaussian(law.mean[D:], law.cov[D:, D:])
    bridge = gaussian_bridge(start, end, torch.zeros(D, D).double(), none, sigma, 1.0, TIMES)
    law.cov[:D, D:], law.cov[D:, :D] = bridge.coupling, bridge.coupling.mT
    of, x = Interpolant("brownian", sigma), normal(6, D)
    for k, s in enumerate(TIMES):
        now = marginal(of, law, s)
        torch.testing.assert_close(now.mean, bridge.mean[k])
        torch.testing.assert_close(now.cov, bridge.cov[k])
        drift = of.drift(s, *regressions(of, law, s, x), sigma)
        torch.testing.assert_close(
            drift, (x - bridge.mean[k]) @ bridge.slope[k].mT + bridge.rate[k]
        )


def test_one_level_for_each_row() -> None:
    s, levels = TIMES[:, None], torch.linspace(0.2, 1.0, 5, dtype=torch.float64)[:, None]
    x0, x1, z = normal(5, D), normal(5, D, seed=1), normal(5, D, seed=2)
    found = Interpolant("ornstein_uhlenbeck", levels, rate=3 * levels).point(s, x0, x1, z)
    for k in range(5):
        level = float(levels[k])
        of = Interpolant("ornstein_uhlenbeck", level, rate=3 * level)
        torch.testing.assert_close(found[k], of.point(s[k], x0[k], x1[k], z[k]))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"X01.*'brownain'.*Did you mean `brownian`"):
        Interpolant("brownain", 0.1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"gamma=0.*positive"):
        Interpolant("linear", 0.0)
    with pytest.raises(ConfigError, match=r"rate=0.*other than zero"):
        Interpolant("ornstein_uhlenbeck", 0.1, rate=0.0)

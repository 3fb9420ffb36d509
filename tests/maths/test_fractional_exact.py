"""Oracles: hypergeometric functions of scipy, integrals by quadrature, Brownian motion at H = 1/2, scaling."""

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.special import hyp2f1
from torch.testing import assert_close

from tsdyn.maths.fractional_exact import (
    brownian_variance,
    fractional_brownian,
    fractional_noise,
    matrix,
    multifractional,
    noise_spectrum,
    riemann_liouville,
    riemann_liouville_variance,
)

INDICES = [0.1, 0.25, 0.5, 0.75, 0.9]
PATHS = [fractional_brownian, riemann_liouville]
TIMES = torch.tensor([0.0, 1e-4, 0.3, 0.301, 0.7, 1.0, 1.9], dtype=torch.float64)


def falling(t: torch.Tensor) -> torch.Tensor:
    """An index that falls from 0.8 to 0.3 about t = 1."""
    return 0.3 + 0.5 * torch.sigmoid(7 * (1 - t))


def kernel_integral(s: float, t: float, a: float, b: float) -> float:
    """int_0^s (s - u)^(a - 1) (t - u)^(b - 1) du / (Gamma(a) Gamma(b)), w = s - u with the algebraic end as a weight."""
    value, _ = quad(lambda w: (w + t - s) ** (b - 1), 0, s, weight="alg", wvar=(a - 1, 0))
    return value / (math.gamma(a) * math.gamma(b))


@pytest.mark.parametrize("law", PATHS)
def test_index_one_half_is_brownian_motion(law):
    C = matrix(law(0.5), TIMES)
    assert_close(C, torch.minimum(TIMES[:, None], TIMES), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("law", PATHS)
@pytest.mark.parametrize("hurst", INDICES)
def test_paths_are_self_similar(law, hurst):
    """B(c t) is c^H B(t) in law."""
    C, wide = matrix(law(hurst), TIMES), matrix(law(hurst), 3.7 * TIMES)
    assert_close(wide, 3.7 ** (2 * hurst) * C, rtol=0, atol=1e-14)


@pytest.mark.parametrize("law", PATHS)
@pytest.mark.parametrize("hurst", [0.02, *INDICES, 0.98])
def test_covariances_are_positive(law, hurst):
    t = torch.rand(40, dtype=torch.float64)
    C = matrix(law(hurst), t)
    assert torch.equal(C, C.mT)
    assert torch.linalg.eigvalsh(C)[0] > 0


@pytest.mark.parametrize("hurst", INDICES)
def test_the_increments_of_fractional_brownian_motion_are_stationary(hurst):
    """And they are the noise: Cov(B(s + step) - B(s), B(t + step) - B(t)), whatever is added to s and t."""
    step = 0.25
    noise = matrix(fractional_noise(hurst, step), TIMES)
    for shift in (0.0, 0.6):
        a = TIMES + shift
        b = a + step
        law = fractional_brownian(hurst)
        increments = matrix(law, b, b) - matrix(law, a, b) - matrix(law, b, a) + matrix(law, a, a)
        assert_close(increments, noise, rtol=0, atol=1e-14)


def test_noise_far_apart_keeps_its_precision():
    """Where powers of the lag cancel: H (2 H - 1) lag^(2 H - 2) (1 + O(lag^-2)), and continuous where the way changes."""
    h = torch.tensor([0.2, 0.6, 0.9], dtype=torch.float64)
    zero, far = torch.zeros(1), torch.tensor([1e6], dtype=torch.float64)
    for i, index in enumerate(h.tolist()):
        expected = index * (2 * index - 1) * far ** (2 * index - 2)
        assert_close(fractional_noise(h[i])(zero, far), expected, rtol=1e-11, atol=0)
    below, above = (
        fractional_noise(h)(torch.zeros(3), torch.full((3,), lag, dtype=torch.float64))
        for lag in (30.0, 30.0 + 1e-10)
    )
    assert_close(below, above, rtol=1e-10, atol=0)


def test_noise_of_index_one_half_is_white():
    assert_close(matrix(fractional_noise(0.5), torch.arange(50)), torch.eye(50).double())


@pytest.mark.parametrize("hurst", [0.02, 0.1, 0.3, 0.495, 0.5 - 1e-9, 0.5, 0.505, 0.7, 0.9, 0.98])
def test_riemann_liouville_is_the_hypergeometric_form(hurst):
    """Also where s / t is nearly 1 and where H is nearly 1/2, where its expansions degenerate."""
    t = torch.tensor(1.7, dtype=torch.float64)
    a = hurst + 0.5
    for share in (1e-6, 0.1, 0.5, 0.66, 0.67, 0.8, 0.95, 1.0):
        s = share * t
        z = float(s / t)
        expected = float(s**a * t ** (a - 1)) / (math.gamma(a) * math.gamma(a + 1))
        expected *= hyp2f1(1 - a, 1, 1 + a, z)
        found = riemann_liouville(hurst)(s, t)
        assert_close(found.item(), expected, rtol=2e-13, atol=0)


@pytest.mark.parametrize("hurst", INDICES)
def test_variances_at_time_one(hurst):
    one = torch.ones(1)
    assert_close(riemann_liouville(hurst)(one, one)[0], riemann_liouville_variance(hurst))
    known = {0.1: 3.5245, 0.25: 1.5958, 0.5: 1.0, 0.75: 1.0638, 0.9: 1.9303}
    assert_close(brownian_variance(hurst).item(), known[hurst], rtol=0, atol=5e-5)


@pytest.mark.parametrize(
    ("hurst", "both_sides", "one_side"),
    [
        (0.1, 2.9370672187498998, 1.8788288667267904),
        (0.25, 1.0638460810704871, 0.8879144946712007),
        (0.5, 0.5, 0.5),
        (0.75, 0.42553843242819486, 0.32458359407986222),
        (0.9, 0.68937960878027471, 0.25203677899216521),
    ],
)
def test_variances_integrated_over_time(hurst, both_sides, one_side):
    """int_0^1 Var B(t) dt, computed elsewhere with fifty digits."""
    for variance, expected in (
        (brownian_variance(hurst), both_sides),
        (riemann_liouville_variance(hurst), one_side),
    ):
        assert_close(variance.item() / (2 * hurst + 1), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("hurst", INDICES)
def test_both_motions_differ_by_what_was_before_time_zero(hurst):
    """G(t) = int_0^inf [(t + v)^(a - 1) - v^(a - 1)] dW(v) / Gamma(a), independent of the rest."""
    a, s, t = hurst + 0.5, 0.4, 1.3

    def integrand(log_v: float) -> float:
        v = math.exp(log_v)
        before = [v ** (a - 1) * math.expm1((a - 1) * math.log1p(time / v)) for time in (s, t)]
        return before[0] * before[1] * v

    past = sum(quad(integrand, *ends, limit=500)[0] for ends in ((-150, -5), (-5, 5), (5, 150)))
    early, late = torch.tensor(s).double(), torch.tensor(t).double()
    difference = brownian_variance(hurst) * fractional_brownian(hurst)(early, late)
    difference = difference - riemann_liouville(hurst)(early, late)
    assert_close(difference.item(), past / math.gamma(a) ** 2, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("hurst", INDICES)
def test_a_constant_index_is_the_riemann_liouville_motion(hurst):
    constant = multifractional(lambda t: torch.full_like(t, hurst))
    assert torch.equal(matrix(constant, TIMES), matrix(riemann_liouville(hurst), TIMES))


def test_an_index_that_changes():
    law = multifractional(falling)
    t = torch.tensor([0.2, 0.8, 1.0, 1.05, 1.9], dtype=torch.float64)
    index = falling(t)
    for i in range(len(t)):
        for j in range(i, len(t)):
            expected = (
                kernel_integral(
                    t[i].item(), t[j].item(), index[i].item() + 0.5, index[j].item() + 0.5
                )
                if i < j
                else t[i].item() ** (2 * index[i].item())
                * riemann_liouville_variance(index[i]).item()
            )
            for s, u in ((t[i], t[j]), (t[j], t[i])):
                assert_close(law(s, u).item(), expected, rtol=1e-8, atol=0)
    assert torch.linalg.eigvalsh(matrix(law, torch.linspace(0.02, 2, 60)))[0] > 0


def test_two_indices_whose_sum_is_one():
    """Where two terms of the expansion about s = t are infinite and cancel."""
    t = torch.tensor(2.0, dtype=torch.float64)
    for first, second in ((0.05, 0.95), (0.7, 0.3), (0.7, 0.3003), (0.8, 0.21)):
        for share in (0.7, 0.95, 0.999):
            s, a, b = share * t, first + 0.5, second + 0.5
            pair = torch.tensor([first, second], dtype=torch.float64)
            index = lambda u, s=s, pair=pair: pair[(u > s).long()]
            expected = float(s**a * t ** (b - 1)) / (math.gamma(b) * math.gamma(a + 1))
            expected *= hyp2f1(1 - b, 1, 1 + a, float(s / t))
            assert_close(multifractional(index)(s, t).item(), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("law", [*PATHS, fractional_noise])
def test_derivatives_with_respect_to_the_index(law):
    """First and second ones, also at H = 1/2 and between equal times."""
    hurst = torch.tensor([0.2, 0.5, 0.5004], dtype=torch.float64, requires_grad=True)
    s = torch.tensor([[0.5], [0.9], [1.0]], dtype=torch.float64)
    t = torch.ones(1, dtype=torch.float64)
    entries = lambda h: law(h)(s, t)
    assert torch.autograd.gradcheck(entries, (hurst,))
    assert torch.autograd.gradgradcheck(entries, (hurst,))


@pytest.mark.parametrize("law", PATHS)
def test_derivatives_at_time_zero_are_zero(law):
    hurst = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    matrix(law(hurst), torch.zeros(2)).sum().backward()
    assert hurst.grad == 0


@pytest.mark.parametrize("law", PATHS)
def test_a_batch_of_indices_is_one_after_the_other(law, device):
    t = TIMES.float().to(device)
    together = matrix(law(torch.tensor(INDICES, device=device)[:, None, None]), t)
    assert together.dtype == torch.float64 and together.shape == (5, 7, 7)
    for C, hurst in zip(together, torch.tensor(INDICES).tolist()):
        assert_close(C, matrix(law(hurst), t), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("hurst", INDICES)
def test_the_spectrum_is_that_of_the_noise(hurst):
    """int_0^2pi f(w) cos(k w) dw is the covariance at lag k: twice the half, whose end at 0 is w^(1 - 2 H) at worst."""

    def integrand(w: float, lag: int) -> float:
        w = max(w, 1e-12)
        density = noise_spectrum(torch.tensor(w, dtype=torch.float64), hurst).item()
        return density * w ** (2 * hurst - 1) * math.cos(lag * w)

    for lag in (0, 1, 2, 5):
        half, _ = quad(integrand, 0, math.pi, (lag,), weight="alg", wvar=(1 - 2 * hurst, 0))
        expected = fractional_noise(hurst)(torch.zeros(1), torch.tensor([lag]))
        assert_close(2 * half, expected.item(), rtol=0, atol=1e-8)


def test_the_spectrum_of_white_noise_is_flat():
    w = torch.linspace(0.01, 6.27, 30)
    assert_close(noise_spectrum(w, 0.5), torch.full((30,), 1 / (2 * math.pi)).double())

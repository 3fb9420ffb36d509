"""Oracles: mpmath with 50 digits, quadrature by scipy, exact covariances, and perturbed weights."""

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from torch.testing import assert_close

from tests.maths.fractional_truth import BRIDGES, MORE_PROCESSES, WIDER_SPEEDS, WITH_50_DIGITS
from tsdyn.errors import ConfigError
from tsdyn.maths.fractional import (
    brownian_motion,
    covariance,
    daems,
    geometric_speeds,
    mandelbrot_van_ness,
    riemann_liouville,
    riemann_liouville_system,
    semidefinite_root,
    speeds_for,
    stationary,
    stationary_system,
)
from tsdyn.maths.fractional_exact import (
    brownian_variance,
    fractional_brownian,
    matrix,
    multifractional,
    riemann_liouville as exact_riemann_liouville,
    riemann_liouville_variance,
)
from tsdyn.maths.quadrature import gauss_legendre

F64 = torch.float64
FIVE = geometric_speeds(1 / 20, 20.0, 5)
T = torch.arange(1, 101, dtype=F64) / 100


def exact_mandelbrot_van_ness(hurst):
    """With the variance that the kernel gives."""
    return lambda s, t: brownian_variance(hurst) * fractional_brownian(hurst)(s, t)


KINDS = {
    "stationary": (stationary, stationary_system, exact_mandelbrot_van_ness),
    "riemann_liouville": (riemann_liouville, riemann_liouville_system, exact_riemann_liouville),
}


def number(x):
    return torch.tensor(x, dtype=F64)


def off(approximation, truth, t=T):
    """The error of the covariance at all pairs of times, and the truth."""
    return covariance(approximation, t[:, None], approximation, t) - truth, truth


def frobenius(approximation, law, hurst, t=T):
    error, truth = off(approximation, matrix(law(hurst), t), t)
    return float(error.norm() / truth.norm())


@pytest.mark.parametrize("kind, hurst", WITH_50_DIGITS)
def test_numbers_with_50_digits(kind, hurst):
    """The systems to 1e-12, the weights to the condition numbers 500 and 8e6, the error to 1e-6 of itself."""
    truth = WITH_50_DIGITS[kind, hurst]
    make, system, _ = KINDS[kind]
    rtol = 1e-12 if kind == "stationary" else 1e-8
    found = make(hurst, FIVE, 1.0, "kernel", 0.0)
    _, b, c = system(number(hurst), FIVE)
    assert_close(b, number(truth["b"]), rtol=1e-12, atol=1e-15)
    assert_close(c, number(truth["c"]), rtol=1e-13, atol=0)
    expected = number(truth["weights"])
    assert_close(found.weights, expected, rtol=0, atol=rtol * float(expected.abs().max()))
    assert_close(found.error, number(truth["error"]), rtol=1e-6, atol=1e-15)
    slopes = torch.autograd.functional.jacobian(
        lambda h: make(h, FIVE, 1.0, "kernel", 0.0).weights, number(hurst)
    )
    expected = number(truth["slopes"])
    assert_close(slopes, expected, rtol=0, atol=rtol * float(expected.abs().max()))


@pytest.mark.parametrize("kind, hurst", MORE_PROCESSES)
def test_errors_of_one_to_ten_processes(kind, hurst):
    """Without a ridge. Beyond 7 speeds so close, the system of Riemann and Liouville is singular in double
    precision (the condition number of 7 is 5e12), and whoever solves it finds other weights."""
    make, system, law = KINDS[kind]
    truth = matrix(law(hurst), T)
    total = float(system(number(hurst), FIVE).c)
    rows = MORE_PROCESSES[kind, hurst]
    for count, expected in enumerate(rows if kind == "stationary" else rows[:7], 1):
        found = make(hurst, geometric_speeds(1 / 20, 20.0, count), 1.0, "kernel", 0.0)
        error, _ = off(found, truth)
        largest = float(error.abs().max() / truth.max())
        ours = float(error.norm() / truth.norm()), largest, math.sqrt(float(found.error) / total)
        for got, wanted in zip(ours, expected):
            assert math.isclose(got, wanted, rel_tol=1e-4 if count < 7 else 5e-3, abs_tol=3e-6)


@pytest.mark.parametrize("kind, hurst, count", WIDER_SPEEDS)
def test_errors_of_wider_speeds(kind, hurst, count):
    slowest, fastest, rms, norm, total = WIDER_SPEEDS[kind, hurst, count]
    make, system, law = KINDS[kind]
    found = make(hurst, geometric_speeds(slowest, fastest, count), 1.0, "kernel", 0.0)
    share = float(found.error / system(number(hurst), FIVE).c)
    assert math.isclose(math.sqrt(share), rms, rel_tol=1e-4, abs_tol=3e-6)
    assert math.isclose(frobenius(found, law, hurst), norm, rel_tol=1e-4, abs_tol=6e-7)
    assert math.isclose(found.weights.sum(), total, rel_tol=1e-5)


@pytest.mark.parametrize(
    "hurst, five, seven, with_past",
    [
        (0.1, 0.09, 0.04, 1.5e-2),
        (0.25, 0.017, 1.5e-3, 8e-4),
        (0.3, 0.012, 5e-4, 5e-4),
        (0.5, 6e-6, 5e-5, 5e-5),
        (0.7, 2e-3, 1e-4, 1e-4),
        (0.75, 1.3e-3, 1.5e-4, 1e-4),
        (0.9, 9e-4, 2.5e-4, 6e-4),
    ],
)
def test_errors_of_covariances_with_the_usual_ridge(hurst, five, seven, with_past):
    """Seven speeds from 1/10 to 1000 reach 1.5 % for H = 0.1 and 0.1 % for all others, past included."""
    wide = geometric_speeds(0.1, 1000.0, 7)
    law = exact_riemann_liouville
    assert frobenius(riemann_liouville(hurst, FIVE, 1.0, "kernel"), law, hurst) < five
    assert frobenius(riemann_liouville(hurst, wide, 1.0, "kernel"), law, hurst) < seven
    whole = mandelbrot_van_ness(hurst, wide, 1.0, "kernel")
    assert frobenius(whole, exact_mandelbrot_van_ness, hurst) < with_past
    usual = mandelbrot_van_ness(hurst, speeds_for(1.0, 5e-3), 1.0, "kernel")
    assert frobenius(usual, exact_mandelbrot_van_ness, hurst) < with_past


def test_one_half_is_brownian_motion():
    """Exactly where one speed is zero, to 5e-6 with five others; the stationary kind misses it by 1.2 %."""
    w = torch.minimum(T[:, None], T)
    for make in (riemann_liouville, mandelbrot_van_ness):
        found = make(0.5, speeds_for(1.0, 1e-3), 1.0)
        assert_close(off(found, w)[0], torch.zeros_like(w), rtol=0, atol=1e-12)
        assert_close(found.weights, torch.eye(7, dtype=F64)[0], rtol=0, atol=1e-8)
        near = make(0.5, FIVE, 1.0, ridge=0.0)
        assert abs(float(near.weights.sum()) - 1) < 2e-5
        assert float(off(near, w)[0].norm() / w.norm()) < 5e-6
    assert_close(off(brownian_motion(), w)[0], torch.zeros_like(w), rtol=0, atol=1e-15)
    assert_close(off(brownian_motion(4.0), 4 * w)[0], torch.zeros_like(w), rtol=0, atol=1e-15)
    assert abs(frobenius(daems(0.5, 1.0), exact_mandelbrot_van_ness, 0.5) - 0.012) < 5e-4


@pytest.mark.parametrize("hurst", [0.2, 0.8])
def test_the_error_is_that_of_the_kernels(hurst):
    """∫_0^T E(B̂ - B)² dt = ∫_0^T (T - u) (Σ w e^{-γ u} - u^{α - 1} / Γ(α))² du, by scipy; H = 0.2 is singular."""
    horizon = 2.5
    found = riemann_liouville(hurst, FIVE, horizon, "kernel")
    a = hurst + 0.5

    def missing(v):
        u = v**5
        kernel = float((found.weights * torch.exp(-found.speeds * u)).sum())
        return (horizon - u) * (kernel - u ** (a - 1) / math.gamma(a)) ** 2 * 5 * v**4

    expected = quad(missing, 0, horizon**0.2, epsabs=1e-12, limit=500)[0] / horizon
    assert math.isclose(found.error, expected, rel_tol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hurst", [0.15, 0.5, 0.85])
def test_the_weights_are_the_best(kind, hurst):
    """Any step away from the weights adds step' A step to the error, which nothing makes negative."""
    make, system, _ = KINDS[kind]
    A, b, c = system(number(hurst), FIVE)
    found = make(hurst, FIVE, 1.0, "kernel", 0.0)
    best = found.weights @ A @ found.weights - 2 * b @ found.weights + c
    assert_close(best.clamp(min=0), found.error, rtol=1e-6, atol=1e-12)
    for step in 0.1 * torch.randn(50, 5, dtype=F64):
        w = found.weights + step
        assert_close(w @ A @ w - 2 * b @ w + c - best, step @ A @ step, rtol=1e-5, atol=1e-11)
        assert step @ A @ step > 0


def test_the_ridge_costs_little_and_tames_the_weights():
    """Ten speeds where five would do: 6 % of the root mean squared error, against weights of 1e4."""
    speeds = geometric_speeds(1 / 20, 20.0, 10)
    tame, wild = (riemann_liouville(0.3, speeds, 1.0, "kernel", r) for r in (1e-8, 1e-14))
    assert tame.error.sqrt() < 1.06 * wild.error.sqrt()
    assert tame.weights.abs().max() < wild.weights.abs().max() / 100
    five = riemann_liouville(0.3, FIVE, 1.0, "kernel")
    best = riemann_liouville(0.3, FIVE, 1.0, "kernel", 0.0)
    assert math.isclose(five.error, best.error, rel_tol=1e-4)


@pytest.mark.parametrize("make", [riemann_liouville, mandelbrot_van_ness, stationary])
@pytest.mark.parametrize("hurst", [0.2, 0.5, 0.7])
def test_time_has_no_unit_of_its_own(make, hurst):
    """B(c t) is c^H B(t) in law, and so is its approximation when the speeds are divided by c."""
    short, long = (make(hurst, FIVE / c, c * 1.0) for c in (1.0, 30.0))
    assert_close(
        covariance(long, 30 * T[:, None], long, 30 * T),
        30 ** (2 * hurst) * covariance(short, T[:, None], short, T),
        rtol=1e-6,
        atol=1e-9,
    )
    assert_close(long.error, 30 ** (2 * hurst) * short.error, rtol=1e-5, atol=1e-13)


@pytest.mark.parametrize("hurst", [0.3, 0.8])
def test_unit_variance(hurst):
    """Var B(1) = 1: up to the error of the approximation, and the kernel's own variance otherwise."""
    one, wide = torch.ones((), dtype=F64), geometric_speeds(0.1, 1000.0, 7)
    for make, natural in [
        (riemann_liouville, riemann_liouville_variance),
        (mandelbrot_van_ness, brownian_variance),
    ]:
        unit, kernel = (make(hurst, wide, 1.0, variance) for variance in ("unit", "kernel"))
        assert math.isclose(covariance(unit, one, unit, one), 1.0, rel_tol=2e-3)
        ratio = natural(number(hurst))
        assert_close(covariance(kernel, one, kernel, one) / ratio, covariance(unit, one, unit, one))
        assert_close(kernel.error / ratio, unit.error)


@pytest.mark.parametrize("make", [riemann_liouville, stationary])
def test_the_covariance_is_the_integral_of_the_kernels(make):
    """∫_0^s k(s - u) k(t - u) du + ∫_0^∞ (k(s + v) - k(v)) (k(t + v) - k(v)) dv, k(u) = Σ w e^{-γ u}; by scipy."""
    found = make(0.35, FIVE, 2.0)
    k = lambda u: float((found.weights * torch.exp(-found.speeds * u)).sum())
    recent = lambda u, s, t: k(s - u) * k(t - u)
    past = lambda v, s, t: (k(s + v) - k(v)) * (k(t + v) - k(v))
    integral = lambda f, a, b, *at: quad(f, a, b, args=at, epsabs=1e-12)[0]
    for s, t in [(0.3, 0.3), (0.3, 1.7), (2.0, 1.1)]:
        expected = integral(recent, 0, min(s, t), s, t)
        if make is stationary:
            expected += integral(past, 0, 5, s, t) + integral(past, 5, 400, s, t)
        assert math.isclose(covariance(found, number(s), found, number(t)), expected, rel_tol=1e-7)


@pytest.mark.parametrize("hurst", [0.2, 0.35, 0.5, 0.65, 0.8])
def test_the_index_can_be_learned(hurst):
    """The most likely H under the approximation, for data without end from the exact law at 200 times: the least
    of log |C(H)| + tr C(H)⁻¹ C, which the exact law has at the true H. Five speeds up to 20 miss by up to 0.12."""
    t = torch.arange(1, 201, dtype=F64) / 200
    truth = matrix(exact_riemann_liouville(hurst), t)

    def divergence(h, speeds):
        found = riemann_liouville(h, speeds, 1.0, "kernel")
        C = covariance(found, t[:, None], found, t)
        return float(torch.logdet(C) + torch.linalg.solve(C, truth).trace())

    best = minimize_scalar(
        divergence, args=(speeds_for(1.0, 1 / 200),), bounds=(0.02, 0.98), method="bounded"
    )
    assert abs(best.x - hurst) < 0.01


def test_stationary_increments():
    """Cov of increments depends on their distance alone: exactly for `stationary`, else to the error."""
    for make, atol in [(stationary, 1e-9), (mandelbrot_van_ness, 2e-3)]:
        found = make(0.3, geometric_speeds(0.1, 1000.0, 7), 1.0)
        grid = torch.arange(0, 11, dtype=F64) / 10
        C = covariance(found, grid[:, None], found, grid).diff(dim=0).diff(dim=1)
        assert_close(C[1:, 1:], C[:-1, :-1], rtol=0, atol=atol)


@pytest.mark.parametrize(
    "speeds, horizon, bound", [(FIVE, 2.0, 5e-3), (geometric_speeds(0.05, 500.0, 7), 2.0, 3e-4)]
)
def test_multifractional_motion(speeds, horizon, bound):
    """H falls from 0.8 to 0.3 on the way; an index per time is all it takes."""
    t = horizon * T
    fading = lambda t: 0.3 + 0.5 * torch.sigmoid(7 * (1 - t))
    hurst = fading(t)
    rows, found = (
        riemann_liouville(h, speeds, horizon, "kernel", 0.0) for h in (hurst[:, None], hurst)
    )
    truth = matrix(multifractional(fading), t)
    error = covariance(rows, t[:, None], found, t) - truth
    assert float(error.norm() / truth.norm()) < bound


def test_indices_of_any_shape_are_each_alone():
    hurst = number([[0.2, 0.5, 0.8], [0.3, 0.6, 0.9]])
    for make in (riemann_liouville, mandelbrot_van_ness, stationary):
        together = make(hurst, FIVE, 3.0)
        s, t = number(0.4), number(1.3)
        cov = covariance(together, s, together, t)
        for i in range(2):
            for j in range(3):
                alone = make(hurst[i, j], FIVE, 3.0)
                scale = float(alone.weights.abs().max())
                assert_close(together.weights[i, j], alone.weights, rtol=0, atol=1e-8 * scale)
                assert_close(cov[i, j], covariance(alone, s, alone, t), rtol=1e-7, atol=1e-9)
                assert_close(together.error[i, j], alone.error, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("make", [riemann_liouville, mandelbrot_van_ness, stationary])
def test_gradients(make):
    """In H, the speeds, and again, through weights, error and covariance; a ridge keeps the system calm."""
    speeds = number([0.3, 2.5, 11.0])

    def read(hurst, speeds):
        found = make(hurst, speeds, 1.5, ridge=1e-6)
        s, t = number(0.4), number(1.1)
        return found.weights, found.error, covariance(found, s, found, t)

    for hurst in (0.3, 0.5, 0.8):
        inputs = number(hurst).requires_grad_(), speeds.clone().requires_grad_()
        if make is stationary:  # the root of what is stationary has no gradient in the speeds
            inputs = inputs[0], speeds
        assert torch.autograd.gradcheck(read, inputs)
        assert torch.autograd.gradgradcheck(lambda h: read(h, speeds), inputs[:1])


def test_the_slope_in_the_index_is_that_of_differences():
    """Five points of 8e-3 around it: the error of the difference is 1e-9 of the fifth derivative."""
    make = lambda h: stationary(h, FIVE, 1.0, "kernel", 0.0).weights
    slope = torch.autograd.functional.jacobian(make, number(0.4))
    d = 2e-3
    values = [make(0.4 + i * d) for i in (-2, -1, 1, 2)]
    expected = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * d)
    assert_close(slope, expected, rtol=0, atol=1e-8 * float(slope.abs().max()))


def test_roots_of_singular_matrices():
    """A Gram matrix of five directions in twelve dimensions, of very different units."""
    A = torch.randn(3, 12, 5, dtype=F64) * torch.logspace(-6, 6, 12, dtype=F64)[:, None]
    A[2, :, 3:] = 0.0  # and one of three
    C = A @ A.mT
    root = semidefinite_root(C)
    assert root.shape == (3, 12, 5)
    scale = C.diagonal(dim1=-2, dim2=-1).sqrt()
    units = scale[..., None] * scale[..., None, :]
    assert_close(root @ root.mT / units, C / units, rtol=0, atol=1e-13)
    assert not root[2, :, 3:].any()
    assert not semidefinite_root(torch.zeros(4, 4, dtype=F64)).any()


def test_bad_input():
    with pytest.raises(ConfigError, match=r"TSD-X01: A Hurst index of 1\."):
        riemann_liouville(number([0.3, 1.0]), FIVE, 1.0)
    with pytest.raises(ConfigError, match="Hurst index of nan"):
        mandelbrot_van_ness(math.nan, FIVE, 1.0)
    with pytest.raises(ConfigError, match="0 < slowest <= fastest"):
        geometric_speeds(0.0, 2.0, 3)
    with pytest.raises(ConfigError, match="speeds above zero"):
        stationary(0.3, speeds_for(1.0, 0.01), 1.0)


def test_speeds():
    assert_close(FIVE, number([0.05, 20**-0.5, 1.0, 20**0.5, 20.0]))
    assert_close(geometric_speeds(0.1, 10.0, 1), number([1.0]))
    assert_close(speeds_for(10.0, 0.1, 3), number([0.0, 0.05, 50.0]))
    assert_close(speeds_for(10.0, 3.0, 3), number([0.0, 0.05, 2.0]))


@pytest.mark.parametrize("hurst, rate", BRIDGES)
@pytest.mark.parametrize("law", ["unit", "mandelbrot_van_ness", "riemann_liouville"])
def test_bridges_of_exact_motions(hurst, rate, law):
    covariances = {
        "unit": fractional_brownian(hurst),
        "mandelbrot_van_ness": exact_mandelbrot_van_ness(hurst),
        "riemann_liouville": exact_riemann_liouville(hurst),
    }
    assert_close(
        bridge(covariances[law], rate), number(BRIDGES[hurst, rate][law]), rtol=0, atol=1.2e-4
    )


@pytest.mark.parametrize("hurst, rate", BRIDGES)
def test_bridges_of_approximations(hurst, rate):
    for name, found in [
        ("riemann_liouville_approximation", riemann_liouville(hurst, FIVE, 2.0, "kernel", 0.0)),
        ("stationary_approximation", daems(hurst, 6.0)),
    ]:
        expected = number(BRIDGES[hurst, rate][name])
        cov = lambda s, t, found=found: covariance(found, s, found, t)
        assert_close(bridge(cov, rate), expected, rtol=0, atol=1.2e-4)


def bridge(cov, rate):
    """Log density of x(2) + 0.1 N(0, 1) at 0, and the standard deviation of x(1) given it: (2,)

    x(t) = B(t) - θ ∫_0^t e^{-θ (t - s)} B(s) ds, by Gauss and Legendre on both halves.
    """
    node, weight = gauss_legendre(1.0, 60)
    t = torch.cat([node, 1 + node, number([1.0, 2.0])])
    fade = lambda at: rate * torch.exp(-rate * (at - t[:120])) * weight.repeat(2)
    rows = torch.zeros(2, 122, dtype=F64)
    rows[0, :60], rows[1, :120] = -fade(1.0)[:60], -fade(2.0)
    rows[:, 120:] = torch.eye(2, dtype=F64)
    C = rows @ cov(t[:, None], t) @ rows.mT
    seen = C[1, 1] + 0.01
    return torch.stack(
        [-0.5 * torch.log(2 * math.pi * seen), (C[0, 0] - C[0, 1] ** 2 / seen).sqrt()]
    )

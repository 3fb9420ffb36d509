"""Oracle: the definition Q = integral of e^(F s) L q L' e^(F s)' in 40 digits."""

import math

import mpmath
import pytest
import torch

from tsdyn.errors import ConfigError
from tsdyn.maths.matern import erlang, matern

SMOOTHNESS = [0.5, 1.5, 2.5, 3.5]
RATE, VARIANCE = 1.7, 1.3
STEPS = [10.0**i for i in range(-6, 2)] + [0.3, 2.0, 5.0]  # rate times gap


def kernel(nu: float, variance: float = VARIANCE):
    return matern(nu, math.sqrt(2 * nu) / RATE, variance)


def exact_noise(nu: float, x: float, variance: float = VARIANCE) -> mpmath.matrix:
    """By the matrix exponential of Van Loan, in coordinates f^(i) / rate^i."""
    size = round(nu + 0.5)
    p = size - 1
    with mpmath.workdps(60):  # 20 more than wanted: the exponential grows
        F = mpmath.zeros(size)
        for i in range(p):
            F[i, i + 1] = 1
        for k in range(size):
            F[p, k] = -math.comb(size, k)
        q = mpmath.mpf(variance) * 2 ** (2 * p + 1) * mpmath.fac(p) ** 2 / mpmath.fac(2 * p)
        block = mpmath.zeros(2 * size)
        for i in range(size):
            for j in range(size):
                block[i, j], block[size + i, size + j] = F[i, j], -F[j, i]
        block[p, size + p] = q
        flow = mpmath.expm(block * mpmath.mpf(x), method="taylor")
        return flow[:size, size:] * flow[:size, :size].T


def worst(found: torch.Tensor, exact: mpmath.matrix) -> float:
    """Largest error of an entry against the geometric mean of the variances it belongs to."""
    size = len(found)
    errors = [
        abs(mpmath.mpf(float(found[i, j])) - exact[i, j]) / mpmath.sqrt(exact[i, i] * exact[j, j])
        for i in range(size)
        for j in range(size)
    ]
    return float(max(errors))


def naive_noise(nu: float, x: float) -> torch.Tensor:
    """P - A P A', as it stands in textbooks."""
    A, _ = kernel(nu).transition(
        torch.zeros(1, dtype=torch.float64), torch.tensor([x / RATE], dtype=torch.float64)
    )
    P = kernel(nu).covariance(torch.zeros(1, dtype=torch.float64))
    return (P - A @ P @ A.mT)[0]


@pytest.mark.parametrize("nu", SMOOTHNESS)
def test_noise_is_exact_for_long_and_short_gaps(nu):
    gaps = torch.tensor(STEPS, dtype=torch.float64) / RATE
    _, Q = kernel(nu).transition(torch.zeros_like(gaps), gaps)
    for x, found in zip((gaps * RATE).tolist(), Q):
        assert worst(found, exact_noise(nu, x)) < 1e-12
        size = found.diagonal().sqrt()
        assert torch.linalg.eigvalsh(found / size / size[:, None]).min() > 0


@pytest.mark.parametrize("nu", SMOOTHNESS[1:])
def test_the_textbook_form_is_not(nu):
    """The bound above is worth something: what it is meant to catch fails it, by far."""
    assert worst(naive_noise(nu, 1e-4), exact_noise(nu, 1e-4)) > 1e-9


@pytest.mark.parametrize("nu", SMOOTHNESS)
def test_the_state_solves_its_equation(nu):
    """F P + P F' + L q L' = 0, F taken from A at a gap of zero."""
    x = torch.zeros(1, dtype=torch.float64)
    one = matern(nu, math.sqrt(2 * nu), 1.0)  # rate 1
    F, spread = (
        torch.autograd.functional.jacobian(lambda e, i=i: one.transition(x, e)[i][0], x)[..., 0]
        for i in (0, 1)
    )
    P = one.covariance(x)[0]
    residual = F @ P + P @ F.T + spread
    assert residual.abs().max() < 1e-12
    p = len(P) - 1
    wanted = torch.zeros_like(P)
    wanted[p, p] = 2 ** (2 * p + 1) * math.factorial(p) ** 2 / math.factorial(2 * p)
    torch.testing.assert_close(spread, wanted, rtol=0, atol=1e-12)


def test_covariance_of_value_and_derivatives():
    """Matérn-5/2: diag(1, 1/3, 1) with -1/3 between f and f'', f^(i) / rate^i."""
    P = kernel(2.5).covariance(torch.zeros(1, dtype=torch.float64))[0] / VARIANCE
    third = 1 / 3
    wanted = torch.tensor([[1, 0, -third], [0, third, 0], [-third, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(P, wanted)


def test_erlang_and_its_derivatives_at_zero():
    z = torch.tensor([0.0, 1e-8, 0.3, 4.0, 40.0], dtype=torch.float64, requires_grad=True)
    for n in (1, 3, 7):
        wanted = [float(mpmath.gammainc(n, 0, v, regularized=True)) for v in z.tolist()]
        torch.testing.assert_close(
            erlang(z, n), torch.tensor(wanted, dtype=torch.float64), rtol=1e-13, atol=0
        )
        (slope,) = torch.autograd.grad(erlang(z, n).sum(), z, create_graph=True)
        assert float(slope.detach()[0]) == (1.0 if n == 1 else 0.0)
        (bend,) = torch.autograd.grad(slope.sum(), z)
        assert bend.isfinite().all()
    inside = z.detach()[1:].requires_grad_()
    assert torch.autograd.gradcheck(lambda v: erlang(v, 3), inside + 0.1)
    assert torch.autograd.gradgradcheck(lambda v: erlang(v, 3), inside + 0.1)


def test_repeated_times_have_finite_gradients():
    lengthscale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.0, 0.0, 0.5, 0.5, 1e-9 + 0.5], dtype=torch.float64, requires_grad=True)
    for nu in SMOOTHNESS:
        A, Q = matern(nu, lengthscale).transition(t[:-1], t[1:])
        grads = torch.autograd.grad(A.sum() + Q.sum(), (lengthscale, t))
        assert all(g.isfinite().all() for g in grads)
        assert not Q[0].any()


@pytest.mark.parametrize("nu", [1.0, 0.0, -0.5])
def test_other_smoothness_is_refused(nu):
    with pytest.raises(ConfigError, match=r"TSD-X01.*half an odd number"):
        matern(nu, 1.0)

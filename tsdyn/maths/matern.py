"""Matérn processes: f is p times differentiable, nu = p + 1/2, and (f, f', ..., f^(p)) forgets the past.

    dx = F x dt + L dB,    F x = (x_1, ..., x_p, -sum_k binomial(p + 1, k) rate^(p + 1 - k) x_k),   rate = sqrt(2 nu) / lengthscale

The state holds x_i = f^(i) / rate^i, so that A depends on the gap times the rate alone and the covariance
is the variance times a fixed matrix.

[1] Hartikainen & Särkkä. Kalman filtering and smoothing solutions to temporal Gaussian process
    regression models. MLSP 2010.
[2] Rasmussen & Williams. Gaussian processes for machine learning. MIT Press 2006, section 4.2.
"""

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError
from .blocks import contract, doubles, per_row
from .kernels import Kernel, constantly, reversible


class _Pattern(NamedTuple):
    """What A, Q and P are made of, at rate 1 and variance 1; p = nu - 1/2."""

    A: Tensor  # (p + 1, S, S)   of e^-x x^j
    Q: Tensor  # (2 p + 1, S, S) of P(2 p + 1, z), then e^-z z^l, l = 1 .. 2 p;  z = 2 x
    P: Tensor  # (S, S)


def matern(nu: float, lengthscale: Tensor | float, variance: Tensor | float = 1.0) -> Kernel:
    """variance 2^(1 - nu) / Gamma(nu) (rate r)^nu K_nu(rate r),  r = |t - t'|;  for nu = 1/2: variance e^(-r / lengthscale)  [2]

    Args:
        nu: 1/2, 3/2, 5/2, 7/2, ...: f has nu - 1/2 derivatives.
        lengthscale: (...), in the units of t.
        variance: (...), of f.
    """
    order = _derivatives(nu)
    pattern = _pattern(order)
    lengthscale, variance = doubles(lengthscale, variance)
    rate = math.sqrt(2 * nu) / lengthscale
    scaled = variance[..., None, None, None] * pattern.Q.to(variance.device)

    def step(gap: Tensor) -> tuple[Tensor, Tensor]:
        x = per_row(rate, gap) * gap
        A = contract(_decays(x, order), pattern.A.to(x.device))
        return A, contract(_gains(2 * x, order), scaled.to(x.device))

    return reversible(
        f"Matérn-{2 * order + 1}/2",
        step,
        constantly(variance[..., None, None] * pattern.P.to(variance.device)),
        rate[..., None] ** torch.arange(order + 1, device=rate.device),
        [(-1.0) ** i for i in range(order + 1)],
    )


def _derivatives(nu: float) -> int:
    order = nu - 0.5
    if order < 0 or order != int(order):
        raise ConfigError(
            "X01",
            f"a Matérn kernel of nu={nu}",
            "half an odd number: 0.5, 1.5, 2.5 or 3.5",
            "Other smoothness has no finite state",
        )
    return int(order)


def _decays(x: Tensor, order: int) -> Tensor:
    """e^-x, e^-x x, ..., e^-x x^order: (..., N, order + 1)."""
    found = [torch.exp(-x)]
    for _ in range(order):
        found.append(found[-1] * x)
    return torch.stack(found, -1)


def _gains(z: Tensor, order: int) -> Tensor:
    """P(2 order + 1, z), e^-z z, ..., e^-z z^(2 order): (..., N, 2 order + 1); all vanish at 0."""
    found = [erlang(z, 2 * order + 1)]
    term = torch.exp(-z)
    for _ in range(2 * order):
        term = term * z
        found.append(term)
    return torch.stack(found, -1)


@functools.cache
def _pattern(order: int) -> _Pattern:
    """The matrices of nu = order + 1/2, made once, on the CPU and fit for training."""
    with torch.inference_mode(False), torch.device("cpu"):
        return _make_pattern(order)


def _make_pattern(order: int) -> _Pattern:
    """From whole numbers.

    An impulse makes x_i(s) = e^-s sum_a c_ia s^a / order!, and Q_ij is the integral of x_i x_j. In terms of
    P(k + 1, z), k = 0 .. 2 order, its coefficients cancel for small z, where all P are alike but for
    their order. With P(k + 1, z) = P(2 order + 1, z) + e^-z sum_{l = k + 1 .. 2 order} z^l / l! what
    cancels does so exactly, in whole numbers.
    """
    size, last = order + 1, 2 * order
    c = _impulse(order)
    A, Q = torch.zeros(size, size, size), torch.zeros(last + 1, size, size)
    A, Q = A.double(), Q.double()
    nilpotent = _nilpotent(order)
    power = [[int(i == j) for j in range(size)] for i in range(size)]
    for j in range(size):
        A[j] = torch.tensor(power, dtype=torch.float64) / math.factorial(j)
        power = _matmul(power, nilpotent)
    for i in range(size):
        for j in range(size):
            weights = [0] * (last + 1)
            for a in range(size):
                for b in range(size):
                    weights[a + b] += (
                        c[i][a] * c[j][b] * math.factorial(a + b) * 2 ** (last - a - b)
                    )
            Q[0, i, j] = sum(weights) / math.factorial(last)
            for l in range(1, last + 1):
                Q[l, i, j] = sum(weights[:l]) / (math.factorial(last) * math.factorial(l))
    return _Pattern(A, Q, Q[0].clone())


def _impulse(order: int) -> list[list[int]]:
    """c_ia: x_0 = s^order, x_{i + 1} = dx_i / ds, each without its e^-s: whole numbers."""
    rows = [[0] * order + [1]]
    for _ in range(order):
        before = [*rows[-1], 0]
        rows.append([(a + 1) * before[a + 1] - before[a] for a in range(order + 1)])
    return rows


def _nilpotent(order: int) -> list[list[int]]:
    """F + I at rate 1: its power order + 1 is zero, so that e^F x is a polynomial times e^-x."""
    size = order + 1
    F = [[int(j == i + 1) for j in range(size)] for i in range(size)]
    F[-1] = [-math.comb(size, k) for k in range(size)]
    return [[F[i][j] + int(i == j) for j in range(size)] for i in range(size)]


def _matmul(a: list[list[int]], b: list[list[int]]) -> list[list[int]]:
    return [[sum(x * y for x, y in zip(row, column)) for column in zip(*b)] for row in a]


def erlang(z: Tensor, n: int) -> Tensor:
    """P(n, z) = int_0^z s^(n - 1) e^-s ds / (n - 1)!, with all its derivatives also at z = 0."""
    value: Tensor = _Erlang.apply(z, n)  # type: ignore[no-untyped-call]
    return value


class _Erlang(torch.autograd.Function):
    """torch's own derivative of `gammainc` is not a number at z = 0."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, n: int) -> Tensor:
        ctx.save_for_backward(z)
        ctx.n = n
        value: Tensor = torch.special.gammainc(z.new_tensor(float(n)), z)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        return grad * z ** (ctx.n - 1) * torch.exp(-z) / math.factorial(ctx.n - 1), None

"""The squared exponential (RBF) kernel, which has no finite state, by one that has.

Its spectral density is proportional to e^(-w^2 l^2 / 2). With the first n terms of e^(w^2 l^2 / 2) in
the denominator it is that of a linear system of n coordinates, whose poles are the stable roots.

[1] Hartikainen & Särkkä. Kalman filtering and smoothing solutions to temporal Gaussian process
    regression models. MLSP 2010, section 3.2.
"""

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError
from .blocks import contract, doubles, per_row
from .impulse import gathered
from .kernels import Kernel, constantly, reversible


class _System(NamedTuple):
    """At lengthscale 1 and variance 1, in coordinates f^(i) / size_i of variance P_00 each."""

    poles: Tensor  # (K,)  complex; one of each conjugate pair
    A: Tensor  # (2 K, S, S)  of the real and the imaginary parts of e^(pole u)
    P: Tensor  # (S, S)
    kick: Tensor  # (S,)  where an impulse of the driving noise puts the state
    size: Tensor  # (S,)


def squared_exponential(
    lengthscale: Tensor | float, variance: Tensor | float = 1.0, order: int = 6
) -> Kernel:
    """variance exp(-r^2 / (2 lengthscale^2)), approximately  [1]

    The largest error is 1.7e-2, 3.0e-3, 6.0e-4 of the variance for orders 4, 6, 8.

    Args:
        lengthscale: (...), in the units of t.
        variance: (...), of f.
        order: coordinates of the state, S; 2 to 8. Beyond, rounding spoils Q.
    """
    if not 2 <= order <= 8:
        raise ConfigError(
            "X01", f"a squared exponential of order {order}", "an order from 2 to 8", ""
        )
    lengthscale, variance = doubles(lengthscale, variance)
    system = _System(*(f.to(lengthscale.device) for f in _system(order)))
    P = variance[..., None, None] * system.P
    amplitude = variance.sqrt()

    def step(gap: Tensor) -> tuple[Tensor, Tensor]:
        u = gap / per_row(lengthscale, gap)
        A = _flow(system, u)

        def response(s: Tensor) -> Tensor:
            return per_row(amplitude, s)[..., None] * (_flow(system, s) @ system.kick.to(s.device))

        return A, gathered(response, u, u < 1, A, P[..., None, :, :].to(gap.device))

    units = system.size / lengthscale[..., None] ** torch.arange(order, device=lengthscale.device)
    signs = [(-1.0) ** i for i in range(order)]
    kernel = reversible(f"squared exponential of order {order}", step, constantly(P), units, signs)
    return kernel._replace(approximate=True)


def _flow(system: _System, u: Tensor) -> Tensor:
    """e^(F u): (..., N) -> (..., N, S, S)."""
    modes = torch.exp(u[..., None] * system.poles.to(u.device))
    return contract(torch.cat([modes.real, modes.imag], -1), system.A.to(u.device))


@functools.cache
def _system(order: int) -> _System:
    """Made once, on the CPU and fit for training."""
    with torch.inference_mode(False), torch.device("cpu"):
        return _make_system(order)


def _make_system(order: int) -> _System:
    """From the poles p_k, which are all different: e^(F u) = sum_k p^i_k W_kj e^(p_k u), W the inverse of p^i_k."""
    poles = _poles(order)
    powers = poles ** torch.arange(order)[:, None]  # (S, K)  powers[i, k] = p_k^i
    inverse = torch.linalg.inv(powers)
    drive = math.sqrt(2 * math.pi) * 2**order * math.factorial(order)  # density of the noise
    impulse = powers * inverse[:, -1]  # (S, K)  x_i(u) = sum_k impulse_ik e^(p_k u)
    P = -(drive * impulse @ (1 / (poles[:, None] + poles)) @ impulse.T).real
    size = (P.diagonal() / P[0, 0]).sqrt()
    residues = powers.T[:, :, None] * inverse[:, None, :]  # (K, S, S)
    residues = residues * (size / size[:, None])
    half = poles.imag >= -1e-9
    pairs = torch.where(poles[half].imag > 1e-9, 2.0, 1.0)
    kept = pairs[:, None, None] * residues[half]
    return _System(
        poles[half],
        torch.cat([kept.real, -kept.imag]),
        P / (size * size[:, None]),
        torch.eye(order, dtype=torch.float64)[-1] * math.sqrt(drive) / size[-1],
        size,
    )


def _poles(order: int) -> Tensor:
    """Roots x of sum_k (-x^2 / 2)^k / k!, k <= order, in the left half plane: (order,) complex."""
    companion = torch.zeros(order, order, dtype=torch.float64).diagonal_scatter(
        torch.ones(order - 1, dtype=torch.float64), offset=1
    )
    ratio = [math.factorial(order) / math.factorial(k) for k in range(order)]
    companion[-1] = -torch.tensor(ratio, dtype=torch.float64)
    x = (-2 * torch.linalg.eigvals(companion)).sqrt()
    return torch.where(x.real < 0, x, -x)

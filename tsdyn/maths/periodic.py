"""Processes that repeat: rotations of planes, and what they are when their shape drifts.

[1] Solin & Särkkä. Explicit link between periodic covariance functions and state space models.
    AISTATS 2014.
[2] MacKay. Introduction to Gaussian processes. 1998, equation 47.
"""

import math
from typing import Any

import torch
from scipy.special import ive
from torch import Tensor

from ..errors import ConfigError
from .blocks import doubles, no_noise, per_row
from .kernels import Kernel, constantly, multiply, reversible
from .matern import matern

MOST_HARMONICS = 200  # of which the state has twice as many coordinates


def cosine(frequency: Tensor | float, variance: Tensor | float = 1.0) -> Kernel:
    """variance cos(frequency (t - t')): one wave of random amplitude and phase. Frequency in radians per time."""
    frequency, variance = doubles(frequency, variance)

    def step(gap: Tensor) -> tuple[Tensor, Tensor]:
        A = _rotations((per_row(frequency, gap) * gap)[..., None])
        return A, no_noise(A)

    P = variance[..., None, None] * torch.eye(2, dtype=torch.float64, device=variance.device)
    units = torch.stack([torch.ones_like(frequency), -frequency], -1)
    return reversible("cosine", step, constantly(P), units, [1.0, -1.0])._replace(noiseless=True)


def periodic(
    lengthscale: Tensor | float,
    period: Tensor | float,
    variance: Tensor | float = 1.0,
    harmonics: int | None = None,
    tolerance: float = 1e-10,
) -> Kernel:
    """variance exp(-2 sin^2(pi r / period) / lengthscale^2) = sum_{j <= J} variance_j cos(2 pi j r / period)  [1, 2]

    with variance_j = 2 variance e^-k I_j(k), half of that for j = 0, k = 1 / lengthscale^2. The state is
    the mean and a rotating plane for every harmonic: S = 1 + 2 J.

    Args:
        lengthscale: (...), without units: how smooth f is within a period.
        period: (...), in the units of t.
        variance: (...), of f.
        harmonics: J; None for the fewest that leave out less than `tolerance` of the variance.
        tolerance: a part of the variance.
    """
    lengthscale, period, variance = doubles(lengthscale, period, variance)
    concentration = lengthscale**-2
    J = count_harmonics(concentration, tolerance) if harmonics is None else harmonics
    each = scaled_bessel(concentration, J + 1) * concentration.new_tensor([1.0] + [2.0] * J)
    weights = torch.cat([each[..., :1], each[..., 1:].repeat_interleave(2, -1)], -1)
    multiples = torch.arange(1, J + 1, dtype=torch.float64, device=period.device)
    frequencies = 2 * math.pi * multiples / period[..., None]  # (..., J)

    def step(gap: Tensor) -> tuple[Tensor, Tensor]:
        angles = gap[..., None] * frequencies.to(gap.device)[..., None, :]
        A = _rotations(angles, still=1)
        return A, no_noise(A)

    waves = torch.stack([torch.ones_like(frequencies), -frequencies], -1).flatten(-2)
    return reversible(
        f"periodic of {J} harmonics",
        step,
        constantly(torch.diag_embed(variance[..., None] * weights)),
        torch.cat([torch.ones_like(period)[..., None], waves], -1),
        [1.0] + [1.0, -1.0] * J,
        [1.0] + [1.0, 0.0] * J,
    )._replace(noiseless=True)


def quasi_periodic(
    lengthscale: Tensor | float,
    period: Tensor | float,
    decay: Tensor | float,
    variance: Tensor | float = 1.0,
    nu: float = 1.5,
    harmonics: int | None = None,
) -> Kernel:
    """periodic(r; lengthscale, period) * Matérn_nu(r; decay): a season whose shape drifts  [1]

    Args:
        decay: (...), in the units of t: the lengthscale of the drift.
        nu: the smoothness of the drift.
    """
    return multiply(periodic(lengthscale, period, harmonics=harmonics), matern(nu, decay, variance))


def count_harmonics(concentration: Tensor, tolerance: float) -> int:
    """The fewest J with 1 - e^-k (I_0(k) + 2 I_1(k) + ... + 2 I_J(k)) < tolerance, for every k of (...)."""
    k = float(concentration.detach().max())
    covered, J = float(ive(0, k)), 0
    while 1 - covered >= tolerance:
        if J == MOST_HARMONICS:
            raise ConfigError(
                "X01",
                f"a periodic kernel of lengthscale {k**-0.5:.3g}, for {J} harmonics are too few",
                f"a lengthscale of a few hundredths at least, or a tolerance above {tolerance}",
                "The state would be huge: choose a larger lengthscale, or fix `harmonics`",
            )
        J += 1
        covered += 2 * float(ive(J, k))
    return J


def scaled_bessel(k: Tensor, count: int) -> Tensor:
    """e^-k I_j(k) for j = 0 .. count - 1, k >= 0: (...) -> (..., count); differentiable any number of times."""
    values: Tensor = _ScaledBessel.apply(k, count)  # type: ignore[no-untyped-call]
    return values


class _ScaledBessel(torch.autograd.Function):
    """d/dk e^-k I_j = e^-k [(I_{j - 1} + I_{j + 1}) / 2 - I_j],  I_{-1} = I_1."""

    @staticmethod
    def forward(ctx: Any, k: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(k)
        ctx.count = count
        orders = torch.arange(count, dtype=torch.float64, device="cpu")
        values = ive(orders.numpy(), k.detach().cpu()[..., None].numpy())
        return torch.as_tensor(values, dtype=k.dtype, device=k.device)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (k,) = ctx.saved_tensors
        longer = scaled_bessel(k, ctx.count + 1)
        below = torch.cat([longer[..., 1:2], longer[..., : ctx.count - 1]], -1)
        slope = (below + longer[..., 1:]) / 2 - longer[..., :-1]
        return (grad * slope).sum(-1), None


def _rotations(angles: Tensor, still: int = 0) -> Tensor:
    """Planes turned by angles (..., J), after `still` coordinates that stay: (..., still + 2 J, still + 2 J)."""
    size = still + 2 * angles.shape[-1]
    A = angles.new_zeros(*angles.shape[:-1], size, size)
    cos, sin = torch.cos(angles), torch.sin(angles)
    diagonal, above, below = (A.diagonal(i, -2, -1) for i in (0, 1, -1))
    diagonal[..., :still] = 1.0
    diagonal[..., still::2], diagonal[..., still + 1 :: 2] = cos, cos
    above[..., still::2], below[..., still::2] = -sin, sin
    return A

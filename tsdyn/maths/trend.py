"""Processes without memory loss: levels, lines, and random walks. All but the first are not stationary.

[1] Rasmussen & Williams. Gaussian processes for machine learning. MIT Press 2006, sections 4.2.2, 6.3.
[2] Wahba. Improper priors, spline smoothing and the problem of guarding against model errors in
    regression. JRSS B 1978: integrated Wiener processes are cubic smoothing splines.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import DataError
from .blocks import beside, carry, doubles, given_later, no_noise, per_row, square
from .kernels import Kernel, constantly, reversible


def constant(variance: Tensor | float = 1.0) -> Kernel:
    """variance: one random level."""
    (variance,) = doubles(variance)

    def step(gap: Tensor) -> tuple[Tensor, Tensor]:
        A = torch.ones_like(gap)[..., None, None]
        return A, no_noise(A)

    units = variance.new_ones(1)
    kernel = reversible("constant", step, constantly(variance[..., None, None]), units, [1.0])
    return kernel._replace(noiseless=True)


def linear(variance: Tensor | float = 1.0, origin: Tensor | float = 0.0) -> Kernel:
    """variance (t - origin) (t' - origin): a line of random slope through zero at `origin`  [1]

    Its state is the value and the slope. variance (...) has the units of (f / t)^2.
    """
    variance, origin = doubles(variance, origin)

    def step(gap: Tensor) -> tuple[Tensor, Tensor]:
        A = _drift(gap)
        return A, no_noise(A)

    def covariance(t: Tensor) -> Tensor:
        since = t - per_row(origin, t)
        direction = torch.stack([since, torch.ones_like(since)], -1)  # (..., N, 2)
        outer = direction[..., :, None] * direction[..., None, :]
        return per_row(variance, t)[..., None, None] * outer

    kernel = reversible("linear", step, covariance, variance.new_ones(2), [1.0, -1.0])
    return kernel._replace(stationary=False, noiseless=True)


def wiener(
    diffusion: Tensor | float = 1.0, variance: Tensor | float = 0.0, origin: float = 0.0
) -> Kernel:
    """variance + diffusion (min(t, t') - origin): a random walk from `origin` on  [1]

    Args:
        diffusion: (...), growth of the variance of f per time.
        variance: (...), of f at the origin; large for a level that is not known.
        origin: the time it starts from. Earlier times are refused.
    """
    diffusion, variance = doubles(diffusion, variance)

    def step(gap: Tensor) -> tuple[Tensor, Tensor]:
        Q = (per_row(diffusion, gap) * gap)[..., None, None]
        return torch.ones_like(Q), Q

    return _started("Wiener", step, variance[..., None, None], origin)


def integrated_wiener(
    diffusion: Tensor | float = 1.0,
    level: Tensor | float = 0.0,
    slope: Tensor | float = 0.0,
    origin: float = 0.0,
) -> Kernel:
    """level + slope s s' + diffusion (m^3 / 3 + |s - s'| m^2 / 2),  s = t - origin, m = min(s, s')  [2]

    The local linear trend: a line whose slope is a random walk. Its mean given noisy values, with large
    level and slope, is the cubic smoothing spline.

    Args:
        diffusion: (...), growth of the variance of the slope per time.
        level, slope: (...), variances of f and of its slope at the origin.
        origin: the time it starts from; best near the data, for the variance grows with the cube of
            the distance. Earlier times are refused.
    """
    diffusion, level, slope = doubles(diffusion, level, slope)

    def step(gap: Tensor) -> tuple[Tensor, Tensor]:
        Q = square(torch.stack([gap**3 / 3, gap**2 / 2, gap**2 / 2, gap], -1))
        return _drift(gap), per_row(diffusion, gap)[..., None, None] * Q

    start = beside([level[..., None], slope[..., None]])
    return _started("integrated Wiener", step, torch.diag_embed(start), origin)


def _drift(gap: Tensor) -> Tensor:
    """[[1, gap], [0, 1]]: value and slope after a gap (..., N) without noise."""
    one, zero = torch.ones_like(gap), torch.zeros_like(gap)
    return square(torch.stack([one, gap, zero, one], -1))


def _started(
    name: str, step: Callable[[Tensor], tuple[Tensor, Tensor]], start: Tensor, origin: float
) -> Kernel:
    """A process of covariance `start` (..., S, S) at the origin, that moves by `step` from there on."""
    size = start.shape[-1]

    def covariance(t: Tensor) -> Tensor:
        if bool((t < origin).any()):
            raise DataError(
                "D17",
                f"time {float(t.min())} before the {name} kernel starts, at {origin}",
                "times from its origin on",
                "Give the kernel an earlier origin",
            )
        A, Q = step(t - origin)
        return carry(A, start[..., None, :, :].to(t.device)) + Q

    def backward(begin: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        return given_later(covariance(begin), *step(end - begin))

    kernel = reversible(name, step, covariance, start.new_ones(size), [1.0] * size)
    return kernel._replace(backward=backward, stationary=False)

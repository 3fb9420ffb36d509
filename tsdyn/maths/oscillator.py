"""A damped oscillator kicked by white noise.

    f'' + (w / quality) f' + w^2 f = noise

[1] Foreman-Mackey, Agol, Ambikasaran & Angus. Fast and scalable Gaussian process modeling with
    applications to astronomical time series. AJ 2017 (there S_0 = variance / (w quality)).
"""

import torch
from torch import Tensor

from .blocks import doubles, per_row, square
from .impulse import gathered
from .kernels import Kernel, constantly, reversible


def oscillator(
    frequency: Tensor | float, quality: Tensor | float, variance: Tensor | float = 1.0
) -> Kernel:
    """variance e^(-a r) [cos(b r) + (a / b) sin(b r)],  a = frequency / (2 quality), b^2 = frequency^2 - a^2  [1]

    Below quality 1/2 it does not swing: cos and sin are cosh and sinh. The state is (f, f' / frequency).

    Args:
        frequency: (...), of the oscillator without damping, in radians per time.
        quality: (...), without units: the number of swings it remembers, about.
        variance: (...), of f.
    """
    frequency, quality, variance = doubles(frequency, quality, variance)
    damping = 1 / (2 * quality)
    P = variance[..., None, None] * torch.eye(2, dtype=torch.float64, device=variance.device)
    kick = 2 * (damping * variance).sqrt()

    def step(gap: Tensor) -> tuple[Tensor, Tensor]:
        y, d = per_row(frequency, gap) * gap, per_row(damping, gap)
        c, s = _swing(y, d)
        A = square(torch.stack([c + d * s, s, -s, c - d * s], -1))

        def response(u: Tensor) -> Tensor:
            c, s = _swing(u, d)
            return per_row(kick, u)[..., None] * torch.stack([s, c - d * s], -1)

        return A, gathered(response, y, (1 + d) * y < 3, A, P[..., None, :, :].to(gap.device))

    units = torch.stack([torch.ones_like(frequency), frequency], -1)
    return reversible("oscillator", step, constantly(P), units, [1.0, -1.0])


def _swing(y: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """e^(-d y) cos(g y) and e^(-d y) sin(g y) / g with g^2 = 1 - d^2 of either sign; d is (..., 1)."""
    square = d * d - 1
    near = (square.abs() * y * y < 1) & (square.abs() < 0.5)
    g = square.abs().where(square != 0, 1.0).sqrt()
    slow = 1 / (d + g)  # d - g where it does not swing, without cancellation
    fade, angle, gap = torch.exp(-d * y), g * y, torch.exp(-2 * g * y)
    last = torch.exp(-slow * y)
    cos, sin = _series(square * y * y)
    swings = square < 0
    c = torch.where(swings, fade * torch.cos(angle), last * (1 + gap) / 2)
    s = torch.where(swings, fade * torch.sin(angle) / g, -last * torch.expm1(-2 * angle) / (2 * g))
    return torch.where(near, fade * cos, c), torch.where(near, fade * y * sin, s)


def _series(v: Tensor) -> tuple[Tensor, Tensor]:
    """cosh(sqrt v) and sinh(sqrt v) / sqrt v for |v| < 1, of either sign."""
    even, odd = torch.ones_like(v), torch.ones_like(v)
    v = v.clamp(-1, 1)  # the others are not used; their powers shall not overflow
    for k in range(9, 0, -1):
        even = 1 + even * v / ((2 * k - 1) * (2 * k))
        odd = 1 + odd * v / ((2 * k) * (2 * k + 1))
    return even, odd

"""Paths of an equation with fractional noise under a change of measure, and what the change costs.

    dx = (-κ x + r(t, x)) dt + σ g(t, x) ∘ dB̂,   x(0) ~ N(mean, std²)

The normals e of every step, prior N(0, I), are drawn from N(m, Σ): Σ and a part of m from a `Guide`, the rest of m from a
control u(t, x, Y), which moves W by u dt in every coordinate, and with W all of Y and x  [1]. Then

    KL = Σ_steps (|m|² + tr Σ - R - log |Σ|) / 2,      which is ½ ∫ |u|² dt without a guide,
    log q/p = Σ_steps (|e|² - |ε|² - log |Σ|) / 2,     e = m + root ε,

summed over the coordinates. x takes Heun's step with the linear part solved exactly, so that products with dB̂ are read in the
sense of Stratonovich; where r = 0 and g = 1 it is the step of `fractional_chain`.

[1] Daems, Opper, Crevecoeur & Birdal. Variational inference for SDEs driven by fractional noise. ICLR 2024.
[2] Roeder, Wu & Duvenaud. Sticking the landing: simple, lower-variance gradient estimators for variational inference.
    NeurIPS 2017.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .fractional_chain import Chain, Guide, Linear
from .grid import Grid
from .sde import Field

Control = Callable[..., Tensor]  # (t, x, Y, *controls) -> (n, B, D)


class Equation(NamedTuple):
    """Functions get t (B or 1, 1), x (n, B, D) and the row of a step of every control."""

    linear: Linear
    residual: Field | None = None  # r, in x per time; None is 0
    factor: Field | None = None  # g; None is 1


class Start(NamedTuple):
    """x(0) = mean + std e_0 and ξ = e_1, ..., e_M with (e_0, ..., e_M) ~ N(shift, root root')"""

    shift: Tensor  # (B, D, 1 + M)
    root: Tensor  # (B, D, 1 + M, 1 + M)  upper triangular


class Steps(NamedTuple):
    """The part of m that is linear in s = (x, Y, ξ), and the roots of Σ."""

    offset: Tensor  # (N, B, D, R)
    gain: Tensor  # (N, B, D, R, S)
    root: Tensor  # (N, B, D, R, R)  upper triangular


class Walk(NamedTuple):
    """n paths of B series at the asked times, and the cost of each."""

    x: Tensor  # (n, B, T, D)
    divergence: Tensor  # (n, B)  the mean of log q/p given the path so far, step by step
    log_ratio: Tensor  # (n, B)
    landing: Tensor  # (n, B)  the value of log_ratio, with the gradient of [2]


def start_of(guide: Guide, speeds: int) -> Start:
    """The first normals under a guide for K speeds, without those of Y, which begins at zero."""
    kept = [0, *range(1 + speeds, guide.start.shape[-1])]
    root = guide.start_root[..., kept, :][..., kept]
    return Start(guide.start[..., kept], root)


def steps_of(guide: Guide) -> Steps:
    """The law of the steps under a guide."""
    return Steps(guide.offset, guide.gain, guide.root)


def walk(
    equation: Equation,
    chain: Chain,
    grid: Grid,
    start: Start,
    steps: Steps | None,
    draws: int,
    *,
    control: Control | None = None,
    control_held: Control | None = None,
    controls: tuple[Tensor, ...] = (),
    landing: bool = False,
    generator: torch.Generator | None = None,
) -> Walk:
    """Draws of the posterior, and their costs against the prior.

    Args:
        chain: of the linear part of the equation.
        steps: the guided part; None for a control alone.
        control: u(t, x, Y, *controls) -> (n, B, D) for Y (n, B, D, K); None is 0.
        control_held: the same values without gradients to parameters, for `landing`; None leaves out what flows through x and Y.
        controls: (N, B or 1, ...) of what was computed for all steps at once.
        landing: give the cost of that name its gradient; else only its value is to be used.
    """
    dtype, device = start.shift.dtype, start.shift.device
    (B, D, many), (N, R) = start.shift.shape, (len(chain.N), chain.N.shape[-1])
    from_ = device if generator is None else generator.device

    def normals(*size: int) -> Tensor:
        return torch.randn(*size, dtype=dtype, device=from_, generator=generator).to(device)

    first, noise = normals(B, D, draws, many), normals(N, B, D, draws, R)
    shift = start.shift[:, :, None]
    began = first @ start.root.mT
    begun = _cost(shift, began, first, start.root, shift.detach())
    s = _first_state(chain, shift + began)  # (B, D, n, S)
    if not N:
        return Walk(s[..., :1].permute(2, 0, 3, 1).expand(-1, -1, len(grid.stops), -1), *begun)
    root = torch.eye(R, dtype=dtype, device=device) if steps is None else steps.root.to(dtype)
    shaken = noise @ root.mT
    linear = steps and Steps(*(f.to(dtype) for f in steps))
    held = linear and Steps(*(f.detach() for f in linear))
    shock = chain.brownian.to(dtype)[:, :, None, None]  # (N, B or 1, 1, 1, R)
    A, kicked = chain.A.to(dtype).mT.unbind(0), chain.N.to(dtype).mT.unbind(0)
    step = _nonlinear(equation, chain, dtype)
    t, h = grid.t.to(dtype).unbind(0), grid.h.to(dtype).unbind(0)
    xs, means, still = [s[..., 0]], [], []
    for k, push in enumerate(shaken.unbind(0)):
        u = tuple(c[k] for c in controls)
        mean = _mean(linear, k, s, push)
        kept = _mean(held, k, s, push) if landing else mean
        if control is not None:
            seen = t[k], s[..., 0].permute(2, 0, 1), _memory(s, chain.speeds), *u
            moved = control(*seen)
            mean = mean + _kick(moved, shock[k])
            if landing:
                still_moved = moved.detach() if control_held is None else control_held(*seen)
                kept = kept + _kick(still_moved, shock[k])
        if landing:
            still.append(kept)
        means.append(mean)
        ahead = s @ A[k] + (mean + push) @ kicked[k]
        s = ahead if step is None else step(k, t[k], h[k], s, ahead, u)
        xs.append(s[..., 0])
    path = torch.stack([xs[stop] for stop in grid.stops], 2)  # (B, D, T, n)
    mean = torch.stack(means)
    ran = _cost(mean, shaken, noise, root, torch.stack(still) if still else mean.detach())
    return Walk(path.permute(3, 0, 2, 1), *(a + b for a, b in zip(begun, ran, strict=True)))


def _first_state(chain: Chain, e: Tensor) -> Tensor:
    """s at the start from its normals (B, D, n, 1 + M): (B, D, n, S)"""
    mean, std = (f[:, :1].to(e) for f in (chain.mean, chain.std))  # (D, 1), of x
    Y = e.new_zeros(*e.shape[:-1], chain.speeds)
    return torch.cat([mean[:, None] + std[:, None] * e[..., :1], Y, e[..., 1:]], -1)


def _mean(steps: Steps | None, k: int, s: Tensor, like: Tensor) -> Tensor:
    """What a guide adds to m in step k: (B, D, n, R)"""
    if steps is None:
        return torch.zeros_like(like)
    return steps.offset[k, :, :, None] - s @ steps.gain[k].mT


def _kick(u: Tensor, shock: Tensor) -> Tensor:
    """The shift of the normals of a step that moves W by u h: (n, B, D) -> (B, D, n, R)"""
    return u.permute(1, 2, 0)[..., None] * shock


def _memory(s: Tensor, speeds: int) -> Tensor:
    """Y: (n, B, D, K)"""
    return s[..., 1 : 1 + speeds].permute(2, 0, 1, 3)


def _nonlinear(
    equation: Equation, chain: Chain, dtype: torch.dtype
) -> Callable[..., Tensor] | None:
    """Heun's step from s to the next, given where the linear equation goes; None where that is all."""
    if equation.residual is None and equation.factor is None:
        return None
    fade, reach = (f.to(dtype)[..., None] for f in chain.drive[:2])  # (N, B or 1, D, 1)

    def moves(k: int, t: Tensor, x: Tensor, kick: Tensor, u: tuple[Tensor, ...]) -> Tensor:
        seen = x.permute(2, 0, 1)
        if equation.factor is not None:
            kick = kick * equation.factor(t, seen, *u).permute(1, 2, 0)
        if equation.residual is None:
            return kick
        return torch.addcmul(kick, equation.residual(t, seen, *u).permute(1, 2, 0), reach[k])

    def step(
        k: int, t: Tensor, h: Tensor, s: Tensor, ahead: Tensor, u: tuple[Tensor, ...]
    ) -> Tensor:
        x = s[..., 0]
        faded = x * fade[k]
        kick = ahead[..., 0] - faded
        now = moves(k, t, x, kick, u)
        x = faded + (now + moves(k, t + h, faded + now, kick, u)) / 2
        return torch.cat([x[..., None], ahead[..., 1:]], -1)

    return step


def _cost(
    mean: Tensor, shaken: Tensor, noise: Tensor, root: Tensor, still: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Divergence, log ratio and the latter with the gradient of [2] of normals e = mean + shaken: (n, B) each.

    All are (..., B, D, n, R); `still` is the mean with its parameters held.
    """
    size = root.shape[-1]
    trace = root.square().sum((-2, -1))[..., None]
    log_det = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)[..., None]
    divergence = (mean.square().sum(-1) + trace - size - log_det) / 2
    log_ratio = ((mean + shaken).square().sum(-1) - noise.square().sum(-1) - log_det) / 2
    off = mean + shaken - still
    white = torch.linalg.solve_triangular(root.detach(), off.mT, upper=True).mT
    landing = ((mean + shaken).square() - white.square()).sum(-1) - log_det.detach()
    return _summed(divergence), _summed(log_ratio), _summed(landing / 2)


def _summed(cost: Tensor) -> Tensor:
    """Over steps and coordinates: (..., B, D, n) -> (n, B)"""
    return cost.reshape(-1, *cost.shape[-3:]).sum(0).sum(1).T

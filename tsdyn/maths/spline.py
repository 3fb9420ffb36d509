"""Paths X(t) through irregular observations with holes: what a controlled equation is driven by.

    X(t) = value + slope s + bend s² + jerk s³,   s = t - the last knot before t

A path is built once and read at any times: `evaluate(natural(t, x, mask), at)`. Each channel of each
series has knots of its own, so that a value which was not observed is never read and none is invented
for it. Of several observations at one time the last counts.

Where a channel is not seen yet, or no longer, it stands at its first or last observed value; so does
the path outside of all knots. A channel that was never seen is zero.

[1] Kidger, Morrill, Foster & Lyons. Neural controlled differential equations for irregular time
    series. NeurIPS 2020: natural cubic splines as controls.
[2] Morrill, Kidger, Yang & Lyons. Neural controlled differential equations for online prediction
    tasks. arXiv:2106.11028: rectilinear paths, and cubic Hermite splines with backward differences.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .near import packed


class Path(NamedTuple):
    """Cubic pieces, one from every knot on; the last one is constant. Values have the units of x."""

    knots: Tensor  # (B, D, K)  increasing; infinite where a channel has fewer than K
    value: Tensor  # (B, D, K)
    slope: Tensor  # (B, D, K)  per time
    bend: Tensor  # (B, D, K)  per time²
    jerk: Tensor  # (B, D, K)  per time³


class _Knots(NamedTuple):
    """The observations of every channel, those of one time merged."""

    t: Tensor  # (B, D, K)  increasing; infinite where there is none
    x: Tensor  # (B, D, K)  zero where there is none
    h: Tensor  # (B, D, K - 1)  to the next knot; 1 where there is none
    rise: Tensor  # (B, D, K - 1)  of x to the next knot; 0 where there is none
    inner: Tensor  # (B, D, K - 1)  True where both knots exist


def locf(t: Tensor, x: Tensor, mask: Tensor) -> Path:
    """The last observation, carried forward: right-continuous, with slope zero.

    Args (here and below):
        t: (B, T) non-decreasing, a clock per series; padding repeats the last time.
        x, mask: (B, T, D); x is not read where the mask is False.
    """
    knots = _knots(t, x, mask)
    zero = torch.zeros_like(knots.x)
    return Path(knots.t, knots.x, zero, zero, zero)


def linear(t: Tensor, x: Tensor, mask: Tensor) -> Path:
    """Straight lines from observation to observation of each channel."""
    knots = _knots(t, x, mask)
    zero = torch.zeros_like(knots.x)
    return Path(knots.t, knots.x, _last_zero(knots.rise / knots.h), zero, zero)


def hermite(t: Tensor, x: Tensor, mask: Tensor) -> Path:
    """Cubic pieces whose slope at each row is that of the line just behind it: once differentiable  [2]

    The rows of t are the knots of all channels; where a channel was not observed stands its linear
    interpolation. A piece reads nothing beyond the next observation, and changes no earlier piece.
    """
    filled = evaluate(linear(t, x, mask), t)
    knots = _knots(t, filled, torch.ones_like(mask))
    line = knots.rise / knots.h  # (B, D, K - 1)
    behind = torch.cat([line[..., :1], line[..., :-1]], -1)
    turn = (line - behind).where(knots.inner, 0.0)
    # from x with slope `behind` to x + rise with slope `line`: s² turn (2 - s / h) / h
    return Path(
        knots.t,
        knots.x,
        _last_zero(behind.where(knots.inner, 0.0)),
        _last_zero(2 * turn / knots.h),
        _last_zero(-turn / knots.h**2),
    )


def natural(t: Tensor, x: Tensor, mask: Tensor) -> Path:
    """The natural cubic spline: twice differentiable, of least ∫ (d²X / dt²)² between the ends  [1]

    The slopes at all knots of all channels solve tridiagonal systems, side by side. Before its first
    observation and after its last, a channel has a knot of the same value at each row of t.
    """
    knots = _knots(t, *_with_ends(x, mask))
    slope = _natural_slopes(knots)
    start, end = slope[..., :-1], slope[..., 1:]
    line = knots.rise / knots.h
    bend = (3 * line - 2 * start - end) / knots.h
    jerk = (start + end - 2 * line) / knots.h**2
    inner = knots.inner
    return Path(
        knots.t,
        knots.x,
        _last_zero(start.where(inner, 0.0)),
        _last_zero(bend.where(inner, 0.0)),
        _last_zero(jerk.where(inner, 0.0)),
    )


def rectilinear(t: Tensor, x: Tensor, mask: Tensor) -> Path:
    """First time moves on, then the values: the causal path of (t, x), channels (time, x_1, ..., x_D)  [2]

    Its clock counts moves, 0, 1, ..., 2 T - 2: row i is reached at 2 i, and `moves` turns times into
    moves. The time of the first channel runs from the first row. Values are carried forward, so that
    the path up to a row knows nothing of later rows; only a channel not seen yet stands at its first
    value.
    """
    held = evaluate(locf(t, x, mask), t)  # (B, T, D)
    elapsed = (t - t[:, :1]).to(x.dtype)[..., None]
    early = torch.cat([elapsed[:, 1:], held[:, :-1]], -1)  # time has moved, the values have not
    rows = torch.cat([elapsed, held], -1)
    value = torch.stack([rows[:, :-1], early], 2).flatten(1, 2)
    value = torch.cat([value, rows[:, -1:]], 1).mT  # (B, 1 + D, 2 T - 1)
    knots = torch.arange(value.shape[-1], dtype=t.dtype, device=t.device)
    zero = torch.zeros_like(value)
    return Path(knots.expand_as(value).contiguous(), value, _last_zero(value.diff()), zero, zero)


def moves(t: Tensor, at: Tensor) -> Tensor:
    """Where the clock of `rectilinear(t, ...)` stands at times (B, Q): (B, Q), held at its ends."""
    row = torch.searchsorted(t.contiguous(), at.contiguous(), right=True) - 1
    row = row.clamp(0, t.shape[1] - 1)
    start = t.gather(1, row)
    gap = t.gather(1, (row + 1).clamp(max=t.shape[1] - 1)) - start
    share = (at - start).clamp(min=0) / gap.where(gap > 0, torch.inf)
    return 2 * row + share


def evaluate(path: Path, at: Tensor) -> Tensor:
    """X at times (B, Q) in any order: (B, Q, D)."""
    index, s = _place(path, at, "right")
    s = s.clamp(min=0)  # before the first knot
    value, slope, bend, jerk = (f.gather(-1, index) for f in path[1:])
    return (value + s * (slope + s * (bend + s * jerk))).mT


def derivative(path: Path, at: Tensor, side: Literal["left", "right"] = "right") -> Tensor:
    """dX / dt at times (B, Q) in any order: (B, Q, D); zero outside of the knots.

    Args:
        side: at a knot, the derivative of the piece to its left or to its right.
    """
    index, s = _place(path, at, side)
    slope, bend, jerk = (f.gather(-1, index) for f in path[2:])
    return (slope + s * (2 * bend + 3 * s * jerk)).where(s >= 0, 0.0).mT


def _place(path: Path, at: Tensor, side: Literal["left", "right"]) -> tuple[Tensor, Tensor]:
    """The piece of each query and the time since it began: (B, D, Q) each; negative before the first."""
    queries = at.to(path.knots.dtype)[:, None].expand(-1, path.knots.shape[1], -1).contiguous()
    index = torch.searchsorted(path.knots, queries, side=side).sub_(1)
    first = index < 0
    index = index.clamp_(min=0)
    since = queries - path.knots.gather(-1, index)
    # the first knot itself, approached from the left, lies outside too
    return index, since.to(path.value.dtype).masked_fill(first, -1.0)


def _knots(t: Tensor, x: Tensor, mask: Tensor) -> _Knots:
    later = (
        t[..., None].where(mask, torch.inf).flip(1).cummin(1).values.flip(1)[:, 1:]
    )  # (B, T-1, D)
    last = torch.ones_like(mask)
    last[:, :-1] = later > t[:, :-1, None]  # nothing more is observed at this time
    times, values, real = packed(t, x, mask & last)
    most = max(int(real.sum(-1).amax()), 1) if real.numel() else 1
    times, values, real = (f[..., :most] for f in (times, values, real))
    inner = real[..., 1:]
    return _Knots(
        times.where(real, torch.inf).contiguous(),
        values,
        times.diff().to(x.dtype).where(inner, 1.0),
        values.diff().where(inner, 0.0),
        inner,
    )


def _with_ends(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Every row before the first observation of a channel, or after its last, observed as well."""
    count = mask.cumsum(1)
    first = mask.to(torch.int8).argmax(1, keepdim=True)  # (B, 1, D)
    last = count.argmax(1, keepdim=True)  # where the count first reaches its largest
    seen = mask.any(1, keepdim=True)
    before = count == 0
    after = (count == count[:, -1:]) & ~mask & ~before
    x = torch.where(before, x.gather(1, first), torch.where(after, x.gather(1, last), x))
    return x.where(seen, 0.0), (mask | before | after) & seen


def _natural_slopes(knots: _Knots) -> Tensor:
    """m with m_{k-1} / h_{k-1} + 2 m_k (1 / h_{k-1} + 1 / h_k) + m_{k+1} / h_k = 3 (line_{k-1} / h_{k-1} +
    line_k / h_k), where terms without a piece are zero: (B, D, K), by elimination along K."""
    link = knots.h.reciprocal().where(knots.inner, 0.0).movedim(-1, 0).contiguous()  # (K - 1, B, D)
    pull = 3 * knots.rise.movedim(-1, 0) * link**2
    zero = torch.zeros_like(knots.x[None, ..., 0])
    link, pull = (torch.cat([zero, f, zero]) for f in (link, pull))
    diagonal = 2 * (link[:-1] + link[1:])
    diagonal = diagonal.where(diagonal > 0, 1.0)  # a knot alone: slope 0
    right = pull[:-1] + pull[1:]
    back, ahead = link[:-1].unbind(), link[1:].unbind()
    shares, slopes = [zero[0]], [zero[0]]
    for a, b, c, r in zip(back, diagonal.unbind(), ahead, right.unbind()):
        pivot = b - a * shares[-1]
        shares.append(c / pivot)
        slopes.append((r - a * slopes[-1]) / pivot)
    found = [zero[0]]
    for share, slope in zip(reversed(shares[1:]), reversed(slopes[1:])):
        found.append(slope - share * found[-1])
    return torch.stack(found[:0:-1], -1)


def _last_zero(pieces: Tensor) -> Tensor:
    """The K - 1 pieces between knots, and the one after the last: zero."""
    return torch.nn.functional.pad(pieces, (0, 1))

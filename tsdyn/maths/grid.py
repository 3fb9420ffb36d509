"""The steps of a solve, and the Brownian increments over them.

A clock per series makes a ragged batch one loop: where a series has nothing to do its step is zero,
its increment is zero, and its state stands still.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DataError
from .steps import Noise

MOST_STEPS = 1_000_000  # of one solve; each costs at least tens of microseconds
ROUNDING = 1e-6  # of a step: times written in decimals must not cost a step more


class Grid(NamedTuple):
    """The steps of a solve. Clock of each series: (N, B, 1); one clock for all: (N, 1, 1)."""

    t: Tensor  # start of each step
    h: Tensor  # its size, never negative; a series that waits for others has steps of size zero
    stops: tuple[int, ...]  # (T,) how many steps are done when each asked time is reached


def grid(
    t: Tensor, dt: float | None = None, t0: float | Tensor | None = None, substeps: int = 1
) -> Grid:
    """Steps that land on every asked time, equal ones between two of them.

    Args:
        t: (T,) one clock for all series or (B, T) a clock per series; never decreasing. Where a
            series repeats a time, as in padding, its steps are of size zero.
        dt: largest step, in the units of t; None for one step from each asked time to the next.
        t0: where the solve starts, a number or (B,); None for the first asked time.
        substeps: every step is cut into so many.

    Raises:
        DataError: D17 for unusable times, D16 if more than a million steps would be needed.
    """
    if (dt is not None and not 0 < dt < float("inf")) or substeps < 1:
        raise _unusable(f"dt = {dt}, substeps = {substeps}", "a positive step, and at least 1")
    clocks = timeline(t, t0)  # (B or 1, 1 + T)
    gaps = clocks.diff(dim=1).T  # (T, B or 1)
    widest = gaps.amax(1)
    steps = torch.ones_like(widest) if dt is None else (widest / dt - ROUNDING).ceil().clamp(min=1)
    count = steps.where(widest > 0, 0.0) * substeps  # (T,)
    total = float(count.sum())
    if total > MOST_STEPS:
        raise DataError(
            "D16",
            f"going from time {float(clocks.amin()):g} to {float(clocks.amax()):g} in steps of at "
            f"most {dt} would take {total:.3g} steps",
            f"at most {MOST_STEPS} steps in one solve",
            "Raise `dt`, or ask for a shorter stretch of time",
        )
    count = count.long()
    interval = torch.arange(len(count), device=t.device).repeat_interleave(count)  # (N,)
    done = count.cumsum(0)
    place = torch.arange(len(interval), device=t.device) - (done - count)[interval]
    h = (gaps / count.clamp(min=1)[:, None])[interval]
    starts = clocks.T[:-1][interval] + place[:, None] * h
    dtype = t.dtype if t.is_floating_point() else torch.get_default_dtype()
    return Grid(starts[..., None].to(dtype), h[..., None].to(dtype), tuple(done.tolist()))


def graded(t: Tensor, substeps: int, power: float = 4.0, t0: float | Tensor | None = None) -> Grid:
    """Steps from a to b = a + g that end at a + g (1 - (1 - n / N)^p): the shortest before every asked time.

    For what grows without bound towards an observation, as the control of rough paths does. The last step is N^-p of the
    gap, and p = 1 is `grid`.

    Args:
        t, t0: as in `grid`.
        substeps: N, of every gap.
        power: p, at least one.

    Raises:
        DataError: as `grid`; D17 for a power below one.
    """
    if not 1 <= power < float("inf"):
        raise _unusable(f"power = {power}", "a power of at least one")
    even = grid(t, None, t0, substeps)
    place = (torch.arange(len(even.t), device=t.device) % substeps).double()[:, None, None]
    gap = even.h.double() * substeps
    first = even.t.double() - place * even.h.double()

    def reached(n: Tensor) -> Tensor:
        return gap * (1 - (1 - n / substeps) ** power)

    h = reached(place + 1) - reached(place)
    return Grid((first + reached(place)).to(even.t), h.to(even.h), even.stops)


def timeline(t: Tensor, t0: float | Tensor | None = None) -> Tensor:
    """Start and asked times in double precision, (B or 1, 1 + T); D17 if they cannot be walked.

    Times are data: no gradient flows to them.
    """
    if t.ndim not in (1, 2) or t.shape[-1] == 0:
        raise _unusable(
            f"times of shape {tuple(t.shape)}", "times of shape (T,) or (B, T), T at least 1"
        )
    clocks = t.detach().double().reshape(-1, t.shape[-1])
    start = clocks[:, :1] if t0 is None else torch.as_tensor(t0).to(clocks).reshape(-1, 1)
    if len(clocks) != len(start) and 1 not in (len(clocks), len(start)):
        raise _unusable(f"{len(start)} start times for {len(clocks)} series", "one per series")
    series = max(len(start), len(clocks))
    clocks = torch.cat([start.expand(series, 1), clocks.expand(series, -1)], 1)
    gaps = clocks.diff(dim=1)
    walkable = (gaps >= 0) & gaps.isfinite()  # a NaN compares as false
    if not bool(walkable.all()):
        b, k = (~walkable).nonzero()[0].tolist()
        raise _unusable(
            f"series {b} goes from time {float(clocks[b, k]):g} to {float(clocks[b, k + 1]):g}",
            "finite times that never decrease, none before the start",
        )
    return clocks


def _unusable(came: str, wanted: str) -> DataError:
    return DataError("D17", came, wanted, "Ask for sorted, finite times in the unit of the data")


def increments(
    grid: Grid, like: Tensor, generator: torch.Generator | None = None, area: bool = False
) -> Noise:
    """dW ~ N(0, h) for every step: (N, B, m), and on demand its space-time area ~ N(0, h/12).

    `like` is (B, m) and gives size, dtype and device: x0 itself for diagonal noise, x0[:, :1] for
    scalar noise. Steps of size zero have increments of exactly zero. The draws are made on the
    generator's device, so that a CPU generator gives the same path on every device.
    """
    root = grid.h.to(like).sqrt()  # (N, B or 1, 1)
    device = like.device if generator is None else generator.device

    def draw() -> Tensor:
        size = (len(grid.h), *like.shape)
        noise = torch.randn(size, dtype=like.dtype, device=device, generator=generator)
        return noise.to(like.device).mul_(root)

    return Noise(draw(), draw().mul_(12**-0.5) if area else None)

"""What was observed near a time: the nearest values before and after it, channel by channel.

The work is one sort of the rows and one binary search per query, on any device, for ragged series
with different holes in every channel.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Near(NamedTuple):
    """The k nearest observations on each side of Q query times; nearest first. Absent ones are zero."""

    before: Tensor  # (B, Q, D, k)  values at times <= query
    age: Tensor  # (B, Q, D, k)  query - time of the value, >= 0
    has_before: Tensor  # (B, Q, D, k)
    after: Tensor  # (B, Q, D, k)  values at times > query
    ahead: Tensor  # (B, Q, D, k)  time of the value - query, > 0
    has_after: Tensor  # (B, Q, D, k)

    @property
    def weight(self) -> Tensor:
        """Share of the next value in a linear interpolation: (B, Q, D); 0 after the last, 1 before the first."""
        age, ahead = self.age[..., 0], self.ahead[..., 0]
        inside = age / (age + ahead).clamp(min=torch.finfo(age.dtype).tiny)
        last = self.has_before[..., 0] & ~self.has_after[..., 0]
        first = ~self.has_before[..., 0] & self.has_after[..., 0]
        return (
            inside.where(self.has_before[..., 0], 0.0)
            .masked_fill(last, 0.0)
            .masked_fill(first, 1.0)
        )

    @property
    def level(self) -> Tensor:
        """Linear interpolation, constant beyond the ends, zero where nothing was observed: (B, Q, D)."""
        return torch.lerp(self.before[..., 0], self.after[..., 0], self.weight)

    @property
    def known(self) -> Tensor:
        """True where the channel was observed at all: (B, Q, D)."""
        return self.has_before[..., 0] | self.has_after[..., 0]


def near(t: Tensor, x: Tensor, mask: Tensor, at: Tensor, k: int = 1) -> Near:
    """The k nearest observations before (t <= at) and after (t > at) each query time.

    Args:
        t: (B, T) non-decreasing; x: (B, T, D); mask: (B, T, D).
        at: (B, Q) in any order.
    """
    return near_each(t, x, mask, at[..., None].expand(-1, -1, x.shape[-1]), k)


def near_each(t: Tensor, x: Tensor, mask: Tensor, at: Tensor, k: int = 1) -> Near:
    """As `near`, with query times (B, Q, D) of their own for every channel."""
    times, values, real = packed(t, x, mask)
    count = mask.sum(1)[..., None]  # (B, D, 1)
    queries = at.mT.contiguous()  # (B, D, Q)
    split = torch.searchsorted(times.where(real, torch.inf), queries, right=True)[..., None]
    steps = torch.arange(k, device=t.device)
    sides = []
    for index in (split - 1 - steps, split + steps):  # (B, D, Q, k)
        has = (index >= 0) & (index < count[..., None])
        flat = index.clamp(0, t.shape[1] - 1).flatten(2)
        value = values.gather(-1, flat).view(index.shape).where(has, 0.0)
        gap = (queries[..., None] - times.gather(-1, flat).view(index.shape)).where(has, 0.0)
        sides.append([f.transpose(1, 2) for f in (value, gap.abs().to(x.dtype), has)])
    return Near(*sides[0], *sides[1])


def packed(t: Tensor, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Times, values and existence of what each channel observed, moved to the front: (B, D, T) each.

    The order in time is kept. Values that do not exist are zero; their times are left over and mean
    nothing.
    """
    order = (~mask).mT.to(torch.int8).sort(dim=-1, stable=True).indices  # (B, D, T): observed first
    real = torch.arange(t.shape[1], device=t.device) < mask.sum(1)[..., None]
    times = t[:, None].expand(-1, x.shape[-1], -1).gather(-1, order)
    return times, x.mT.gather(-1, order).where(real, 0.0), real


def interpolate(t: Tensor, x: Tensor, mask: Tensor, at: Tensor) -> Tensor:
    """Linear interpolation of each channel at the times (B, Q), constant beyond its ends: (B, Q, D)."""
    return near(t, x, mask, at).level


def interpolate_each(t: Tensor, x: Tensor, mask: Tensor, at: Tensor) -> Tensor:
    """As `interpolate`, with query times (B, Q, D) of their own for every channel."""
    return near_each(t, x, mask, at).level

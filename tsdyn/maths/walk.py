"""Random walks pinned to what was observed: the simplest law of a series between its values.

W is a standard Brownian motion of each channel. With w the share of the next value in the anchor
(0: the last value, 1: the next one, age / (age + ahead): the line between both), the residual is

    R(t) = W(t) - (1 - w) W(t_before) - w W(t_after),   var R = (1 - w)^2 age + w^2 ahead.
"""

import torch
from torch import Tensor

from .near import Near, near


def rate(t: Tensor, x: Tensor, mask: Tensor) -> Tensor:
    """v = sum (dx)^2 / sum dt over neighbouring observations of each channel of each series: (B, 1, D).

    Where a channel has no two observations, v is pooled over the batch; where the batch has none
    either, it is the second moment of what was observed, else 1.
    """
    found = near(t, x, mask, t, k=2)
    pair = mask & found.has_before[..., 1]
    square = (found.before[..., 0] - found.before[..., 1]).square().where(pair, 0.0).sum(1)
    time = (found.age[..., 1] - found.age[..., 0]).where(pair, 0.0).sum(1)  # (B, D)
    count = mask.sum((0, 1)).clamp(min=1)
    moment = x.where(mask, 0.0).square().sum((0, 1)) / count
    moment = moment.where(mask.any(0).any(0), 1.0)
    pooled = torch.where(time.sum(0) > 0, square.sum(0) / time.sum(0), moment)
    own = torch.where(time > 0, square / time, pooled)
    return own.clamp(min=torch.finfo(x.dtype).tiny ** 0.5)[:, None]


def variance(found: Near, weight: Tensor) -> Tensor:
    """var R of a walk of rate 1 at the queries of `found`: (B, Q, D)."""
    age, ahead = found.age[..., 0], found.ahead[..., 0]
    return (1 - weight).square() * age + weight.square() * ahead


def draw(at: Tensor, found: Near, weight: Tensor, n: int) -> Tensor:
    """n joint draws of R at times (B, Q) for a walk of rate 1: (n, B, Q, D)."""
    Q = at.shape[1]
    dtype = found.before.dtype
    start = at.amin(1, keepdim=True)
    here = (at - start)[..., None].expand(weight.shape)  # small numbers in any unit
    times = torch.cat([here - found.age[..., 0], here, here + found.ahead[..., 0]], 1)  # (B, 3Q, D)
    ordered, order = times.sort(dim=1)
    gaps = ordered.diff(dim=1, prepend=ordered[:, :1]).to(dtype)
    walk = (gaps.sqrt() * torch.randn(n, *gaps.shape, dtype=dtype, device=at.device)).cumsum(2)
    walk = walk.gather(2, order.argsort(1).expand_as(walk))
    before, now, after = torch.split(walk, Q, dim=2)
    return now - (1 - weight) * before - weight * after

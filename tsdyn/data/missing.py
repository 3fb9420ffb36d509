"""Missing data as a property of a dataset: which values were never seen does not change from run to run.

[1] Salmon, Moraes, Dror & Shaw. Parallel random numbers: as easy as 1, 2, 3. SC 2011.
[2] Steele, Lea & Flood. Fast splittable pseudorandom number generators. OOPSLA 2014: the mixing function.
"""

import dataclasses
import hashlib
from typing import Any, Literal

import torch
from torch import Tensor

from ..batch import Paths, compact, default_names
from ..errors import ConfigError
from .tasks import Generator, Task

LAST = torch.iinfo(torch.int64).max  # in the order of dropping: what was not observed anyway


@dataclasses.dataclass(frozen=True)
class Missing:
    """Paths without int(rate n) of the n observed rows of each series, chosen at random but for good.

    Each series drops its rows in one random order, which the rate only cuts off: what is missing at
    a rate of .3 is missing at .5 too. The order depends on `seed`, the name of the series, and the times
    of its rows, and on nothing else: neither on the seed of training, nor on the split, nor on which
    other series share a batch. Every series keeps a row; by "value", every channel of it keeps one.
    Covariates stay.

    Args:
        rate: part that is dropped, in [0, 1).
        by: "row": rows in time, all channels together; "value": rows of each channel by itself;
            "channel": int(rate D) of the D observed channels of a series.
        seed: of the order.

    Raises:
        ConfigError: X01 for another rate.
    """

    rate: float = 0.0
    by: Literal["row", "value", "channel"] = "row"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ConfigError(
                "X01", f"Missing(rate={self.rate})", "a part in [0, 1)", "For example rate=0.3"
            )

    def __call__(self, paths: Paths) -> Paths:
        """Rows of which nothing is left go, unless covariates stand there. At a rate of 0 nothing changes."""
        if not self.rate:
            return paths
        thin = paths._replace(mask=paths.mask & ~self.dropped(paths))
        return thin if thin.covariates is not None else compact(thin)

    def dropped(self, paths: Paths) -> Tensor:
        """Where what was observed goes missing: (B, T, D)."""
        seen = paths.mask
        series = mix(_numbers(paths) ^ mix(torch.tensor(self.seed)))[:, None, None]
        time = (paths.t.double() + 0.0).view(torch.int64)[..., None]  # -0. and 0. are one time
        channel = torch.arange(seen.shape[-1], device=seen.device)
        if self.by == "channel":
            chosen = _first(mix(series ^ channel), seen.any(1, keepdim=True), self.rate, 2)
        elif self.by == "row":
            chosen = _first(mix(series ^ time), seen.any(-1, keepdim=True), self.rate, 1)
        else:
            chosen = _first(mix(mix(series ^ time) ^ channel), seen, self.rate, 1)
        return chosen & seen


@dataclasses.dataclass(frozen=True)
class FromThinned:
    """Any task on data of which a part is missing: the given is thinned, the wanted left alone.

    Args:
        task: cuts the pair.
        missing: what is never seen of the given.
    """

    task: Task
    missing: Missing

    def __call__(self, paths: Paths, generator: Generator = None) -> tuple[Any, Any]:
        given, want = self.task(paths, generator)
        return self.missing(given), want


def mix(z: Tensor) -> Tensor:
    """64 bits in, 64 bits out that look independent of them, one to one  [2]

    Random numbers as a function of a key [1]: a generator would have to draw those of the whole dataset
    before it knew those of one series.
    """
    z = (z ^ _shift(z, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    z = (z ^ _shift(z, 27)) * (0x94D049BB133111EB - 2**64)
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """To the right, zeros coming in from the left."""
    return torch.bitwise_and(z >> bits, 2 ** (64 - bits) - 1)


def _numbers(paths: Paths) -> Tensor:
    """(B,) 64 bits that stand for the name of each series; its place, where there are no names."""
    series = default_names(paths).series
    digests = [hashlib.blake2b(repr(s).encode(), digest_size=8).digest() for s in series]
    numbers = [int.from_bytes(digest, "little", signed=True) for digest in digests]
    return torch.tensor(numbers, dtype=torch.int64, device=paths.t.device)


def _first(order: Tensor, seen: Tensor, rate: float, axis: int) -> Tensor:
    """The int(rate n) of the n seen that come first in the order, along one axis; never all."""
    n = seen.sum(axis, keepdim=True)
    count = torch.minimum((rate * n.double()).long(), (n - 1).clamp(min=0))  # rate n may round up
    rank = order.where(seen, LAST).argsort(stable=True, dim=axis).argsort(axis)
    return rank.lt(count)

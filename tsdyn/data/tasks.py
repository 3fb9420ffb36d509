"""How a batch is cut into (given, want).

A task is a function `(paths, generator) -> (given, want)`. The generator is torch's; None means the
global one. Cutting the same paths with the same generator state gives the same pair.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..batch import Paths, hide, query, split_after
from ..errors import ConfigError, DataError

Generator = torch.Generator | None
Task = Callable[[Paths, Generator], tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Forecasting:
    """Given everything up to a cut, want what follows. Set exactly one of the three.

    Args:
        fraction: the first part of the observed rows of each series is given, in (0, 1).
        steps: the last so many observed rows of each series are wanted.
        horizon: what lies within this time of the end is wanted, in the units of t.
    """

    fraction: float | None = None
    steps: int | None = None
    horizon: float | None = None

    def __post_init__(self) -> None:
        chosen = [k for k, v in dataclasses.asdict(self).items() if v is not None]
        if len(chosen) != 1:
            raise ConfigError(
                "X01",
                f"Forecasting got {', '.join(chosen) or 'neither fraction, steps nor horizon'}",
                "exactly one of fraction, steps and horizon",
                "For example Forecasting(steps=24)",
            )

    def __call__(self, paths: Paths, generator: Generator = None) -> tuple[Paths, Paths]:
        return split_after(paths, self.cut(paths))

    def cut(self, paths: Paths) -> Tensor:
        """The time (B,) up to which each series is given."""
        seen = paths.mask.any(-1)  # (B, T)
        if self.horizon is not None:
            last = paths.t.where(seen, -torch.inf).amax(1)
            return last - self.horizon
        count = seen.sum(1)
        kept = (
            (self.fraction * count).round().long()
            if self.fraction is not None
            else count - (self.steps or 0)
        )
        kept = kept.clamp(min=0)
        reached = (seen.cumsum(1) <= kept[:, None]) & seen
        before = paths.t[:, :1].squeeze(1) - 1.0  # a series too short to give anything: want all
        return torch.where(
            kept > 0,
            paths.t.where(reached, -torch.inf).amax(1).clamp(min=torch.finfo().min),
            before,
        )


@dataclasses.dataclass(frozen=True)
class Imputation:
    """Given a part of what was observed, want what was hidden.

    Args:
        rate: expected part that is hidden.
        by: "value": single values; "row": whole rows in time; "channel": whole channels of a series;
            "block": a run of consecutive rows of all channels, rate x length rows long.
    """

    rate: float = 0.3
    by: Literal["value", "row", "channel", "block"] = "value"

    def __call__(self, paths: Paths, generator: Generator = None) -> tuple[Paths, Paths]:
        return hide(paths, self.hidden(paths.mask, generator))

    def hidden(self, mask: Tensor, generator: Generator) -> Tensor:
        """Where to hide: (B, T, D)."""
        B, T, D = mask.shape
        if self.by == "block":
            length = (self.rate * mask.any(-1).sum(1)).round().clamp(min=1)  # (B,)
            place = mask.any(-1).cumsum(1)  # 1-based number of each observed row
            free = (mask.any(-1).sum(1) - length).clamp(min=0)
            start = (_uniform((B,), mask, generator) * (free + 1)).floor()
            block = (place > start[:, None]) & (place <= (start + length)[:, None])
            return block[..., None].expand(B, T, D)
        shape = {"value": (B, T, D), "row": (B, T, 1), "channel": (B, 1, D)}[self.by]
        return (_uniform(shape, mask, generator) < self.rate).expand(B, T, D)


@dataclasses.dataclass(frozen=True)
class Interpolation:
    """Given a random part of the rows, want the others: the query times lie inside the series.

    Args:
        rate: part of the observed rows, strictly between the first and the last, that is wanted.
    """

    rate: float = 0.5

    def __call__(self, paths: Paths, generator: Generator = None) -> tuple[Paths, Paths]:
        seen = paths.mask.any(-1)
        place = seen.cumsum(1)
        inside = seen & (place > 1) & (place < seen.sum(1, keepdim=True))
        chosen = inside & (_uniform(seen.shape, seen, generator) < self.rate)
        return hide(paths, chosen[..., None].expand_as(paths.mask))


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Each batch is cut by one of several tasks, drawn with equal chance: one model for all of them."""

    tasks: list[Task]

    def __call__(self, paths: Paths, generator: Generator = None) -> tuple[Any, Any]:
        index = int(torch.randint(len(self.tasks), (), generator=generator))
        return self.tasks[index](paths, generator)


@dataclasses.dataclass(frozen=True)
class Thinned:
    """Any task, with a part of what is given dropped at random: robustness to missing data.

    Args:
        task: cuts the pair; what it wants is left alone.
        rate: part of the given that is dropped.
        by: "row" drops whole rows in time, "value" single values.
    """

    task: Task
    rate: float = 0.3
    by: Literal["value", "row"] = "row"

    def __call__(self, paths: Paths, generator: Generator = None) -> tuple[Any, Any]:
        given, want = self.task(paths, generator)
        kept, _ = hide(given, Imputation(self.rate, self.by).hidden(given.mask, generator))
        return kept, want


class Labels(NamedTuple):
    """What a classifier wants: the number of the class of each series."""

    y: Tensor  # (B,)


@dataclasses.dataclass(frozen=True)
class Classification:
    """Given a series, want its label."""

    def __call__(self, paths: Paths, generator: Generator = None) -> tuple[Paths, Labels]:
        if paths.labels is None:
            raise DataError(
                "D02",
                "Classification got paths without labels",
                "a class for every series",
                "Read the table with label='<column>'",
            )
        return paths._replace(labels=None), Labels(paths.labels)


@dataclasses.dataclass(frozen=True)
class LeaveOutTimes:
    """Given all rows but those at the chosen times, want those: the same times for every series.

    Args:
        times: the times to leave out, in the units of t.
        tolerance: how near a row must lie to count.
    """

    times: tuple[float, ...]
    tolerance: float = 1e-6

    def __call__(self, paths: Paths, generator: Generator = None) -> tuple[Paths, Paths]:
        out = paths.t.new_tensor(list(self.times))
        near = ((paths.t[..., None] - out).abs() <= self.tolerance).any(-1)
        return hide(paths, near[..., None].expand_as(paths.mask))


def holes(paths: Paths) -> Paths:
    """Rows in time that lack a value, up to the last row of each series, as a question.

    The answer belongs where `mask` is True: at unobserved values of rows that exist in the table. A
    row without any value at the end is one of them; padding, where time stands still, is none.
    """
    place = torch.arange(paths.t.shape[1], device=paths.t.device)
    real = paths.mask.any(-1)
    real[:, :1] = True
    real[:, 1:] |= paths.t.diff(dim=1) > 0
    end = (real * (place + 1)).amax(1, keepdim=True)
    missing = ~paths.mask & (place < end)[..., None]
    _, want = hide(paths._replace(mask=missing), missing)
    return want


def at_times(times: Tensor, like: Paths) -> Paths:
    """The question "what are all channels at these times (B, Q)?"; repeated times are padding."""
    asked = query(times, like)
    new = torch.ones_like(times, dtype=torch.bool)
    new[:, 1:] = times.diff(dim=1) > 0
    return asked._replace(mask=new[..., None].expand_as(asked.mask), names=like.names)


def _uniform(shape: tuple[int, ...] | torch.Size, like: Tensor, generator: Generator) -> Tensor:
    device = generator.device if generator is not None else like.device
    return torch.rand(shape, generator=generator, device=device).to(like.device)

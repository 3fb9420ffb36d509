"""What is learned from, and what is kept for judging.

A split is a function `(paths, cut) -> Parts`; `cut` turns the series kept for judging into a pair
(given, want), and is used where the split itself does not say what is wanted. The pairs of a split
are cut once: every epoch and every model is judged on the same questions.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..batch import Entries, Paths, Snapshots, hide, snapshots_of, split_after, take
from ..errors import DataError, first
from .snapshots import at_times

Pair = tuple[Any, Any]
Cut = Callable[[Paths], Pair]


class Parts(NamedTuple):
    """Nothing that `val` or `test` wants is in `train`."""

    train: Any
    val: Pair | None
    test: Pair | None


Split = Callable[[Any, Cut], Parts]


@dataclasses.dataclass(frozen=True)
class BySeries:
    """Whole series are kept: judged on series never seen.

    Args:
        val: part of the series for validation.
        test: part of the series for the final test.
        shuffle: draw the series at random; False keeps their order, train first, test last.
        seed: of the draw.
        stratify: every part has its share of every class; for series with labels.
    """

    val: float = 0.15
    test: float = 0.15
    shuffle: bool = True
    seed: int = 0
    stratify: bool = False

    def __call__(self, paths: Paths, cut: Cut) -> Parts:
        n = len(paths.t)
        order = (
            torch.randperm(n, generator=torch.Generator().manual_seed(self.seed))
            if self.shuffle
            else torch.arange(n)
        )
        if self.stratify:
            order = order[_evenly(_labels(paths)[order])]
        a, b = round(n * (1 - self.val - self.test)), round(n * (1 - self.test))
        if a < 1:
            raise DataError(
                "D10",
                f"{n} series leave none for training with val={self.val} and test={self.test}",
                "at least one series to learn from",
                "Use ByTime or ByTimePoint for few series",
            )
        rows = order[:a], order[a:b], order[b:]
        val, test = (cut(take(paths, r)) if len(r) else None for r in rows[1:])
        return Parts(take(paths, rows[0]), val, test)


def _labels(paths: Paths) -> Tensor:
    if paths.labels is None:
        raise DataError(
            "D02",
            "BySeries(stratify=True) got paths without labels",
            "a class for every series",
            "Read the table with label='<column>', or leave stratify away",
        )
    return paths.labels


def _evenly(y: Tensor) -> Tensor:
    """An order (n,) of which every stretch holds each class in proportion, as nearly as can be."""
    rank = torch.empty(len(y), dtype=torch.float64)
    for c in y.unique():  # type: ignore[no-untyped-call]
        chosen = (y == c).nonzero()[:, 0]
        rank[chosen] = (torch.arange(len(chosen)).double() + 0.5) / len(chosen)
    return rank.argsort(stable=True)


@dataclasses.dataclass(frozen=True)
class ByTime:
    """The end of the time axis is kept: judged on the future. Shares of the whole time span.

    Train ends where validation begins; validation wants the next stretch given all before it; the
    test wants the last stretch given all before that.
    """

    val: float = 0.1
    test: float = 0.1

    def __call__(self, paths: Paths, cut: Cut) -> Parts:
        seen = paths.mask.any(-1)
        start, end = paths.t[seen].min(), paths.t[seen].max()
        first, second = (
            (start + (end - start) * share).expand(len(paths.t))
            for share in (1 - self.val - self.test, 1 - self.test)
        )
        train = split_after(paths, first)[0]
        if not train.mask.any():
            raise DataError(
                "D10",
                "no row lies before the validation stretch",
                "some rows to learn from",
                "Use smaller val and test",
            )
        val = split_after(_until(paths, second), first) if self.val else None
        test = split_after(paths, second) if self.test else None
        return Parts(_observed(train), _asking(val), _asking(test))


@dataclasses.dataclass(frozen=True)
class ByTimePoint:
    """Random rows in time are kept: judged on the holes between what was learned from."""

    val: float = 0.1
    test: float = 0.1
    seed: int = 0

    def __call__(self, paths: Paths, cut: Cut) -> Parts:
        u = torch.rand(paths.t.shape, generator=torch.Generator().manual_seed(self.seed))
        for_val, for_test = u < self.val, (u >= self.val) & (u < self.val + self.test)
        rest, test = hide(paths, _rows_of(for_test, paths))
        train, val = hide(rest, _rows_of(for_val, paths))
        return Parts(
            train,
            (train, val) if self.val else None,
            (rest, test) if self.test else None,
        )


@dataclasses.dataclass(frozen=True)
class ByEntry:
    """Random entries of a tensor are kept. Where entries repeat, much of the test is known from training.

    Args:
        val: part of the entries for validation.
        test: part of the entries for the final test.
        seed: of the draw.
    """

    val: float = 0.0
    test: float = 0.2
    seed: int = 0

    def __call__(self, entries: Entries, cut: Cut) -> Parts:
        return parted(entries, *_shares(len(entries.y), self.val, self.test, self.seed))


@dataclasses.dataclass(frozen=True)
class ByLevel:
    """All entries at random indices of one mode are kept: judged on indices never seen, such as whole days.

    Args:
        mode: number of the mode; negative ones count from the last.
        val: part of its distinct indices for validation.
        test: part of them for the final test.
        seed: of the draw.
    """

    mode: int = -1
    val: float = 0.0
    test: float = 0.2
    seed: int = 0

    def __call__(self, entries: Entries, cut: Cut) -> Parts:
        levels, of = entries.index[:, self.mode].unique(return_inverse=True)  # type: ignore[no-untyped-call]
        kept = _shares(len(levels), self.val, self.test, self.seed)
        return parted(entries, *(chosen[of] for chosen in kept))


@dataclasses.dataclass(frozen=True)
class LeaveOutSnapshots:
    """Whole snapshots are kept: judged on the populations in between.

    What is given in validation is the training part; in the test, also what was kept for validation.

    Args:
        val: times of the snapshots for validation.
        test: times of those for the final test.
    """

    val: tuple[float, ...] = ()
    test: tuple[float, ...] = ()

    def __call__(self, snapshots: Snapshots, cut: Cut) -> Parts:
        val, test = (at_times(snapshots.t, times) for times in (self.val, self.test))
        if bool((val & test).any()):
            raise DataError(
                "D20",
                f"the snapshots at {first([f'{t:g}' for t in snapshots.t[val & test].tolist()])} are kept twice",
                "other times for validation than for the test",
                "",
            )
        train, rest = (snapshots_of(snapshots, kept) for kept in (~val & ~test, ~test))
        if len(train.t) < 2:
            raise DataError(
                "D20",
                f"{len(snapshots.t)} snapshots leave {len(train.t)} for training",
                "two at least",
                "Keep fewer times for validation and test",
            )
        return Parts(
            train,
            (train, snapshots_of(snapshots, val)) if val.any() else None,
            (rest, snapshots_of(snapshots, test)) if test.any() else None,
        )


def parted(entries: Entries, val: Tensor, test: Tensor) -> Parts:
    """Entries kept for validation and test by (N,) masks; everything else that is not yet asked is given."""

    def chosen(rows: Tensor) -> Entries:
        return Entries(*(None if f is None else f[rows.to(f.device)] for f in entries))  # type: ignore[arg-type]

    train, rest = chosen(~val & ~test), chosen(~test)
    if not len(train.y):
        raise DataError(
            "D10",
            f"{len(entries.y)} entries leave none for training",
            "at least one entry to learn from",
            "Use smaller val and test",
        )
    return Parts(
        train,
        (train, chosen(val)) if val.any() else None,
        (rest, chosen(test)) if test.any() else None,
    )


def _shares(n: int, val: float, test: float, seed: int) -> tuple[Tensor, Tensor]:
    """Which of n are for validation and which for the test: (n,) masks of these shares."""
    rank = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    a, b = round(n * test), round(n * (test + val))
    return (rank >= a) & (rank < b), rank < a


def _until(paths: Paths, end: Tensor) -> Paths:
    return paths._replace(mask=paths.mask & (paths.t <= end[:, None])[..., None])


def _observed(paths: Paths) -> Paths:
    """The series that hold an observation."""
    return take(paths, paths.mask.flatten(1).any(1).nonzero()[:, 0])


def _asking(pair: Pair | None) -> Pair | None:
    """The series of which something is wanted and something is given."""
    if pair is None:
        return None
    given, want = pair
    rows = (given.mask.flatten(1).any(1) & want.mask.flatten(1).any(1)).nonzero()[:, 0]
    return (take(given, rows), take(want, rows)) if len(rows) else None


def _rows_of(chosen: Tensor, paths: Paths) -> Tensor:
    return chosen.to(paths.mask.device)[..., None].expand_as(paths.mask)

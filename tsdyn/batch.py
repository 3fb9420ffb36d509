"""The containers that travel from file to forecast, and the ways of cutting them.

Letters, used the same way in every file:

    B series   T times   D coordinates   S samples   K snapshots   N cells or entries   M modes

All containers are NamedTuples, so `DataLoader`, Lightning's `.to(device)`, `pin_memory` and
`torch.utils._pytree` already know how to take them apart and put them back.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .errors import DataError


class Clock(NamedTuple):
    """How the user writes time. Inside, numbers stay as they are and dates are seconds since 1970 UTC."""

    kind: Literal["integer", "float", "datetime", "date"] = "float"
    zone: str | None = None  # name of the time zone; None for naive times


class Names(NamedTuple):
    """What rows and columns are called outside."""

    series: tuple[str | int, ...]  # B
    channels: tuple[str, ...]  # D
    clock: Clock = Clock()
    covariates: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()  # what the numbers in `labels` stand for


class Paths(NamedTuple):
    """B independent series, each seen at its own times.

    A whole dataset is a `Paths`; a minibatch is some of its rows. Rows in time where nothing was
    observed carry no information about x; covariates known ahead stand in such rows.
    """

    t: Tensor  # (B, T)     non-decreasing; padding repeats the last time
    x: Tensor  # (B, T, D)  never read where `mask` is False
    mask: Tensor  # (B, T, D)  True where x was observed
    covariates: Tensor | None = None  # (B, T, C)  known at every row of t
    static: Tensor | None = None  # (B, C)
    labels: Tensor | None = None  # (B,)
    weights: Tensor | None = None  # (B,)     how much a series counts
    names: Names | None = None


class Snapshots(NamedTuple):
    """One population seen at K times; no cell is seen twice."""

    t: Tensor  # (K,)
    x: Tensor  # (K, N, D)
    mask: Tensor  # (K, N)  False for padding up to the largest snapshot
    weights: Tensor | None = None  # (K, N)
    growth: Tensor | None = (
        None  # (K, N)  positive: factor per unit of time by which a cell multiplies
    )


class Entries(NamedTuple):
    """Entries of a tensor whose M modes are indexed by real numbers."""

    index: Tensor  # type: ignore[assignment]  # (N, M); covers tuple.index, which nobody asks of entries
    y: Tensor  # (N,)
    weights: Tensor | None = None  # (N,)


class Gaussian(NamedTuple):
    """Mean and variance of every value, without draws; the law is Gaussian unless its maker says otherwise."""

    mean: Tensor  # (B, T, D)
    var: Tensor  # (B, T, D)


def each(paths: Paths, f: Callable[[Tensor], Tensor]) -> Paths:
    """f applied to every tensor of `paths`; all of them have the series first."""
    tensors: dict[str, Any] = {
        k: f(v) for k, v in zip(paths._fields, paths, strict=True) if isinstance(v, Tensor)
    }
    return paths._replace(**tensors)


def take(paths: Paths, rows: Tensor | list[int]) -> Paths:
    """The chosen series, trimmed to the longest of them.

    Rows in time that pad every chosen series (no observation, and the time stands still or no later
    row is observed) are cut off, unless covariates stand there.
    """
    rows = torch.as_tensor(rows, device=paths.t.device).long()
    names = paths.names and paths.names._replace(
        series=tuple(paths.names.series[int(i)] for i in rows)
    )
    taken = each(paths, lambda f: f[rows])._replace(names=names)
    if taken.covariates is not None:
        return taken
    seen = taken.mask.any(-1).any(0).nonzero()
    return trim(taken, int(seen.max()) + 1 if len(seen) else min(1, taken.t.shape[1]))


def trim(paths: Paths, length: int) -> Paths:
    """The first `length` rows in time of every series."""
    return paths._replace(
        t=paths.t[:, :length],
        x=paths.x[:, :length],
        mask=paths.mask[:, :length],
        covariates=None if paths.covariates is None else paths.covariates[:, :length],
    )


def compact(paths: Paths) -> Paths:
    """Only the rows in time that hold an observation, moved to the front; padding repeats the last.

    (B, T) -> (B, max number of observed rows, at least 1).
    """
    kept = paths.mask.any(-1)  # (B, T)
    count = kept.sum(1)
    length = max(int(count.max()) if len(count) else 0, 1)
    order = (~kept).to(torch.int8).sort(dim=1, stable=True).indices[:, :length]
    place = torch.arange(length, device=kept.device)
    order = order.gather(1, torch.minimum(place, (count[:, None] - 1).clamp(min=0)))
    real = place < count[:, None]
    return paths._replace(
        t=paths.t.gather(1, order),
        x=paths.x.take_along_dim(order[..., None], 1),
        mask=paths.mask.take_along_dim(order[..., None], 1) & real[..., None],
        covariates=None
        if paths.covariates is None
        else paths.covariates.take_along_dim(order[..., None], 1),
    )


def hide(paths: Paths, hidden: Tensor) -> tuple[Paths, Paths]:
    """(given, want): what stays observed, and what `hidden` (B, T, D) took away."""
    hidden = hidden & paths.mask
    return paths._replace(mask=paths.mask & ~hidden), compact(paths._replace(mask=hidden))


def split_after(paths: Paths, cut: Tensor) -> tuple[Paths, Paths]:
    """(given, want): rows with t <= cut, and rows with t > cut; cut is (B,), in the units of t.

    With covariates, `given` keeps its later rows unobserved, so that what is known ahead stays known.
    """
    given, want = hide(paths, (paths.t > cut[:, None])[..., None].expand_as(paths.mask))
    return (given if paths.covariates is not None else compact(given)), want


def merge(a: Paths, b: Paths) -> tuple[Paths, Tensor]:
    """Both sets of rows in order of time, and where those of b went: (B, T_b). Facts are those of a."""
    t, order = torch.cat([a.t, b.t], 1).sort(dim=1, stable=True)

    def both(u: Tensor, v: Tensor) -> Tensor:
        return torch.cat([u, v], 1).take_along_dim(order[..., None], 1)

    covariates = (
        None if a.covariates is None or b.covariates is None else both(a.covariates, b.covariates)
    )
    merged = a._replace(t=t, x=both(a.x, b.x), mask=both(a.mask, b.mask), covariates=covariates)
    return merged, order.argsort(1)[:, a.t.shape[1] :]


def windows(paths: Paths, length: int, stride: int = 1) -> Paths:
    """Every stretch of `length` rows, `stride` rows apart, of every series: (B', length, ...).

    Shorter series give one window, padded. Windows without an observation are left out.
    """
    lengths = _rows(paths)
    if int(lengths.max()) < length:
        length = int(lengths.max())
    starts = [
        (b, s)
        for b, n in enumerate(lengths.tolist())
        for s in range(0, max(n - length, 0) + 1, stride)
    ]
    b, s = torch.tensor(starts, device=paths.t.device).unbind(1)
    at = s[:, None] + torch.arange(length, device=s.device)  # (B', length)
    names = paths.names and paths.names._replace(
        series=tuple(paths.names.series[i] for i in b.tolist())
    )

    def rows(f: Tensor) -> Tensor:
        return f[b[:, None], at]

    cut = paths._replace(
        t=rows(paths.t),
        x=rows(paths.x),
        mask=rows(paths.mask),
        covariates=None if paths.covariates is None else rows(paths.covariates),
        static=None if paths.static is None else paths.static[b],
        labels=None if paths.labels is None else paths.labels[b],
        weights=None if paths.weights is None else paths.weights[b],
        names=names,
    )
    seen = cut.mask.flatten(1).any(1).nonzero()[:, 0]
    return cut if len(seen) == len(b) else take(cut, seen)


def _rows(paths: Paths) -> Tensor:
    """Rows in time of each series up to its last observation: (B,)."""
    place = torch.arange(1, paths.t.shape[1] + 1, device=paths.t.device)
    return (paths.mask.any(-1) * place).amax(1).clamp(min=1)


def stack(parts: list[Paths]) -> Paths:
    """All series of all parts, padded to the longest: (sum of B, max T, ...).

    Channels are called as in the first part; series keep their names if all parts have some.
    """
    length = max(p.t.shape[1] for p in parts)

    def longer(p: Paths) -> Paths:
        more = length - p.t.shape[1]
        rows = torch.cat([p.t, p.t[:, -1:].expand(-1, more)], 1)
        blank = p.x.new_zeros(len(p.t), more, p.x.shape[-1])
        covariates = p.covariates
        if covariates is not None:
            covariates = torch.cat([covariates, covariates[:, -1:].expand(-1, more, -1)], 1)
        return p._replace(
            t=rows,
            x=torch.cat([p.x, blank], 1),
            mask=torch.cat([p.mask, blank.bool()], 1),
            covariates=covariates,
        )

    padded = [longer(p) for p in parts]
    tensors: dict[str, Any] = {
        k: torch.cat([getattr(p, k) for p in padded])
        for k, v in zip(parts[0]._fields, parts[0], strict=True)
        if isinstance(v, Tensor)
    }
    named = [p.names for p in parts if p.names is not None]
    names = None
    if len(named) == len(parts):
        names = named[0]._replace(series=tuple(s for each in named for s in each.series))
    return parts[0]._replace(**tensors, names=names)


def snapshots_of(snapshots: Snapshots, chosen: Tensor) -> Snapshots:
    """The snapshots that `chosen` (K,), a mask or numbers, picks, trimmed to the largest of them."""
    mask = snapshots.mask[chosen]
    size = int(mask.any(0).nonzero().max()) + 1 if mask.any() else 0
    cells = {
        k: v[chosen][:, :size]
        for k, v in snapshots._asdict().items()
        if isinstance(v, Tensor) and k != "t"
    }
    return snapshots._replace(t=snapshots.t[chosen], **cells)


def merge_snapshots(a: Snapshots, b: Snapshots) -> Snapshots:
    """The snapshots of both in order of time. Weights and growth are kept where both have them.

    Raises:
        DataError: D13 for cells of different dimensions.
    """
    if a.x.shape[-1] != b.x.shape[-1]:
        raise DataError(
            "D13",
            f"cells of {a.x.shape[-1]} and of {b.x.shape[-1]} dimensions are to be put together",
            "the same coordinates",
            "Take the same components, whitened alike, of both",
        )
    size = max(a.x.shape[1], b.x.shape[1])
    order = torch.cat([a.t, b.t]).argsort(stable=True)

    def both(u: Tensor | None, v: Tensor | None) -> Tensor | None:
        if u is None or v is None:
            return None
        longer = [
            torch.cat([w, w.new_zeros(len(w), size - w.shape[1], *w.shape[2:])], 1) for w in (u, v)
        ]
        return torch.cat(longer)[order]

    cells: dict[str, Any] = {
        k: both(u, v) for k, u, v in zip(a._fields, a, b, strict=True) if k != "t"
    }
    return a._replace(t=torch.cat([a.t, b.t])[order], **cells)


def query(at: Tensor, like: Paths) -> Paths:
    """Rows at times (B, T) with nothing observed, of the same channels as `like`."""
    x = like.x.new_zeros(*at.shape, like.x.shape[-1])
    return Paths(at, x, torch.zeros_like(x, dtype=torch.bool), names=like.names)


def default_names(paths: Paths) -> Names:
    """The names of the paths, or numbers for series and x0, x1, ... for channels."""
    B, _, D = paths.x.shape
    return paths.names or Names(tuple(range(B)), tuple(f"x{d}" for d in range(D)))


def repeat(paths: Paths, n: int) -> Paths:
    """Every series n times in a row: (B n, ...), the n copies of a series side by side."""
    return each(paths, lambda f: f.repeat_interleave(n, 0))._replace(names=None)

"""Populations seen at a few times: from arrays and back, checked, whitened."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..batch import Paths, Snapshots
from ..errors import DataError, first


class Whitening(NamedTuple):
    """x = mean + scale · z, coordinate by coordinate."""

    mean: Tensor  # (D,)
    scale: Tensor  # (D,)


def from_arrays(x: Any, time: Any, weights: Any = None, growth: Any = None) -> Snapshots:
    """Cells x (cells, D), each seen once at its time (cells,) -> `Snapshots`, cells in the order they came.

    Args:
        weights: (cells,) how much a cell counts.
        growth: (cells,) factor per unit of time by which it multiplies.

    Raises:
        DataError: D14 where shapes differ or numbers are missing; D04 for cells without a time; D20 for fewer than
            two times.
    """
    cells, at = _numbers(x), _numbers(time)
    facts = [None if f is None else _numbers(f) for f in (weights, growth)]
    shapes = [tuple(f.shape) for f in (cells, at, *facts) if f is not None]
    if cells.ndim != 2 or set(shapes[1:]) != {shapes[0][:1]}:
        raise DataError(
            "D14",
            f"cells of shape {shapes[0]} came with times, weights and growth of {first(shapes[1:])}",
            "x (cells, D) and one number for each cell",
            "Give all of them in the same order of cells",
        )
    if not bool(at.isfinite().all()):
        raise DataError(
            "D04",
            f"{int((~at.isfinite()).sum())} cells have no time, first row {int(at.isfinite().int().argmin())}",
            "a finite number for each",
            "Drop these cells",
        )
    times, at_time = at.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    rows = columns_of(at_time, len(times))
    mask = rows >= 0
    held = rows.clamp(min=0)
    kept = [None if f is None else f[held].where(mask, 0.0) for f in facts]
    found = Snapshots(times.double(), cells[held].where(mask[..., None], 0.0), mask, *kept)
    require_snapshots(found)
    return found


def columns_of(snapshot: Tensor, count: int) -> Tensor:
    """The cells of each snapshot in the order they came: (K, N) numbers of cells, -1 for padding.

    Args:
        snapshot: (cells,) the number of the snapshot of each.
        count: K.
    """
    order = snapshot.argsort(stable=True)
    sizes = snapshot.bincount(minlength=count)
    step = torch.arange(int(sizes.max()) if len(sizes) else 0, device=order.device)
    start = sizes.cumsum(0) - sizes
    rows = order[(start[:, None] + step).clamp(max=max(len(order) - 1, 0))]
    return rows.where(step < sizes[:, None], -1)


def to_arrays(snapshots: Snapshots) -> tuple[Tensor, Tensor]:
    """(x (cells, D), time (cells,)): snapshot after snapshot."""
    time = snapshots.t[:, None].expand_as(snapshots.mask)
    return snapshots.x[snapshots.mask], time[snapshots.mask]


def as_snapshots(paths: Paths, times: Sequence[float] | None = None) -> Snapshots:
    """Frames as snapshots and series as cells, for series that share their times; who is who is forgotten.

    A cell is a series that is seen in every channel; frames without one are left out.

    Args:
        times: of some of the frames; None is all of them.

    Raises:
        DataError: D14 where times differ between series, D17 for times of no frame, D20 for fewer than two frames.
    """
    if not bool((paths.t == paths.t[:1]).all()):
        raise DataError(
            "D14",
            "series are seen at different times",
            "the same times for all of them",
            "Interpolate them first, for example with `tsdyn.impute`",
        )
    seen = paths.mask.all(-1).mT  # (T, B)
    kept = seen.any(1)
    if times is not None:
        kept = kept & at_times(paths.t[0], times)
    mask = seen[kept]
    found = Snapshots(
        paths.t[0][kept].double(),
        paths.x.movedim(1, 0)[kept].where(mask[..., None], 0.0),
        mask,
        None if paths.weights is None else paths.weights.where(mask, 0.0),
    )
    require_snapshots(found)
    return found


def at_times(t: Tensor, times: Sequence[float]) -> Tensor:
    """Which of the snapshots at t (K,) are at one of these times, to a millionth: (K,)

    Raises:
        DataError: D17 for a time at which there is none.
    """
    near = (t[:, None] - torch.tensor(times, dtype=t.dtype, device=t.device)).abs() <= 1e-6
    missing = [f"{s:g}" for s, found in zip(times, near.any(0).tolist(), strict=True) if not found]
    if missing:
        raise DataError(
            "D17",
            f"no snapshot is at {first(missing, 6)}",
            f"one of {first([f'{s:g}' for s in t.tolist()], 12)}",
            "",
        )
    return near.any(1)


def fit_whitening(snapshots: Snapshots) -> Whitening:
    """Mean and standard deviation of every coordinate over all cells; one where it is constant."""
    x = snapshots.x[snapshots.mask].double()
    scale = x.std(0, correction=0)
    return Whitening(x.mean(0), scale.where(scale > 0, 1.0))


def whiten(snapshots: Snapshots, whitening: Whitening) -> Snapshots:
    """z = (x - mean) / scale."""
    z = (snapshots.x - whitening.mean.to(snapshots.x)) / whitening.scale.to(snapshots.x)
    return snapshots._replace(x=z.where(snapshots.mask[..., None], 0.0))


def unwhiten(z: Tensor, whitening: Whitening) -> Tensor:
    """x = mean + scale · z, for z (..., D)."""
    return whitening.mean.to(z) + whitening.scale.to(z) * z


def require_snapshots(snapshots: Snapshots) -> None:
    """Nothing, if trajectories can be drawn through these populations.

    Raises:
        DataError: D20 for fewer than two snapshots, an empty one, or times that do not increase; D14 for
            coordinates, weights or growth that cannot be used.
    """
    t, mask = snapshots.t, snapshots.mask
    if len(t) < 2:
        raise DataError(
            "D20",
            f"{len(t)} snapshot came" if len(t) == 1 else "no snapshot came",
            "populations at two times at least",
            "Look whether the time column has more than one value, and what was held out",
        )
    if not bool(t.isfinite().all()) or bool((t.diff() <= 0).any()):
        raise DataError(
            "D20",
            f"snapshots are at times {first([f'{s:g}' for s in t.tolist()], 8)}",
            "finite times that increase",
            "Sort them, and give cells of the same time to one snapshot",
        )
    empty = ~mask.any(1)
    if bool(empty.any()):
        k = int(empty.nonzero()[0])
        raise DataError(
            "D20",
            f"snapshot {k} at time {float(t[k]):g} has no cells",
            "at least one cell in each",
            "Leave this time out",
        )
    _require(snapshots, snapshots.x.isfinite() | ~mask[..., None], "coordinate", "a finite number")
    if snapshots.weights is not None:
        w = snapshots.weights[..., None]
        _require(snapshots, ((w >= 0) & w.isfinite()) | ~mask[..., None], "weight", "at least zero")
        none = (snapshots.weights * mask).sum(1) == 0
        if bool(none.any()):
            k = int(none.nonzero()[0])
            raise DataError(
                "D14", f"all weights of snapshot {k} are zero", "a positive one in each", ""
            )
    if snapshots.growth is not None:
        g = snapshots.growth[..., None]
        good = ((g > 0) & g.isfinite()) | ~mask[..., None]
        _require(snapshots, good, "growth", "a positive factor per unit of time")


def _require(snapshots: Snapshots, good: Tensor, what: str, wanted: str) -> None:
    if bool(good.all()):
        return
    bad = (~good).nonzero()
    k, n, d = bad[0].tolist()
    values = {"coordinate": snapshots.x, "weight": snapshots.weights, "growth": snapshots.growth}[
        what
    ]
    assert values is not None  # only what is there is asked for
    value = float(values[k, n, d] if what == "coordinate" else values[k, n])
    place = f", column {d}" if what == "coordinate" else ""
    raise DataError(
        "D14",
        f"{len(bad)} {what}{'s' if len(bad) > 1 else ''} cannot be used, first {value:g} "
        f"at time {float(snapshots.t[k]):g}, cell {n}{place}",
        wanted,
        "Drop these cells, or fill them in",
    )


def _numbers(values: Any) -> Tensor:
    """As a tensor in its own precision; whole numbers in double."""
    try:
        found = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    except (TypeError, ValueError) as error:
        raise DataError(
            "D14", f"cells came as {first(str(error).splitlines(), 1)}", "a table of numbers", ""
        ) from None
    return found if found.is_floating_point() else found.double()

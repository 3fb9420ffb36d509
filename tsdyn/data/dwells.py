"""Idealised records: which state a channel was in, and for how long, dwell after dwell.

A table has a row for each dwell, in order, with the state (a number or a name), its duration, and, where there are
several records, the record. They are complete paths: rates are counted, N_ij / R_i, and need no search.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import DataError, first
from ..maths.jump_simulation import JumpPaths
from .columns import as_frame, named, there


class Dwells(NamedTuple):
    """Complete paths, and what their states are called."""

    paths: JumpPaths  # (K, 1 + J); every record begins at time zero
    states: tuple[str, ...]  # n names, in the order of the numbers


def read_dwells(
    table: Any, *, state: str = "state", duration: str = "duration", record: str | None = None
) -> Dwells:
    """Records from a .csv or .parquet file, a frame, or a mapping of columns.

    Two dwells in one state, one after the other, become one.

    Args:
        state: column of states; numbers keep their order, names are sorted.
        duration: column of durations, positive, in any unit of time.
        record: column that tells records apart; None is one record.

    Raises:
        DataError: D01, D02 for tables without rows or columns; D14 for durations that are not positive numbers.
    """
    frame = named(as_frame(table))
    label = frame[there(frame, state)]
    long = torch.from_numpy(
        frame[there(frame, duration)].to_numpy(dtype="float64", na_value=float("nan")).copy()
    )
    bad = ~(long.isfinite() & (long > 0))
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise DataError(
            "D14",
            f"{int(bad.sum())} durations cannot be used, first {float(long[row]):g} in row {frame.index[row]}",
            "positive numbers",
            "Drop dwells that were too short to be measured, or give them their least length",
        )
    if label.isna().any():
        row = int(label.isna().to_numpy().argmax())
        raise DataError(
            "D14", f"the state is missing in row {frame.index[row]}", "a state in each", ""
        )
    known = sorted(label.unique().tolist())
    number = {name: k for k, name in enumerate(known)}
    code = torch.tensor([number[v] for v in label.tolist()])
    of = torch.zeros(len(code), dtype=torch.long)
    if record is not None:
        names = frame[there(frame, record)].astype(str)
        order = {name: k for k, name in enumerate(dict.fromkeys(names))}
        of = torch.tensor([order[name] for name in names])
        back = of.diff() != 0
        if int(back.sum()) + 1 != len(order):
            raise DataError(
                "D07",
                f"rows of the records {first(list(order), 4)} are mixed",
                "all dwells of a record together, in order",
                f"Sort the table by `{record}` first",
            )
    return Dwells(_joined(code, long, of), tuple(map(str, known)))


def _joined(code: Tensor, long: Tensor, of: Tensor) -> JumpPaths:
    """Paths from dwells, those of one state in a row put together, padded to the longest."""
    new = torch.ones(len(code), dtype=torch.bool)
    new[1:] = (code[1:] != code[:-1]) | (of[1:] != of[:-1])
    dwell = new.cumsum(0) - 1
    total = torch.zeros(int(dwell[-1]) + 1, dtype=torch.float64).index_add_(0, dwell, long)
    code, of = code[new], of[new]
    count = of.bincount()
    begin = count.cumsum(0) - count
    place = torch.arange(int(count.max()))
    rows = (begin[:, None] + torch.minimum(place, count[:, None] - 1)).clamp(max=len(code) - 1)
    held = total[rows].where(place < count[:, None], 0.0)
    end = held.sum(1)
    t = held.cumsum(1) - held
    return JumpPaths(t.where(place < count[:, None], end[:, None]), code[rows], count - 1, end)

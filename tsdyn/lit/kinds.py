"""How each kind of container comes apart into the rows that minibatches are made of."""

from typing import Any, Protocol, cast

import torch
from torch import Tensor

from ..batch import Entries, Paths, Snapshots, take
from ..data.jump_data import Problems
from ..data.split import Pair


class Kind(Protocol):
    """How one kind of container comes apart into rows."""

    def count(self, data: Any) -> int:
        """Rows to learn from."""

    def lengths(self, data: Any) -> Tensor | None:
        """(rows,) by which rows of similar size are put together."""

    def take(self, data: Any, rows: Tensor) -> Any:
        """The chosen rows."""

    def questions(self, given: Any, want: Any) -> int:
        """Rows of a pair that is already cut."""

    def slice(self, given: Any, want: Any, rows: Tensor) -> Pair:
        """The chosen rows of a pair that is already cut."""


class OfPaths:
    """Rows are series; what is given and what is wanted belong together row by row."""

    def count(self, data: Paths) -> int:
        return len(data.t)

    def lengths(self, data: Paths) -> Tensor:
        return data.mask.any(-1).sum(1)

    def take(self, data: Paths, rows: Tensor) -> Paths:
        return take(data, rows)

    def questions(self, given: Paths, want: Any) -> int:
        return len(given.t)

    def slice(self, given: Paths, want: Any, rows: Tensor) -> Pair:
        wanted = take(want, rows) if isinstance(want, Paths) else _rows(want, rows)
        return take(given, rows), wanted


class OfSnapshots:
    """Rows are cells of the largest population; smaller ones come round again. Judged as a whole."""

    def count(self, data: Snapshots) -> int:
        return int(data.mask.sum(1).max())

    def lengths(self, data: Snapshots) -> None:
        return None

    def take(self, data: Snapshots, rows: Tensor) -> Snapshots:
        cells = data.mask.sum(1, keepdim=True).clamp(min=1)  # (K, 1)
        real = (~data.mask).to(torch.int8).sort(dim=1, stable=True).indices
        at = real.gather(1, rows[None] % cells)  # (K, rows)
        return data._replace(
            x=data.x.take_along_dim(at[..., None], 1),
            mask=data.mask.gather(1, at),
            weights=None if data.weights is None else data.weights.gather(1, at),
            growth=None if data.growth is None else data.growth.gather(1, at),
        )

    def questions(self, given: Any, want: Any) -> int:
        return 1

    def slice(self, given: Any, want: Any, rows: Tensor) -> Pair:
        return given, want


class OfEntries:
    """Rows are entries; all that is given helps with every entry that is wanted."""

    def count(self, data: Entries) -> int:
        return len(data.y)

    def lengths(self, data: Entries) -> None:
        return None

    def take(self, data: Entries, rows: Tensor) -> Entries:
        return cast(Entries, _rows(data, rows))

    def questions(self, given: Entries, want: Any) -> int:
        return len(want[0])

    def slice(self, given: Entries, want: Any, rows: Tensor) -> Pair:
        return given, _rows(want, rows)


class OfProblems:
    """Rows are numbers of problems, which the task makes. Judged as a whole."""

    def count(self, data: Problems) -> int:
        return len(data.number)

    def lengths(self, data: Problems) -> None:
        return None

    def take(self, data: Problems, rows: Tensor) -> Problems:
        return Problems(data.number[rows])

    def questions(self, given: Any, want: Any) -> int:
        return 1

    def slice(self, given: Any, want: Any, rows: Tensor) -> Pair:
        return given, want


class Whole:
    """Any other container: all of it is one row."""

    def count(self, data: Any) -> int:
        return 1

    def lengths(self, data: Any) -> None:
        return None

    def take(self, data: Any, rows: Tensor) -> Any:
        return data

    def questions(self, given: Any, want: Any) -> int:
        return 1

    def slice(self, given: Any, want: Any, rows: Tensor) -> Pair:
        return given, want


_KINDS: dict[type, Kind] = {
    Paths: OfPaths(),
    Snapshots: OfSnapshots(),
    Entries: OfEntries(),
    Problems: OfProblems(),
}


def kind_of(data: Any) -> Kind:
    """How this container comes apart; one that nobody knows stays whole."""
    return _KINDS.get(type(data), Whole())


def observed(want: Any) -> int:
    """How many values a container holds: what its mean loss is a mean over."""
    if "mask" in want._fields:
        mask = want.mask
        return int(mask.sum()) * (1 if mask.ndim == want.x.ndim else want.x.shape[-1])
    return len(want[0])


def _rows(data: Any, rows: Tensor) -> Any:
    return data._replace(**{k: v[rows] for k, v in data._asdict().items() if isinstance(v, Tensor)})

"""Single cells: from AnnData to snapshots. The way back is in `cell_results`.

AnnData is imported when it is asked for, and never by reading this. A table of counts is never made dense unless
that is said.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..batch import Snapshots
from ..errors import DataError, did_you_mean, first, missing_package
from .snapshots import Whitening, columns_of, fit_whitening, require_snapshots, whiten


class CellOrigin(NamedTuple):
    """Where the cells of snapshots stand in their AnnData, and in which units."""

    t: Tensor  # (K,)  of the snapshots
    row: Tensor  # (K, N)  of obs; -1 is padding
    cells: int  # rows of obs
    rep: str  # key of obsm, or "X"
    whitening: Whitening | None


def from_anndata(
    adata: Any,
    *,
    time_key: str,
    rep: str = "X_pca",
    dims: int | None = None,
    whiten_rep: bool = False,
    time_map: Mapping[Any, float] | None = None,
    weight_key: str | None = None,
    growth_key: str | None = None,
    batch: tuple[str, Any] | None = None,
    dense: bool = False,
) -> tuple[Snapshots, CellOrigin]:
    """Cells of `adata`, a snapshot per value of obs[time_key], and where they came from.

    Cells of a snapshot stand in the order of obs. The matrix X of a backed file is not read, unless it is asked for.

    Args:
        time_key: column of obs: numbers, text or categories that are numbers, or labels with a `time_map`.
        rep: key of obsm, or "X" for the genes themselves.
        dims: the first so many coordinates of it.
        whiten_rep: mean zero and variance one in each, over all cells; kept, and inverted on the way back.
        time_map: the time of every label, for example {"day 0": 0.0, "day 3": 3.0}.
        weight_key, growth_key: columns of obs; growth is a factor per unit of time.
        batch: (column, value): only the cells with this value.
        dense: whether a sparse representation may be made dense.

    Raises:
        DataError: D02 for names that do not exist, D14 for numbers that cannot be used, D20 for times without a
            meaning, and for too few snapshots.
    """
    obs = adata.obs
    chosen = np.ones(len(obs), dtype=bool)
    if batch is not None:
        chosen = (column(obs, batch[0]) == batch[1]).to_numpy()
        if not chosen.any():
            values = first([str(v) for v in obs[batch[0]].unique()], 6)
            raise DataError(
                "D14", f"no cell has {batch[0]} == {batch[1]!r}", f"one of {values}", ""
            )
    rows = np.flatnonzero(chosen)
    time = _times(column(obs, time_key)[chosen], time_map)
    x = torch.from_numpy(_coordinates(adata, rep, dims, dense)[rows])
    times, at = np.unique(time, return_inverse=True)
    place = columns_of(torch.from_numpy(at), len(times))  # (K, N) among the chosen
    mask = place >= 0
    held = place.clamp(min=0)
    facts = {
        "weights": _fact(obs, weight_key, rows),
        "growth": _fact(obs, growth_key, rows),
    }
    found = Snapshots(
        torch.from_numpy(times),
        x[held].where(mask[..., None], 0.0),
        mask,
        **{k: None if f is None else f[held].where(mask, 0.0) for k, f in facts.items()},
    )
    require_snapshots(found)
    whitening = fit_whitening(found) if whiten_rep else None
    if whitening is not None:
        found = whiten(found, whitening)
    origin = torch.from_numpy(rows)[held].where(mask, -1)
    return found, CellOrigin(found.t, origin, len(obs), rep, whitening)


def read_cells(path: Path) -> Any:
    """The AnnData of a .h5ad file."""
    return import_anndata().read_h5ad(path)


def import_anndata() -> Any:
    """The package, which most users have no need of."""
    try:
        import anndata  # type: ignore[import-untyped]
    except ImportError:
        raise missing_package("anndata", "cells", "single-cell data") from None
    return anndata


def column(obs: Any, key: str) -> Any:
    """obs[key]; D02 for a name that does not exist."""
    if key not in obs.columns:
        raise DataError(
            "D02",
            f"obs has no column `{key}`",
            "the name of one of its columns",
            did_you_mean(key, obs.columns),
        )
    return obs[key]


def _times(column: Any, mapped: Mapping[Any, float] | None) -> NDArray[np.float64]:
    """A number for every cell."""
    labels = column.astype(object)
    if mapped is not None:
        unknown = sorted({str(v) for v in labels.unique() if v not in mapped})
        if unknown:
            raise DataError(
                "D20",
                f"time_map has no number for {first(unknown, 6)}",
                f"a number for every label in `{column.name}`",
                "Add them, or drop these cells",
            )
        labels = labels.map(mapped)
    try:
        found: NDArray[np.float64] = labels.astype(float).to_numpy()
    except (TypeError, ValueError):
        known = sorted({str(v) for v in labels.unique()})
        example = ", ".join(f"{v!r}: {k}.0" for k, v in enumerate(known[:3]))
        raise DataError(
            "D20",
            f"`{column.name}` holds labels, {first(known, 6)}, and not times",
            "numbers",
            f"Say what they mean: time_map={{{example}{', ...' if len(known) > 3 else ''}}}",
        ) from None
    bad = ~np.isfinite(found)
    if bad.any():
        raise DataError(
            "D04",
            f"{int(bad.sum())} cells have no time in `{column.name}`, first {column.index[bad][0]}",
            "a finite number for each",
            "Drop these cells",
        )
    return found


def _coordinates(adata: Any, rep: str, dims: int | None, dense: bool) -> NDArray[Any]:
    """(cells, D), in single precision where it is stored so, else in double."""
    known = ["X"] * (adata.X is not None) + list(adata.obsm)
    if rep not in known:
        raise DataError(
            "D02",
            f"obsm has no `{rep}`",
            "a representation of the cells",
            did_you_mean(rep, known) or "Run a principal component analysis",
        )
    stored = adata.X if rep == "X" else adata.obsm[rep]
    size = stored.shape[1]
    if dims is not None and not 1 <= dims <= size:
        raise DataError("D14", f"`{rep}` has {size} coordinates, not {dims}", f"1 to {size}", "")
    values = _as_table(stored, rep, dense)[:, :dims]
    return values if values.dtype == np.float32 else values.astype(np.float64)


def _as_table(stored: Any, rep: str, dense: bool) -> NDArray[Any]:
    """What is stored as it is, or, where that is said, a sparse matrix with its zeros."""
    from anndata.abc import CSCDataset, CSRDataset  # type: ignore[import-untyped]

    backed = isinstance(stored, CSCDataset | CSRDataset)
    if not backed and not scipy.sparse.issparse(stored):
        return np.asarray(stored[:] if rep == "X" else stored)  # obsm may hold a frame
    if not dense:
        n, size = stored.shape
        raise DataError(
            "D14",
            f"`{rep}` is sparse, {n} cells x {size}; as a table it takes {n * size * 8 / 2**20:.0f} MB",
            "a representation of few dimensions in obsm",
            'Use rep="X_pca" after a principal component analysis, or say dense=True',
        )
    matrix = stored.to_memory() if backed else stored
    return np.asarray(matrix.toarray())


def _fact(obs: Any, key: str | None, rows: NDArray[np.int64]) -> Tensor | None:
    if key is None:
        return None
    values = column(obs, key).iloc[rows]
    try:
        return torch.from_numpy(values.to_numpy(dtype=np.float64, na_value=np.nan))
    except (TypeError, ValueError):
        kinds = first([repr(v) for v in values.unique()], 6)
        raise DataError(
            "D14", f"`{key}` holds {kinds}", "a number for each cell", "Use another column"
        ) from None

"""Single cells: from AnnData to snapshots and back, in the order in which the cells stand there.

The only file that knows AnnData; it is imported when it is asked for. A table of counts is never made dense
unless that is said.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..batch import Snapshots
from ..errors import ConfigError, DataError, did_you_mean, first
from .snapshots import Whitening, columns_of, fit_whitening, require_snapshots, unwhiten, whiten


class CellOrigin(NamedTuple):
    """Where the cells of snapshots stand in their AnnData, and in which units."""

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

    Of a backed file only the columns that are named are read.

    Args:
        time_key: column of obs: numbers, text or categories that are numbers, or labels with a `time_map`.
        rep: key of obsm, or "X" for the genes themselves.
        dims: the first so many coordinates of it.
        whiten_rep: mean zero and variance one in each, over all cells; kept, and inverted on the way back.
        time_map: the time of every label, for example {"day 0": 0.0, "day 3": 3.0}.
        weight_key, growth_key: columns of obs; growth is a factor per unit of time.
        batch: (column, value): only the cells with this value.
        dense: whether a sparse X may be made dense.

    Raises:
        DataError: D02 for names that do not exist, D14 for numbers that cannot be used, D20 for times without a
            meaning, and for too few snapshots.
    """
    obs = adata.obs
    chosen = np.ones(len(obs), dtype=bool)
    if batch is not None:
        chosen = (_column(obs, batch[0]) == batch[1]).to_numpy()
        if not chosen.any():
            values = first([str(v) for v in obs[batch[0]].unique()], 6)
            raise DataError(
                "D14", f"no cell has {batch[0]} == {batch[1]!r}", f"one of {values}", ""
            )
    rows = np.flatnonzero(chosen)
    time = _times(_column(obs, time_key), time_map)[rows]
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
    return found, CellOrigin(origin, len(obs), rep, whitening)


def read_cells(path: Path) -> Any:
    """The AnnData of a .h5ad file."""
    return _anndata().read_h5ad(path)


def in_order(
    origin: CellOrigin, values: Sequence[Tensor], first_snapshot: int = 0
) -> NDArray[np.float64]:
    """Values of the cells of snapshots, one tensor (N_k, ...) for each, in the order of obs; NaN for other cells."""
    shape = (origin.cells, *values[0].shape[1:])
    found = np.full(shape, np.nan)
    for k, value in enumerate(values, start=first_snapshot):
        rows = origin.row[k]
        found[rows[rows >= 0].numpy()] = value.detach().cpu().double().numpy()
    return found


def in_units(origin: CellOrigin, x: Tensor, *, rate: bool = False) -> Tensor:
    """Coordinates (..., D) in the units of the representation; of a rate of change, scale alone."""
    if origin.whitening is None:
        return x
    return x * origin.whitening.scale.to(x) if rate else unwhiten(x, origin.whitening)


def genes_of(adata: Any, origin: CellOrigin, x: Tensor, *, rate: bool = False) -> Tensor:
    """Genes (..., G) at coordinates x (..., D): mean + x · loadings; of a rate of change, without the mean.

    For a representation of principal components, varm["PCs"] (G, D), of `adata.X` centred by its mean; for "X"
    itself they are the coordinates.

    Raises:
        DataError: D02 without varm["PCs"].
    """
    values = in_units(origin, x, rate=rate).double()
    if origin.rep == "X":
        return values
    if "PCs" not in adata.varm:
        raise DataError(
            "D02",
            f"genes are asked for, but varm has only {first(list(adata.varm), 6) or 'nothing'}",
            'the loadings of the components in varm["PCs"]',
            "Run a principal component analysis that keeps them, such as scanpy.pp.pca",
        )
    loadings = torch.from_numpy(np.asarray(adata.varm["PCs"], dtype=np.float64)).to(values)
    found: Tensor = values @ loadings[:, : x.shape[-1]].mT
    if rate:
        return found
    mean = np.asarray(adata.X.mean(0), dtype=np.float64).reshape(-1)
    return found + torch.from_numpy(mean).to(found)


def trajectories_to_anndata(adata: Any, origin: CellOrigin, times: Tensor, paths: Tensor) -> Any:
    """Paths (n, T, D) at times (T,) as an AnnData: a row per particle and time.

    obs has `particle` and `time`, obsm the representation; X holds the genes where varm["PCs"] is known.
    """
    anndata = _anndata()
    n, T, _ = paths.shape
    flat = paths.detach().cpu().flatten(0, 1)
    known = "PCs" in adata.varm or origin.rep == "X"
    X = genes_of(adata, origin, flat).numpy() if known else None
    var = adata.var[[]].copy() if known else None
    found = anndata.AnnData(X=X, var=var, shape=None if known else (n * T, 0))
    found.obs["particle"] = np.repeat(np.arange(n), T)
    found.obs["time"] = np.tile(times.detach().cpu().numpy(), n)
    name = "X_pca" if origin.rep == "X" else origin.rep
    found.obsm[name] = in_units(origin, flat).numpy()
    return found


def _anndata() -> Any:
    try:
        import anndata  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError(
            "X03",
            "AnnData is asked for, but the package anndata is not installed",
            "the extra `cells`",
            "Run `pip install tsdyn[cells]`",
        ) from error
    return anndata


def _column(obs: Any, key: str) -> Any:
    if key not in obs.columns:
        raise DataError(
            "D02",
            f"obs has no column `{key}`",
            f"one of {first(list(obs.columns), 8)}",
            did_you_mean(key, list(obs.columns)),
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
            f"{int(bad.sum())} cells have no time in `{column.name}`, first row {int(bad.argmax())}",
            "a finite number for each",
            "Drop these cells",
        )
    return found


def _coordinates(adata: Any, rep: str, dims: int | None, dense: bool) -> NDArray[np.float64]:
    """(cells, D) in the precision it has, no more than float64."""
    if rep == "X":
        values = adata.X[:] if adata.isbacked else adata.X
        if not isinstance(values, np.ndarray):
            if not dense:
                n, genes = adata.shape
                raise DataError(
                    "D14",
                    f"X is sparse, {n} cells x {genes} genes; as a table it takes {n * genes * 8 / 2**20:.0f} MB",
                    "a representation of few dimensions in obsm",
                    'Use rep="X_pca" after a principal component analysis, or say dense=True',
                )
            values = values.toarray()
    elif rep in adata.obsm:
        values = adata.obsm[rep]
        values = np.asarray(values)  # also of a table
    else:
        known = list(adata.obsm)
        raise DataError(
            "D02",
            f"obsm has no `{rep}`",
            f"one of {first(known, 6)}" if known else 'a representation of the cells, or rep="X"',
            did_you_mean(rep, known) if known else "Run a principal component analysis first",
        )
    if dims is not None and dims > values.shape[1]:
        raise DataError(
            "D14", f"`{rep}` has {values.shape[1]} coordinates, not {dims}", "as many or fewer", ""
        )
    return np.asarray(values[:, :dims], dtype=np.float64)


def _fact(obs: Any, key: str | None, rows: NDArray[np.int64]) -> Tensor | None:
    if key is None:
        return None
    return torch.from_numpy(_column(obs, key).to_numpy(dtype=np.float64, na_value=np.nan)[rows])

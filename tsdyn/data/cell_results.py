"""What was found about cells, written into the AnnData that they came from, in the order of its rows.

Names of what is written are those of scVelo where it has some: obsm["velocity_pca"], layers["velocity"].
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError, did_you_mean, first
from .cells import CellOrigin, column, import_anndata
from .snapshots import at_times, unwhiten

CHUNK = 4096  # rows of X that are looked at together

Values = Sequence[Tensor]  # for each of several snapshots, one (N_k, ...) for its cells


class GeneTrends(NamedTuple):
    """How genes change along paths."""

    t: Tensor  # (T,)
    genes: tuple[str, ...]  # G
    mean: Tensor  # (T, G)
    levels: Tensor  # (Q,)
    quantiles: Tensor  # (Q, T, G)


def to_anndata(
    adata: Any,
    origin: CellOrigin,
    *,
    times: Tensor | Sequence[float] | None = None,
    drift: Values | None = None,
    growth: Values | None = None,
    mass: Values | None = None,
    fate: Values | None = None,
    classes: Sequence[str] | None = None,
    velocity_layer: bool = False,
    **record: Any,
) -> None:
    """Writes values of cells into `adata`, whose other cells get NaN, and a record of their making.

    Values are given snapshot by snapshot, and may end early, as growth does.

    Args:
        times: of the snapshots that they belong to, for a bridge through some of them; None is all of them.
        drift: (N_k, D) each, in the coordinates of the snapshots -> obsm["sb_drift"] in those of the
            representation per unit of time, and obsm["velocity_pca"] for "X_pca".
        growth: (N_k,) each -> obs["sb_growth"].
        mass: (N_k,) each -> obs["sb_mass"].
        fate: (N_k, C) each -> obsm["sb_fate"], a table with a column per class.
        classes: C names; None counts.
        velocity_layer: also layers["velocity"], drift · PCs, for every cell and gene: a dense table of single precision.
        record: sigma, parameters, history, ... -> uns["sb"], beside the times; tensors become arrays, and what is
            None is left out.

    Raises:
        DataError: D14 or D17 where values do not fit the snapshots, D02 without varm["PCs"].
    """
    rows = _rows(origin, times)
    if drift is not None:
        rate = in_units(origin, torch.from_numpy(_ordered(origin, rows, drift)), rate=True)
        adata.obsm["sb_drift"] = rate.numpy().copy()
        adata.obsm[f"velocity_{origin.rep.removeprefix('X_')}"] = rate.numpy()
        if velocity_layer:
            adata.layers["velocity"] = _velocity(adata, origin, rate).float().numpy()
    if growth is not None:
        adata.obs["sb_growth"] = _ordered(origin, rows, growth)
    if mass is not None:
        adata.obs["sb_mass"] = _ordered(origin, rows, mass)
    if fate is not None:
        adata.obsm["sb_fate"] = _table(adata, _ordered(origin, rows, fate), classes)
    kept = {"times": origin.t if times is None else torch.as_tensor(times), "rep": origin.rep}
    adata.uns["sb"] = _plain(kept | record)


def in_order(
    origin: CellOrigin, values: Values, times: Tensor | Sequence[float] | None = None
) -> NDArray[np.float64]:
    """Values of cells, snapshot by snapshot, in the order of obs: (cells, ...), NaN for other cells.

    Args:
        times: of the snapshots that they belong to; None is all of them.
    """
    return _ordered(origin, _rows(origin, times), values)


def in_units(origin: CellOrigin, x: Tensor, *, rate: bool = False) -> Tensor:
    """Coordinates (..., D) in the units of the representation; of a rate of change, scale alone."""
    if origin.whitening is None:
        return x
    return x * origin.whitening.scale.to(x) if rate else unwhiten(x, origin.whitening)


def labels_of(
    adata: Any, origin: CellOrigin, key: str, snapshot: int = -1
) -> tuple[Tensor, tuple[str, ...]]:
    """Numbers (N_k,) of the classes in obs[key] of the cells of a snapshot, -1 for none, and their names.

    They are what `StaticBridge.fate` asks for.
    """
    rows = origin.row[snapshot]
    values = column(adata.obs, key).iloc[rows[rows >= 0].numpy()].astype("category")
    kinds = values.cat.remove_unused_categories().cat
    return torch.tensor(kinds.codes.to_numpy().astype(np.int64)), tuple(map(str, kinds.categories))


def genes_of(
    adata: Any, origin: CellOrigin, x: Tensor, genes: Sequence[str] | None = None
) -> Tensor:
    """Genes (..., G) at coordinates x (..., D): mean + x · PCs, or x itself where it is of genes.

    The loadings are varm["PCs"] (genes, D), the mean is that of X: as `scanpy.pp.pca` has them, if X is still what
    the components were computed from.

    Args:
        genes: names of some; None is all of them.

    Raises:
        DataError: D02 for unknown genes and without varm["PCs"], D14 for a representation of another kind.
    """
    values = in_units(origin, x).double()
    which = _numbers(adata, genes)
    if origin.rep == "X":
        return values[..., which]
    return _through(_loadings(adata, origin, which), values) + _mean(adata)[which]


def trajectories_to_anndata(
    adata: Any,
    origin: CellOrigin,
    times: Tensor | Sequence[float],
    paths: Tensor,
    genes: Sequence[str] | None = None,
) -> Any:
    """Paths (n, T, D) at times (T,) as an AnnData: a row per particle and time.

    obs has `particle` and `time`, obsm the representation, X genes in single precision.

    Args:
        genes: names of those in X; None is all of them where varm["PCs"] leads to them, and none otherwise.

    Raises:
        DataError: as `genes_of`, for genes that are named.
    """
    n, T, _ = paths.shape
    flat = paths.detach().cpu().flatten(0, 1)
    known = genes is not None or origin.rep == "X" or _is_linear(adata, origin)
    X = genes_of(adata, origin, flat, genes).float().numpy() if known else np.zeros((n * T, 0))
    found = import_anndata().AnnData(X.astype(np.float32))
    if known:
        found.var_names = adata.var_names[_numbers(adata, genes).numpy()]
    found.obs_names = [f"{i}-{k}" for i in range(n) for k in range(T)]
    found.obs["particle"] = np.repeat(np.arange(n), T)
    found.obs["time"] = np.tile(torch.as_tensor(times).detach().cpu().double().numpy(), n)
    if origin.rep != "X":
        found.obsm[origin.rep] = in_units(origin, flat).numpy()
    return found


def gene_trends(
    adata: Any,
    origin: CellOrigin,
    times: Tensor | Sequence[float],
    paths: Tensor,
    genes: Sequence[str],
    levels: Sequence[float] = (0.05, 0.5, 0.95),
) -> GeneTrends:
    """Mean and quantiles of genes over the paths (n, T, D) at each of the times (T,)."""
    expressed = genes_of(adata, origin, paths.detach().cpu(), genes)  # (n, T, G)
    return GeneTrends(
        torch.as_tensor(times, dtype=torch.float64).cpu(),
        tuple(genes),
        expressed.mean(0),
        torch.tensor(levels, dtype=torch.float64),
        torch.from_numpy(np.quantile(expressed.numpy(), levels, axis=0)),
    )


def _rows(origin: CellOrigin, times: Tensor | Sequence[float] | None) -> list[Tensor]:
    """Of obs, for the cells of the snapshots at these times, in their order."""
    asked = origin.t if times is None else torch.as_tensor(times, dtype=torch.float64).cpu()
    at_times(origin.t, asked.tolist())  # all of them are there
    nearest = (origin.t - asked[:, None]).abs().argmin(1)
    return [row[row >= 0] for row in origin.row[nearest]]


def _ordered(origin: CellOrigin, rows: list[Tensor], values: Values) -> NDArray[np.float64]:
    counts, wanted = [len(v) for v in values], [len(r) for r in rows]
    if counts != wanted[: len(counts)] or not counts:
        raise DataError(
            "D14",
            f"values came for {first(counts, 12)} cells, snapshot by snapshot",
            f"one for each cell of {first(wanted, 12)}",
            "Say times= where they belong to some of the snapshots only",
        )
    found = np.full((origin.cells, *values[0].shape[1:]), np.nan)
    for where, value in zip(rows, values, strict=False):  # growth has none for the last snapshot
        found[where.numpy()] = value.detach().cpu().double().numpy()
    return found


def _numbers(adata: Any, genes: Sequence[str] | None) -> Tensor:
    """Of columns of X: (G,)."""
    if genes is None:
        return torch.arange(adata.n_vars)
    known = {name: i for i, name in enumerate(adata.var_names)}
    unknown = [g for g in genes if g not in known]
    if unknown:
        raise DataError(
            "D02",
            f"no gene is called {first([f'`{g}`' for g in unknown], 6)}",
            f"names that stand in var, of which there are {len(known)}",
            did_you_mean(unknown[0], known) if len(known) < 50_000 else "",
        )
    return torch.tensor([known[g] for g in genes])


def _velocity(adata: Any, origin: CellOrigin, rate: Tensor) -> Tensor:
    """Of every gene: (cells, genes)."""
    if rate.shape[1] == adata.n_vars and origin.rep == "X":
        return rate
    return _through(_loadings(adata, origin, None), rate)


def _is_linear(adata: Any, origin: CellOrigin) -> bool:
    """Whether coordinates are principal components whose loadings are there. Only names tell, as everywhere in AnnData."""
    return "PCs" in adata.varm and "pca" in origin.rep.lower()


def _loadings(adata: Any, origin: CellOrigin, which: Tensor | None) -> Tensor:
    """(G, components) of the principal components."""
    if "PCs" not in adata.varm:
        raise DataError(
            "D02",
            f"genes are asked for, and varm has {first(list(adata.varm), 6) or 'nothing'}",
            'the loadings of the components in varm["PCs"]',
            "Run a principal component analysis that keeps them, such as scanpy.pp.pca",
        )
    if not _is_linear(adata, origin):
        raise DataError(
            "D14",
            f"genes are asked for at coordinates of `{origin.rep}`, and varm['PCs'] is of principal components",
            "a representation whose name has `pca` in it",
            'Use rep="X_pca", or give the components such a name',
        )
    found = torch.from_numpy(np.array(adata.varm["PCs"], dtype=np.float64))
    return found if which is None else found[which]


def _through(loadings: Tensor, x: Tensor) -> Tensor:
    """x · PCs: (..., D) -> (..., G)."""
    return x.double() @ loadings[:, : x.shape[-1]].mT


def _mean(adata: Any) -> Tensor:
    """Of every gene over all cells, a part of the rows at a time: (genes,)."""
    parts = [
        np.asarray(rows.sum(0, dtype=np.float64)).ravel() for rows, _, _ in adata.chunked_X(CHUNK)
    ]
    return torch.from_numpy(np.sum(parts, 0) / adata.n_obs)


def _table(adata: Any, values: NDArray[np.float64], names: Sequence[str] | None) -> Any:
    """A column per class, with the names of the cells."""
    import pandas as pd

    columns = [str(c) for c in range(values.shape[1])] if names is None else list(names)
    if len(columns) != values.shape[1]:
        raise DataError(
            "D14",
            f"fates are of {values.shape[1]} classes and {len(columns)} are named",
            "a name for each",
            "",
        )
    return pd.DataFrame(values, index=adata.obs_names, columns=columns)


def _plain(record: Any) -> Any:
    """What a .h5ad file can hold: arrays for tensors, lists for tuples, and nothing for None."""
    if isinstance(record, Mapping):
        return {str(k): _plain(v) for k, v in record.items() if v is not None}
    if isinstance(record, tuple):
        return [_plain(v) for v in record]
    return record.detach().cpu().numpy() if isinstance(record, Tensor) else record

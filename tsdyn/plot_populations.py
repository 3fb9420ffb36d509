"""Pictures of populations and of what leads from one to the next, in two coordinates of the cells.

Cells are light, what was found is dark; colours can be told apart by the colour-blind. Any map of the cells will
do that has them in the same order, such as snapshots of `from_anndata(..., rep="X_umap")`, except where a
function says that it takes places of a drift or of paths.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from .batch import Snapshots
from .data.cell_results import GeneTrends
from .errors import ConfigError, DataError, did_you_mean, first
from .models.static_bridge import Walks
from .plot import BAND, INK, MOST_PANELS, SEEN, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LIGHT, HIGH, LOW = "#d5d8dc", "#d35400", "#1f618d"
TIME = "viridis_r"  # so that the last snapshot is dark, not pale
PANEL = 3.3  # inches
COLUMNS = 4
Plane = tuple[int, int]  # numbers of the coordinates that are drawn
Values = Sequence[Tensor]  # for each of the first snapshots, one (N_k, ...) for its cells


class HasDrift(Protocol):
    """`StaticBridge`, `BridgeMatching`, and what else knows b(x, t) in dX = b dt + σ dW."""

    def drift(self, x: Tensor, t: float, /) -> Tensor: ...


def trajectories(
    snapshots: Snapshots,
    walks: Walks,
    *,
    most: int = 30,
    dims: Plane = (0, 1),
    labels: tuple[str, str] | None = None,
    ax: "Axes | None" = None,
    title: str | None = None,
) -> "Figure":
    """Paths over the populations that they connect, coloured by time.

    Where cells grow, a path is as thick at each time as the mass it carries.

    Args:
        snapshots: in the coordinates of the paths.
        walks: of `sample_paths`.
        most: paths to draw, evenly spaced among all; they come in order of the cells they start from.
        dims: coordinates on the axes; labels: their names.
        ax: None makes a new figure.

    Raises:
        DataError: D14 for shapes that do not fit.
        ConfigError: X01 for coordinates that are not there.
    """
    x, weights = walks.x.detach().cpu().double(), walks.weights.detach().cpu().double()
    n, T = x.shape[:2]
    _require(
        x.ndim == 3 and x.shape[-1] == snapshots.x.shape[-1] and T == len(walks.t) > 1,
        f"paths came as {tuple(walks.x.shape)} at {len(walks.t)} times",
        f"(n, T, {snapshots.x.shape[-1]}), and two times at least",
    )
    _require(
        weights.shape == (n, T), f"weights of paths came as {tuple(weights.shape)}", str((n, T))
    )
    made, (place,) = _panels(1, ax, dims, snapshots, labels)
    ends = float(min(snapshots.t[0], walks.t[0])), float(max(snapshots.t[-1], walks.t[-1]))
    cells = [_shown(c, dims) for c in _cells(snapshots)]
    time = snapshots.t.repeat_interleave(snapshots.mask.sum(1))
    shade = {"c": time, "cmap": TIME, "vmin": ends[0], "vmax": ends[1], "alpha": 0.3}
    _scatter(place, torch.cat(cells), _size(cells), 1, **shade)
    from matplotlib.collections import LineCollection

    chosen = torch.linspace(0, n - 1, min(most, n)).round().long()
    pieces = torch.stack([_shown(x[chosen], dims)[:, k : T - 1 + k] for k in (0, 1)], 2)
    mass = (weights[chosen, 1:] * n).clamp(0.1, 4.0)
    between = (walks.t[1:] + walks.t[:-1]).cpu() / 2
    lines = LineCollection(
        pieces.flatten(0, 1).tolist(),
        array=between.repeat(len(chosen)).numpy(),
        cmap=TIME,
        linewidths=(0.8 * mass).flatten().tolist(),
        capstyle="round",
        zorder=2,
    )
    lines.set_clim(*ends)
    place.add_collection(lines)
    place.autoscale_view()
    place.set_title(title or f"{len(chosen)} of {n} paths", loc="left", fontsize=10)
    _bar(made, [place], lines, "time", ticks=snapshots.t.tolist())
    return made


def field(
    bridge: HasDrift,
    t: float,
    snapshots: Snapshots,
    *,
    points: int = 40,
    neighbours: int = 10,
    density: float = 1.2,
    dims: Plane = (0, 1),
    labels: tuple[str, str] | None = None,
    ax: "Axes | None" = None,
    title: str | None = None,
) -> "Figure":
    """Streamlines of the drift b(., t) near the cells seen just before and after t; thicker is faster.

    In more than two dimensions the drift is asked for at the other coordinates of the cells that are nearest in the
    picture, and averaged over them.

    Args:
        bridge: what knows the drift.
        t: a time; just before a snapshot the drift of a bridge points at single cells of it.
        snapshots: in the coordinates of the drift.
        points: of the grid, along the longer axis.
        neighbours: cells to take the other coordinates from; one alone makes a restless picture.
        density: of streamlines.
        dims, labels, ax: as in `trajectories`.

    Raises:
        DataError: D14 for shapes that do not fit, D17 for a time that is none.
        ConfigError: X01 for coordinates that are not there, and for too few neighbours or points.
    """
    if not math.isfinite(t):
        raise DataError("D17", f"the drift is asked for at {t}", "a finite time", "")
    if neighbours < 1 or points < 2:
        came = f"field got neighbours={neighbours}, points={points}"
        raise ConfigError("X01", came, "one neighbour and two points at least", "")
    made, (place,) = _panels(1, ax, dims, snapshots, labels)
    k = int((snapshots.t <= t).sum())
    near = slice(max(k - 1, 0), max(k + 1, 1))
    every = _cells(snapshots)
    here = torch.cat(every[near])
    flat = _shown(here, dims)
    low, high = flat.amin(0), flat.amax(0)
    step = float((high - low).max()) / (points - 1) or 1.0  # all cells may be in one place
    axes = [low[i] + step * torch.arange(int((high - low)[i] / step) + 2).double() for i in (0, 1)]
    grid = torch.cartesian_prod(*axes)  # (Q, 2)
    rate = _drift_near(bridge, t, grid, here, dims, neighbours)
    rate = rate.where(_is_near(grid, flat, step)[:, None], torch.nan)
    u, v = rate.view(len(axes[0]), len(axes[1]), 2).permute(2, 1, 0)  # (rows, columns) each
    speed = u.hypot(v)
    thick = 0.4 + 1.4 * (speed / speed[speed.isfinite()].max().clamp(min=1e-300)).nan_to_num()
    size = _size(every)
    _scatter(place, _shown(torch.cat(every), dims), size, 1, color=LIGHT)
    _scatter(place, flat, size, 1.5, color=BAND, alpha=0.3)
    across, along, right, up = (f.numpy() for f in (*axes, u, v))
    look: Any = {"color": INK, "linewidth": thick.numpy(), "arrowsize": 0.9}
    place.streamplot(across, along, right, up, density=density, zorder=2, **look)
    place.use_sticky_edges = False  # those of the streamlines would cut cells off
    place.autoscale_view()
    place.set_title(title or f"drift at {t:g}", loc="left", fontsize=10)
    return made


def held_out(
    drawn: Mapping[str, Tensor],
    seen: Tensor,
    *,
    around: Snapshots | None = None,
    dims: Plane = (0, 1),
    labels: tuple[str, str] | None = None,
) -> "Figure":
    """Reconstructed populations over the one that was seen: a panel for each method.

    Args:
        drawn: cells (n, D) by the name of what drew them.
        seen: cells (N, D) that were held out.
        around: other snapshots, drawn light.
        dims, labels: as in `trajectories`.

    Raises:
        DataError: D14 for populations of other dimensions, and for none.
        ConfigError: X01 for coordinates that are not there.
    """
    D = seen.shape[-1]
    bad = {name: tuple(x.shape) for name, x in drawn.items() if x.ndim != 2 or x.shape[-1] != D}
    _require(
        seen.ndim == 2 and not bad, f"populations came as {bad or tuple(seen.shape)}", f"(n, {D})"
    )
    _require(len(drawn) > 0, "no population came", "one at least, by name")
    whole = Snapshots(torch.zeros(1), seen[None], torch.ones(1, len(seen), dtype=torch.bool))
    made, axes = _panels(len(drawn), None, dims, whole, labels)
    truth = _shown(seen.detach().cpu().double(), dims)
    for ax, (name, x) in zip(axes, drawn.items(), strict=True):
        if around is not None:
            others = _cells(around)
            _scatter(ax, _shown(torch.cat(others), dims), _size(others), 1, color=LIGHT, alpha=0.5)
        both = torch.cat([truth, _shown(x.detach().cpu().double(), dims)])
        colours = [LOW] * len(truth) + [HIGH] * len(x)
        # mixed, so that neither population hides the other
        order = torch.randperm(len(both), generator=torch.Generator().manual_seed(0)).tolist()
        mixed = [colours[i] for i in order]
        _scatter(ax, both[order], _size([both]), 2, color=mixed, alpha=0.65)
        ax.set_title(name, loc="left", fontsize=10)
    for colour, label in ((LOW, "seen"), (HIGH, "drawn"), (LIGHT, "given"))[: 3 if around else 2]:
        _scatter(axes[0], truth[:0], 20.0, 2, color=colour, label=label)
    _legend(made, axes[0])
    return made


def trends(
    found: GeneTrends,
    *,
    observed: GeneTrends | None = None,
    genes: Sequence[str] | None = None,
) -> "Figure":
    """Mean of genes along paths over time, in bands between its outer and inner quantiles: a panel per gene.

    Args:
        found: of `gene_trends`.
        observed: the same of cells that were seen, as points with bars between the outermost quantiles.
        genes: some of them, in this order; None is the first dozen.

    Raises:
        DataError: D14 for shapes that do not fit, D02 for genes that are not there.
    """
    for which in (found, observed):
        if which is not None:
            T, G, Q = len(which.t), len(which.genes), len(which.levels)
            came = tuple(which.mean.shape), tuple(which.quantiles.shape)
            wanted = (T, G), (Q, T, G)
            _require(came == wanted, f"means and quantiles came as {came}", str(wanted))
    chosen = list(found.genes[:MOST_PANELS] if genes is None else genes)
    _require(len(chosen) > 0, "no gene is asked for", "one at least")
    for name in chosen:
        if name not in found.genes:
            raise DataError(
                "D02",
                f"no trend of `{name}` came",
                "a gene of these trends",
                did_you_mean(name, found.genes),
            )
    columns = min(len(chosen), COLUMNS)
    rows = -(-len(chosen) // columns)
    made, grid = figure(rows, columns, (2.9 * columns, 2.1 * rows + 0.3))
    axes = list(grid.flat)
    for unused in axes[len(chosen) :]:
        unused.set_visible(False)
    for ax, name in zip(axes, chosen, strict=False):
        _trend(ax, found, name)
        if observed is not None and name in observed.genes:
            _points(ax, observed, name)
        ax.set_title(name, loc="left", fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
        ax.locator_params(axis="x", nbins=5)
    for ax in axes[max(len(chosen) - columns, 0) : len(chosen)]:
        ax.set_xlabel("time", fontsize=9)
    _legend(made, axes[0])
    return made


def growth(
    snapshots: Snapshots,
    growth: Values,
    *,
    limit: float | None = None,
    dims: Plane = (0, 1),
    labels: tuple[str, str] | None = None,
) -> "Figure":
    """Cells coloured by the factor by which they grow per unit of time, on a log scale about one: a panel per snapshot.

    Args:
        snapshots: any map of the cells.
        growth: (N_k,) for each of the first snapshots, as `StaticBridge.growth` has it.
        limit: the factor with the strongest colour; its inverse has the opposite. None is what all but one in
            fifty cells stay within.
        dims, labels: as in `trajectories`.

    Raises:
        DataError: D14 for shapes that do not fit and for factors below zero.
        ConfigError: X01 for coordinates that are not there, and for a limit that is not above one.
    """
    factors = [g.detach().cpu().double() for g in growth]
    _require_cells(snapshots, factors, 1, "growth")
    every = torch.cat(factors)
    _require(not bool((every < 0).any()), f"growth of {float(every.min()):g} came", "factors >= 0")
    if limit is not None and not limit > 1:
        raise ConfigError("X01", f"growth got limit={limit}", "a factor above one", "")
    if limit is None:
        away = every[every > 0].log().abs()
        limit = _above(float(away.quantile(0.98).exp()) if len(away) else 1.0)
    most = math.log2(limit)
    made, axes = _panels(len(factors), None, dims, snapshots, labels)
    cells = [_shown(c, dims) for c in _cells(snapshots)]
    size = _size(cells)
    for ax, where, g, t in zip(axes, cells, factors, snapshots.t.tolist(), strict=False):
        _scatter(ax, torch.cat(cells), size, 1, color=LIGHT, alpha=0.5)
        order = g.log2().abs().argsort()  # what differs most from one lies on top
        shade = g.log2().clamp(-most, most)[order]
        look = {"c": shade, "cmap": _diverging(), "vmin": -most, "vmax": most}
        drawn = _scatter(ax, where[order], size, 2, **look)
        ax.set_title(f"time {t:g}", loc="left", fontsize=10)
    bar = _bar(made, axes, drawn, "growth per unit of time", [-most, 0.0, most])
    bar.set_ticklabels([f"1/{limit:.4g}", "1", f"{limit:.4g}"])
    return made


def fates(
    snapshots: Snapshots,
    fate: Values,
    names: Sequence[str] | None = None,
    *,
    dims: Plane = (0, 1),
    labels: tuple[str, str] | None = None,
) -> "Figure":
    """Cells coloured by the probability that their descendants are of a class: a panel per class.

    Args:
        snapshots: any map of the cells.
        fate: (N_k, C) for each of the first snapshots, as `StaticBridge.fate` has it.
        names: of the classes; None counts.
        dims, labels: as in `trajectories`.

    Raises:
        DataError: D14 for shapes that do not fit.
        ConfigError: X01 for coordinates that are not there.
    """
    shares = [f.detach().cpu().double() for f in fate]
    _require_cells(snapshots, shares, 2, "fates")
    C = shares[0].shape[1]
    titles = [f"class {c}" for c in range(C)] if names is None else list(names)
    came = f"{len(titles)} names came for {C} classes"
    _require(len(titles) == C > 0, came, "a name for each, and one class at least")
    made, axes = _panels(C, None, dims, snapshots, labels)
    cells = [_shown(c, dims) for c in _cells(snapshots)]
    where, share = torch.cat(cells[: len(shares)]), torch.cat(shares)
    for c, (ax, name) in enumerate(zip(axes, titles, strict=True)):
        if len(cells) > len(shares):
            _scatter(ax, torch.cat(cells), _size(cells), 1, color=LIGHT, alpha=0.5)
        order = share[:, c].argsort()  # the most likely on top
        look = {"c": share[order, c], "cmap": _rising(), "vmin": 0, "vmax": 1}
        drawn = _scatter(ax, where[order], _size(cells), 2, **look)
        ax.set_title(name, loc="left", fontsize=10)
    _bar(made, axes, drawn, "probability", [0.0, 0.5, 1.0])
    return made


def _drift_near(
    bridge: HasDrift, t: float, at: Tensor, cells: Tensor, dims: Plane, neighbours: int
) -> Tensor:
    """The drawn coordinates of b at places (Q, 2), the others being those of the nearest cells: (Q, 2)."""
    count = min(neighbours, len(cells)) if cells.shape[1] > 2 else 1  # else nothing is left to take
    nearest = torch.cdist(at, _shown(cells, dims)).topk(count, largest=False).indices
    x = cells[nearest]  # (Q, count, D)
    x[..., list(dims)] = at[:, None]
    with torch.no_grad():
        b = bridge.drift(x.flatten(0, 1), t)
    _require(
        b.shape == (x.shape[0] * count, x.shape[2]),
        f"a drift came as {tuple(b.shape)}",
        "that of x",
    )
    return _shown(b.detach().cpu().double().view(x.shape).mean(1), dims)


def _is_near(at: Tensor, cells: Tensor, step: float) -> Tensor:
    """Whether places (Q, 2) are as near to cells as these are to each other, but for the loneliest: (Q,)."""
    k = min(3, len(cells))
    own = torch.cdist(cells, cells).topk(min(k + 1, len(cells)), largest=False).values[:, -1]
    reach = max(float(own.quantile(0.9)), 1.5 * step)
    return torch.cdist(at, cells).topk(k, largest=False).values[:, -1] <= reach


def _trend(ax: "Axes", found: GeneTrends, name: str) -> None:
    """A mean over bands between pairs of quantiles."""
    g, order = found.genes.index(name), found.levels.argsort().tolist()
    t = found.t.numpy()
    for i in range(len(order) // 2):
        low, high = order[i], order[-1 - i]
        share = float(found.levels[high] - found.levels[low])
        least, most = (found.quantiles[k, :, g].numpy() for k in (low, high))
        band = ax.fill_between(
            t, least, most, color=BAND, linewidth=0, label=f"{share:.0%} of paths"
        )
        band.set_alpha(0.2 + 0.15 * i)
    ax.plot(t, found.mean[:, g], color=INK, linewidth=1.4, label="mean")


def _points(ax: "Axes", seen: GeneTrends, name: str) -> None:
    """Means of cells at their times, with bars."""
    g = seen.genes.index(name)
    low, high = seen.levels.argmin(), seen.levels.argmax()
    ax.vlines(
        seen.t, seen.quantiles[low, :, g], seen.quantiles[high, :, g], color=SEEN, alpha=0.6, lw=1
    )
    ax.plot(seen.t, seen.mean[:, g], "o", color=HIGH, markersize=4, label="cells seen", zorder=4)


def _panels(
    count: int,
    ax: "Axes | None",
    dims: Plane,
    snapshots: Snapshots,
    labels: tuple[str, str] | None,
) -> tuple["Figure", list["Axes"]]:
    """Bare square axes, of which the first says what its coordinates are."""
    D = snapshots.x.shape[-1]
    if len(dims) != 2 or not all(0 <= d < D for d in dims):
        raise ConfigError(
            "X01", f"the picture is of coordinates {dims}", f"two of 0 to {D - 1}", "Say dims="
        )
    if ax is not None:
        made, axes = ax.figure, [ax]
    else:
        columns = min(count, COLUMNS)
        rows = -(-count // columns)
        wide = 1.6 if count == 1 else 1.0
        made, grid = figure(rows, columns, (PANEL * wide * columns + 0.6, PANEL * wide * rows))
        axes = list(grid.flat)
        for unused in axes[count:]:
            unused.set_visible(False)
    for each in axes[:count]:
        each.set_aspect("equal", adjustable="datalim")
        each.set(xticks=[], yticks=[])
        each.spines[["top", "right"]].set_visible(False)
        each.spines[["left", "bottom"]].set_color(LIGHT)
    across, along = labels or (f"x{dims[0]}", f"x{dims[1]}")
    axes[0].set_xlabel(across, fontsize=8, loc="left")
    axes[0].set_ylabel(along, fontsize=8, loc="bottom")
    return made, axes[:count]  # type: ignore[return-value]


def _bar(made: "Figure", axes: list["Axes"], drawn: Any, label: str, ticks: Sequence[float]) -> Any:
    bar = made.colorbar(drawn, ax=axes, shrink=0.7, aspect=25, pad=0.02, ticks=list(ticks))
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8, length=2)
    bar.outline.set_visible(False)
    if bar.solids is not None:
        bar.solids.set_alpha(1)
    return bar


def _legend(made: "Figure", ax: "Axes") -> None:
    handles, names = ax.get_legend_handles_labels()
    made.legend(
        handles, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=9
    )


def _scatter(ax: "Axes", at: Tensor, size: float, zorder: float, **look: Any) -> Any:
    """Dots at (N, 2)."""
    return ax.scatter(at[:, 0], at[:, 1], s=size, linewidths=0, zorder=zorder, **look)


def _size(clouds: Sequence[Tensor]) -> float:
    """Of a dot: small where there are many."""
    return min(max(9000 / max(sum(len(c) for c in clouds), 1), 4.0), 18.0)


def _above(factor: float) -> float:
    """The next short number above a factor of one or more."""
    tens = 10.0 ** math.floor(math.log10(factor))
    return next(n * tens for n in (1.1, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0) if n * tens >= factor)


def _diverging() -> Any:
    """Blue below, grey between, orange above."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(
        "about one", ["#154360", "#5499c7", "#bdc3c7", "#e59866", "#ba4a00"]
    )


def _rising() -> Any:
    """From the grey of other cells to dark blue."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("share", ["#bdc3c7", "#7fb3d5", LOW, "#0b2545"])


def _cells(snapshots: Snapshots) -> list[Tensor]:
    """(N_k, D) of each."""
    return [
        x[mask].detach().cpu().double() for x, mask in zip(snapshots.x, snapshots.mask, strict=True)
    ]


def _shown(x: Tensor, dims: Plane) -> Tensor:
    return x[..., list(dims)]


def _require_cells(snapshots: Snapshots, values: Values, axes: int, what: str) -> None:
    counts, wanted = [len(v) for v in values], snapshots.mask.sum(1).tolist()
    fits = 0 < len(values) <= len(wanted) and counts == wanted[: len(counts)]
    same = len({tuple(v.shape[1:]) for v in values}) == 1 and all(v.ndim == axes for v in values)
    _require(
        fits and same,
        f"{what} came as {first([tuple(v.shape) for v in values], 6)}, snapshot by snapshot",
        f"values for {first(wanted, 6)} cells",
    )


def _require(good: bool, came: str, wanted: str) -> None:
    if not good:
        raise DataError("D14", came, wanted, "")

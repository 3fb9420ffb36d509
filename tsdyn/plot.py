"""Pictures. The only file that knows matplotlib."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from .batch import Names, Paths, default_names
from .errors import ConfigError, missing_package
from .forecasts import Forecast
from .maths.hurst import HurstEstimate
from .models.tucker import FunctionalTucker, Levels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, BAND, SEEN, TRUTH = "#1b4f72", "#2e86c1", "#566573", "#c0392b"
FUNCTIONS = (BAND, TRUTH, "#b7950b", "#1e8449", "#7d3c98", SEEN)  # then again from the first
MOST_PANELS = 12


def figure(rows: int, columns: int, size: tuple[float, float]) -> tuple["Figure", Any]:
    """A figure with a grid of axes (rows, columns); X03 where matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_package("matplotlib", "plot", "Plotting") from None
    made = Figure(figsize=size, layout="constrained")  # no pyplot: no window, no global state
    FigureCanvasAgg(made)
    return made, made.subplots(rows, columns, squeeze=False)


def plot_forecast(
    answer: Forecast,
    history: Paths | None = None,
    intervals: Sequence[float] = (0.5, 0.9),
    *,
    truth: Paths | None = None,
    series: Sequence[str | int] | None = None,
    paths: int = 0,
    last: int | None = None,
    ax: "Axes | None" = None,
    title: str | None = None,
) -> "Figure":
    """Median and central intervals of every channel over what was seen: a panel per series and channel.

    Args:
        answer: what to show.
        history: what was given, as dots.
        intervals: levels of the bands, each in (0, 1).
        truth: what happened, as dots of another colour.
        series: ids to show; None for the first dozen panels.
        paths: so many single draws as thin lines.
        last: only so many rows of the history.
        ax: draw the first series and channel here instead of into a new figure.
    """
    names = answer.names
    chosen = list(series if series is not None else names.series)
    panels = [(s, d) for s in chosen for d in range(len(names.channels))][
        : 1 if ax else MOST_PANELS
    ]
    if ax is not None:
        made, axes = ax.figure, [ax]
    else:
        columns = min(len(panels), 2)
        rows = -(-len(panels) // columns)
        made, grid = figure(rows, columns, (11 if columns > 1 else 9, 3.2 * rows))
        axes = list(grid.flat)
        for unused in axes[len(panels) :]:
            unused.set_visible(False)
    for (name, d), place in zip(panels, axes, strict=False):
        _panel(
            place, answer[name], d, _one(history, name), _one(truth, name), intervals, paths, last
        )
        several = f"{name}: " if len(names.series) > 1 else ""
        place.set_title(title or f"{several}{names.channels[d]}", loc="left", fontsize=10)
    axes[0].legend(frameon=False, fontsize=8, loc="upper left", ncols=2)
    return made  # type: ignore[return-value]


def _panel(
    ax: "Axes",
    answer: Forecast,
    d: int,
    history: Paths | None,
    truth: Paths | None,
    intervals: Sequence[float],
    paths: int,
    last: int | None,
) -> None:
    asked = answer.mask[0, :, d]
    times = _times(answer.t[0][asked], answer.names)
    # An imputation has holes between what is known: bands would join them, so each hole is a bar.
    single = answer.kind == "imputation"
    for i, level in enumerate(sorted(intervals, reverse=True)):
        low, high = (bound[0, asked, d].numpy() for bound in answer.interval(level))
        alpha, label = 0.18 + 0.22 * i, f"{level:.0%} interval"
        if single:
            bars = ax.vlines(times, low, high, color=BAND, label=label, zorder=3)
            bars.set(alpha=min(alpha + 0.2, 1), linewidth=1.5 + 1.5 * i)
        else:
            ax.fill_between(times, low, high, color=BAND, label=label, alpha=alpha, linewidth=0)
    for k in range(min(paths, len(answer.samples))):
        ax.plot(times, answer.samples[k, 0, asked, d], color=BAND, alpha=0.5, linewidth=0.5)
    if history is not None:
        seen = history.mask[0, :, d].nonzero()[:, 0][-(last or 10**9) :]
        known = _times(history.t[0, seen], answer.names), history.x[0, seen, d]
        ax.plot(*known, ".", color=SEEN, markersize=2.5, label="observed")
    if truth is not None:
        held = truth.mask[0, :, d]
        came = _times(truth.t[0, held], answer.names), truth.x[0, held, d]
        ax.plot(*came, ".", color=TRUTH, markersize=3, label="held out")
    median = answer.median()[0, asked, d].numpy()
    mark = "o" if single else "-"
    ax.plot(times, median, mark, color=INK, label="median", markersize=2.5, linewidth=1.2, zorder=4)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)


def plot_pit(pit: dict[str, list[int]]) -> "Figure":
    """Histograms of the probability integral transform, one per model; flat when calibrated."""
    made, grid = figure(1, len(pit), (2.6 * len(pit), 2.4))
    for ax, (name, counts) in zip(grid.flat, pit.items(), strict=True):
        share = torch.tensor(counts, dtype=torch.float64) / max(sum(counts), 1)
        ax.bar(
            [(i + 0.5) / len(counts) for i in range(len(counts))],
            share.tolist(),
            0.9 / len(counts),
            color=BAND,
        )
        ax.axhline(1 / len(counts), color=INK, linewidth=1)
        ax.set_title(name, fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=7)
    return made


@torch.no_grad()
def plot_hurst(
    found: Mapping[str, HurstEstimate],
    names: Sequence[str] | None = None,
    level: float = 0.95,
    *,
    truth: Sequence[float] | None = None,
    ax: "Axes | None" = None,
    title: str | None = None,
) -> "Figure":
    """Estimates of the Hurst index with intervals, a row per method and a colour per series.

    The bars say what chance does if increments are fractional noise, and nothing of what other noise, a trend or a
    wrong scale does: methods that lie further apart than their bars tell of that. No bar where the error is unknown.

    Args:
        found: by method, as `maths.hurst.hurst_table` gives it, of one or several series.
        names: of the series, for the legend.
        level: of the bars, in (0, 1).
        truth: the index of every series where it is known, as a line.
        ax: draw here instead of into a new figure.

    Raises:
        ConfigError: X01 for names or indices of another number of series.
    """
    values, errors = (
        torch.stack([f.flatten() for f in each]).cpu().numpy()  # (methods, series)
        for each in zip(*((e.value, e.standard_error) for e in found.values()), strict=True)
    )
    methods, count = values.shape
    for given in (names, truth):
        if given is not None and len(given) != count:
            raise ConfigError("X01", f"{list(given)} for {count} series", "one for each", "")
    if ax is not None:
        made = ax.figure
    else:
        made, ((ax,),) = figure(1, 1, (7, 0.8 + methods * max(0.4, 0.16 * count)))
    width = float(torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64)))
    ax.axvline(0.5, color=SEEN, linewidth=0.5, alpha=0.5)
    for k in range(count):
        colour = FUNCTIONS[k % len(FUNCTIONS)]
        if truth is not None:
            ax.axvline(truth[k], color=colour, linewidth=1.0, linestyle="--", alpha=0.6)
        rows = [m + 0.7 * ((k + 0.5) / count - 0.5) for m in range(methods)]  # one under the other
        bars = ax.errorbar(values[:, k], rows, None, width * errors[:, k], "o", color=colour)
        bars.set_label("" if names is None else names[k])
        bars.lines[0].set_markersize(3.5)
    ax.set_yticks(range(methods), [method.replace("_", " ") for method in found])
    ax.invert_yaxis()
    ax.set_xlabel(f"Hurst index, with {level:.0%} intervals", fontsize=9)
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    if names is not None:
        ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    ax.set_title(title or "", loc="left", fontsize=10)
    return made  # type: ignore[return-value]


def factors(
    model: FunctionalTucker,
    names: Sequence[str] | None = None,
    level: float = 0.95,
    *,
    points: int = 500,
) -> "Figure":
    """The functions of every mode with central bands over the indices seen in training: an axes per mode.

    Modes of categories are points with bars. The r-th functions of all modes have one colour: in CP they
    are the factors of one term. How a term's size and sign are split between its factors is arbitrary.

    Args:
        model: trained.
        names: of the modes, for the axes.
        level: of the bands, in (0, 1).
        points: at which functions are drawn.

    Raises:
        ConfigError: X01 for names of another number of modes.
        ModelError: M01 for a model that has seen no data.
    """
    modes = len(model.kernels)
    titles = [f"mode {k + 1}" for k in range(modes)] if names is None else list(names)
    if len(titles) != modes:
        raise ConfigError(
            "X01", f"{len(titles)} names for {modes} modes", "a name for each mode", ""
        )
    columns = 2 if modes == 4 else min(modes, 3)
    rows = -(-modes // columns)
    made, grid = figure(rows, columns, (3.7 * columns, 2.8 * rows))
    places = list(grid.flat)
    for unused in places[modes:]:
        unused.set_visible(False)
    width = float(torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64)))
    for k, (ax, title) in enumerate(zip(places, titles, strict=False)):
        _mode(ax, model, k, width, points)
        ax.set_xlabel(title, fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    most = model.ranks.index(max(model.ranks))
    if max(model.ranks) > 1:
        places[most].legend(frameon=False, fontsize=8, ncols=3, loc="best")
    return made


def _mode(ax: "Axes", model: FunctionalTucker, k: int, width: float, points: int) -> None:
    """The functions of mode k, with so many deviations to both sides."""
    categories = isinstance(model.kernels[k], Levels)
    even = torch.linspace(0, 1, points, dtype=torch.float64).to(model.low.device)
    unit = model.get_buffer(f"grid_{k}") if categories else even
    at = model.low[k] + model.span[k] * unit
    law = model.factor(k, at)
    deviation = width * law.cov.diagonal(dim1=-2, dim2=-1).clamp(min=0.0).sqrt()
    R, x = model.ranks[k], at.numpy()
    ax.axhline(0, color=SEEN, linewidth=0.5, alpha=0.5)
    for r, (mean, d) in enumerate(zip(law.mean.T.numpy(), deviation.T.numpy(), strict=True)):
        colour, label = FUNCTIONS[r % len(FUNCTIONS)], str(r + 1)
        if categories:
            place = x + 0.5 * _gap(at) * ((r + 0.5) / R - 0.5)  # side by side
            bars = ax.errorbar(place, mean, d, fmt="o", color=colour, label=label, elinewidth=1.2)
            bars.lines[0].set_markersize(3.5)
        else:
            ax.fill_between(x, mean - d, mean + d, color=colour, alpha=0.2, linewidth=0)
            ax.plot(x, mean, color=colour, linewidth=1.0, label=label)
    if categories and len(x) <= MOST_PANELS:
        ax.set_xticks(x, [f"{value:g}" for value in x])
    elif not categories:
        ax.locator_params(axis="x", nbins=6)


def _gap(at: torch.Tensor) -> float:
    """The least distance of two categories."""
    return float(at.diff().min()) if len(at) > 1 else 1.0


def _times(t: torch.Tensor, names: Names) -> Any:
    """Times as the user writes them; naive timestamps for matplotlib, which would shift zones."""
    if names.clock.kind in ("integer", "float"):
        return t.numpy()
    return (t.double() * 1e6).round().long().numpy().astype("datetime64[us]")


def _one(paths: Paths | None, series: str | int) -> Paths | None:
    """The series of that id, as paths of one; None where it is not there."""
    if paths is None or series not in default_names(paths).series:
        return None
    b = default_names(paths).series.index(series)
    return paths._replace(t=paths.t[b : b + 1], x=paths.x[b : b + 1], mask=paths.mask[b : b + 1])

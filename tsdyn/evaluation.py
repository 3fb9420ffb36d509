"""How good is a model? The kind of thing wanted decides how it is scored; baselines stand beside it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import singledispatch
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import chance
from .batch import Entries, Paths, Snapshots, hide, split_after, stack, take
from .data.jump_data import JumpTargets
from .data.tasks import Labels
from .errors import DataError
from .maths import score
from .maths.distances import energy_distance
from .models.base import Model, title
from .models.baselines import LastValue, LinearInterpolation, SeasonalNaive
from .population_scores import population_rows
from .predict import ahead, draw, median_gap, reproducible

if TYPE_CHECKING:
    import pandas as pd

LEVELS = (0.5, 0.8, 0.95)


@singledispatch
def scores(want: Any, model: Model, given: Any, n: int = 32) -> dict[str, Tensor]:
    """Cheap scores of one batch for validation, each a mean over what was observed in `want`."""
    raise TypeError(
        f"No score is known for {type(want).__name__}. Register one: `@scores.register`."
    )


@scores.register
def _(want: Paths, model: Model, given: Any, n: int = 32) -> dict[str, Tensor]:
    draws = model.sample(given, want.t, n)
    low, high = score.interval(draws, 0.9)
    inside = ((want.x >= low) & (want.x <= high)).to(draws.dtype)
    return {
        "crps": score.masked_mean(score.crps(draws, want.x), want.mask),
        "mse": score.masked_mean((draws.mean(0) - want.x).square(), want.mask),
        "coverage_90": score.masked_mean(inside, want.mask),
    }


@scores.register
def _(want: Labels, model: Model, given: Any, n: int = 32) -> dict[str, Tensor]:
    draws = model.sample(given, want.y, n)  # (n, B) class numbers
    return {"accuracy": (draws.mode(0).values == want.y).float().mean()}


@scores.register
def _(want: Entries, model: Model, given: Any, n: int = 32) -> dict[str, Tensor]:
    found = score_entries(model.sample(given, want.index, n), want)
    values = {"mse": found["rmse"] ** 2, "mae": found["mae"], "coverage_95": found["cover95"]}
    return {name: torch.tensor(value) for name, value in values.items()}


@scores.register
def _(want: JumpTargets, model: Model, given: Any, n: int = 32) -> dict[str, Tensor]:
    draws = model.sample(given, want.initial, n)  # (n, M, states, states)
    off = ~torch.eye(draws.shape[-1], dtype=torch.bool, device=draws.device)
    rates, truth = draws[..., off], want.rates[:, off].to(draws)
    low, high = score.interval(rates, 0.9)
    inside = ((truth >= low) & (truth <= high)).to(draws.dtype)
    rmse = (rates.mean(0) - truth).square().mean(-1).sqrt().mean()
    return {"rmse": rmse, "coverage_90": inside.mean()}


@scores.register
def _(want: Snapshots, model: Model, given: Any, n: int = 512) -> dict[str, Tensor]:
    draws = model.sample(given, want.t, n).transpose(0, 1)  # (K, n, D)
    distances = [energy_distance(a, b[m]) for a, b, m in zip(draws, want.x, want.mask, strict=True)]
    return {"energy": torch.stack(distances).mean()}


@dataclasses.dataclass(frozen=True)
class Report:
    """Scores by model. `str` is a Markdown table; lower is better, except that coverage should be near its level.

    Args:
        rows: name of a model -> name of a score -> value, in the units of the data.
        pit: name of a model -> counts of the probability integral transform in ten equal bins; flat
            when calibrated, a hump when too wide, two horns when too narrow.
        count: observed values that were scored.
        samples: draws behind every score.
    """

    rows: dict[str, dict[str, float]]
    pit: dict[str, list[int]]
    count: int
    samples: int

    def __getitem__(self, model: str) -> dict[str, float]:
        return self.rows[model]

    def to_pandas(self) -> "pd.DataFrame":
        """A row per model, a column per score."""
        from .data.frames import rows_to_frame

        return rows_to_frame(self.rows).rename_axis("model").reset_index()

    def __str__(self) -> str:
        names = list(next(iter(self.rows.values())))
        rows = [[m, *(f"{r[k]:.4g}" for k in names)] for m, r in self.rows.items()]
        table = markdown(["model", *names], rows)
        return f"{table}\n{self.count} values, {self.samples} draws"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, every column as wide as its widest cell."""
    lines = [header, ["---"] * len(header), *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths)] for line in lines)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in padded)


def score_draws(samples: Tensor, want: Paths) -> dict[str, float]:
    """All scores of draws (S, B, T, D) against what was observed in `want`, in the units of the data.

    crps (fair), mae (of the median), rmse (of the mean), wql (mean weighted quantile loss, without
    units), energy (fair, across channels), coverage and mean width of the central intervals.
    """
    x, mask = want.x, want.mask
    values = {
        "crps": score.masked_mean(score.crps(samples, x), mask),
        "mae": score.masked_mean((score.quantile(samples, 0.5) - x).abs(), mask),
        "rmse": score.masked_mean((samples.mean(0) - x).square(), mask).sqrt(),
        "wql": score.weighted_quantile_loss(samples, x, mask),
        "energy": score.masked_mean(score.energy_score(samples, x, mask), mask.any(-1)),
    }
    for level in LEVELS:
        low, high = score.interval(samples, level)
        inside = ((x >= low) & (x <= high)).to(samples.dtype)
        values[f"cover{level:.0%}"] = score.masked_mean(inside, mask)
        values[f"width{level:.0%}"] = score.masked_mean(high - low, mask)
    return {k.replace("%", ""): float(v) for k, v in values.items()}


def pit_counts(samples: Tensor, want: Paths, bins: int = 10) -> list[int]:
    """How often the observed values fall into each of `bins` equal parts of the predicted law."""
    u = score.pit(samples, want.x)[want.mask]
    return [int(c) for c in torch.histc(u.double(), bins, 0, 1)]


def evaluate(
    model: Model | Mapping[str, Model],
    given: Any,
    want: Paths | Labels | Entries | Snapshots,
    *,
    samples: int | None = None,
    seed: int = 0,
    period: float | None = None,
    baselines: bool = True,
) -> Report:
    """Scores of one or several models on one question, always beside the baselines.

    Where labels are wanted: accuracy of the class most often drawn, and the Brier score
    sum_c (P(c) - 1[y = c])^2 of the shares of the draws, for two classes the area under the ROC curve;
    beside the class most frequent among those wanted. Where populations are wanted: exact transport and other
    distances between clouds of cells, beside copies of the neighbours and the floor (`population_scores`).

    Args:
        model: a model, or several by name.
        given, want: what is known, and what happened; for example from `tasks.Forecasting(steps=24)`.
        samples: draws per value; None is 200, of populations as many cells as were seen.
        seed: the same draws every time.
        period: length of a season in the units of t; adds the seasonal naive baseline.
        baselines: last value, and linear interpolation where something is wanted between given values.
    """
    models = dict(model) if isinstance(model, Mapping) else {title(model): model}
    if isinstance(want, Snapshots):
        rows = population_rows(models, given, want, samples, seed, baselines)
        return Report(rows, {}, int(want.mask.sum()), samples or int(want.mask.sum(1).max()))
    samples = samples or 200
    if isinstance(want, Labels):
        return _classified(models, given, want, samples, seed, baselines)
    if isinstance(want, Entries):
        return _completed(models, given, want, samples, seed, baselines)
    if baselines:
        models |= default_baselines(given, want, period)
    draws = {}
    for name, each in models.items():
        with reproducible(each, seed):
            draws[name] = draw(each, given, want.t, samples)
    return report(draws, want)


def _completed(
    models: dict[str, Model],
    given: Any,
    want: Entries,
    samples: int,
    seed: int,
    baselines: bool,
) -> Report:
    """Scores of models of tensors."""
    rows = {}
    for name, each in models.items():
        with reproducible(each, seed):
            draws = each.sample(given, want.index, samples)
            rows[name] = score_entries(draws, want) | {"nll": float(each.loss(given, want))}
    if baselines:
        mean, var = given.y.mean(), given.y.var()
        with chance.seed(seed):
            draws = mean + var.sqrt() * torch.randn(samples, len(want.y), dtype=want.y.dtype)
        each_nll = (want.y - mean).square() / var / 2 + (2 * torch.pi * var).log() / 2
        rows["mean"] = score_entries(draws, want) | {"nll": float(each_nll.mean())}
    return Report(rows, {}, len(want.y), samples)


def score_entries(samples: Tensor, want: Entries) -> dict[str, float]:
    """RMSE and MAE of the mean of draws (S, N), and coverage of their central 95 %."""
    error = want.y - samples.mean(0)
    low, high = score.interval(samples, 0.95)
    inside = (want.y >= low) & (want.y <= high)
    return {
        "rmse": float(error.square().mean().sqrt()),
        "mae": float(error.abs().mean()),
        "cover95": float(inside.double().mean()),
    }


def _classified(
    models: dict[str, Model], given: Paths, want: Labels, samples: int, seed: int, baselines: bool
) -> Report:
    """Accuracy and Brier score of classifiers."""
    draws = {}
    for name, each in models.items():
        with reproducible(each, seed):
            draws[name] = each.sample(given, want.y, samples)
    if baselines:
        usual = want.y.long().mode().values
        draws["most frequent class"] = usual.expand(samples, len(want.y))
    rows = {name: score_labels(each, want) for name, each in draws.items()}
    return Report(rows, {}, len(want.y), samples)


def score_labels(samples: Tensor, want: Labels) -> dict[str, float]:
    """Scores of drawn classes (S, B): accuracy; Brier score, without the noise of finite S; and for two
    classes the area under the ROC curve of the shares of the second."""
    y = want.y.long()
    classes = int(max(samples.max(), y.max())) + 1
    share = torch.nn.functional.one_hot(samples.long(), classes).double().mean(0)  # (B, classes)
    truth = torch.nn.functional.one_hot(y, classes)
    noise = share * (1 - share) / max(len(samples) - 1, 1)  # the mean square error of a share
    found = {
        "accuracy": float((share.argmax(1) == y).double().mean()),
        "brier": float(((share - truth).square() - noise).sum(1).mean()),
    }
    if classes == 2:
        found["auroc"] = float(score.area_under_roc(share[:, 1], y == 1))
    return found


def default_baselines(given: Paths, want: Paths, period: float | None) -> dict[str, Model]:
    """Last value; linear interpolation if something is wanted before the last given time; a season back."""
    last = given.t.where(given.mask.any(-1), -torch.inf).amax(1, keepdim=True)
    found: dict[str, Model] = {"last value": LastValue()}
    if ((want.t < last)[..., None] & want.mask).any():
        found["linear interpolation"] = LinearInterpolation()
    if period is not None:
        found["seasonal naive"] = SeasonalNaive(period)
    return found


def backtest(
    model: Model | Callable[[Paths], Model],
    paths: Paths,
    horizon: int | float | str,
    *,
    cutoffs: int = 5,
    samples: int = 200,
    seed: int = 0,
    period: float | None = None,
) -> Report:
    """Scores of forecasts from several cut-offs in the past, pooled, beside the baselines.

    The cut-offs lie a horizon apart and the last one a horizon before the end; at each, everything up
    to it is given and what was observed within the horizon is wanted.

    Args:
        model: a trained model, used as it is at every cut-off; train it on what lies before the first
            one, or the scores flatter it. Or a function from the known part to a model, called at
            every cut-off: a refit.
        horizon: as in `forecast`.
        cutoffs: how many.
        period: adds the seasonal naive baseline.

    Raises:
        DataError: D10 where nothing is observed before a cut-off or after it.
    """
    ends = paths.t.where(paths.mask.any(-1), -torch.inf).amax(1)
    span = ahead(paths, horizon)[:, -1] - ends
    ends = ends + 1e-3 * median_gap(
        paths
    )  # times are rounded; a row at a cut-off belongs before it
    draws: dict[str, list[Tensor]] = {}
    wanted = []
    for k in range(cutoffs, 0, -1):
        given, later = split_after(paths, ends - k * span)
        until = (ends - (k - 1) * span)[:, None]
        _, want = hide(later, (later.t <= until)[..., None].expand_as(later.mask))
        rows = (given.mask.flatten(1).any(1) & want.mask.flatten(1).any(1)).nonzero()[:, 0]
        if not len(rows):
            raise DataError(
                "D10",
                f"cut-off {cutoffs - k + 1} of {cutoffs} leaves nothing before or after it",
                "observations on both sides of every cut-off",
                "Use fewer cut-offs or a shorter horizon",
            )
        given, want = take(given, rows), take(want, rows)
        current = model if isinstance(model, Model) else model(given)
        contenders = {title(current): current} | default_baselines(given, want, period)
        for name, contender in contenders.items():
            with reproducible(contender, seed + k):
                draws.setdefault(name, []).append(draw(contender, given, want.t, samples))
        wanted.append(want)
    want = stack(wanted)
    return report(
        {name: _side_by_side(parts, want.t.shape[1]) for name, parts in draws.items()}, want
    )


def report(draws: Mapping[str, Tensor], want: Paths) -> Report:
    """Scores of draws (S, B, T, D) of several models against what was observed in `want`."""
    rows = {name: score_draws(each, want) for name, each in draws.items()}
    pit = {name: pit_counts(each, want) for name, each in draws.items()}
    return Report(rows, pit, int(want.mask.sum()), min(len(each) for each in draws.values()))


def _side_by_side(parts: list[Tensor], length: int) -> Tensor:
    """Draws (S, B, T, D) of several questions, padded in time and joined along B."""
    return torch.cat([torch.nn.functional.pad(p, (0, 0, 0, length - p.shape[2])) for p in parts], 1)

"""What the light verbs of the `tsdyn` command do. Each takes the parsed options and prints."""

import argparse
import importlib.metadata
import importlib.util
import logging
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from . import __version__
from .batch import Paths, default_names, split_after
from .choose import choose, season_of, train
from .data.frames import duration, read, report, to_frame, write_table
from .data.load import DATASETS, load_dataset
from .data.synthetic import SYSTEMS
from .data.tasks import Imputation
from .errors import ConfigError, did_you_mean
from .evaluation import Report, backtest as run_backtest, evaluate as run_evaluation
from .forecasts import Forecast
from .io import load
from .models.base import Model, title
from .predict import (
    ahead,
    fill,
    forecast as run_forecast,
    impute as run_imputation,
    readable,
    simulate as run_simulation,
)

Options = argparse.Namespace


def say(text: str) -> None:
    """To the person, on standard error; tables go to standard output."""
    print(text, file=sys.stderr)


def table(options: Options) -> Paths:
    """The paths of a file, or of a dataset by name."""
    if options.data in DATASETS and not Path(options.data).exists():
        return _series(load_dataset(options.data), options.data)
    if not Path(options.data).exists():
        raise ConfigError(
            "X01",
            f"`{options.data}` is neither a file nor a dataset",
            "a .csv or .parquet file, or a name from `tsdyn list datasets`",
            did_you_mean(options.data, [*DATASETS, *(str(p) for p in Path().glob("*.csv"))]),
        )
    return read(
        options.data,
        series=options.series,
        time=options.time,
        channels=options.channels,
        day_first=options.day_first,
    )


def _series(data: Any, name: str) -> Paths:
    """X01 for datasets that are no series."""
    if not isinstance(data, Paths):
        raise ConfigError(
            "X01",
            f"dataset `{name}` holds {type(data).__name__}",
            "series in time",
            "Use it in a configuration of `tsdyn fit`, or from Python",
        )
    return data


def forecast(options: Options) -> None:
    """Draws of what comes next."""
    paths = table(options)
    horizon = _horizon(options.horizon)
    period = _period(options, paths)
    steps = ahead(paths, horizon).shape[1]
    model = _model(options, paths, "forecast", steps, period)
    answer = run_forecast(model, paths, horizon, samples=options.samples, seed=options.seed)
    _deliver(answer, options, paths)


def impute(options: Options) -> None:
    """Draws of what is missing."""
    paths = table(options)
    model = _model(options, paths, "imputation", 1, _period(options, paths))
    answer = run_imputation(model, paths, samples=options.samples, seed=options.seed)
    if options.output and options.kind == "mean":
        write_table(to_frame(fill(paths, answer)), options.output)
        say(f"wrote {options.output}: the table with {int(answer.mask.sum())} holes filled")
        options.output = None
    _deliver(answer, options, paths)


def simulate(options: Options) -> None:
    """Paths of a known system or of a saved model."""
    at = torch.linspace(0, options.until, options.steps + 1, dtype=torch.float64)
    if options.system in SYSTEMS:
        system = SYSTEMS[options.system]()
        generator = torch.Generator().manual_seed(options.seed)
        x0 = (
            torch.tensor([options.start], dtype=torch.float64)
            if options.start
            else system.initial(1, generator)
        )
        _require_width(x0, len(system.channels))
        draws = system.simulate(x0, at[None], options.samples, generator).float()
        names = default_names(Paths(at[None], draws[0], torch.ones_like(draws[0]).bool()))
        names = names._replace(channels=system.channels)
        mask = torch.ones_like(draws[0], dtype=torch.bool)
        answer = Forecast(at[None], draws, mask, names, "simulation")
    elif Path(options.system).exists():
        model = load(options.system)
        dim = len(model.channels) or int(model.arguments.get("dim", 1))
        start = torch.tensor(options.start or [0.0] * dim)
        _require_width(start[None], dim)
        answer = run_simulation(model, start, at, samples=options.samples, seed=options.seed)
    else:
        raise ConfigError(
            "X01",
            f"`{options.system}` is neither a system nor a file",
            "a name from `tsdyn list systems`, or a saved model",
            did_you_mean(options.system, SYSTEMS),
        )
    if options.kind == "quantiles" and options.samples < 20:
        options.kind = "samples"  # so few paths are looked at one by one
    _deliver(answer, options, None)


def evaluate(options: Options) -> None:
    """Hold a part out, fit on the rest, score on the part; beside the baselines."""
    paths = table(options)
    if (options.horizon is None) == (options.missing is None):
        raise ConfigError(
            "X01",
            "evaluate got "
            + ("both" if options.horizon else "neither")
            + " of --horizon and --missing",
            "exactly one",
            "For example --horizon 52",
        )
    if options.horizon is not None:
        future = ahead(paths, _horizon(options.horizon))
        last = paths.t.where(paths.mask.any(-1), -torch.inf).amax(1)
        given, want = split_after(paths, last - (future[:, -1] - last))
        steps, kind = future.shape[1], "forecast"
    else:
        generator = torch.Generator().manual_seed(options.seed)
        given, want = Imputation(options.missing, "row")(paths, generator)
        steps, kind = 1, "imputation"
    period = _period(options, given)
    model = _model(options, given, kind, steps, period)
    scores = run_evaluation(
        model, given, want, samples=options.samples, seed=options.seed, period=period
    )
    _show(scores, options.output)


def backtest(options: Options) -> None:
    """Scores from several cut-offs in the past."""
    paths = table(options)
    horizon = _horizon(options.horizon)
    future = ahead(paths, horizon)
    last = paths.t.where(paths.mask.any(-1), -torch.inf).amax(1)
    first = last - options.cutoffs * (future[:, -1] - last)
    before, _ = split_after(paths, first)
    period = _period(options, before)

    def fitted(known: Paths) -> Model:
        return _model(options, known, "forecast", future.shape[1], period)

    model = fitted if options.refit else fitted(before)
    scores = run_backtest(
        model,
        paths,
        horizon,
        cutoffs=options.cutoffs,
        samples=options.samples,
        seed=options.seed,
        period=period,
    )
    _show(scores, options.output)


def inspect(options: Options) -> None:
    """What a table holds."""
    paths = table(options)
    print(report(paths))
    period = season_of(paths)
    if period is not None:
        print(f"season: {readable(period, paths)}")


def show_list(options: Options) -> None:
    """Models, datasets, systems or configurations, a line each."""
    lines: dict[str, Callable[[], list[tuple[str, str]]]] = {
        "models": _models,
        "datasets": lambda: [(name, entry.description) for name, entry in DATASETS.items()],
        "systems": lambda: [(name, _first_line(cls)) for name, cls in SYSTEMS.items()],
        "configs": lambda: [
            (str(p), p.read_text().splitlines()[0].lstrip("# ")) for p in _configs()
        ],
    }
    for name, text in lines[options.what]():
        print(f"{name:36} {text}")


def demo(options: Options) -> None:
    """The main job, on weekly CO2."""
    from .demo import run

    run(Path(options.folder), options.seed)


def doctor(options: Options) -> None:
    """Versions, devices and extras."""
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(
        f"tsdyn       {__version__}\npython      {platform.python_version()} on {platform.platform()}"
    )
    for package in (
        "torch",
        "lightning",
        "jsonargparse",
        "torchsde",
        "gpytorch",
        "pyro-ppl",
        "numpy",
        "scipy",
        "pandas",
    ):
        print(f"{package:11} {importlib.metadata.version(package)}")
    print(
        f"devices     cpu ({torch.get_num_threads()} threads){''.join(f', cuda: {name}' for name in cuda)}"
    )
    for extra, package in {
        "plot": "matplotlib",
        "parquet": "pyarrow",
        "cells": "anndata",
        "tune": "optuna",
    }.items():
        there = importlib.util.find_spec(package) is not None
        print(
            f"extra       {extra}: {'installed' if there else f'missing; pip install tsdyn[{extra}]'}"
        )


def _model(options: Options, paths: Paths, want: Any, steps: int, period: float | None) -> Model:
    """The model that was named, or the default for this table, fitted; said aloud."""
    if options.model is not None:
        return load(options.model)
    choice = choose(paths, period, options.seed)
    season = "no season" if period is None else f"season {readable(period, paths)}"
    say(f"model: {title(choice.model)} ({choice.reason}; {season})")
    return train(choice.model, paths, want, steps, period, options.seed)


def _period(options: Options, paths: Paths) -> float | None:
    if options.period == "none":
        return None
    if options.period is not None:
        return duration(options.period, default_names(paths).clock)
    return season_of(paths)


def _horizon(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _deliver(answer: Forecast, options: Options, history: Paths | None) -> None:
    """Table to the file or its head to the screen, and the picture."""
    if options.plot:
        answer.plot(history).savefig(options.plot, dpi=130)
        say(f"wrote {options.plot}")
    frame = answer.to_pandas(options.kind)
    if options.output:
        write_table(frame, options.output)
        say(f"wrote {options.output}: {len(frame)} rows, {', '.join(map(str, frame.columns))}")
    elif not options.plot:
        print(frame.head(20).to_string(index=False))
        if len(frame) > 20:
            say(f"... {len(frame)} rows in all; write them with -o FILE")


def _show(scores: Report, output: str | None) -> None:
    print(scores)
    if output:
        write_table(scores.to_pandas(), output)
        say(f"wrote {output}")


def _require_width(start: torch.Tensor, dim: int) -> None:
    came = start.shape[-1]
    if came != dim:
        values = "1 value" if came == 1 else f"{came} values"
        raise ConfigError("X01", f"--start got {values}", f"{dim}, one per channel", "")


def _models() -> list[tuple[str, str]]:
    import importlib

    found = []
    for file in sorted((Path(__file__).parent / "models").glob("[a-z]*.py")):
        module = importlib.import_module(f"{__package__}.models.{file.stem}")
        for name, value in vars(module).items():
            own = (
                isinstance(value, type)
                and issubclass(value, Model)
                and value.__module__ == module.__name__
            )
            if own and not name.startswith("_") and value is not Model:
                found.append((f"{module.__name__}.{name}", _first_line(value)))
    return found


def _configs() -> list[Path]:
    """The configurations in this folder, else those of the checkout that tsdyn was installed from."""
    here = sorted(Path("configs").glob("*.yaml"))
    return here or sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


def _first_line(cls: type) -> str:
    return next(iter((cls.__doc__ or "").strip().splitlines()), "")


logging.getLogger("tsdyn").addHandler(logging.StreamHandler(sys.stderr))

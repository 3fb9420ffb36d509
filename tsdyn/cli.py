"""The `tsdyn` command: a light front that loads what a verb needs, and nothing before.

`fit`, `validate`, `test` and `predict` are configured runs and go to Lightning's command line, as does
`sweep`, which is many of them; the other verbs answer from a table or a saved model. Exit codes: 0 done, 1 failed while running, 2 wrong
usage, data, configuration or checkpoint, 130 interrupted, 143 terminated.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NoReturn

from . import __version__
from .errors import ConfigError, TsdynError, did_you_mean

TRAINING = {
    "fit": "train a model from a configuration",
    "validate": "score a checkpoint on the validation part",
    "test": "score a checkpoint on the test part",
    "predict": "write draws of a checkpoint for a whole dataset",
}


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors that name the nearest known option, and no abbreviations."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        hint = ""
        if "unrecognized arguments: " in message:
            known = [o for a in self._actions for o in a.option_strings]
            hint = " " + did_you_mean(message.split(": ", 1)[1].split()[0], known)
        elif "invalid choice: " in message:
            wrong, choices = message.split("invalid choice: ", 1)[1].split(" (choose from ")
            known = [c.strip(" '") for c in choices.rstrip(")").split(",")]
            hint = " " + did_you_mean(wrong.strip("'"), known)
            message = f"`{wrong.strip(chr(39))}` is none of the choices of {self.prog}"
        self.exit(2, f"error: {message.rstrip('.')}.{hint}\n")

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        # Leftovers are reported by the parser that knows the options of the verb.
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return found, rest


def _table(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data", help="a .csv or .parquet table, or the name of a dataset (tsdyn list datasets)"
    )
    parser.add_argument("--series", metavar="COLUMN", help="column with the id of the series")
    parser.add_argument("--time", metavar="COLUMN", help="column with the time")
    parser.add_argument(
        "--channels",
        metavar="COLUMN",
        nargs="+",
        help="columns to model; default: all numeric ones",
    )
    parser.add_argument(
        "--day-first", action="store_true", default=None, help="read 01/02/2024 as 1 February"
    )


def _asking(parser: argparse.ArgumentParser) -> None:
    _table(parser)
    parser.add_argument(
        "--model",
        metavar="FILE",
        help="a saved model or checkpoint; default: chosen by the size of the data",
    )
    parser.add_argument(
        "--period",
        metavar="LENGTH",
        help="length of a season: 24h, 365.25d, or a number in units of time; `none` for no season; default: looked for",
    )
    parser.add_argument("--samples", type=int, default=200, help="draws per value (default: 200)")
    parser.add_argument(
        "--seed", type=int, default=0, help="the same seed gives the same draws (default: 0)"
    )


def _writing(parser: argparse.ArgumentParser, plot: bool = True) -> None:
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="write a table, .csv or .parquet; default: print its head",
    )
    parser.add_argument(
        "--kind",
        choices=["quantiles", "samples", "mean", "states"],
        default="quantiles",
        help="what to write (default: quantiles); states: probabilities, for models of states",
    )
    if plot:
        parser.add_argument("--plot", metavar="FILE", help="write a picture, .png, .pdf or .svg")


def _scores(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="FILE", help="write the scores, .csv or .parquet")


def _forecast(parser: argparse.ArgumentParser) -> None:
    _asking(parser)
    parser.add_argument(
        "--horizon",
        required=True,
        help="steps (52) or a span of time (52w, 24h) after the last observation",
    )
    _writing(parser)


def _impute(parser: argparse.ArgumentParser) -> None:
    _asking(parser)
    _writing(parser)


def _simulate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("system", help="a system (tsdyn list systems), or a saved model")
    parser.add_argument(
        "--start", type=float, nargs="+", help="value of every channel at the first time"
    )
    parser.add_argument("--until", type=float, default=1.0, help="last time (default: 1)")
    parser.add_argument(
        "--steps", type=int, default=100, help="times between 0 and the last (default: 100)"
    )
    parser.add_argument("--samples", type=int, default=10, help="paths (default: 10)")
    parser.add_argument("--seed", type=int, default=0)
    _writing(parser)


def _evaluate(parser: argparse.ArgumentParser) -> None:
    _asking(parser)
    parser.add_argument(
        "--horizon", help="hold this out at the end: steps (52) or a span of time (52w)"
    )
    parser.add_argument(
        "--missing", type=float, help="instead: hide this share of the rows and impute them"
    )
    _scores(parser)


def _backtest(parser: argparse.ArgumentParser) -> None:
    _asking(parser)
    parser.add_argument(
        "--horizon",
        required=True,
        help="steps (52) or a span of time (52w) to forecast from every cut-off",
    )
    parser.add_argument("--cutoffs", type=int, default=5, help="how many (default: 5)")
    parser.add_argument(
        "--refit",
        action="store_true",
        help="fit again at every cut-off; default: once before the first",
    )
    _scores(parser)


def _inspect(parser: argparse.ArgumentParser) -> None:
    _table(parser)


def _list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=["models", "datasets", "systems", "configs"])


def _demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--folder", default="runs/demo", help="where tables and pictures go (default: runs/demo)"
    )
    parser.add_argument("--seed", type=int, default=0)


def _sweep(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train and test a configuration at every rate of missing data and from every seed. What is "
        "missing is dropped from what is given, in training, validation and test, and is the same for "
        "every seed; what is missing at a low rate is missing at a higher one too. Prints a row per "
        "rate: mean +- standard deviation over the seeds of the test scores, at the weights of "
        "the best validation loss."
    )
    parser.epilog = (
        "A run that is finished in the folder is read, not repeated, and one that was stopped goes on; "
        "with another configuration or other options it starts anew. Example: tsdyn sweep --config "
        "configs/hopper.yaml --missing 0 0.3 0.5 0.7 --seeds 0 1 2 -- --trainer.max_epochs 20"
    )
    parser.add_argument("--config", metavar="FILE", required=True, help="what `tsdyn fit` takes")
    parser.add_argument(
        "--missing",
        metavar="RATE",
        nargs="+",
        type=float,
        required=True,
        help="parts of the given that are dropped, in [0, 1); how is in data.missing of the configuration",
    )
    parser.add_argument(
        "--seeds", metavar="SEED", nargs="+", type=int, default=[0], help="of training (default: 0)"
    )
    parser.add_argument(
        "--folder", help="where the runs are kept (default: runs/<name of the configuration>-sweep)"
    )
    parser.add_argument("--out", metavar="FILE", help="write the scores of every run as .csv")
    parser.add_argument(
        "fit_options", metavar="-- OPTION", nargs="*", help="any other options of `tsdyn fit`"
    )


def _nothing(parser: argparse.ArgumentParser) -> None:
    """A verb without options."""


VERBS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "forecast": ("draws of what comes next in a table", _forecast),
    "impute": ("draws of what is missing in a table", _impute),
    "simulate": ("draw paths of a known system or a saved model", _simulate),
    "evaluate": ("hold a part of a table out, and score models and baselines on it", _evaluate),
    "backtest": ("score forecasts from several cut-offs in the past", _backtest),
    "sweep": ("train and test a configuration at several rates of missing data", _sweep),
    "inspect": ("report what a table holds: times, gaps, missing values", _inspect),
    "list": ("list models, datasets, systems or configurations", _list),
    "demo": ("train, forecast, impute and score on weekly CO2, with pictures", _demo),
    "doctor": ("report versions, devices and extras, for a bug report", _nothing),
    "version": ("print the version", _nothing),
}


def parser() -> Parser:
    """The parser of all verbs; those of training are listed, and parsed by Lightning."""
    top = Parser(
        prog="tsdyn",
        description="Probabilistic models of time series and dynamics, observed irregularly.",
        epilog="tsdyn <verb> --help shows the options of a verb.",
    )
    top.add_argument("--version", action="version", version=f"tsdyn {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="<verb>", required=True, parser_class=Parser)
    for name, text in TRAINING.items():
        verbs.add_parser(name, help=text, add_help=False)
    for name, (text, options) in VERBS.items():
        options(verbs.add_parser(name, help=text, description=text))
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in TRAINING:
        return int(import_module(".lit.cli", __package__).main(argv))
    try:
        options = parser().parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    if options.verb == "sweep":
        return int(import_module(".lit.sweep", __package__).main(options))
    if options.verb == "version":
        print(f"tsdyn {__version__}")
        return 0
    try:
        verbs = import_module(".verbs", __package__)
        getattr(verbs, options.verb if options.verb != "list" else "show_list")(options)
    except TsdynError as error:
        if os.environ.get("TSDYN_DEBUG"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        if error.name is None or error.name.startswith("tsdyn"):
            raise
        missing = ConfigError(
            "X03", f"the package `{error.name}` is not installed", "", f"pip install {error.name}"
        )
        print(f"error: {missing}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def console() -> NoReturn:
    """The console script."""
    sys.exit(main())

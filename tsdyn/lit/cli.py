"""`tsdyn fit | validate | test | predict`: the only place that runs Lightning from a command line.

What counts more, first: a flag, a configuration file, a checkpoint, a default.

Exit codes: 0 done; 1 the numbers or the program broke; 2 usage, configuration, data or checkpoint; 130
and 143 stopped by SIGINT and SIGTERM.
"""

import argparse
import datetime
import importlib.util
import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from ..errors import CheckpointError, ConfigError, ModelError, TsdynError
from ..evaluation import markdown
from ..io import read_checkpoint
from .callbacks import Checkpoints, NonFiniteGuard, SaveOnException
from .data import LitData
from .explain import explain
from .known import register
from .module import TRAINER, LitModel, learns
from .quiet import quiet
from .randomness import KeepRandomState
from .record import Record, free, keep_older
from .signals import Stopped, signals
from .trust import trusted
from .words import ROOT, RUNS, Words
from .writer import ForecastWriter

BROKEN = ("TSD-M02", "TSD-M03")  # not the user's fault: the numbers


def main(argv: list[str]) -> int:
    """Run one of the verbs; the exit code."""
    return guarded(lambda: Command(argv))


def guarded(run: Callable[[], object]) -> int:
    """Run something that trains; the exit code. What goes wrong is said in one line."""
    try:
        with quiet(), signals():
            run()
    except TsdynError as error:
        return _refused(error)
    except Stopped as stopped:
        return 128 + stopped.signum
    except MisconfigurationException as error:
        return _refused(ConfigError("X02", " ".join(str(error).split()), "", ""))
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        return _refused(_other_shapes(error))
    except SystemExit as end:  # --help, --print_config
        return end.code if isinstance(end.code, int) else 0
    return 0


def _refused(error: TsdynError) -> int:
    if os.environ.get("TSDYN_DEBUG"):
        raise error
    print(f"error: {error}", file=sys.stderr, flush=True)  # of any process
    return 1 if error.code in BROKEN else 2


def _other_shapes(error: RuntimeError) -> CheckpointError:
    reason = " ".join(str(error).splitlines()[-1].split())
    return CheckpointError(
        "C04",
        f"the weights in the checkpoint do not fit the model: {reason}",
        "the arguments of the model it was trained with",
        "Leave out flags and configuration that change them",
    )


class Command(LightningCLI):
    """LightningCLI in which nothing is replaced silently and every run has its folder."""

    def __init__(self, argv: list[str]):
        register()
        self.words = Words(argv)
        self.folder = Path()
        self.unnamed: list[str] = []  # of the checkpoint, but for the user to name
        super().__init__(
            LitModel,
            LitData,
            save_config_callback=Record,
            save_config_kwargs={"command": shlex.join(["tsdyn", *argv])},
            trainer_defaults=TRAINER
            | {
                "log_every_n_steps": 10,
                "enable_progress_bar": sys.stdout.isatty(),
                "gradient_clip_val": 1.0,
            },
            seed_everything_default=0,
            parser_kwargs={
                "prog": "tsdyn",
                "description": "Train a model, judge it, ask it.",
                "allow_abbrev": False,
                "exit_on_error": False,
            },
            args=argv,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        decided = {"weights_only", "return_predictions"}
        return {verb: skip | decided for verb, skip in LightningCLI.subcommands().items()}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--name",
            type=str | None,
            help=f"The run goes to <{ROOT}, {RUNS}>/<name>/<time>. By default the "
            "name of the configuration file.",
        )
        parser.add_argument(
            "--output",
            type=str | None,
            help="Where `predict` writes: .parquet for every draw, .csv for mean and quantiles.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        verb = next((word for word in self.words.argv if word in self._subcommand_parsers), "fit")
        own = self._subcommand_parsers[verb]
        options = [o for action in own._actions for o in action.option_strings]
        path = self.words.checkpoint()
        if path is not None:
            self._defaults_of_checkpoint(path, own)
        try:
            self.config = parser.parse_args(self.words.with_checkpoint(path))
        except argparse.ArgumentError as error:
            files = [str(file) for file in self.words.files]
            raise explain(error, options, files, self.unnamed) from None

    def _defaults_of_checkpoint(self, path: Path, own: LightningArgumentParser) -> None:
        """What the model was trained with becomes what is meant where no flag and no file speaks."""
        content = read_checkpoint(path)
        if "state_dict" not in content:
            raise CheckpointError(
                "C01",
                f"{path} holds no state of a training run",
                "a checkpoint written by `tsdyn fit`",
                "Models written by tsdyn.save are for `tsdyn forecast` and tsdyn.load",
            )
        known = {action.dest for action in own._actions}
        defaults, self.unnamed = trusted(content.get("config", {}))
        own.set_defaults({key: value for key, value in defaults.items() if key in known})

    def _parse_ckpt_path(self) -> None:
        """Nothing: Lightning would replace the user's flags by what the checkpoint says."""

    def before_instantiate_classes(self) -> None:
        options = self.config[self.subcommand]
        options.name = options.name or self.words.name()
        root = Path(options.trainer.default_root_dir or RUNS)
        began = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        home = Path(options.ckpt_path or "").parent.parent
        resumed = self.subcommand == "fit" and options.ckpt_path and (home / Record.CONFIG).exists()
        # a resumed run goes on in its folder
        self.folder = home if resumed else free(root / options.name / began)
        self.save_config_kwargs["folder"] = self.folder

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        config = self.config_init[self.subcommand].trainer
        self.require_weights()
        if _is_first() and not config.fast_dev_run:
            _require_writable(self.folder)
            keep_older(self.folder / "metrics.csv")  # CSVLogger would delete it
        if self.subcommand == "fit" and not learns(self.model.model):
            kwargs["max_epochs"] = 1
            if config.max_epochs != 1 and not config.fast_dev_run:
                say("the model is a closed form: one epoch, whatever trainer.max_epochs says")
        kwargs |= {"callbacks": self.callbacks(config), "default_root_dir": str(self.folder)}
        if not config.fast_dev_run:
            kwargs["logger"] = self.loggers(config.logger)
        try:
            trainer: L.Trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError) as error:
            raise ConfigError("X02", " ".join(str(error).split()), "", "") from None
        return trainer

    def callbacks(self, config: Any) -> list[Any]:
        """Ours around the user's: those that save come last."""
        callbacks = [KeepRandomState(), NonFiniteGuard(), *_listed(config.callbacks)]
        keeps = config.enable_checkpointing is not False and not config.fast_dev_run
        if keeps and self.subcommand == "fit":
            folder = self.folder / "checkpoints"
            callbacks += [Checkpoints(folder), SaveOnException(folder, self.resume_command, say)]
        if self.subcommand == "predict":
            callbacks.append(ForecastWriter(self.output))
        return callbacks

    def loggers(self, chosen: Any) -> list[Logger] | bool:
        """What the user chose and always metrics.csv; without a choice TensorBoard's where installed."""
        if chosen is False:
            return False
        if not isinstance(chosen, bool | None):
            return [*_listed(chosen), self.csv()]
        if importlib.util.find_spec("tensorboard") is None:
            return [self.csv()]
        return [TensorBoardLogger(self.folder, "", ""), self.csv()]

    def csv(self) -> CSVLogger:
        return CSVLogger(self.folder, "", "", flush_logs_every_n_steps=10)

    @property
    def output(self) -> Path:
        """Where predictions go."""
        chosen = Path(self.config[self.subcommand].output or self.folder / "predictions.parquet")
        if chosen.suffix not in (".parquet", ".csv"):
            raise ConfigError("X01", f"unknown kind of file `{chosen}`", ".parquet or .csv", "")
        return chosen

    def resume_command(self, path: Path) -> str:
        config = self.folder / Record.CONFIG
        return shlex.join(["tsdyn", "fit", "-c", str(config), "--ckpt_path", str(path)])

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs: dict[str, Any] = super()._prepare_subcommand_kwargs(subcommand)
        kwargs["weights_only"] = True
        if subcommand == "predict":
            kwargs["return_predictions"] = False
        if "verbose" in kwargs:
            kwargs["verbose"] = False  # instead of Lightning's table, ours
        return kwargs

    def require_weights(self) -> None:
        """M01 for a model with something to learn and nothing learned."""
        given = self.subcommand == "fit" or self.config[self.subcommand].ckpt_path
        if learns(self.model.model) and not given:
            raise ModelError(
                "M01",
                f"`tsdyn {self.subcommand}` of a model that was not trained",
                "its weights",
                "Give --ckpt_path <checkpoint>, or --ckpt_path last for the last run of this name",
            )

    def after_validate(self) -> None:
        self.show_scores()

    def after_test(self) -> None:
        self.show_scores()

    def show_scores(self) -> None:
        """A Markdown table on standard output, a row per score; none with --verbose false."""
        if self.config[self.subcommand].verbose and _is_first():
            scores = sorted(self.trainer.callback_metrics.items())
            print(markdown(["score", "value"], [[k, f"{float(v):.4g}"] for k, v in scores]))

    def after_predict(self) -> None:
        say(f"predictions are in {self.output}")

    def after_fit(self) -> None:
        checkpoints: Any = self.trainer.checkpoint_callback
        if checkpoints and checkpoints.best_model_path:
            score = checkpoints.best_model_score
            best = f"best val/loss {score:.4g} in " if score is not None else "state in "
            say(f"{best}{checkpoints.best_model_path}")


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def _require_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CheckpointError(
            "C01",
            f"cannot write to {folder}: {error.strerror}",
            "a folder for the run",
            "Choose another with --trainer.default_root_dir",
        ) from None


def _is_first() -> bool:
    """Whether this is the process that writes."""
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]
    return rank == 0


def say(text: str) -> None:
    """To the person, once however many processes there are."""
    if _is_first():
        print(text, file=sys.stderr, flush=True)

"""`tsdyn fit | validate | test | predict`: the only place that runs Lightning from a command line.

What counts more, first: a flag, a configuration file, a checkpoint, a default.

Exit codes: 0 done; 1 the numbers or the program broke; 2 usage, configuration, data or checkpoint; 130
and 143 stopped by SIGINT and SIGTERM.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import importlib.util
import itertools
import os
import shlex
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.cli import (
    ArgsType,
    LightningArgumentParser,
    LightningCLI,
)
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from ..errors import CheckpointError, ConfigError, ModelError, TsdynError
from ..io import read_checkpoint
from .callbacks import Checkpoints, NonFiniteGuard, SaveOnException, Stopped
from .data import LitData
from .module import LitModel
from .parser import explain, register
from .quiet import quiet
from .randomness import KeepRandomState
from .record import Record, free, keep_older
from .trust import trusted
from .writer import ForecastWriter

RUNS = "runs"
BROKEN = ("TSD-M02", "TSD-M03")  # not the user's fault: the numbers


def main(argv: list[str]) -> int:
    """Run one of the verbs; the exit code."""
    try:
        with quiet(), _signals():
            Command(argv)
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
        self.argv = argv
        self.files = [Path(f) for f in _values(argv, "--config", "-c")]
        self.folder = Path()
        self.unnamed: list[str] = []  # of the checkpoint, but for the user to name
        super().__init__(
            LitModel,
            LitData,
            save_config_callback=Record,
            save_config_kwargs={"command": shlex.join(["tsdyn", *argv])},
            trainer_defaults=_trainer_defaults(),
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
            help=f"The run goes to <trainer.default_root_dir, {RUNS}>/<name>/<time>. By default the "
            "name of the configuration file.",
        )
        parser.add_argument(
            "--output",
            type=str | None,
            help="Where `predict` writes: .parquet for every draw, .csv for mean and quantiles.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        verb = next((a for a in self.argv if a in self._subcommand_parsers), "fit")
        own = self._subcommand_parsers[verb]
        options = [o for action in own._actions for o in action.option_strings]
        try:
            argv = self._with_checkpoint(own)
            self.config = parser.parse_args(argv)
        except argparse.ArgumentError as error:
            raise explain(error, options, [str(f) for f in self.files], self.unnamed) from None

    def _with_checkpoint(self, own: LightningArgumentParser) -> list[str]:
        """The arguments with the checkpoint found; what it was trained with becomes the default."""
        given = [*self._in_files("ckpt_path"), *_values(self.argv, "--ckpt_path")]
        if not given or given[-1] in (None, "null"):
            return self.argv
        path = self._checkpoint(given[-1])
        if path is None:
            return [*_without(self.argv, "--ckpt_path"), "--ckpt_path", "null"]
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
        return [*_without(self.argv, "--ckpt_path"), "--ckpt_path", str(path)]

    def _in_files(self, key: str) -> list[Any]:
        """The values of a key in the configuration files; those that cannot be read have none."""
        values = []
        for file in self.files:
            with contextlib.suppress(OSError, yaml.YAMLError, AttributeError):
                values.append(yaml.safe_load(file.read_text()).get(key))
        return [value for value in values if value is not None]

    def _checkpoint(self, given: str) -> Path | None:
        """The file meant by a path, by `last` (of the runs of this name) or by `auto` (last, or none)."""
        if given not in ("last", "auto"):
            return Path(given)
        runs = Path((_values(self.argv, "--trainer.default_root_dir") or [RUNS])[-1]) / self._name()
        states = [
            *runs.glob("*/checkpoints/last.ckpt"),
            *runs.glob("*/checkpoints/interrupted.ckpt"),
        ]
        if states:
            return max(states, key=lambda file: file.stat().st_mtime)
        if given == "auto":
            return None
        raise CheckpointError(
            "C01",
            f"no run in {runs} has left a checkpoint",
            "an earlier run to go on from",
            "Leave out --ckpt_path, or use --ckpt_path auto to start where there is none",
        )

    def _name(self) -> str:
        named = [*self._in_files("name"), *_values(self.argv, "--name")]
        if named:
            return str(named[-1])
        if not self.files:
            return "run"
        return self.files[-1].stem

    def _parse_ckpt_path(self) -> None:
        """Nothing: Lightning would replace the user's flags by what the checkpoint says."""

    def before_instantiate_classes(self) -> None:
        options = self.config[self.subcommand]
        options.name = options.name or self._name()
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
        callbacks: list[Any] = [KeepRandomState(), NonFiniteGuard(), *_listed(config.callbacks)]
        keeps = config.enable_checkpointing is not False and not config.fast_dev_run
        if keeps and self.subcommand == "fit":
            checkpoints = self.folder / "checkpoints"
            callbacks += [
                Checkpoints(checkpoints),
                SaveOnException(checkpoints, self.resume_command, _say),
            ]
        if self.subcommand == "predict":
            callbacks.append(ForecastWriter(self.output))
        kwargs |= {"callbacks": callbacks, "default_root_dir": str(self.folder)}
        if not config.fast_dev_run:
            kwargs["logger"] = self.loggers(config.logger)
        try:
            trainer: L.Trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError) as error:
            raise ConfigError("X02", " ".join(str(error).split()), "", "") from None
        return trainer

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
        return kwargs | ({"return_predictions": False} if subcommand == "predict" else {})

    def require_weights(self) -> None:
        """M01 for a model with something to learn and nothing learned."""
        learns = any(p.requires_grad for p in self.model.model.parameters())
        if self.subcommand != "fit" and learns and not self.config[self.subcommand].ckpt_path:
            raise ModelError(
                "M01",
                f"`tsdyn {self.subcommand}` of a model that was not trained",
                "its weights",
                "Give --ckpt_path <checkpoint>, or --ckpt_path last for the last run of this name",
            )

    def after_predict(self) -> None:
        _say(f"predictions are in {self.output}")

    def after_fit(self) -> None:
        checkpoints: Any = self.trainer.checkpoint_callback
        if checkpoints and checkpoints.best_model_path:
            score = checkpoints.best_model_score
            best = f"best val/loss {score:.4g} in " if score is not None else "state in "
            _say(f"{best}{checkpoints.best_model_path}")


def _trainer_defaults() -> dict[str, Any]:
    return {
        "log_every_n_steps": 10,
        "enable_progress_bar": sys.stdout.isatty(),
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,  # before the first epoch, closed forms have not been fitted
        "gradient_clip_val": 1.0,
        "inference_mode": False,  # scores may need gradients inside, as Langevin drifts do
    }


def _values(argv: list[str], *names: str) -> list[str]:
    """The values of an option, before anything is parsed."""
    follow = [b for a, b in itertools.pairwise(argv) if a in names]
    return follow + [a.partition("=")[2] for a in argv if a.partition("=")[0] in names and "=" in a]


def _without(argv: list[str], name: str) -> list[str]:
    after = {i + 1 for i, a in enumerate(argv) if a == name}
    return [a for i, a in enumerate(argv) if i not in after and a.partition("=")[0] != name]


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


def _say(text: str) -> None:
    if _is_first():
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """SIGINT and SIGTERM raise `Stopped`; in training `SaveOnException` listens instead."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Stopped(signum)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)

"""What a run leaves behind so that it can be understood and repeated."""

import contextlib
import datetime
import importlib.metadata
import itertools
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

LIBRARIES = ("tsdyn", "torch", "lightning", "jsonargparse", "numpy", "pandas", "scipy", "gpytorch")


class Record(SaveConfigCallback):
    """config.yaml and environment.json in the folder of the run, and the configuration in checkpoints."""

    CONFIG, ENVIRONMENT = "config.yaml", "environment.json"

    def __init__(
        self, parser: LightningArgumentParser, config: Namespace, folder: Path, command: str
    ):
        config = config.clone()
        config.ckpt_path = config.output = None  # of this one start, not of the run
        super().__init__(parser, config, save_to_log_dir=False)
        self.folder, self.command = folder, command

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for name in (self.CONFIG, self.ENVIRONMENT):
            keep_older(self.folder / name)  # not before every process has read it
        self.parser.save(self.config, self.folder / self.CONFIG, skip_none=False)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        facts = {"command": self.command, "seed": self.config.seed_everything}
        facts |= environment() | {"data": data.facts()}
        (self.folder / self.ENVIRONMENT).write_text(json.dumps(facts, indent=2) + "\n")

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        plain = yaml.safe_load(self.parser.dump(self.config, skip_none=False, format="yaml"))
        checkpoint["config"] = {key: plain[key] for key in ("model", "data")}


def environment() -> dict[str, Any]:
    """What else a run depended on: versions, machine, folder and commit."""
    versions = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "folder": os.getcwd(),
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
    }


def _commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def free(folder: Path) -> Path:
    """The folder, or the first of `<folder>-1`, `<folder>-2`, ... that does not exist."""
    others = (folder.with_name(f"{folder.name}-{i}") for i in itertools.count(1))
    return next(f for f in itertools.chain([folder], others) if not f.exists())


def keep_older(file: Path) -> None:
    """Make room for `file`: what an earlier part of the run left there gets a number."""
    if file.exists():
        numbered = (file.with_stem(f"{file.stem}-{i}") for i in itertools.count(1))
        file.rename(next(f for f in numbered if not f.exists()))

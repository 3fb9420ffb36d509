"""The words of a command line, read before they are parsed: which run is meant, and which checkpoint."""

import contextlib
import itertools
from pathlib import Path
from typing import Any

import yaml

from ..errors import CheckpointError

RUNS = "runs"
ROOT = "trainer.default_root_dir"


class Words:
    """One command: its words, and the configuration files they name.

    Args:
        argv: the words after `tsdyn`.
    """

    def __init__(self, argv: list[str]):
        self.argv = argv
        self.files = [Path(file) for file in self.flags("--config", "-c")]

    def flags(self, *names: str) -> list[str]:
        """The values of a flag, as `--flag value` or `--flag=value`."""
        after = [b for a, b in itertools.pairwise(self.argv) if a in names]
        parts = [word.partition("=") for word in self.argv]
        return after + [value for name, equals, value in parts if equals and name in names]

    def values(self, key: str) -> list[Any]:
        """The values of a key, dotted if it is nested: in the files, then behind the flag; the last counts."""
        found = [_in_file(file, key) for file in self.files] + self.flags(f"--{key}")
        return [value for value in found if value is not None]

    def name(self) -> str:
        """Of the run: what --name says, or the name of the configuration file."""
        named = self.values("name")
        return str(named[-1]) if named else self.files[-1].stem if self.files else "run"

    def checkpoint(self) -> Path | None:
        """The file that --ckpt_path means: a path, `last` (of the runs of this name) or `auto` (last, or none).

        Raises:
            CheckpointError: C01 where `last` finds nothing.
        """
        given = (self.values("ckpt_path") or [None])[-1]
        if given in (None, "null"):
            return None
        if given not in ("last", "auto"):
            return Path(given)
        runs = Path((self.values(ROOT) or [RUNS])[-1]) / self.name()
        names = ("last.ckpt", "interrupted.ckpt")
        states = [file for name in names for file in runs.glob(f"*/checkpoints/{name}")]
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

    def with_checkpoint(self, path: Path | None) -> list[str]:
        """The words with this path behind --ckpt_path, whatever stood there."""
        after = {i + 1 for i, word in enumerate(self.argv) if word == "--ckpt_path"}
        rest = [word for i, word in enumerate(self.argv) if i not in after]
        kept = [word for word in rest if word.partition("=")[0] != "--ckpt_path"]
        return [*kept, "--ckpt_path", "null" if path is None else str(path)]


def _in_file(file: Path, key: str) -> Any:
    """The value of a key in a configuration file; None in one that cannot be read."""
    with contextlib.suppress(OSError, yaml.YAMLError, AttributeError):
        found = yaml.safe_load(file.read_text())
        for part in key.split("."):
            found = found.get(part)
        return found
    return None

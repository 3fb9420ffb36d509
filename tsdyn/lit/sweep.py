"""`tsdyn sweep`: one configuration at several rates of missing data and from several seeds."""

import argparse
import csv
import itertools
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigError
from ..evaluation import markdown
from .cli import Command, guarded, say

Scores = dict[str, float]


class Run(NamedTuple):
    """One training and its test.

    Its folder keeps `sweep.json`: what was asked for, and the scores once they are known.
    """

    folder: Path
    rate: float
    seed: int
    words: list[str]  # the options that `fit` and `test` get

    @property
    def record(self) -> Path:
        return self.folder / "sweep.json"

    def asked(self) -> dict[str, Any]:
        """All that the scores depend on: the options, and what stands in the files they name."""
        files = [b for a, b in itertools.pairwise(self.words) if a in ("--config", "-c")]
        return {"options": self.words, "files": [_text(file) for file in files]}

    def kept(self) -> dict[str, Any]:
        """The record of an earlier start of the very same run, or nothing."""
        try:
            record: dict[str, Any] = json.loads(self.record.read_text())
        except (OSError, json.JSONDecodeError):
            return {}
        return record if record.get("asked") == self.asked() else {}

    def scores(self) -> Scores:
        """Those of the weights with the best validation loss; from disk if the run is finished."""
        kept = self.kept()
        if "scores" in kept:
            return dict(kept["scores"])
        self.write({})
        scores = self.test(self.fit(going_on=bool(kept)))
        self.write({"scores": scores})
        return scores

    def fit(self, going_on: bool) -> Path:
        """The checkpoint to be judged."""
        # where the same run was stopped, it goes on
        resume = ["--ckpt_path", "auto"] if going_on else []
        checkpoints: Any = Command(["fit", *self.words, *resume]).trainer.checkpoint_callback
        return Path(checkpoints.best_model_path)

    def test(self, checkpoint: Path) -> Scores:
        words = ["test", *self.words, "--ckpt_path", str(checkpoint), "--verbose", "false"]
        metrics = Command(words).trainer.callback_metrics
        return {k.removeprefix("test/"): float(v) for k, v in sorted(metrics.items())}

    def write(self, found: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.record.write_text(json.dumps({"asked": self.asked()} | found, indent=2) + "\n")


def main(options: argparse.Namespace) -> int:
    """Run `tsdyn sweep`; the exit code."""
    return guarded(lambda: sweep(options))


def sweep(options: argparse.Namespace) -> None:
    """Every rate with every seed; the table to standard output, how far it is to standard error."""
    _require_files(options)
    found: dict[float, list[Scores]] = {}
    rows = []
    for run in runs(options):
        scores = run.scores()
        say(f"missing {run.rate:g}, seed {run.seed}: " + ", ".join(_told(scores)))
        found.setdefault(run.rate, []).append(scores)
        rows.append({"missing": run.rate, "seed": run.seed} | scores)
    if options.out:
        with Path(options.out).open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
        say(f"wrote {options.out}: {len(rows)} runs")
    print(summary(found))


def runs(options: argparse.Namespace) -> list[Run]:
    """In order of rate, then seed, each once."""
    home = Path(options.folder or Path("runs") / f"{Path(options.config).stem}-sweep")
    made = []
    for rate, seed in itertools.product(*map(dict.fromkeys, (options.missing, options.seeds))):
        name = f"missing-{rate:g}/seed-{seed}"
        own = {
            "data.missing.rate": rate,
            "seed_everything": seed,
            "trainer.default_root_dir": home,
            "name": name,
        }
        flags = [text for k, v in own.items() for text in (f"--{k}", str(v))]
        words = ["--config", str(options.config), *options.fit_options, *flags]
        made.append(Run(home / name, rate, seed, words))
    return made


def summary(found: dict[float, list[Scores]]) -> str:
    """A Markdown table: a row per rate, mean +- standard deviation over the seeds of every score."""
    names = list(next(iter(found.values()))[0])
    rows = [
        [f"{rate:g}", *(_spread([s[name] for s in scores]) for name in names)]
        for rate, scores in found.items()
    ]
    return markdown(["missing", *names], rows)


def _require_files(options: argparse.Namespace) -> None:
    """X02 before anything is trained, rather than when it is too late."""
    if not Path(options.config).is_file():
        raise ConfigError("X02", f"there is no file {options.config}", "a configuration", "")
    if options.out and not Path(options.out).parent.is_dir():
        folder = Path(options.out).parent
        raise ConfigError("X02", f"there is no folder {folder} for --out", "a folder", "")


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.fmean(values):.4g}"
    return mean if len(values) == 1 else f"{mean} +- {statistics.stdev(values):.2g}"


def _told(scores: Scores) -> list[str]:
    return [f"{name} {value:.4g}" for name, value in scores.items()]


def _text(file: str) -> str:
    return Path(file).read_text() if Path(file).is_file() else ""

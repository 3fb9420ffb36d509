"""The one LightningDataModule: any source, any split, any way of cutting.

A batch is `(given, want, chosen)`: the pair, and which rows of the dataset it was made of.
"""

import dataclasses
import hashlib
import signal
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..batch import Names, Paths, default_names, query, windows
from ..data.checks import require_learnable
from ..data.missing import FromThinned, Missing
from ..data.split import BySeries, Pair, Parts, Split
from ..data.tasks import Task, holes
from ..errors import ConfigError, DataError, did_you_mean, first
from .kinds import kind_of, observed
from .sampler import Batches, Chosen, seed_of

Question = Callable[[Paths], Paths]
Batch = tuple[Any, Any, Chosen]
COMPLETE = Missing(0.0)


class LitData(L.LightningDataModule):
    """Minibatches of (given, want), the same in every process count, worker count and resumption.

    Args:
        source: makes the whole dataset: `Paths`, `Snapshots` or `Entries`.
        task: cuts a minibatch into what is given and what is wanted.
        split: keeps a part for judging; None is `BySeries()` for series and keeps nothing otherwise.
        batch_size: rows per minibatch: series or windows, cells of the largest snapshot, entries.
        window: cut training series into stretches of so many rows in time.
        stride: rows between the starts of two windows.
        seed: of the order of the rows and of every cut.
        workers: processes that cut ahead of training; 0 cuts in the training process.
        buckets: put series of similar length into one minibatch.
        ask: the question of `predict`, given everything; by default the holes of the table.
        missing: what is never seen of the given, in training, validation and test; what is wanted, and
            what `predict` is given, is left alone. The same rows in every epoch and for every seed.
    """

    def __init__(
        self,
        source: Callable[[], Any],
        task: Task,
        split: Split | None = None,
        batch_size: int = 64,
        window: int | None = None,
        stride: int = 1,
        seed: int = 0,
        workers: int = 0,
        buckets: bool = True,
        ask: Question = holes,
        missing: Missing = COMPLETE,
    ):
        super().__init__()
        self.source, self.task, self.split = source, task, split
        self.missing, self.cut = missing, FromThinned(task, missing)
        self.batch_size, self.window, self.stride = batch_size, window, stride
        self.seed, self.workers, self.buckets, self.ask = seed, workers, buckets, ask
        self.everything: Any = None
        self.parts: Parts | None = None
        self.train: Any = None

    def prepare_data(self) -> None:
        # one process downloads, the others find what it left; alone, `setup` does both
        if self.trainer is not None and self.trainer.world_size > 1:
            self.source()

    def setup(self, stage: str) -> None:
        if self.parts is not None:
            return
        self.everything = self.source()
        _require_rows(self.everything)
        if stage == "fit" and isinstance(self.everything, Paths):
            require_learnable(self.everything)
        split = self.split or (BySeries() if isinstance(self.everything, Paths) else _whole)
        parts = split(self._named(), lambda paths: self.task(paths, _generator(self.seed)))
        # a split may cut questions by itself: they are thinned after it
        self.parts = Parts(parts.train, self._thinned(parts.val), self._thinned(parts.test))
        self.train = self.parts.train
        if self.window is not None:
            self.train = windows(self.train, self.window, self.stride)

    @property
    def names(self) -> Names | None:
        """What rows and columns are called, where the source says it."""
        return self.everything.names if isinstance(self.everything, Paths) else None

    def train_pair(self, epoch: int) -> Pair:
        """The whole training set, cut by the task: what `Model.on_epoch` sees."""
        return self.cut(self.train, _generator(self.seed, epoch))

    def train_dataloader(self) -> DataLoader[Batch]:
        kind = kind_of(self.train)
        batches = self._batches(
            kind.count(self.train), kind.lengths(self.train) if self.buckets else None, shuffle=True
        )
        if self.trainer is not None:
            # workers read ahead before Lightning calls `set_epoch`; and a run stopped inside an
            # epoch goes on with the batches it had not seen
            loop: Any = self.trainer.fit_loop
            epochs, steps = loop.epoch_progress.current, loop.epoch_loop.batch_progress.current
            batches.set_epoch(epochs.processed)
            if epochs.started > epochs.processed:
                batches.skip(epochs.processed, steps.processed)
        return self._loader(_Cuts(self.train, self.cut, self.seed), batches)

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        return [] if self.parts is None or self.parts.val is None else self._judged(self.parts.val)

    def test_dataloader(self) -> DataLoader[Batch]:
        if self.parts is None or self.parts.test is None:
            raise DataError(
                "D10", "the split keeps nothing for the test", "a test part", "Set data.split.test"
            )
        return self._judged(self.parts.test)

    def predict_dataloader(self) -> DataLoader[Batch]:
        asked = self.ask(self.everything)
        if not asked.mask.any():
            raise DataError(
                "D17",
                "nothing is asked: no value is missing between the first and the last row of a series",
                "holes in the table, or times to forecast",
                "Forecast with --data.ask tsdyn.lit.data.Ahead --data.ask.horizon <time>",
            )
        return self._judged((self.everything, asked))

    def state_dict(self) -> dict[str, Any]:
        """Names of series and channels, and how time is written: plain values."""
        names = self.names
        if names is None:
            return {}
        return {k: list(v) for k, v in names._asdict().items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """D13 if the data have other channels than those that were learned from."""
        if self.names is None or "channels" not in state_dict:
            return
        came, wanted = list(self.names.channels), list(state_dict["channels"])
        if came != wanted:
            missing = [c for c in wanted if c not in came]
            raise DataError(
                "D13",
                f"the data have channels {first(came, 8)}",
                f"the channels that the checkpoint knows, in their order: {first(wanted, 8)}",
                did_you_mean(missing[0], came) if missing else "Put the columns into this order",
            )

    def facts(self) -> dict[str, Any]:
        """Shape, number of observed values and a hash of the data, for the record of a run."""
        digest = hashlib.sha256()
        for field in self.everything:
            if isinstance(field, Tensor):
                digest.update(field.detach().cpu().contiguous().numpy().tobytes())
        tensors = zip(self.everything._fields, self.everything, strict=True)
        return {
            "shape": {k: list(v.shape) for k, v in tensors if isinstance(v, Tensor)},
            "observed": observed(self.everything),
            "sha256": digest.hexdigest(),
        }

    def _named(self) -> Any:
        """Everything; what is missing of a series goes by its name, which it keeps in every batch."""
        if not self.missing.rate:
            return self.everything
        if not isinstance(self.everything, Paths):
            raise ConfigError(
                "X01",
                f"data.missing with {type(self.everything).__name__}",
                "series, as rows of `Paths`",
                "Leave out data.missing",
            )
        return self.everything._replace(names=default_names(self.everything))

    def _thinned(self, pair: Pair | None) -> Pair | None:
        """A question that is already cut, without what is missing of its given part."""
        if pair is None:
            return None
        given, want = pair
        return self.missing(given), want

    def _judged(self, pair: Pair) -> DataLoader[Batch]:
        return self._loader(_Slices(*pair), self._batches(kind_of(pair[0]).questions(*pair)))

    def _batches(self, count: int, lengths: Tensor | None = None, shuffle: bool = False) -> Batches:
        trainer = self.trainer
        rank, world = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        return Batches(count, self.batch_size, lengths, shuffle, self.seed, rank, world)

    def _loader(self, dataset: Dataset[Batch], batches: Batches) -> DataLoader[Batch]:
        return DataLoader(
            dataset,
            batch_size=None,  # an item is a whole batch
            sampler=batches,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            collate_fn=_as_it_is,
            worker_init_fn=_leave_signals,
            generator=torch.Generator(),  # so that starting an epoch draws nothing from the global one
            pin_memory=torch.cuda.is_available(),
        )


LitPaths = LitData  # the usual case by its usual name


@dataclasses.dataclass(frozen=True)
class Ahead:
    """The question "what comes next?": `steps` evenly spaced times up to `horizon` after each series ends.

    Args:
        horizon: in the units of t.
        steps: how many times are asked about.
    """

    horizon: float
    steps: int = 24

    def __call__(self, paths: Paths) -> Paths:
        last = paths.t.where(paths.mask.any(-1), -torch.inf).amax(1, keepdim=True)  # (B, 1)
        ahead = torch.arange(1, self.steps + 1, device=last.device) * (self.horizon / self.steps)
        asked = query(last + ahead.to(last.dtype), paths)
        return asked._replace(mask=torch.ones_like(asked.mask))


class _Cuts(Dataset[Batch]):
    """Some rows of the training set, cut by the task. The cut depends on (seed, epoch, rows) only."""

    def __init__(self, data: Any, task: Task, seed: int):
        self.data, self.task, self.seed = data, task, seed

    def __getitem__(self, chosen: Chosen | int) -> Batch:
        chosen = _chosen(chosen)
        taken = kind_of(self.data).take(self.data, torch.tensor(chosen.rows))
        given, want = self.task(taken, _generator(self.seed, chosen.epoch, *chosen.rows))
        return given, want, chosen

    def __len__(self) -> int:
        return kind_of(self.data).count(self.data)


class _Slices(Dataset[Batch]):
    """Some rows of a pair that is already cut."""

    def __init__(self, given: Any, want: Any):
        self.given, self.want = given, want

    def __getitem__(self, chosen: Chosen | int) -> Batch:
        chosen = _chosen(chosen)
        rows = torch.tensor(chosen.rows)
        return *kind_of(self.given).slice(self.given, self.want, rows), chosen

    def __len__(self) -> int:
        return kind_of(self.given).questions(self.given, self.want)


def _chosen(key: Chosen | int) -> Chosen:
    # Lightning's `overfit_batches` puts in a sampler of plain numbers
    return Chosen(0, (key,)) if isinstance(key, int) else key


def _generator(*seeds: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(*seeds))


def _as_it_is(batch: Any) -> Any:
    return batch


def _leave_signals(worker: int) -> None:
    # Ctrl-C reaches every process of a terminal; the training process alone decides what it means
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _whole(paths: Any, cut: Callable[[Any], Pair]) -> Parts:
    return Parts(paths, None, None)


def _require_rows(data: Any) -> None:
    if not kind_of(data).count(data):
        raise DataError("D01", "the source gave no row", "at least one series", "Check data.source")

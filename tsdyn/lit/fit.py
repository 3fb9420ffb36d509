"""Training from Python, in one call."""

import contextlib
import datetime
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, Timer

from ..data.split import BySeries, Parts, Split
from ..data.tasks import Task
from ..errors import ConfigError
from ..models.base import Model
from .callbacks import Checkpoints, NonFiniteGuard
from .data import LitData
from .module import TRAINER, LitModel, learns
from .quiet import quiet
from .randomness import random_state, restore_random_state

M = TypeVar("M", bound=Model)


def fit(
    model: M,
    paths: Any,
    task: Task,
    *,
    val: Split | float | None = None,
    epochs: int = 50,
    batch_size: int = 64,
    window: int | None = None,
    stride: int = 1,
    lr: float = 1e-3,
    anneal: bool = False,
    seed: int = 0,
    patience: int | None = None,
    max_seconds: float | None = None,
    device: str = "auto",
    folder: Path | None = None,
    progress: bool = False,
    gradient_clip: float = 1.0,
) -> M:
    """The same model, trained with Adam: on the CPU, in evaluation mode.

    The weights are those of the best validation loss where there is a validation part, else the
    last. Torch's, numpy's and Python's generators go on afterwards as if nothing had been drawn.

    Args:
        model: trained in place.
        paths: everything to learn from.
        task: cuts minibatches into what is given and what is wanted.
        val: a split, or the part of the series that validates; None trains on everything.
        epochs: rounds over the data; a model without parameters takes one.
        batch_size: rows per step.
        window, stride: cut long series into stretches of `window` rows, `stride` apart.
        lr: step size of Adam.
        anneal: lower the step size to zero along a cosine, over all epochs.
        seed: of the order of the data, the cuts and the draws.
        patience: stop after so many epochs without a better validation loss.
        max_seconds: stop after so many seconds.
        device: "auto", "cpu", "gpu" or what else Lightning knows.
        folder: keep checkpoints here; otherwise nothing stays on disk.
        progress: show a bar.
        gradient_clip: largest norm of a gradient; 0 leaves it alone.

    Raises:
        ModelError: M02 when the loss stops being finite.
    """
    if patience is not None and val is None:
        raise ConfigError(
            "X01", "patience without a validation part", "a part that validates", "Set val=0.2"
        )
    split = BySeries(val, 0.0, seed=seed) if isinstance(val, float) else val or _everything
    data = LitData(lambda: paths, task, split, batch_size, window, stride, seed)
    cosine = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=epochs) if anneal else None
    module = LitModel(model, partial(torch.optim.Adam, lr=lr), cosine, seed=seed)
    with quiet(".*"), _undisturbed(), tempfile.TemporaryDirectory() as scratch:
        torch.manual_seed(seed)
        checkpoints = Checkpoints(folder or scratch, last=folder is not None)
        trainer = L.Trainer(
            accelerator=device,
            devices=1,
            max_epochs=epochs if learns(model) else 1,
            callbacks=[NonFiniteGuard(), *_stops(patience, max_seconds), checkpoints],
            default_root_dir=scratch,
            logger=False,
            enable_progress_bar=progress,
            limit_val_batches=1.0 if val is not None and learns(model) else 0,
            gradient_clip_val=gradient_clip or None,
            **TRAINER,
        )
        trainer.fit(module.train(), datamodule=data)
        _take_best(module, checkpoints)
    return model.cpu().eval()


def _take_best(module: LitModel, checkpoints: Checkpoints) -> None:
    """The weights of the best validation loss, if there was validation."""
    if checkpoints.monitor and checkpoints.best_model_path:
        best = torch.load(checkpoints.best_model_path, map_location="cpu", weights_only=True)
        module.load_state_dict(best["state_dict"])


def _stops(patience: int | None, max_seconds: float | None) -> list[Callback]:
    stops: list[Callback] = []
    if patience is not None:
        stops.append(EarlyStopping("val/loss", patience=patience, strict=False))
    if max_seconds is not None:
        stops.append(Timer(datetime.timedelta(seconds=max_seconds), verbose=False))
    return stops


def _everything(paths: Any, cut: Any) -> Parts:
    return Parts(paths, None, None)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """The global generators go on afterwards as if nothing had been drawn."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    before = random_state(device)
    try:
        yield
    finally:
        restore_random_state(before, device)

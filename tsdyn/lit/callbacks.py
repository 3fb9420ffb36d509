"""What a run does beside learning: guard its numbers, keep its state, write its answers."""

import contextlib
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint
from torch import Tensor, nn

from ..batch import Paths
from ..errors import ModelError, first
from .data import Batch
from .signals import Stopped

EXTREME = 1e6  # times the median size of a channel: beyond it a value is worth naming


class NonFiniteGuard(Callback):
    """M02 at the first loss or gradient that is not finite, before the optimiser sees it.

    The weights therefore stay those of the last good step.
    """

    def __init__(self) -> None:
        self.batch: Batch | None = None
        self.index = 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.batch, self.index = batch, batch_idx

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor
    ) -> None:
        if not loss.isfinite():
            raise self.error(trainer, f"the loss is {loss.item()}")

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if trainer.precision == "16-mixed":
            return  # infinite gradients are how the scaler of float16 finds its scale
        gradients = {n: p.grad for n, p in pl_module.named_parameters() if p.grad is not None}
        if gradients and not torch.nn.utils.get_total_norm(gradients.values()).isfinite():
            broken = [n for n, g in gradients.items() if not g.isfinite().all()]
            raise self.error(trainer, f"gradients are not finite: {first(broken) or 'their norm'}")

    def error(self, trainer: L.Trainer, what: str) -> ModelError:
        where = f"step {trainer.global_step}, epoch {trainer.current_epoch}, batch {self.index}"
        return ModelError(
            "M02",
            f"{what} at {where}{suspects(self.batch)}",
            "finite numbers",
            "Look at these values, lower the learning rate, or clip gradients harder",
        )


def suspects(batch: Any) -> str:
    """Which series and channels of a batch hold values that are not finite or far from the others."""
    if batch is None:
        return ""
    given, want, *rest = batch
    found = [
        text
        for name, paths in (("given", given), ("want", want))
        if isinstance(paths, Paths) and (text := _suspects_in(paths, name))
    ]
    if found:
        return "; " + "; ".join(found)
    series = _series(given) if isinstance(given, Paths) else [r for c in rest for r in c.rows]
    return f"; no value looks wrong in series {first(series)}"


def _suspects_in(paths: Paths, name: str) -> str:
    size = paths.x.abs().where(paths.mask, torch.nan)  # (B, T, D)
    usual = size.flatten(0, 1).nanmedian(0).values.nan_to_num(0.0)
    odd = paths.mask & ~(size <= EXTREME * usual.clamp(min=1e-30))
    if not odd.any():
        return ""
    series = [_series(paths)[int(b)] for b in odd.flatten(1).any(1).nonzero()[:, 0]]
    channels = [_channels(paths)[int(d)] for d in odd.flatten(0, 1).any(0).nonzero()[:, 0]]
    worst = paths.x[odd][paths.x[odd].abs().nan_to_num(torch.inf).argmax()].item()
    return f"{name} holds {worst:.3g} in series {first(series)}, channel {first(channels)}"


def _series(paths: Paths) -> list[Any]:
    return list(paths.names.series if paths.names else range(len(paths.t)))


def _channels(paths: Paths) -> list[Any]:
    return list(paths.names.channels if paths.names else range(paths.x.shape[-1]))


class Checkpoints(ModelCheckpoint):
    """The best and the last state, each written as an epoch ends.

    Args:
        folder: where to.
        last: also keep the last state, to go on from.
    """

    def __init__(self, folder: Path | str, last: bool = True):
        super().__init__(
            folder,
            filename="{epoch:03d}-{val/loss:.4f}",
            monitor="val/loss",
            save_top_k=1,
            auto_insert_metric_name=False,
            save_on_train_epoch_end=True,  # only there is a checkpoint a clean beginning
        )
        self.last = Path(folder) / "last.ckpt" if last else None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and not _validates(trainer):
            self.monitor, self.filename = None, "{epoch:03d}"

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) == 0:
            super().on_train_epoch_end(trainer, pl_module)  # there is a new score
        # `save_last` of the parent keeps the last improvement, not the last epoch
        if self.last is not None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(self.last, weights_only=False)


def _validates(trainer: L.Trainer) -> bool:
    parts = trainer.datamodule.parts  # type: ignore[attr-defined]
    return parts is not None and parts.val is not None and trainer.limit_val_batches != 0


class SaveOnException(Checkpoint):
    """Writes where training stands when something stops it, and says how to go on.

    The first SIGINT or SIGTERM lets the step under way end (and the epoch, on its last step), so that
    the state is exact; a second one does not wait. Going on gives bitwise the weights of a run that
    was never stopped, on a CPU, if all that `Model.on_epoch` leaves behind are parameters and buffers.
    Where it leaves more (found by looking), going on starts from the end of the epoch before. Belongs
    after `Checkpoints` in the list of callbacks.

    Args:
        folder: where `interrupted.ckpt` goes, and where `last.ckpt` is.
        command: the command that goes on from a checkpoint.
        say: told what happened.
    """

    def __init__(
        self, folder: Path | str, command: Callable[[Path], str], say: Callable[[str], None]
    ):
        self.folder, self.command, self.say = Path(folder), command, say
        self.signum: int | None = None
        self.exact, self.saved = True, False
        self.loose: dict[tuple[str, str], Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.folder = Path(trainer.strategy.broadcast(str(self.folder)))

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.max_steps != -1 and "loops" in checkpoint:
            begin_epoch(checkpoint["loops"]["fit_loop"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Lightning puts back the handlers it found when the run is over
        with contextlib.suppress(ValueError):  # only the main thread may listen
            for signum in (signal.SIGINT, signal.SIGTERM):
                signal.signal(signum, self.note)

    def note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            raise Stopped(signum)
        self.signum = signum

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.loose = loose_state(pl_module)  # before `on_epoch`

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:  # after `on_epoch`
            now = loose_state(pl_module)
            self.exact = now.keys() == self.loose.keys() and all(
                now[k] is v for k, v in self.loose.items()
            )
            self.loose = {}

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        # where the optimiser has stepped and no validation is due: Lightning would leave it out
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        count = batch_idx if trainer.check_val_every_n_epoch else trainer.fit_loop.total_batch_idx
        judged = (count + 1) % (trainer.val_check_batch or torch.inf) == 0
        if stepped and not judged and not trainer.is_last_batch:
            self.stop(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.exact = True
        self.stop(trainer)

    def stop(self, trainer: L.Trainer) -> None:
        signum = self.signum or 0
        if trainer.world_size > 1:  # together, or the others would wait for this process for ever
            told = torch.tensor(signum, device=trainer.strategy.root_device)
            signum = int(trainer.strategy.reduce(told, reduce_op="max"))
        if signum:
            self.write(trainer)
            raise Stopped(signum)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        if not trainer.global_step:
            return
        if not (self.saved or self.signum or trainer.world_size > 1):
            with contextlib.suppress(OSError):  # a full disk is no reason to hide the exception
                self.write(trainer)
        path = self.folder / ("interrupted.ckpt" if self.saved else "last.ckpt")
        if trainer.is_global_zero:
            reached = f"stopped at epoch {trainer.current_epoch}, step {trainer.global_step}"
            if path.exists():
                self.say(f"{reached}; the state is in {path}\ngo on with: {self.command(path)}")
            else:
                self.say(f"{reached}, before a state could be kept")

    def write(self, trainer: L.Trainer) -> None:
        # writing is done by all processes together: the first one decides
        if self.exact or not trainer.strategy.broadcast((self.folder / "last.ckpt").exists()):
            trainer.save_checkpoint(self.folder / "interrupted.ckpt", weights_only=False)
            self.saved = True


def begin_epoch(progress: dict[str, Any]) -> None:
    """Make a state that was kept as an epoch ended the beginning of the next one.

    With `max_steps` Lightning would end that epoch a second time and leave the next one out.
    """
    epochs, batches = progress["epoch_progress"], progress["epoch_loop.batch_progress"]
    if epochs["current"]["processed"] == epochs["current"]["started"]:
        for count in (epochs["total"], epochs["current"]):
            count["completed"] = count["processed"]
        batches["current"] = dict.fromkeys(batches["current"], 0)
        batches["is_last_batch"] = False


def loose_state(module: nn.Module) -> dict[tuple[str, str], Any]:
    """Whatever the modules hold beside parameters and buffers: a checkpoint does not know it."""
    usual = vars(nn.Module()).keys()
    return {
        (name, key): value
        for name, part in module.named_modules()
        if not isinstance(part, L.LightningModule)
        for key, value in vars(part).items()
        if key not in usual
    }

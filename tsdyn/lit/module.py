"""The one LightningModule: any `Model`, any optimiser."""

from typing import Any, Literal, NamedTuple

import lightning as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from torch import Tensor, nn

from .. import chance
from ..batch import Names
from ..errors import ConfigError, did_you_mean
from ..evaluation import scores
from ..io import pack
from ..models.base import Model
from .data import Batch, LitData
from .kinds import observed
from .sampler import Chosen, seed_of

TRAINER: dict[str, Any] = {  # what every Trainer of ours is told
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,  # before the first epoch, closed forms have not been fitted
    "inference_mode": False,  # scores may need gradients inside, as Langevin drifts do
}


class Prediction(NamedTuple):
    """The answer to one batch of questions, and whose they were."""

    rows: tuple[int, ...]  # B, of the dataset
    samples: Tensor  # (S, B, T, D)
    t: Tensor  # (B, T)
    mask: Tensor  # (B, T, D)  True where something was asked
    names: Names | None


class LitModel(L.LightningModule):
    """Trains `model.loss`; judges by loss and by scores of draws.

    Scores are means over the observed values of everything wanted, however it was batched or spread
    over processes. Draws made for judging come from a generator of their own, so that every epoch is
    judged with the same draws and training does not notice.

    Args:
        model: what to train.
        optimizer: made from the parameters.
        scheduler: made from the optimiser.
        interval: whether the scheduler steps with epochs or with steps of the optimiser.
        samples: draws per series in validation, test and prediction.
        seed: of these draws, and of what `on_epoch` draws.
    """

    def __init__(
        self,
        model: Model,
        optimizer: OptimizerCallable = torch.optim.Adam,
        scheduler: LRSchedulerCallable | None = None,
        interval: Literal["epoch", "step"] = "epoch",
        samples: int = 32,
        seed: int = 0,
    ):
        super().__init__()
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.interval, self.samples, self.seed = interval, samples, seed
        self.sums: dict[str, Tensor] = {}
        if not learns(model):
            # Trainer, checkpoints and DDP count steps of an optimiser; this gives them one to count
            self.nothing = nn.Parameter(torch.zeros(()))

    def on_fit_start(self) -> None:
        names = self._data().names
        if names is not None:
            self.model.channels = names.channels

    def on_train_epoch_start(self) -> None:
        if type(self.model).on_epoch is Model.on_epoch:
            return  # nobody would look at the whole training set
        train = self._data().train_pair(self.current_epoch)
        train = self.transfer_batch_to_device(train, self.device, 0)
        # the same draws in every process and after every resumption
        with chance.seed(seed_of(self.seed, self.current_epoch), self.device):
            self.model.on_epoch(self.current_epoch, train)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        given, want, *_rest = batch
        loss = self.model.loss(given, want)
        self.log(
            "train/loss",
            loss.detach(),
            batch_size=max(observed(want), 1),
            prog_bar=True,
            on_step=True,
            on_epoch=True,
            sync_dist=True,
        )
        if loss.requires_grad:
            return loss
        return loss + sum(0.0 * p.sum() for p in self.parameters() if p.requires_grad)

    def on_validation_epoch_start(self) -> None:
        self.sums = {}

    def validation_step(self, batch: Batch, _: int) -> None:
        self._judge(batch)

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_start(self) -> None:
        self.sums = {}

    def test_step(self, batch: Batch, _: int) -> None:
        self._judge(batch)

    def on_test_epoch_end(self) -> None:
        self._report("test")

    def predict_step(self, batch: Batch, _: int) -> Prediction | None:
        given, want, chosen = batch
        if chosen.repeated:
            return None
        with chance.seed(seed_of(self.seed, *chosen.rows), self.device):
            samples = self.model.sample(given, want.t, self.samples)
        return Prediction(chosen.rows, samples, want.t, want.mask, want.names)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        if self.scheduler is None:
            return optimizer
        scheduler: Any = self.scheduler(optimizer)
        settings = {
            "scheduler": scheduler,
            "interval": self.interval,
            "reduce_on_plateau": False,  # stepped in `on_validation_end`, before checkpoints are written
        }
        return {"optimizer": optimizer, "lr_scheduler": settings}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if not isinstance(scheduler, ReduceLROnPlateau):
            super().lr_scheduler_step(scheduler, metric)

    def on_validation_end(self) -> None:
        if self.trainer.state.fn != "fit" or self.trainer.sanity_checking:
            return
        scores = self.trainer.callback_metrics
        for config in self.trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            if not isinstance(scheduler, ReduceLROnPlateau):
                continue
            if scheduler.monitor not in scores:
                raise ConfigError(
                    "X01",
                    f"the scheduler watches `{scheduler.monitor}`, which validation does not report",
                    "a score of validation",
                    did_you_mean(scheduler.monitor, scores),
                )
            scheduler.step(scores[scheduler.monitor])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["tsdyn"] = pack(self.model)

    def _judge(self, batch: Batch) -> None:
        given, want, *rest = batch
        chosen = rest[0] if rest else Chosen(0, ())
        with chance.seed(seed_of(self.seed, *chosen.rows), self.device):
            values = {
                "loss": self.model.loss(given, want),
                **scores(want, self.model, given, self.samples),
            }
        # a repeated batch is judged all the same: every process must know the same names
        count = 0 if chosen.repeated else observed(want)
        for name, value in values.items():
            mean = torch.as_tensor(value, dtype=torch.float32, device=self.device).detach()
            weighed = torch.stack(
                [mean * count if count else torch.zeros_like(mean), mean.new_tensor(count)]
            )
            self.sums[name] = self.sums.get(name, 0.0) + weighed.double()

    def _report(self, stage: str) -> None:
        names = sorted(self.sums)
        if not names:
            return
        total = torch.stack([self.sums[name] for name in names])  # (names, 2)
        total = self.trainer.strategy.reduce(total, reduce_op="sum")
        for name, (weighed, count) in zip(names, total.unbind(), strict=True):
            self.log(
                f"{stage}/{name}",
                (weighed / count).float(),
                prog_bar=name == "loss",
                sync_dist=True,
                batch_size=1,
            )

    def _data(self) -> LitData:
        data: LitData = self.trainer.datamodule  # type: ignore[attr-defined]
        return data


def learns(model: Model) -> bool:
    """Whether gradients have something to do: without trainable parameters a model is a closed form."""
    return any(p.requires_grad for p in model.parameters())

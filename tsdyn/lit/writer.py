"""Where the answers of `predict` go."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import nn

from ..batch import Names
from ..data.tasks import holes
from .module import Prediction


class ForecastWriter(BasePredictionWriter):
    """Predictions to one file, series in the order of the data.

    Several processes write `part-00000.parquet` and so on beside it, which the first one merges.

    Args:
        path: .parquet keeps every draw; .csv holds the mean and quantiles.
    """

    def __init__(self, path: Path | str):
        super().__init__("batch")
        self.path, self.answers = Path(path), list[Prediction]()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.path = Path(trainer.strategy.broadcast(str(self.path)))

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: Any,
        batch_indices: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        if prediction is not None:
            self.answers.append(
                prediction._replace(
                    samples=prediction.samples.cpu(),
                    t=prediction.t.cpu(),
                    mask=prediction.mask.cpu(),
                )
            )

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        kind = "imputation" if data.ask is holes else "forecast"
        answer = joined(self.answers) if self.answers else None
        if trainer.world_size > 1:
            if answer is not None:
                write_answer(self.part(trainer.global_rank), answer, kind)
            rows: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(rows, answer and answer.rows)
            if trainer.is_global_zero:
                answer = joined([self.read(rank, r) for rank, r in enumerate(rows) if r])
        if answer is not None and trainer.is_global_zero:
            write_answer(self.path, answer, kind)

    def part(self, rank: int) -> Path:
        return self.path.parent / f"part-{rank:05d}.parquet"

    def read(self, rank: int, rows: tuple[int, ...]) -> Prediction:
        from ..data.frames import read_draws

        t, samples, mask, names, _ = read_draws(self.part(rank))
        self.part(rank).unlink()
        return Prediction(rows, samples, t, mask, names)


def joined(answers: list[Prediction]) -> Prediction:
    """Several answers as one, in the order of their rows; padding repeats the last time."""
    length = max(a.t.shape[1] for a in answers)
    wide = [_widened(a, length - a.t.shape[1]) for a in answers]
    rows = [row for a in answers for row in a.rows]
    order = torch.tensor(rows).argsort()
    series = [name for a in answers for name in (a.names.series if a.names else a.rows)]
    names = answers[0].names or Names((), tuple(f"x{d}" for d in range(wide[0].mask.shape[-1])))
    return Prediction(
        tuple(rows[i] for i in order),
        torch.cat([a.samples for a in wide], 1)[:, order],
        torch.cat([a.t for a in wide])[order],
        torch.cat([a.mask for a in wide])[order],
        names._replace(series=tuple(series[i] for i in order)),
    )


def _widened(answer: Prediction, by: int) -> Prediction:
    pad = nn.functional.pad
    return answer._replace(
        samples=pad(answer.samples, (0, 0, 0, by)),
        t=torch.cat([answer.t, answer.t[:, -1:].expand(-1, by)], 1),
        mask=pad(answer.mask, (0, 0, 0, by)),
    )


def write_answer(path: Path, answer: Prediction, kind: str) -> None:
    """To .parquet every draw with its kind ("forecast", "imputation"), else a table of mean and quantiles."""
    from ..data.frames import draws_to_frame, write_draws, write_table

    assert answer.names is not None  # `joined` gives every answer names
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        write_draws(path, answer.t, answer.samples, answer.mask, answer.names, kind)
    else:
        write_table(draws_to_frame(answer.t, answer.samples, answer.mask, answer.names), path)

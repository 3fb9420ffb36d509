"""What users hold: draws of values at times, with the names they gave them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor

from .batch import Names, Paths
from .errors import DataError, did_you_mean
from .maths import score

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["forecast", "imputation", "simulation"]


@dataclasses.dataclass(frozen=True)
class Forecast:
    """S joint draws of D channels of B series at their own times.

    Args:
        t: (B, T) in the unit of the data; padding repeats the last time.
        samples: (S, B, T, D) in the units of the data, observation noise included.
        mask: (B, T, D) True where an answer was asked for.
        names: of series and channels, and how time is written.
        kind: what was asked.
    """

    t: Tensor
    samples: Tensor
    mask: Tensor
    names: Names
    kind: Kind = "forecast"

    def mean(self) -> Tensor:
        """E x: (B, T, D)."""
        return self.samples.mean(0)

    def median(self) -> Tensor:
        """The 0.5-quantile: (B, T, D)."""
        return self.quantile(0.5)

    def std(self) -> Tensor:
        """Standard deviation of the draws: (B, T, D)."""
        return self.samples.std(0)

    def quantile(self, q: float) -> Tensor:
        """The q-quantile, q in [0, 1]: (B, T, D)."""
        self._need(2, "a quantile")
        if not 0 <= q <= 1:
            raise DataError("D14", f"quantile({q})", "a level in [0, 1]", "")
        return score.quantile(self.samples, q)

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """The two ends of the central interval that a new draw falls into with probability `level`.

        Each (B, T, D). A little wider than the quantiles of few draws; see `maths.score.interval`.
        """
        self._need(2, "an interval")
        if not 0 <= level <= 1:
            raise DataError("D14", f"interval({level})", "a level in [0, 1]", "")
        return score.interval(self.samples, level)

    def probabilities(self, states: int | None = None) -> Tensor:
        """Shares of the draws in each of n states, where draws are numbers of states: (B, T, D, n).

        Raises:
            DataError: D14 where a draw is no number of a state.
        """
        from .data.draws import shares

        return shares(self.samples, self.mask, states)

    def sample(self, n: int, seed: int | None = None) -> Tensor:
        """n of the joint draws, without repetition while there are enough: (n, B, T, D)."""
        S = len(self.samples)
        generator = torch.Generator()
        if seed is not None:
            generator.manual_seed(seed)
        order = torch.randperm(S, generator=generator if seed is not None else None)
        return self.samples[order.repeat(-(-n // S))[:n]]

    def crps(self, truth: Paths) -> Tensor:
        """Mean fair CRPS where `truth` (rows at the same times) was observed; in units of x, a scalar."""
        self._need(2, "the CRPS")
        if truth.x.shape != self.samples.shape[1:]:
            raise DataError(
                "D17",
                f"truth has shape {tuple(truth.x.shape)}, the forecast {tuple(self.samples.shape[1:])}",
                "the same series and times",
                "Ask with times=truth.t",
            )
        return score.masked_mean(score.crps(self.samples, truth.x), truth.mask & self.mask)

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, series: str | int) -> "Forecast":
        """The forecast of one series, by its id."""
        if series not in self.names.series:
            raise DataError(
                "D02",
                f"no series `{series}` in this forecast",
                "",
                did_you_mean(str(series), map(str, self.names.series[:50])),
            )
        b = self.names.series.index(series)
        length = max(int((self.mask[b].any(-1) * torch.arange(1, self.t.shape[1] + 1)).max()), 1)
        return dataclasses.replace(
            self,
            t=self.t[b : b + 1, :length],
            samples=self.samples[:, b : b + 1, :length],
            mask=self.mask[b : b + 1, :length],
            names=self.names._replace(series=(series,)),
        )

    def to_pandas(
        self,
        kind: Literal["quantiles", "samples", "mean", "states"] = "quantiles",
        quantiles: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95),
    ) -> "pd.DataFrame":
        """A table with times in the user's own type.

        "quantiles": series_id, time, channel, mean, q0.05, ...; "samples": series_id, time, channel,
        sample, value; "mean": series_id, time and a column per channel; "states": series_id,
        time, channel, p0, p1, ...: shares of draws that are numbers of states.
        """
        from .data.frames import draws_to_frame

        return draws_to_frame(
            self.t, self.samples, self.mask, self.names, kind=kind, quantiles=tuple(quantiles)
        )

    def to_parquet(self, path: str | Path) -> None:
        """Everything, without loss; needs the extra `parquet`."""
        from .data.frames import write_draws

        write_draws(path, self.t, self.samples, self.mask, self.names, self.kind)

    @classmethod
    def from_parquet(cls, path: str | Path) -> "Forecast":
        """What `to_parquet` wrote."""
        from .data.frames import read_draws

        t, samples, mask, names, kind = read_draws(path)
        return cls(t, samples, mask, names, cast(Kind, kind))

    def plot(
        self, history: Paths | None = None, intervals: Sequence[float] = (0.5, 0.9), **options: Any
    ) -> Any:
        """Median and central intervals over what was seen; a matplotlib figure. Needs the extra `plot`."""
        from .plot import plot_forecast

        return plot_forecast(self, history, intervals, **options)

    def __repr__(self) -> str:
        S, B, T, _ = self.samples.shape
        return f"Forecast({self.kind}: {B} series, up to {T} times, channels {', '.join(self.names.channels)}, {S} draws)"

    def _need(self, n: int, what: str) -> None:
        if len(self.samples) < n:
            raise DataError(
                "D10",
                f"{what} of {len(self.samples)} draws",
                f"at least {n} draws",
                "Ask with samples=100",
            )

"""Small models and sources for the tests of training; importable, as a user's own would be."""

import dataclasses
import os
import signal

import torch
from torch import Tensor, nn

from tsdyn.batch import Names, Paths
from tsdyn.maths.score import masked_mean
from tsdyn.models.base import Model


def stop_at(step: int) -> None:
    """A signal to this very process, as TSDYN_TEST_STOP says: `SIGTERM 6`, or `SIGINT 6 twice`."""
    name, at, *twice = os.environ.get("TSDYN_TEST_STOP", "SIGTERM -1").split()
    if step == int(at):
        for _ in range(1 + len(twice)):
            signal.raise_signal(signal.Signals[name])


class Line(Model):
    """x ~ N(f(t), 1) with dropout in f; counts its steps."""

    steps: Tensor

    def __init__(self, dim: int = 1, hidden: int = 4, dropout: float = 0.5):
        super().__init__()
        self.inside = nn.Linear(1, hidden)
        self.outside = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("steps", torch.tensor(0))

    def mean(self, t: Tensor) -> Tensor:
        return self.outside(self.dropout(self.inside(t[..., None].float()).tanh()))

    def loss(self, given: Paths, want: Paths) -> Tensor:
        if self.training:
            self.steps += 1
            stop_at(int(self.steps))
        square = (want.x.where(want.mask, 0.0) - self.mean(want.t)).square()
        return masked_mean(0.5 * square, want.mask)

    def sample(self, given: Paths, at: Tensor, n: int) -> Tensor:
        mean = self.mean(at)
        return mean + torch.randn(n, *mean.shape)


class Mean(Model):
    """x ~ N(mean, 1), the mean of the training set: nothing for a gradient to do."""

    mean: Tensor

    def __init__(self, dim: int = 1):
        super().__init__()
        self.register_buffer("mean", torch.full((dim,), torch.nan))
        self.epochs: list[int] = []

    def on_epoch(self, epoch: int, train: tuple[Paths, Paths]) -> None:
        self.epochs.append(epoch)
        given, want = train
        x = torch.cat([given.x[given.mask], want.x[want.mask]])
        self.mean = x.mean().expand(len(self.mean)).clone()

    def loss(self, given: Paths, want: Paths) -> Tensor:
        return masked_mean(0.5 * (want.x.where(want.mask, 0.0) - self.mean).square(), want.mask)

    def sample(self, given: Paths, at: Tensor, n: int) -> Tensor:
        return self.mean + torch.randn(n, *at.shape, len(self.mean))


class Bursting(Line):
    """Its loss is not a number from the third batch on."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def loss(self, given: Paths, want: Paths) -> Tensor:
        self.calls += self.training
        return super().loss(given, want) * (torch.nan if self.calls > 2 else 1.0)


class Forgetful(Line):
    """Keeps what `on_epoch` drew outside parameters and buffers."""

    def on_epoch(self, epoch: int, train: tuple[Paths, Paths]) -> None:
        self.drawn = torch.randn(())

    def loss(self, given: Paths, want: Paths) -> Tensor:
        return super().loss(given, want) * (1 + 0.1 * self.drawn.tanh())


@dataclasses.dataclass(frozen=True)
class Ramp:
    """x = slope t + noise at irregular times, in series of different lengths.

    Args:
        series: B.
        dim: D.
        slope: of x.
        spoiled: put huge values into the series s5.
    """

    series: int = 20
    dim: int = 1
    slope: float = 2.0
    spoiled: bool = False

    def __call__(self) -> Paths:
        g = torch.Generator().manual_seed(1)
        t = torch.rand(self.series, 12, generator=g, dtype=torch.float64).sort(1).values
        noise = torch.randn(self.series, 12, self.dim, generator=g)
        x = self.slope * t[..., None].float() + 0.1 * noise
        length = torch.randint(6, 13, (self.series,), generator=g)
        mask = (torch.arange(12) < length[:, None])[..., None].expand_as(x).clone()
        last = t.gather(1, length[:, None] - 1)
        t = t.where(mask[..., 0], last)  # padding repeats the last time
        mask[0, 2] = False  # a hole
        if self.spoiled:
            x[5] = 1e30
        names = Names(
            tuple(f"s{i}" for i in range(self.series)), tuple(f"c{i}" for i in range(self.dim))
        )
        return Paths(t, x, mask, names=names)

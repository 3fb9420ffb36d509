"""A Gaussian process that is told its observations as they come.

Only the law of the state at the last time is kept: a new observation costs S^3, however many came before,
and the answers are those of all of them at once.

[1] Hartikainen & Särkkä. Kalman filtering and smoothing solutions to temporal Gaussian process
    regression models. MLSP 2010.
"""

from typing import NamedTuple

from torch import Tensor

from ..batch import Gaussian, Paths
from ..errors import DataError
from ..maths.blocks import carry
from ..maths.kalman import filtered
from .gp import StateSpaceGP
from .process import require_times, to_channels


class State(NamedTuple):
    """What is known at time t of each series: x ~ N(mean, cov), and how likely it was so far."""

    t: Tensor  # (B, 1)
    mean: Tensor  # (B, C, S)
    cov: Tensor  # (B, C, S, S)
    log_z: Tensor  # (B,)  log p(everything seen)


class StreamingGP:
    """The law of a `StateSpaceGP` given what has been seen so far, updated row by row.

        stream = StreamingGP(model)
        state = stream.update(None, first_rows)
        state = stream.update(state, next_row)
        stream.forecast(state, times)

    Nothing is kept here between calls: states are values, and any of them can be gone on from. For
    likelihoods of one pass, as Gaussian noise.

    Args:
        model: whose parameters are read at every call.
    """

    def __init__(self, model: StateSpaceGP):
        self.model = model

    def update(self, state: State | None, seen: Paths) -> State:
        """The state behind new rows of every series, one or many, none before those already seen.

        Args:
            state: so far; None where nothing was seen.
            seen: B series; rows without an observation move time on.

        Raises:
            DataError: D07 where a row is earlier than the state.
        """
        process = self.model.process(seen)
        prior = process.chain
        if state is not None:
            m0, P0 = self._moved(state, seen.t[:, :1])
            prior = prior._replace(m0=m0[..., 0, :], P0=P0[..., 0, :, :])
        found = filtered(prior, process.sites)
        told = found.log_z.sum(1)
        return State(
            seen.t[:, -1:].double(),
            found.mean[..., -1, :],
            found.cov[..., -1, :, :],
            told if state is None else state.log_z + told,
        )

    def forecast(self, state: State, at: Tensor, latent: bool = False) -> Gaussian:
        """Mean and variance of every value at times (B, T), none before the state's."""
        H = self.model.kernel.kernel().H
        mean, cov = self._moved(state, at)
        var = carry(H[..., None, :, :], cov).diagonal(dim1=-2, dim2=-1)
        f = Gaussian(to_channels(mean @ H.mT) + self.model.level(at), to_channels(var))
        return f if latent else self.model.likelihood.values(f)

    def _moved(self, state: State, to: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, C, T, S) and covariance (B, C, T, S, S) at later times (B, T)."""
        require_times(to, ordered=False)
        late = to.double()
        if (late < state.t).any():
            series = int((late < state.t).any(1).nonzero()[0])
            raise DataError(
                "D07",
                f"time {float(late[series].min())} of series {series}, whose state is that of time {float(state.t[series])}",
                "times from that of the state on",
                "Ask `model.posterior` about the past",
            )
        A, Q = self.model.kernel.kernel().transition(
            state.t[:, None].expand_as(late[:, None]), late[:, None]
        )
        mean = (A @ state.mean[..., None, :, None])[..., 0]
        return mean, carry(A, state.cov[..., None, :, :]) + Q

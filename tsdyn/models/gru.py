"""Recurrent networks told the time gaps: the plain baseline of every continuous-time model.

[1] Che, Purushotham, Cho, Sontag & Liu. Recurrent neural networks for multivariate time series with
    missing values. Scientific Reports 8, 2018: section 2.3, "GRU-simple".
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.nn.utils.rnn import pack_padded_sequence

from ..batch import Paths, compact
from ..maths.near import near
from ..nets import local_features
from .pointwise import Pointwise, readout


class GRUEncoder(nn.Module):
    """h_i = GRU(h_{i-1}, (x_i, observed_i, log(1 + 100 (t_i - t_{i-1})))): the plain recurrent encoder  [1]

    Time is in units of a typical length of a series. Unobserved values enter as zero. Rows without
    any observation are skipped.

    Args:
        dim: coordinates of the series, D.
        hidden: size of the state, H.
        layers: recurrent layers, one above the other.
        covariates: time-varying covariates, C, known at every row.
    """

    def __init__(self, dim: int, hidden: int = 32, layers: int = 1, covariates: int = 0):
        super().__init__()
        self.hidden, self.covariates = hidden, covariates
        self.cells = nn.GRU(2 * dim + 1 + covariates, hidden, layers, batch_first=True)

    def forward(self, given: Paths) -> Tensor:
        """The state after the last observed row of each series: (B, H)."""
        given = compact(given)
        count = given.mask.any(-1).sum(1).clamp(min=1).cpu()
        rows = _rows(given, 100.0)
        if self.covariates and given.covariates is not None:
            rows = torch.cat([rows, given.covariates], -1)
        packed = pack_padded_sequence(rows, count, batch_first=True, enforce_sorted=False)
        state: Tensor = self.cells(packed)[1][-1]
        return state


class GRUForecaster(Pointwise):
    """x(t) ~ N(l(t) + m(h, c(t)), s(h, c(t))^2), h the state of a GRU after the last given row  [1]

    The GRU reads values, which of them were observed, and log(1 + gap). l(t) is the linear
    interpolation of the given part, constant beyond its ends; c(t) tells the nearest given values of
    every channel and their distances in time, so that holes can be asked about too. The loss is the
    negative log density of every single value; draws are independent given the law of each value.

    Works in standard units: wrap it in `Scaled`. It is the baseline that a continuous-time model
    has to beat.

    Args:
        dim: coordinates of the series, D.
        hidden: size of h and width of the read-out.
        layers: recurrent layers, one above the other.
        neighbours: given values used on either side of each channel, k.
    """

    def __init__(self, dim: int, hidden: int = 64, layers: int = 1, neighbours: int = 4):
        super().__init__()
        self.neighbours = neighbours
        self.cells = nn.GRU(2 * dim + 1, hidden, layers, batch_first=True)
        self.readout = readout(hidden + (6 * neighbours + 1) * dim, hidden, dim)

    def law(self, given: Paths, at: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation at times (B, T): (B, T, D) each."""
        at = at.to(given.x.dtype)
        found = near(given.t, given.x, given.mask, at, self.neighbours)
        rows = compact(given)
        states = self.cells(_rows(rows, 1.0))[0]  # (B, R, H)
        last = (rows.mask.any(-1).sum(1) - 1).clamp(min=0)[:, None, None]
        state = states.take_along_dim(last, 1).expand(-1, at.shape[1], -1)
        mean, raw = self.readout(torch.cat([state, local_features(found)], -1)).chunk(2, -1)
        return found.level + mean, softplus(raw) + 1e-4


def _rows(given: Paths, per_unit: float) -> Tensor:
    """Values, which of them are observed, and log(1 + gap) in parts of the unit of time: (B, T, 2 D + 1)."""
    x = given.x.where(given.mask, 0.0)
    gap = given.t.diff(dim=1, prepend=given.t[:, :1]).to(x.dtype)
    return torch.cat([x, given.mask.to(x.dtype), torch.log1p(per_unit * gap)[..., None]], -1)

"""A series as the state of a neural SDE that it drives.

[1] Oh, Lim & Kim. Stable neural stochastic differential equations in analyzing irregular time series
    data. ICLR 2024.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from ..batch import Paths, compact
from ..maths.grid import grid
from ..maths.near import near
from ..maths.sde import NoiseKind
from ..maths.spline import derivative, evaluate, hermite, linear, natural
from .fields import Kind, Mode, field, follow

PATHS = {"linear": linear, "hermite": hermite, "natural": natural}


class SDEEncoder(nn.Module):
    """dz = f(zbar) dt + g dW with zbar = zeta(t, z, X(t)), z(t0) = zeta0(X(t0)): H numbers, K times  [1]

    X(t) is the path through the observations, read `detail` times in every solver step, with its
    slope, the age of the last observation of each channel, and the time since the first row: what is
    missing, and for how long, can be told. In mode "repo" it is time and value alone, read at the
    start of each step, as published.

    Each draw is one path of z; an answer should be averaged over them. z is handed out with its mean
    and spread over the H numbers normalised.

    Args:
        dim: coordinates of the series, D.
        hidden: size of z, H.
        kind, mode, noise: which equation; see `tsdyn.models.fields`.
        depth: hidden layers of the drift.
        path: how the observations are joined. "hermite" reads no further than the next observation
            and "natural" the whole series; both are for rows at nearly even distances.
        points: solver steps over a series, of equal length.
        detail: times at which X is read in each step.
        draws: paths per series, K.
        kappa: rates at which z forgets, at first, from the slowest to the fastest coordinate, per unit
            of time: by default from one length of a series to a fiftieth of it, inside `Classifier`.
        covariates: time-varying covariates, C, known at every row.
    """

    def __init__(
        self,
        dim: int,
        hidden: int = 32,
        kind: Kind = "linear_noise",
        mode: Mode = "stable",
        noise: NoiseKind = "diagonal",
        depth: int = 2,
        path: Literal["linear", "hermite", "natural"] = "linear",
        points: int = 32,
        detail: int = 3,
        draws: int = 2,
        kappa: tuple[float, float] = (1.0, 50.0),
        covariates: int = 0,
    ):
        super().__init__()
        self.hidden, self.path, self.points, self.draws = hidden, path, points, draws
        self.published = mode == "repo"
        self.detail = 1 if self.published else detail
        self.covariates = covariates
        values = dim + covariates
        channels = 1 + values if self.published else 1 + values * 2 * detail + dim
        self.first = nn.Linear(dim + covariates, hidden)
        self.field = field(kind, mode, channels, hidden, depth, noise, kappa=kappa)
        self.norm = nn.LayerNorm(hidden)

    def forward(self, given: Paths) -> Tensor:
        """z at the last observed row of each series, on K paths: (K, B, H)."""
        given = self._rows(given)
        part = torch.linspace(0, 1, self.points + 1, dtype=given.t.dtype, device=given.t.device)
        start, end = given.t[:, :1], given.t[:, -1:]
        return self._along(given, start + (end - start) * part[1:])[:, :, -1]

    def along(self, given: Paths, at: Tensor) -> Tensor:
        """z at times (B, Q) in order, none before the first row, on K paths: (K, B, Q, H)."""
        return self._along(self._rows(given), at)

    def _rows(self, given: Paths) -> Paths:
        """Without the rows that say nothing."""
        return given if self.covariates else compact(given)

    def _along(self, given: Paths, at: Tensor) -> Tensor:
        values = self._values(given)
        path = PATHS[self.path](values.t, values.x, values.mask)
        begin = given.t[:, 0]
        steps = grid(at, t0=begin)
        places = torch.arange(self.detail, device=at.device) / self.detail
        start, size = steps.t[..., 0].T, steps.h[..., 0].T  # (B, N)
        read = (start[..., None] + size[..., None] * places).flatten(1)  # (B, N detail)
        x = evaluate(path, read)
        parts = [(start - begin[:, None])[..., None]]
        if self.published:
            parts.append(x)
        else:
            age = near(given.t, given.x, given.mask, start.contiguous(), 1).age[..., 0]
            parts = [torch.log1p(parts[0]), torch.log1p(age)]
            for f in (x, derivative(path, read)):
                parts.append(f.reshape(*start.shape, -1))
        control = torch.cat(parts, -1).transpose(0, 1)  # (N, B, channels)
        z0 = self.field.start(self.first(evaluate(path, given.t[:, :1])[:, 0]))
        return self.norm(follow(self.field, z0, control, steps, begin, self.draws))  # type: ignore[no-any-return]

    def _values(self, given: Paths) -> Paths:
        """Coordinates and covariates, as one series."""
        if not self.covariates or given.covariates is None:
            return Paths(given.t, given.x, given.mask)
        known = torch.ones_like(given.covariates, dtype=torch.bool)
        x = torch.cat([given.x, given.covariates], -1)
        return Paths(given.t, x, torch.cat([given.mask, known], -1))

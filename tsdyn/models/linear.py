"""Ridge regression on what was observed nearby, with Gaussian residuals: the baseline that is hard to beat."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..batch import Gaussian, Paths, compact
from ..maths import walk
from ..maths.near import Near, interpolate_each, near
from .base import Model, require_fitted
from .baselines import gaussian_loss


class _Design(NamedTuple):
    """What the regression sees at times (B, T); the columns of one channel are made when asked for."""

    found: Near
    lags: Tensor  # (B, T, 2 k D)  given values less the anchor, the same for every channel
    own: Tensor  # (B, T, D, F')  seasons and covariates
    distance: Tensor  # (B, T, D)  to the given, in median gaps
    side: Tensor  # (B, T, D)  0: given on both sides, 1: only before, 2: only after, 3: nowhere

    def columns(self, d: int) -> Tensor:
        """All features of channel d, times the basis in its distance: (B, T, F)."""
        u = self.distance[:, :, d, None]
        base = torch.cat([self.lags, self.own[:, :, d], torch.ones_like(u)], -1)
        return torch.cat([base, base * torch.log1p(u), base / (1 + u), u], -1)

    def spread(self, d: int) -> Tensor:
        """What the variance of channel d depends on: (B, T)."""
        return torch.log1p(self.distance[:, :, d])


class Linear(Model):
    """x(t) | given ~ N(l(t) + features . w, exp(a + b log(1 + u)))

    l(t) is the linear interpolation of the given part, held constant beyond its ends, and u the
    distance of t to it in median gaps. The features are the k nearest given values on either side of
    every channel less l(t), how much seasons moved since the anchor (by the value some seasons ago and
    by harmonics of the period), each times a basis in u; so that times may be irregular, and one fit
    serves every horizon. w solves the ridge normal equations in float64, one system per channel and
    per side of the given on which t lies; the variance is a log-linear regression of the squared
    residuals. Fitted in closed form as the first epoch starts. Draws of one series are joint: the
    residual is a random walk pinned to the given, rescaled to the fitted variance.

    Args:
        dim: coordinates of the series, D.
        neighbours: given values used on either side, k.
        periods: lengths of the seasons in the units of t.
        harmonics: of each season.
        covariates: time-varying covariates, C, known at every row of given; used as they are and by
            how much they moved since the anchor.
        reverting: l(t) itself is a feature, for series that return to a common level. Without it
            nothing depends on the level of a series, which suits trends and levels of their own.
        ridge: penalty on standardised weights.

    Source: Hoerl & Kennard. Ridge regression. Technometrics 1970; direct multi-step forecasts.
    """

    weights: Tensor
    centre: Tensor
    scale: Tensor
    noise: Tensor
    mean: Tensor
    std: Tensor
    unit: Tensor
    fitted: Tensor

    def __init__(
        self,
        dim: int,
        neighbours: int = 6,
        periods: Sequence[float] = (),
        harmonics: int = 2,
        covariates: int = 0,
        reverting: bool = False,
        ridge: float = 1.0,
    ):
        super().__init__()
        self.neighbours, self.periods, self.harmonics = neighbours, tuple(periods), harmonics
        self.covariates, self.reverting, self.ridge = covariates, reverting, ridge
        base = 2 * neighbours * dim + len(self.periods) * (3 + 2 * harmonics)
        base += 2 * covariates + reverting + 1
        columns = 3 * base + 1
        self.register_buffer("weights", torch.zeros(3, dim, columns, dtype=torch.float64))
        self.register_buffer("centre", torch.zeros(3, dim, columns, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(3, dim, columns, dtype=torch.float64))
        self.register_buffer("noise", torch.zeros(3, dim, 2, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("std", torch.ones(dim, dtype=torch.float64))
        self.register_buffer("unit", torch.ones((), dtype=torch.float64))
        self.register_buffer("fitted", torch.tensor(False))

    def loss(self, given: Paths, want: Paths) -> Tensor:
        return gaussian_loss(self.posterior(given, want.t), want)

    def posterior(self, given: Paths, at: Tensor) -> Gaussian:
        """Mean and variance of every value at times (B, T), without draws."""
        return self._posterior(self._design(given, at), given)

    def sample(self, given: Paths, at: Tensor, n: int) -> Tensor:
        design = self._design(given, at)
        law = self._posterior(design, given)
        weight = design.found.weight
        pinned = walk.draw(at.double(), design.found, weight, n)
        spread = walk.variance(design.found, weight)
        shape = torch.where(spread > 0, pinned / spread.sqrt(), torch.randn_like(pinned))
        return law.mean + law.var.sqrt() * shape.to(law.mean.dtype)

    def on_epoch(self, epoch: int, train: tuple[Paths, Paths]) -> None:
        if self.fitted:
            return
        given, want = train
        self._fit_units(given)
        design = self._design(given, want.t)
        change = (want.x.double() - design.found.level) / self.std
        self.fitted.fill_(True)
        for d in range(len(self.std)):
            columns, spread = design.columns(d), design.spread(d)
            for side in range(3):
                rows = want.mask[..., d] & (design.side[..., d] == side)
                if int(rows.sum()) > 1:
                    self._regress(side, d, columns[rows], change[..., d][rows], spread[rows])

    def _posterior(self, design: _Design, given: Paths) -> Gaussian:
        require_fitted(self.fitted, "Linear")
        laws = [self._channel(design, d) for d in range(len(self.std))]
        mean, var = (torch.stack(f, -1).to(given.x.dtype) for f in zip(*laws, strict=True))
        return Gaussian(mean, var)

    def _channel(self, design: _Design, d: int) -> tuple[Tensor, Tensor]:
        side = design.side[..., d].clamp(max=2)
        columns = (design.columns(d) - self.centre[side, d]) / self.scale[side, d]
        moved = (columns * self.weights[side, d]).sum(-1)
        a, b = self.noise[side, d].unbind(-1)
        mean = design.found.level[..., d] + moved * self.std[d]
        var = torch.exp(a + b * design.spread(d)) * self.std[d].square()
        nowhere = design.side[..., d] == 3
        return mean.where(~nowhere, self.mean[d]), var.where(~nowhere, self.std[d].square())

    def _design(self, given: Paths, at: Tensor) -> _Design:
        t, x, mask = given.t.double(), given.x.double(), given.mask
        at = at.double()
        found = near(t, x, mask, at, self.neighbours)
        level, std = found.level[..., None], self.std[:, None]
        before = ((found.before - level) / std).where(found.has_before, 0.0)
        after = ((found.after - level) / std).where(found.has_after, 0.0)
        lags = torch.cat([before, after], -1).flatten(2)
        moment = at[..., None].expand(found.level.shape)
        seasons = [self._season(p, found, moment, (t, x, mask)) for p in self.periods]
        age, ahead = found.age[..., 0], found.ahead[..., 0]
        known = []
        if self.covariates:
            now, then, later = (
                _covariates(given, m) for m in (moment, moment - age, moment + ahead)
            )
            known = [now, now - torch.lerp(then, later, found.weight[..., None])]
        own = torch.cat(
            [*seasons, *known, ((level - self.mean[:, None]) / std)[..., : self.reverting]], -1
        )
        both = found.has_before[..., 0] & found.has_after[..., 0]
        distance = torch.where(both, age * ahead / (age + ahead), age + ahead) / self.unit
        side = torch.where(both, 0, torch.where(found.has_before[..., 0], 1, 2))
        return _Design(found, lags, own, distance, side.masked_fill(~found.known, 3))

    def _season(
        self, period: float, found: Near, moment: Tensor, given: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """How far a season moved between the anchor and `moment`, as features: (B, T, D, 3 + 2 harmonics)."""
        t, x, mask = given
        last = t.where(mask.any(-1), -torch.inf).amax(1)[:, None, None]
        whole = ((moment - last) / period - 1e-3).ceil().clamp(min=1) * period
        at_before, at_after = moment - found.age[..., 0], moment + found.ahead[..., 0]
        weight = found.weight

        def since(now: Tensor, before: Tensor, after: Tensor) -> Tensor:
            return now - torch.lerp(before, after, weight)

        times = [moment, at_before, at_after]
        moved = [
            since(*(interpolate_each(t, x, mask, m - whole - i * period) for m in times)) / self.std
            for i in range(3)
        ]
        angle = 2 * math.pi / period
        waves = [
            since(*(f(angle * j * (m % period)) for m in times))
            for j in range(1, self.harmonics + 1)
            for f in (torch.cos, torch.sin)
        ]
        return torch.stack(moved + waves, -1)

    def _fit_units(self, given: Paths) -> None:
        gaps = compact(given).t.double().diff(dim=1)
        positive = gaps[gaps > 0]
        if len(positive):
            self.unit.copy_(positive.median())
        x = given.x.double().where(given.mask, torch.nan).flatten(0, 1)
        self.mean.copy_(x.nanmean(0).nan_to_num(0.0))
        std = (x - self.mean).square().nanmean(0).sqrt().nan_to_num(1.0)
        self.std.copy_(std.where(std > 0, 1.0))

    def _regress(self, side: int, d: int, columns: Tensor, y: Tensor, spread: Tensor) -> None:
        """Ridge weights of channel d on one side (columns (R, F), y (R,)), then the variance."""
        centre, scale = columns.mean(0), columns.std(0)
        constant = scale < 1e-9  # the intercept stays as it is
        centre, scale = centre.where(~constant, 0.0), scale.where(~constant, 1.0)
        a = (columns - centre) / scale
        used = (a != 0).any(
            0
        )  # what lies on the other side is a column of zeros, and weighs nothing
        a = a[:, used]
        gram = a.T @ a
        system = gram + self.ridge * torch.eye(len(gram), dtype=a.dtype, device=a.device)
        w = torch.zeros_like(centre)
        w[used] = torch.linalg.solve(system, a.T @ y)
        square = (y - a @ w[used]).square().clamp(min=1e-12)
        basis = torch.stack([torch.ones_like(spread), spread], -1)
        line = torch.linalg.lstsq(basis, square.log()[:, None], driver="gelsd").solution[:, 0]
        # log of a squared normal is biased: set the level so that residual^2 / variance averages to 1,
        # with the freedom that the weights used up given back.
        freedom = (len(y) - torch.linalg.solve(system, gram).trace()).clamp(min=1.0)
        line[0] += ((square / (basis @ line).exp()).sum() / freedom).log()
        self.centre[side, d], self.scale[side, d] = centre, scale
        self.weights[side, d], self.noise[side, d] = w, line


def _covariates(given: Paths, at: Tensor) -> Tensor:
    """Covariates at times (B, T, D), by linear interpolation of the given rows: (B, T, D, C)."""
    assert given.covariates is not None
    c = given.covariates.double()
    known = torch.ones_like(c, dtype=torch.bool)
    return near(given.t.double(), c, known, at.flatten(1)).level.view(*at.shape, -1)

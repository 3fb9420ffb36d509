"""Neural SDEs whose solutions stay put: Langevin, linear-noise, geometric; and two that need not.

[1] Oh, Lim & Kim. Stable neural stochastic differential equations in analyzing irregular time series
    data. ICLR 2024.
[2] Coutin & Qian. Stochastic analysis, rough path analysis and fractional Brownian motions. Probability Theory and
    Related Fields 122, 2002.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ..batch import Paths
from ..errors import ConfigError
from ..maths.grid import grid
from ..maths.near import interpolate, near
from ..maths.sde import NoiseKind
from ..nets import local_features, mlp
from .base import Model
from .fields import Kind, Mode, field, follow
from .fractional_motion import FractionalMotion
from .heads import LOSSES, Law, LossName
from .pointwise import readout


class StableSDE(Model):
    """x(t) ~ l(t) + m(z, c) + s(z, c) e, z a stable SDE driven by the control path c(t):

        langevin       dz = (-kappa z + r(z, c)) dt + sigma(t) dW            [1, LSDE]
        linear_noise   dz = (-kappa z + r(z, c)) dt + sigma(t) z dW          [1, LNSDE]
        geometric      dz / z = kappa (2 r(z, c) - log z) dt + sigma(t) dW   [1, GSDE], z > 0
        neural         dz = r(z, c) dt + g(z, c) dW          nothing holds it: for comparison
        ode            dz = r(z, c) dt                       no noise: for comparison

    In the first three r lies in (-1, 1) by tanh, kappa > 0 is learned and sigma(t) in [.001, .5], so
    that every solution exists and is drawn back for ever: |z| to 1 / kappa, |log z| to 2, beyond what
    noise adds. With mode="paper" they are the equations of the paper, r unbounded and kappa = 0:
    dz = r dt + sigma dW, dz = r dt + sigma z dW, dz / z = r dt + sigma dW.

    l(t) is the linear interpolation of the given part, constant beyond its ends; c(t) embeds l(t) and
    the nearest given values of every channel on both sides with their distances in time; t in sigma(t)
    runs from the last given time before the first wanted one, where z starts. e is standard normal or
    Student's t. Steps are exponential Euler, Lie splitting and Euler in the log domain: strong order 1
    at one evaluation of r; Euler for the plain neural SDE, Runge-Kutta of order 4 for the ODE.

    With `hurst` dW becomes ∘ dB, B fractional Brownian motion that starts with z, by default one for every coordinate:
    rough and turning back for H < 1/2, smooth and going on for H > 1/2, read as the limit of smooth paths [2]. H = 1/2 is
    Stratonovich's reading of the equations above, the same for langevin. Noise then costs more than Brownian noise, the
    more so where every series has its own times.

    The loss is by default -log mean_k p(x | z_k) of every single value over `draws` latent paths: a
    proper score of the marginal laws that keeps the noise alive, where a squared error would kill it.
    Diagonal noise destabilises linear_noise above four dimensions if the drift mixes them; scalar
    noise calms it in any dimension. Keep a validation part: trained for long on little data, the
    intervals become too narrow.

    Works in standard units: wrap it in `Scaled`. Choose it for nonlinear dynamics and many series;
    for short or near-linear ones `Linear` is as good and takes no training.

    Args:
        dim: coordinates of the series, D.
        kind: which of the five.
        mode: "stable" or "paper", for the first three.
        hidden: width of the latent state and of every network, H.
        depth: hidden layers of the drift.
        neighbours: given values used on either side of each channel, k.
        covariates: time-varying covariates, C, known at every row of given.
        draws: latent paths per series in training, K.
        dt: longest solver step, in units of t (of the median gap, inside `Scaled`); None for one step
            from each wanted time to the next.
        noise: "diagonal" (a Brownian motion per coordinate) or "scalar" (one for all).
        tails: of e: "gaussian", or "student" with degrees of freedom learned for every channel.
        objective: "nll", "crps", "energy" or "mse"; see `tsdyn.models.heads`.
        hurst: the Hurst index of the noise, or where it starts; None for Brownian motion. For all but kind="ode" and
            mode="repo".
        index: "fixed" at `hurst`, or "learned", one for all latent coordinates.
        horizon: longest time from where z starts over which the noise must remember, in units of t.
        step: shortest time over which its increments must be right, in units of t.

    Raises:
        ConfigError: X01 for a Hurst index out of range, where it has no meaning, or learned from nowhere.
    """

    def __init__(
        self,
        dim: int,
        kind: Kind = "langevin",
        mode: Mode = "stable",
        hidden: int = 64,
        depth: int = 2,
        neighbours: int = 4,
        covariates: int = 0,
        draws: int = 8,
        dt: float | None = None,
        noise: NoiseKind = "diagonal",
        tails: Literal["gaussian", "student"] = "gaussian",
        objective: LossName = "nll",
        hurst: float | None = None,
        index: Literal["fixed", "learned"] = "fixed",
        horizon: float = 100.0,
        step: float = 1.0,
    ):
        super().__init__()
        if hurst is None and index == "learned":
            raise ConfigError(
                "X01",
                "StableSDE got index='learned' without an index to start from",
                "a number as `hurst`",
                "Start from hurst=0.5, which is Brownian motion",
            )
        self.hidden, self.neighbours, self.draws = hidden, neighbours, draws
        self.covariates, self.dt = covariates, dt
        self.objective = LOSSES[objective]
        heavy = tails == "student"
        self.dof = nn.Parameter(torch.full((dim,), 6.0)) if heavy else None  # above 2, by softplus
        self.embed = mlp((6 * neighbours + 1) * dim + covariates, hidden, hidden, depth=1)
        self.start = nn.Linear(hidden, hidden)
        self.field = field(kind, mode, hidden, hidden, depth, noise, fractional=hurst is not None)
        self.motion = None if hurst is None else FractionalMotion(hurst, index, horizon, step)
        self.readout = readout(2 * hidden, hidden, dim)

    def predict(self, given: Paths, at: Tensor, n: int) -> Law:
        """n latent paths and the laws of the values they show at times (B, T)."""
        at = at.to(given.x.dtype)
        found = near(given.t, given.x, given.mask, at, self.neighbours)
        features = local_features(found)
        if self.covariates and given.covariates is not None:
            known = torch.ones_like(given.covariates, dtype=torch.bool)
            ahead = interpolate(given.t, given.covariates, known, at)
            features = torch.cat([features, ahead], -1)
        c = self.embed(features)  # (B, T, H)
        z = self.solve(c, self._begin(found.age, at), at, n)  # (n, B, T, H)
        mean, raw = self.readout(torch.cat([z, c.expand_as(z)], -1)).chunk(2, -1)
        dof = None if self.dof is None else 2 + softplus(self.dof)
        return Law(found.level + mean, softplus(raw) + 1e-4, dof)

    def solve(self, c: Tensor, begin: Tensor, at: Tensor, n: int) -> Tensor:
        """n latent paths from `begin` (B,) to times (B, T) along the control c (B, T, H): (n, B, T, H)."""
        steps = grid(at, self.dt, begin)
        count = torch.tensor(
            [b - a for a, b in zip((0, *steps.stops), steps.stops)], device=c.device
        )
        interval = torch.arange(len(count), device=c.device).repeat_interleave(count)
        z0 = self.field.start(self.start(c[:, 0]))
        path, motion = c.transpose(0, 1)[interval], self.motion
        return follow(self.field, z0, path, steps, begin, n, None if motion is None else motion())

    def _begin(self, age: Tensor, at: Tensor) -> Tensor:
        """Where z starts: the last given time before the first wanted one, else that one itself."""
        known = age[:, 0, :, 0].where(age[:, 0, :, 0] > 0, torch.inf).amin(-1)  # (B,)
        return at[:, 0] - known.where(known.isfinite(), 0.0)

    def loss(self, given: Paths, want: Paths) -> Tensor:
        return self.objective(self.predict(given, want.t, self.draws), want)

    def sample(self, given: Paths, at: Tensor, n: int) -> Tensor:
        return self.predict(given, at, n).draw()

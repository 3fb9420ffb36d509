"""The equation of a latent process with fractional noise: drift, diffusion, start and Hurst index, all learned.

[1] Daems, Opper, Crevecoeur & Birdal. Variational inference for SDEs driven by fractional noise. ICLR 2024.
[2] Tong, Nguyen-Tang, Tran & Choi. Learning fractional white noises in neural stochastic differential equations.
    NeurIPS 2022: a Hurst index that depends on time.
"""

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ..errors import ConfigError
from ..maths.fractional import (
    MarkovApproximation,
    brownian_motion,
    mandelbrot_van_ness,
    riemann_liouville,
    speeds_for,
)
from ..maths.fractional_chain import Linear
from ..maths.fractional_walk import Equation
from ..nets import mlp
from .base import Part

Kind = Literal["riemann_liouville", "mandelbrot_van_ness"]
Index = Literal["learned", "fixed", "of_time"]
Diffusion = Literal["constant", "state"]
LEAST, MOST = 0.02, 0.98  # of the index
SMALLEST = 0.01  # of a scale
QUICK = 4.0  # scales may have to move by orders of magnitude; Adam moves all parameters at one pace
WIDEST = math.log(3.0)  # what the state may do to the logarithm of the diffusion


class FractionalPrior(Part):
    """dx_d = (-κ_d x_d + r_d(t, x)) dt + σ_d g_d(x) ∘ dB_d,   x_d(0) ~ N(m_d, s_d²)

    B_d are independent fractional Brownian motions of Var B(1) = 1 and indices H_d, in their Markov approximation; products
    are Stratonovich's. |r_d| < 1 + κ_d by tanh, g in (1/3, 3), so that nothing explodes.

    Args:
        dim: coordinates, D.
        hurst: the index, or where it starts.
        index: "learned", one for each coordinate; "fixed", at `hurst` (1/2 is Brownian motion, exactly and with one
            process); "of_time", one function of the time since the start for all coordinates, for the motion of
            Riemann and Liouville  [2].
        kind: a motion that starts afresh with the series, or with stationary increments.
        hidden: width of the network r; 0 leaves the equation linear.
        depth: its hidden layers.
        diffusion: "constant", or "state" for g a network.
        horizon: longest time from the start of a series, in units of t.
        step: shortest gap whose increments must be right, in units of t.
        speeds: processes per coordinate, K.

    Raises:
        ConfigError: X01 for words or numbers out of range, or an index of time with stationary increments.
    """

    def __init__(
        self,
        dim: int,
        hurst: float = 0.5,
        index: Index = "learned",
        kind: Kind = "riemann_liouville",
        hidden: int = 0,
        depth: int = 2,
        diffusion: Diffusion = "constant",
        horizon: float = 100.0,
        step: float = 1.0,
        speeds: int = 7,
    ):
        super().__init__()
        require_one_of(Index, "index", index)
        require_one_of(Kind, "kind", kind)
        require_one_of(Diffusion, "diffusion", diffusion)
        if not LEAST < hurst < MOST or not 0 < step <= horizon or speeds < 2 or dim < 1:
            raise ConfigError(
                "X01",
                f"FractionalPrior got hurst={hurst}, step={step}, horizon={horizon}, speeds={speeds}, dim={dim}",
                f"an index in ({LEAST}, {MOST}), 0 < step <= horizon, two speeds and one coordinate at least",
                "",
            )
        if index == "of_time" and kind != "riemann_liouville":
            raise ConfigError(
                "X01",
                "FractionalPrior got index='of_time' with stationary increments",
                "kind='riemann_liouville': increments cannot be stationary if their law moves",
                "",
            )
        self.dim, self.index, self.kind, self.horizon = dim, index, kind, horizon
        self.fixed = hurst
        self.register_buffer("speeds", speeds_for(horizon, step, speeds), persistent=False)
        raw = math.log((hurst - LEAST) / (MOST - hurst))
        self.raw_hurst = nn.Parameter(torch.full((dim,), raw)) if index == "learned" else None
        self.hurst_net = _hurst_net(raw) if index == "of_time" else None
        self.kappa = nn.Parameter(torch.full((dim,), -2.0))  # softplus: .13 per unit of time
        self.log_sigma = nn.Parameter(torch.full((dim,), math.log(0.5) / QUICK))
        self.mean = nn.Parameter(torch.zeros(dim))
        self.log_std = nn.Parameter(torch.zeros(dim))
        self.residual = mlp(dim + 1, hidden, dim, depth) if hidden else None
        self.factor = mlp(dim, hidden or 32, dim, depth) if diffusion == "state" else None

    speeds: Tensor

    @property
    def states(self) -> int:
        """Numbers beside x that each coordinate carries: K."""
        return 1 if self._brownian else len(self.speeds)

    @property
    def unit(self) -> Tensor:
        """One over the size of Y's numbers, at most that of a Brownian motion over the horizon: (K,)"""
        speeds = self.speeds[:1] if self._brownian else self.speeds
        return (2 * speeds).clamp(min=1 / self.horizon).sqrt()

    @property
    def linear_only(self) -> bool:
        """Whether the equation is the linear one."""
        return self.residual is None and self.factor is None

    @property
    def _brownian(self) -> bool:
        return self.index == "fixed" and self.fixed == 0.5

    def hurst(self, t: Tensor | None = None) -> Tensor:
        """H: (D,), or at times since the start (...) -> (..., 1) where it depends on them."""
        if self.hurst_net is not None:
            if t is None:
                raise ValueError("This index is a function of time: ask hurst(t).")
            s = t.to(self.kappa)[..., None] / self.horizon
            raw: Tensor = self.hurst_net(
                torch.cat([s, torch.sin(math.tau * s), torch.cos(math.tau * s)], -1)
            )
            return LEAST + (MOST - LEAST) * raw.double().sigmoid()
        if self.raw_hurst is None:
            return torch.full(
                (self.dim,), self.fixed, dtype=torch.float64, device=self.kappa.device
            )
        return LEAST + (MOST - LEAST) * self.raw_hurst.double().sigmoid()

    def approximation(self, t: Tensor) -> MarkovApproximation:
        """B̂ at the starts of all steps and the end of the last, (N + 1, B or 1, 1) since the start."""
        if self._brownian:
            one = brownian_motion()
            return one._replace(speeds=one.speeds.to(t.device), weights=one.weights.to(t.device))
        if self.index == "of_time":
            return riemann_liouville(self.hurst(t[..., 0]), self.speeds, self.horizon)
        kind = {"riemann_liouville": riemann_liouville, "mandelbrot_van_ness": mandelbrot_van_ness}
        return kind[self.kind](self.hurst(), self.speeds, self.horizon)

    def equation(self) -> Equation:
        """The prior law of x."""
        kappa = softplus(self.kappa)
        linear = Linear(kappa, scale(self.log_sigma), self.mean, scale(self.log_std))
        residual, factor = self.residual, self.factor

        def drift(t: Tensor, x: Tensor, *u: Tensor) -> Tensor:
            assert residual is not None
            s = (t / self.horizon).expand(*x.shape[:-1], 1)
            return (1 + kappa) * torch.tanh(residual(torch.cat([x, s], -1)))

        def spread(t: Tensor, x: Tensor, *u: Tensor) -> Tensor:
            assert factor is not None
            return torch.exp(WIDEST * torch.tanh(factor(x)))

        return Equation(
            linear, None if residual is None else drift, None if factor is None else spread
        )


def require_one_of(words: Any, name: str, value: str) -> None:
    """X01 unless the value is one of the words of a Literal."""
    if value not in get_args(words):
        known = ", ".join(get_args(words))
        raise ConfigError("X01", f"{name}={value!r}", f"one of {known}", "Check the spelling")


def scale(raw: Tensor) -> Tensor:
    """A positive number of at least .01 from any."""
    return SMALLEST + torch.exp(QUICK * raw)


def _hurst_net(raw: float) -> nn.Sequential:
    """From the time and its phase to the index before its sigmoid; a constant at first  [2]."""
    net = nn.Sequential(nn.Linear(3, 10), nn.Tanh(), nn.Linear(10, 1))
    last = net[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, raw)
    return net

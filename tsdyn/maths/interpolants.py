"""x_s = α(s) x_0 + β(s) x_1 + γ(s) z: stochastic interpolants, which join two laws on the unit clock  [1]

The pair (x_0, x_1) is drawn from any coupling, and z ~ N(0, I) apart from it. With p_s the law of x_s,

    v(s, x) = E[α' x_0 + β' x_1 | x_s = x],   ∇ log p_s(x) = -E[z | x_s = x] / γ
    dX = (v + (e² - (γ²)') / 2 ∇ log p_s) ds + e dW

has the marginals p_s at every diffusion level e(s) >= 0. At e = 0 it is an ordinary equation with the velocity
b = v + γ' E[z | x]. What the two regressions learn from, α' x_0 + β' x_1 and z, stays bounded where γ' does not.

    kind                  α                        β                    γ                                            x
    linear                1 - s                    s                    c                                            [2]
    trigonometric         cos(π s / 2)             sin(π s / 2)         c                                            [1]
    brownian              1 - s                    s                    c √(s (1 - s))                               [3]
    ornstein_uhlenbeck    sinh(r (1 - s)) / sinh r sinh(r s) / sinh r   c √(sinh(r s) sinh(r (1 - s)) / (r sinh r))
    encoding              cos²(π s) up to 1/2      cos²(π s) from 1/2   c sin²(π s)                                  [1]

The third and the fourth are the bridges of c W and of dX = -r X ds + c dW; at e = c, under the coupling of their
entropic plan, the equation above is the Schrödinger bridge.

References:
    [1] Albergo, Boffi & Vanden-Eijnden. Stochastic interpolants: a unifying framework for flows and
        diffusions. 2023.
    [2] Tong et al. Improving and generalizing flow-based generative models with minibatch optimal
        transport. TMLR 2024.
    [3] Tong et al. Simulation-free Schrödinger bridges via score and flow matching. AISTATS 2024.
"""

import dataclasses
import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ..errors import ConfigError, did_you_mean

Kind = Literal["linear", "trigonometric", "brownian", "ornstein_uhlenbeck", "encoding"]


class Coefficients(NamedTuple):
    """At s, of the shape of s."""

    alpha: Tensor
    beta: Tensor
    gamma: Tensor


class Slopes(NamedTuple):
    """Derivatives at s."""

    alpha: Tensor
    beta: Tensor
    variance: Tensor  # (γ²)' = 2 γ γ', which is finite where γ' is not


@dataclasses.dataclass(frozen=True)
class Interpolant:
    """One of the five; s is in [0, 1], of a shape that broadcasts against x (..., D), such as (..., 1).

    Args:
        kind: a row of the table above.
        gamma: c, in the units of x; one number, or one for each s.
        rate: r of "ornstein_uhlenbeck" on the unit clock, likewise; its sign does not matter, and it is not zero.
    """

    kind: Kind
    gamma: float | Tensor
    rate: float | Tensor = 1.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigError(
                "X01",
                f"Interpolant got kind={self.kind!r}",
                f"one of {', '.join(get_args(Kind))}",
                did_you_mean(self.kind, get_args(Kind)),
            )
        if not bool((torch.as_tensor(self.gamma) > 0).all()):
            raise ConfigError("X01", f"Interpolant got gamma={self.gamma}", "positive numbers", "")
        if not bool(torch.as_tensor(self.rate).bool().all()):
            raise ConfigError(
                "X01",
                f"Interpolant got rate={self.rate}",
                "numbers other than zero",
                "Without a rate it is the kind 'brownian'",
            )

    def at(self, s: Tensor) -> Coefficients:
        """α, β and γ."""
        match self.kind:
            case "linear":
                return Coefficients(1 - s, s, self._level(s))
            case "trigonometric":
                angle = math.pi / 2 * s
                return Coefficients(angle.cos(), angle.sin(), self._level(s))
            case "brownian":
                return Coefficients(1 - s, s, self.gamma * (s * (1 - s)).sqrt())
            case "ornstein_uhlenbeck":
                r = self._rate(s)
                spread = _grown(r, s) * _grown(r, 1 - s) / _grown(r, torch.ones_like(s))
                return Coefficients(
                    _share(r, 1 - s), _share(r, s), self.gamma * (spread / (2 * r)).sqrt()
                )
            case "encoding":
                kept, lost = (math.pi * s).cos().square(), (math.pi * s).sin().square()
                alpha, beta = kept.where(s < 0.5, 0.0), kept.where(s >= 0.5, 0.0)
                return Coefficients(alpha, beta, self.gamma * lost)

    def slopes(self, s: Tensor) -> Slopes:
        """α', β' and (γ²)'."""
        one = torch.ones_like(s)
        level = self._level(s).square()
        match self.kind:
            case "linear":
                return Slopes(-one, one, 0 * level)
            case "trigonometric":
                angle, speed = math.pi / 2 * s, math.pi / 2
                return Slopes(-speed * angle.sin(), speed * angle.cos(), 0 * level)
            case "brownian":
                return Slopes(-one, one, level * (1 - 2 * s))
            case "ornstein_uhlenbeck":
                r = self._rate(s)
                return Slopes(
                    -_share_slope(r, 1 - s), _share_slope(r, s), level * _share(r, 1 - 2 * s)
                )
            case "encoding":
                turn = -math.pi * (2 * math.pi * s).sin()
                lost = (math.pi * s).sin().square()
                alpha, beta = turn.where(s < 0.5, 0.0), turn.where(s >= 0.5, 0.0)
                return Slopes(alpha, beta, -2 * level * lost * turn)

    def point(self, s: Tensor, x0: Tensor, x1: Tensor, noise: Tensor) -> Tensor:
        """α x_0 + β x_1 + γ z."""
        alpha, beta, gamma = self.at(s)
        return alpha * x0 + beta * x1 + gamma * noise

    def flow(self, s: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """α' x_0 + β' x_1: what regression on (s, x_s) makes v of."""
        slopes = self.slopes(s)
        return slopes.alpha * x0 + slopes.beta * x1

    def score(self, s: Tensor, noise: Tensor) -> Tensor:
        """∇ log p_s(x) = -E[z | x] / γ, where γ is not zero."""
        return -noise / self.at(s).gamma

    def drift(
        self, s: Tensor, flow: Tensor, score: Tensor, diffusion: float | Tensor = 0.0
    ) -> Tensor:
        """v + (e² - (γ²)') / 2 ∇ log p_s of the equation with dW times the diffusion e; without it b = v + γ' E[z | x]."""
        return flow + (diffusion**2 - self.slopes(s).variance) / 2 * score

    def _level(self, s: Tensor) -> Tensor:
        return self.gamma * torch.ones_like(s)

    def _rate(self, s: Tensor) -> Tensor:
        return torch.as_tensor(self.rate, dtype=s.dtype, device=s.device).abs()


def _grown(r: Tensor, s: Tensor) -> Tensor:
    """1 - exp(-2 r s) = 2 exp(-r s) sinh(r s)."""
    return -torch.expm1(-2 * r * s)


def _share(r: Tensor, s: Tensor) -> Tensor:
    """sinh(r s) / sinh r for s in [-1, 1], by powers that do not overflow."""
    one = torch.ones_like(s)
    return s.sign() * torch.exp(r * (s.abs() - 1)) * _grown(r, s.abs()) / _grown(r, one)


def _share_slope(r: Tensor, s: Tensor) -> Tensor:
    """r cosh(r s) / sinh r for s in [0, 1]."""
    one = torch.ones_like(s)
    return r * torch.exp(r * (s - 1)) * (1 + torch.exp(-2 * r * s)) / _grown(r, one)

"""Drift and diffusion of neural SDEs along a control path.

    zbar = zeta(t, z, X(t));   the drift sees zbar, the diffusion sees t and, by the kind, z

X(t) is any path made of the data. What does not depend on z is computed for all steps of a solve at
once and travels beside it as controls.

[1] Oh, Lim & Kim. Stable neural stochastic differential equations in analyzing irregular time series
    data. ICLR 2024: section 3 for the equations, its published code for mode "repo".
"""

import math
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, softplus

from ..errors import ConfigError
from ..maths.fractional import MarkovApproximation
from ..maths.fractional_noise import fractional_increments
from ..maths.grid import Grid, increments
from ..maths.ode import runge_kutta4
from ..maths.sde import SDE, NoiseKind
from ..maths.solve import require_finite, solve
from ..maths.steps import Step, euler
from ..nets import mlp
from .field_steps import BROWNIAN, PAPER, PATHWISE, STABLE

Kind = Literal["langevin", "linear_noise", "geometric", "neural", "ode"]
Mode = Literal["stable", "paper", "repo"]
Gate = Literal["tanh", "one_minus_sigmoid"]
SIGMA = (1e-3, 0.5)  # the diffusion of every latent coordinate lies between these


class Field(Protocol):
    """What a solve needs of an equation."""

    hidden: int
    noise: NoiseKind

    def start(self, raw: Tensor) -> Tensor:
        """An admissible first state from any numbers (B, H)."""

    def controls(self, x: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        """All that does not depend on z: from X (N, B, C) and the time since the start (N, B, 1)."""

    def step(self) -> Step:
        """One step of z, by the scheme that fits the equation."""


def field(
    kind: Kind,
    mode: Mode,
    channels: int,
    hidden: int,
    depth: int = 2,
    noise: NoiseKind = "diagonal",
    gate: Gate = "tanh",
    kappa: tuple[float, float] | None = None,
    fractional: bool = False,
) -> "ControlledField | PublishedField":
    """The equation of this kind and mode, for a path X of so many channels: see the two classes.

    Raises:
        ConfigError: X01 for fractional noise in an ODE or in the equations of the published code.
    """
    if fractional and (mode == "repo" or kind == "ode"):
        raise ConfigError(
            "X01",
            f"a Hurst index came with kind={kind!r}, mode={mode!r}",
            "an equation with noise, in the mode 'stable' or 'paper'",
            "Leave `hurst` out, or choose another kind or mode",
        )
    if mode == "repo":
        return PublishedField(channels, hidden, kind, depth, noise, gate)
    return ControlledField(
        channels, hidden, kind, depth, mode == "stable", noise, kappa, fractional
    )


def follow(
    field: Field,
    z0: Tensor,
    x: Tensor,
    steps: Grid,
    begin: Tensor,
    n: int,
    motion: MarkovApproximation | None = None,
) -> Tensor:
    """n paths of a field along X (N, B, C) from z0 (B, H) at time `begin` (B,): (n, B, T, H).

    Args:
        motion: of a fractional field; None for Brownian motion.

    Raises:
        ModelError: M03 if a path blows up.
    """
    elapsed = (steps.t - begin[:, None].to(steps.t.dtype)).expand(-1, len(z0), -1)
    u = field.controls(x, elapsed)
    clocks = steps.h.shape[1] > 1  # one of each series, or one for all
    many = Grid(steps.t.repeat(1, n, 1), steps.h.repeat(1, n, 1), steps.stops) if clocks else steps
    z0 = z0.repeat(n, 1)
    like = z0 if field.noise == "diagonal" else z0[:, :1]
    noise = increments(many, like) if motion is None else fractional_increments(motion, many, like)
    z = solve(field.step(), z0, many, noise, tuple(f.repeat(1, n, 1) for f in u))
    return require_finite(z, many).view(n, -1, len(many.stops), field.hidden)


class ControlledField(nn.Module):
    """r(zbar) with zbar = A X(t) + B z, in one of the forms

        langevin       dz = (-kappa z + G tanh r) dt + sigma(t) dW          [1, LSDE]
        linear_noise   dz = (-kappa z + G tanh r) dt + sigma(t) z dW        [1, LNSDE]
        geometric      dz / z = kappa (2 tanh r - log z) dt + sigma(t) dW   [1, GSDE], z > 0
        neural         dz = r dt + g(z, X) dW
        ode            dz = r dt

    kappa > 0 is learned, sigma(t) lies in [.001, .5]; G is 1, or fixed at the first kappa where that is
    spread over many rates: each coordinate then starts as a leaky mean over a stretch 1 / kappa of the
    past, |z| < 1 but for the noise. With stable=False the first three are those of the paper:
    dz = r dt + sigma dW, dz = r dt + sigma z dW, dz / z = r dt + sigma dW.

    What is known of them [1, theorems 3.5 and 3.6; checked in the tests]: with noise that does not
    see z, and a residual of Lipschitz constant L < kappa, two solutions driven by the same noise close
    in by exp(-(kappa - L) t), and a control that is off by eps moves z by at most L eps / (kappa - L).
    Noise linear in z damps differences where ONE Brownian motion drives all coordinates (noise="scalar"):
    the Lyapunov exponent is at most L - sigma^2 / 2, though the mean square grows. With a motion of
    its own for each coordinate (noise="diagonal") and a drift that mixes them it is L + sigma^2 / 2 -
    3 sigma^2 / (d + 2): above d = 4 the noise makes it worse, and stability rests on kappa alone.

    Steps: exponential Euler, Lie splitting and Euler in the log domain, of strong order 1 at one
    evaluation of r; Euler for the plain neural SDE, Runge-Kutta of order 4 for the ODE.

    Args:
        channels: of X, C.
        hidden: size of z and width of every network, H.
        kind: which of the five.
        depth: hidden layers of r.
        stable: confined, or as in the paper.
        noise: "diagonal" (a Brownian motion per coordinate) or "scalar" (one for all).
        kappa: its first values, from the slowest to the fastest coordinate, per unit of time; None for
            .13 in all of them, and G = 1.
        fractional: take steps that read dW as ∘ dB of any driving path, in the sense of Stratonovich and of Young.
    """

    gain: Tensor

    def __init__(
        self,
        channels: int,
        hidden: int,
        kind: Kind = "langevin",
        depth: int = 2,
        stable: bool = True,
        noise: NoiseKind = "diagonal",
        kappa: tuple[float, float] | None = None,
        fractional: bool = False,
    ):
        super().__init__()
        self.kind, self.stable, self.hidden = kind, stable, hidden
        self.schemes = PATHWISE if fractional else BROWNIAN
        self.noise: NoiseKind = noise
        self.control = nn.Linear(channels, hidden)
        self.state = nn.Linear(hidden, hidden, bias=False)
        self.drift = nn.Sequential(nn.SiLU(), mlp(hidden, hidden, hidden, depth - 1))
        if kind == "neural":
            self.diffusion = mlp(2 * hidden, hidden, hidden, depth=1)
        elif kind != "ode":
            self.volatility = mlp(1, hidden // 2, hidden, depth=1)
            if stable:
                gain, raw = torch.ones(hidden), torch.full((hidden,), -2.0)  # softplus: .13
                if kappa is not None:
                    gain = torch.logspace(math.log10(kappa[0]), math.log10(kappa[1]), hidden)
                    raw = gain.expm1().log()
                self.kappa = nn.Parameter(raw)
                self.register_buffer("gain", gain)

    def start(self, raw: Tensor) -> Tensor:
        """tanh, and for the geometric kind exp tanh: of one sign, and away from zero, where z would stay."""
        z0 = torch.tanh(raw)
        return z0.exp() if self.kind == "geometric" else z0

    def controls(self, x: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        """A X(t), and sigma(t) where the diffusion does not see z."""
        c = self.control(x)
        return (c,) if self.kind in ("neural", "ode") else (c, self.sigma(t))

    def sigma(self, t: Tensor) -> Tensor:
        """sigma(t) in its bounds, from the time since the start (..., 1): (..., H)."""
        low, high = SIGMA
        return low + (high - low) * torch.sigmoid(self.volatility(torch.log1p(t)) - 1.5)

    def step(self) -> Step:
        """The scheme that fits; its functions see (t, z, A X, sigma)."""

        def r(t: Tensor, z: Tensor, c: Tensor, *s: Tensor) -> Tensor:
            return self.drift(c + self.state(z))  # type: ignore[no-any-return]

        def g(t: Tensor, z: Tensor, c: Tensor) -> Tensor:
            return softplus(self.diffusion(torch.cat([z, c], -1)) - 2.0)

        if self.kind == "ode":
            return runge_kutta4(r)
        if self.kind == "neural":
            return self.schemes.plain(SDE(r, g, self.noise))
        if self.stable:
            kappa = softplus(self.kappa)
            return STABLE[self.kind](r, kappa, self.gain, self.noise, self.schemes)
        return PAPER[self.kind](r, self.noise, self.schemes)


class PublishedField(nn.Module):
    """The equations of the published code of [1], with tau = (sin t, cos t), Euler steps:

        u = E [A_in (tau, z); A_x X(t)],   M(u) = A_out (relu A)^(n-1) relu u
        langevin       f = tanh M(u), without tau in u     g = tanh(s relu N(tau))
        linear_noise   f = tanh M(u)                       g = tanh(s relu N(tau) z)
        geometric      f = tanh(M(u) tanh z)               g = tanh(s relu N(tau) z)
        neural         f = tanh M(A_in z)                  g = tanh(s relu N(tau, z))
        ode            f = tanh M(A_in z)                  g = 0

    s = sigmoid(theta). They are not those of the paper: drift and diffusion are bounded by 1, nothing
    confines z, and the noise of the second and third kind is linear in z near zero only. With
    gate="one_minus_sigmoid" the third has f = tanh(M(u) (1 - sigmoid z)), the form of which the numbers
    of the paper come: there z = 0 is not absorbing and the sign is not kept.

    E A_in and E A_x are folded before a solve: one product less in every step.

    Args:
        channels, hidden, kind, noise: as in `ControlledField`.
        depth: n.
        gate: of the geometric kind.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        kind: Kind = "langevin",
        depth: int = 2,
        noise: NoiseKind = "diagonal",
        gate: Gate = "tanh",
    ):
        super().__init__()
        self.kind, self.hidden, self.gate = kind, hidden, gate
        self.noise: NoiseKind = noise
        self.driven = kind not in ("neural", "ode")
        self.timed = kind in ("linear_noise", "geometric")
        self.enter = nn.Linear(hidden + 2 * self.timed, hidden)
        if self.driven:
            self.observe = nn.Linear(channels, hidden)
            self.join = nn.Linear(2 * hidden, hidden)
        layers = [m for _ in range(depth - 1) for m in (nn.ReLU(), nn.Linear(hidden, hidden))]
        self.drift = nn.Sequential(*layers, nn.ReLU(), nn.Linear(hidden, hidden))
        if kind != "ode":
            self.theta = nn.Parameter(torch.ones(1, 1))
            seen = 2 + hidden * (kind == "neural")
            self.volatility = nn.Sequential(
                nn.Linear(seen, hidden), nn.ReLU(), nn.Linear(hidden, hidden)
            )

    def start(self, raw: Tensor) -> Tensor:
        """Any state will do."""
        return raw

    def controls(self, x: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        """What X(t) and tau add to the first layer, and tau or s relu N(tau)."""
        tau = torch.cat([t.sin(), t.cos()], -1)
        if not self.driven:
            return (self.enter.bias.expand(*t.shape[:-1], -1), tau)
        state, path = self.join.weight.chunk(2, 1)
        bias = self.join.bias + linear(self.enter.bias, state)
        fixed = linear(self.observe(x), path, bias)
        if self.timed:
            fixed = fixed + linear(tau, state @ self.enter.weight[:, :2])
        return fixed, self.theta.sigmoid() * self.volatility(tau).relu()

    def step(self) -> Step:
        """Euler; its functions see (t, z, the fixed part of u, and tau or s relu N(tau))."""
        weight = self.enter.weight[:, 2:] if self.timed else self.enter.weight
        if self.driven:
            weight = self.join.weight[:, : self.hidden] @ weight

        def f(t: Tensor, z: Tensor, c: Tensor, s: Tensor) -> Tensor:
            m: Tensor = self.drift(c + linear(z, weight))
            if self.kind == "geometric":
                m = m * (z.tanh() if self.gate == "tanh" else 1 - z.sigmoid())
            return m.tanh()

        def g(t: Tensor, z: Tensor, c: Tensor, s: Tensor) -> Tensor:
            if self.kind == "langevin":
                return s.tanh()
            if self.kind == "neural":
                level: Tensor = self.volatility(torch.cat([s, z], -1)).relu()
                return (self.theta.sigmoid() * level).tanh()
            if self.kind == "ode":
                return torch.zeros_like(z)
            return (s * z).tanh()

        return euler(SDE(f, g, self.noise))

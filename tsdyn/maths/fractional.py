"""Fractional Brownian motion as a sum of Ornstein-Uhlenbeck processes that share one Brownian motion.

    B(t) ≈ Σ_k w_k Y_k(t) + Σ_m φ_m(t) ξ_m,   dY_k = -γ_k Y_k dt + dW,   Y_k(0) = 0,   ξ ~ N(0, I)

so that (Y, ξ) is Markov  [1, 2]. The weights minimise ∫_0^T E(B̂ - B)² dt, which has a closed form  [3].
φ carries what happened before zero. There are three kinds:

    riemann_liouville     no past: B starts afresh at zero, H may change with time
    mandelbrot_van_ness   stationary increments: the same w, and the past by its own expansion
    stationary            stationary increments: every Y_k has been running since ever  [3]

`stationary` has one set of weights for past and future and is the poorer approximation, by far for H
near 0 or 1. Everything is in double precision: the weights solve a system whose condition number is
1e7 for five speeds and soon 1e16. They are differentiable in H, in the speeds, and again.

H may be a tensor (...), in (0, 1): one per coordinate, or one per time for a multifractional motion.

[1] Carmona & Coutin. Fractional Brownian motion and the Markov property. Electronic Communications in
    Probability 3, 1998.
[2] Harms & Stefanovits. Affine representations of fractional processes with applications in mathematical
    finance. Stochastic Processes and their Applications 129, 2019.
[3] Daems, Opper, Crevecoeur & Birdal. Variational inference for SDEs driven by fractional noise. ICLR 2024.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError
from .blocks import doubles
from .fractional_exact import brownian_variance, riemann_liouville_variance
from .fractional_past import modes, past
from .incomplete_gamma import SWITCH, entire_lower, scaled_entire_lower, scaled_upper

Variance = Literal[
    "unit", "kernel"
]  # Var B(1) = 1, or what the kernel (t - u)^{H - 1/2} / Γ(H + 1/2) gives

RIDGE = (
    1e-8  # on a unit diagonal: a few percent of the error at most, for weights that float32 can sum
)
SLOWEST, FASTEST = 0.5, 20.0  # speeds times horizon
FASTEST_OF_STEP = 5.0  # speed times step


class MarkovApproximation(NamedTuple):
    """B(t) ≈ Σ_k w_k Y_k(t) + Σ_m φ_m(t) ξ_m on (0, T)"""

    speeds: Tensor  # (K,)  γ, in 1 / time
    weights: Tensor  # (..., K)  w, in time^(H - 1/2)
    modes: Callable[
        [Tensor], Tensor
    ]  # times, which broadcast with H (...), -> (..., M); 0 at t = 0
    error: Tensor  # (...)  1/T ∫_0^T E(B̂ - B)² dt, in time^(2H)


def geometric_speeds(slowest: float, fastest: float, count: int) -> Tensor:
    """γ_k = slowest (fastest / slowest)^{(k - 1) / (count - 1)}; for count = 1 the mean of their logarithms."""
    if not (0 < slowest <= fastest < math.inf and count > 0):
        raise ConfigError(
            "X01",
            f"{count} speeds from {slowest} to {fastest}",
            "at least one speed, 0 < slowest <= fastest",
            "Speeds are rates, in 1 / time",
        )
    if count == 1:
        return torch.tensor([math.sqrt(slowest * fastest)], dtype=torch.float64)
    ends = math.log(slowest), math.log(fastest)
    return torch.linspace(*ends, count, dtype=torch.float64).exp()


def speeds_for(horizon: float, step: float, count: int = 7) -> Tensor:
    """0, and from 0.5 / T to 5 / h, or 20 / T where that is more: memory of the whole path, as rough as its steps.

    The process of speed zero is W: a constant in the kernel, and at H = 1/2 all that is needed. With less
    than 1 / h, increments over a step have a variance so wrong that H is learned wrong. For `stationary`,
    take `geometric_speeds`.
    """
    fastest = max(FASTEST / horizon, FASTEST_OF_STEP / step)
    moving = geometric_speeds(SLOWEST / horizon, fastest, count - 1)
    return torch.cat([moving.new_zeros(1), moving])


def brownian_motion(variance: float = 1.0) -> MarkovApproximation:
    """B = √variance W, without error: one process of speed zero."""
    zero = torch.zeros((), dtype=torch.float64)
    return MarkovApproximation(zero[None], zero[None] + math.sqrt(variance), _no_modes, zero)


def riemann_liouville(
    hurst: Tensor | float,
    speeds: Tensor,
    horizon: float,
    variance: Variance = "unit",
    ridge: float = RIDGE,
) -> MarkovApproximation:
    """B(t) = 1/Γ(α) ∫_0^t (t - u)^{α-1} dW(u), α = H + 1/2

    With H (N, ...) read along a path it is multifractional: B(t_n) = Σ_k w_k(H(t_n)) Y_k(t_n).

    Args (here and below):
        hurst: (...), in (0, 1).
        speeds: (K,), not negative. With the first at zero, H = 1/2 is Brownian motion exactly.
        horizon: T, in the units of time, over which the error is the least.
        ridge: added to the diagonal of the scaled system; 0 for the exact minimum.
    """
    hurst, speeds = doubles(hurst, speeds)
    _require_indices(hurst)
    weights, error = _least_squares(riemann_liouville_system(hurst, speeds * horizon), ridge)
    kept = MarkovApproximation(speeds, weights, _no_modes, error)
    return _scaled(kept, hurst, horizon, _factor(riemann_liouville_variance(hurst), variance))


def mandelbrot_van_ness(
    hurst: Tensor | float,
    speeds: Tensor,
    horizon: float,
    variance: Variance = "unit",
    ridge: float = RIDGE,
    count: int = 3,
) -> MarkovApproximation:
    """B = a motion of Riemann and Liouville + what is left of the time before zero, independent of it

    Args:
        count: of the functions that carry the past.
    """
    hurst, speeds = doubles(hurst, speeds)
    _require_indices(hurst)
    weights, error = _least_squares(riemann_liouville_system(hurst, speeds * horizon), ridge)
    before = past(hurst, count)
    kept = MarkovApproximation(speeds, weights, lambda t: modes(before, t), error + before.error)
    return _scaled(kept, hurst, horizon, _factor(brownian_variance(hurst), variance))


def stationary(
    hurst: Tensor | float,
    speeds: Tensor,
    horizon: float,
    variance: Variance = "unit",
    ridge: float = RIDGE,
) -> MarkovApproximation:
    """B(t) ≈ Σ_k w_k (Z_k(t) - Z_k(0)), every Z_k in its stationary law  [3, type I]

    Z_k = Y_k + e^{-γ_k t} Z_k(0), where Z(0) ~ N(0, 1 / (γ_i + γ_j)) = R ξ, so that
    φ_m(t) = Σ_k w_k (e^{-γ_k t} - 1) R_km. All speeds must be positive; R carries no gradient to them.
    """
    hurst, speeds = doubles(hurst, speeds)
    _require_indices(hurst)
    _require_positive(speeds)
    x = speeds * horizon
    weights, error = _least_squares(stationary_system(hurst, x), ridge)
    root = semidefinite_root(1 / (x[:, None] + x))

    def start(t: Tensor) -> Tensor:
        return (weights * torch.expm1(-x * t[..., None])) @ root

    kept = MarkovApproximation(speeds, weights, start, error)
    return _scaled(kept, hurst, horizon, _factor(brownian_variance(hurst), variance))


def daems(
    hurst: Tensor | float, horizon: float, count: int = 5, fastest: float = 20.0
) -> MarkovApproximation:
    """`stationary` as in the experiments of [3]: speeds from 1 / fastest to fastest, whatever the horizon."""
    return stationary(hurst, geometric_speeds(1 / fastest, fastest, count), horizon, "kernel", 0.0)


def covariance(
    first: MarkovApproximation, s: Tensor, second: MarkovApproximation, t: Tensor
) -> Tensor:
    """Cov(B̂_first(s), B̂_second(t)) under one W and one ξ: (...), all of s, t and H broadcast.

    Σ_ij w_i w_j (e^{-γ_j (t - s)} - e^{-γ_i s - γ_j t}) / (γ_i + γ_j) + Σ_m φ_m(s) φ_m(t) for s <= t. The
    speeds must be the same. One index per time makes the covariance of a multifractional motion.
    """
    s, t = doubles(s, t)
    low = torch.minimum(s, t)[..., None]
    speeds = first.speeds
    # of Y_i(s) and Y_j(t): what the earlier time knows, faded until either
    shared = overlap(speeds, low)  # (..., K, K)
    left = first.weights * torch.exp(-speeds * (s[..., None] - low))
    right = second.weights * torch.exp(-speeds * (t[..., None] - low))
    recent = ((left[..., None, :] @ shared)[..., 0, :] * right).sum(-1)
    return recent + (first.modes(s) * second.modes(t)).sum(-1)


def overlap(speeds: Tensor, h: Tensor) -> Tensor:
    """∫_0^h e^{-γ_i u} e^{-γ_j u} du = (1 - e^{-(γ_i + γ_j) h}) / (γ_i + γ_j): (..., 1) -> (..., K, K)"""
    return faded((speeds[:, None] + speeds) * h[..., None]) * h[..., None]


def faded(x: Tensor) -> Tensor:
    """(1 - e^{-x}) / x, and 1 at x = 0."""
    still = x == 0
    return torch.where(still, 1 - x / 2, -torch.expm1(-x) / x.where(~still, 1.0))


def semidefinite_root(C: Tensor, least: float = 1e-14) -> Tensor:
    """R with R R' = C: (..., K, K) -> (..., K, R), as many columns as C has directions in double precision.

    From the eigenvalues of the correlations; those below `least` of the largest are rounding errors.
    Of several matrices the one with most directions counts; the others end on columns of zeros. No
    gradient: that of a factor of a nearly singular matrix is noise.
    """
    C = C.detach()
    scale = C.diagonal(dim1=-2, dim2=-1).sqrt()
    scale = scale.where(scale > 0, 1.0)
    values, vectors = torch.linalg.eigh(C / scale[..., None] / scale[..., None, :])
    values, vectors = values.flip(-1), vectors.flip(-1)
    real = values > least * values[..., :1]
    rank = int(real.sum(-1).amax())
    root: Tensor = scale[..., None] * vectors * values.where(real, 0.0).sqrt()[..., None, :]
    return root[..., :rank]


class System(NamedTuple):
    """∫_0^1 E(B̂ - B)² dt = w' A w - 2 b' w + c"""

    A: Tensor  # (K, K)
    b: Tensor  # (..., K)
    c: Tensor  # (...)


def riemann_liouville_system(hurst: Tensor, x: Tensor) -> System:
    """A_ij = ψ(x_i + x_j), b_k = x^{-α} P(α, x) - α x^{-α-1} P(α + 1, x), for a horizon of 1 and speeds x (K,)."""
    a = hurst[..., None] + 0.5
    b = entire_lower(a, x) - a * entire_lower(a + 1, x)
    c = riemann_liouville_variance(hurst) / (2 * hurst + 1)
    return System(_rest(x[:, None] + x), b, c)


def stationary_system(hurst: Tensor, x: Tensor) -> System:
    """A_ij = (x_i ψ(x_i) + x_j ψ(x_j)) / (x_i + x_j), and b as below, for a horizon of 1 and speeds x (K,) > 0."""
    own = x * _rest(x)
    A = (own[:, None] + own) / (x[:, None] + x)
    a = hurst[..., None] + 0.5
    c = brownian_variance(hurst) / (2 * hurst + 1)
    return System(A, _stationary_right(a, x), c)


def _stationary_right(a: Tensor, x: Tensor) -> Tensor:
    """b_k = 2 x^{-α} - x^{-1} / Γ(α + 1) + x^{-α-1} (e^{-x} - e^x Q(α, x))

    For small x, where these cancel, Σ_n x^n / Γ(α + n + 2) - 2 x^{-α} Σ_m x^{2m} / (2m + 1)!, m >= 1.
    """
    small = x < SWITCH
    near, far = x.where(small, 1.0), x.where(~small, SWITCH)
    series = scaled_entire_lower(a + 1, near) - 2 * near**-a * _sine_excess(near)
    end = torch.exp(-far) - scaled_upper(a, far)
    closed = 2 * far**-a - torch.exp(-torch.lgamma(a + 1)) / far + far ** (-a - 1) * end
    return torch.where(small, series, closed)


def _sine_excess(x: Tensor) -> Tensor:
    """sinh(x) / x - 1 for x < 2."""
    total = torch.ones_like(x)
    for m in range(12, 0, -1):
        total = 1 + total * x * x / ((2 * m + 2) * (2 * m + 3))
    return total * x * x / 6


def _rest(x: Tensor) -> Tensor:
    """ψ(x) = (e^{-x} - 1 + x) / x², and 1/2 at x = 0."""
    small = x < 0.5
    near, far = x.where(small, 0.0), x.where(~small, 1.0)
    series = torch.ones_like(x)
    for n in range(16, 2, -1):
        series = 1 - series * near / n
    return torch.where(small, series / 2, (torch.expm1(-far) + far) / far**2)


def _least_squares(system: System, ridge: float) -> tuple[Tensor, Tensor]:
    """The weights (..., K) of least error, and their error (...).

    The ridge pulls towards the best multiple of the first process alone, which at H = 1/2 and speed zero
    is the solution.
    """
    A, b, c = system
    start = torch.nn.functional.pad(b[..., :1] / A[0, 0], (0, len(A) - 1))
    scale = A.diagonal().rsqrt()
    scaled = scale[:, None] * A * scale
    eye = torch.eye(len(A), dtype=A.dtype, device=A.device)
    right = scale * (b - start @ A)
    w = start + scale * torch.linalg.solve(scaled + ridge * eye, right[..., None])[..., 0]
    error = (w * (w @ A - 2 * b)).sum(-1) + c
    return w, error.clamp(min=0.0)  # which rounding may bring below


def _scaled(
    unit: MarkovApproximation, hurst: Tensor, horizon: float, factor: Tensor
) -> MarkovApproximation:
    """On (0, T) and times `factor`, from the horizon 1: B(T t) is T^H B(t) in law."""
    size = factor * horizon**hurst
    return MarkovApproximation(
        unit.speeds,
        unit.weights * (size / math.sqrt(horizon))[..., None],
        lambda t: size[..., None] * unit.modes(t / horizon),
        unit.error * size.square(),
    )


def _factor(natural: Tensor, variance: Variance) -> Tensor:
    return natural.rsqrt() if variance == "unit" else torch.ones_like(natural)


def _no_modes(t: Tensor) -> Tensor:
    return t.new_zeros(*t.shape, 0)


def _require_indices(hurst: Tensor) -> None:
    inside = (hurst > 0) & (hurst < 1)  # a NaN compares as false
    if not bool(inside.all()):
        worst = float(hurst.detach()[~inside].flatten()[0])
        raise ConfigError(
            "X01",
            f"a Hurst index of {worst:g}",
            "an index between 0 and 1, both excluded",
            "Learn it as the sigmoid of a free number",
        )


def _require_positive(speeds: Tensor) -> None:
    if not bool((speeds > 0).all()):
        raise ConfigError(
            "X01",
            f"a speed of {float(speeds.detach().amin()):g} for a process that is to be stationary",
            "speeds above zero",
            "Take `geometric_speeds`, or `mandelbrot_van_ness`, which needs no stationary law",
        )

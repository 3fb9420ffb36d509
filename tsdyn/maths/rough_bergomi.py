"""Prices under a rough volatility, and the volatility that Black and Scholes would need for them.

    v(t) = ξ exp(η V(t) - η²/2 Var V(t)),   V(t) = √(2H) ∫_0^t (t - u)^{H - 1/2} dW(u)
    dS = S √v dZ,   S(0) = 1,   d<Z, W> = ρ dt

the rough Bergomi model  [1]. V is approximated by a few Ornstein-Uhlenbeck processes that share W  [2], whose
steps and those of W are drawn jointly and without error. What V moves faster than the fastest of them is
noise that forgets itself within a step: of it every time gets its own, independent, with the variance that V
lacks (a third to an eighth for H = 0.07; without it the covariance is wrong by ten times as much). Var V is
that of what is drawn, so that E v = ξ for any speeds, and S moves by exp(√v ΔZ - v h / 2) with v from the
start of the step, so that E S = 1 for any step. `simulate_exactly` draws V from its own law, in O(N³).

There is no interest: strikes are relative to the forward price, and prices are not discounted.

[1] Bayer, Friz & Gatheral. Pricing under rough volatility. Quantitative Finance 16, 2016.
[2] Abi Jaber & El Euch. Multifactor approximation of rough volatility models. SIAM Journal on Financial
    Mathematics 10, 2019.
[3] Black. The pricing of commodity contracts. Journal of Financial Economics 3, 1976.
[4] Manaster & Koehler. The calculation of implied variances from the Black-Scholes model. Journal of Finance
    37, 1982.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from .fractional import covariance, geometric_speeds, riemann_liouville, semidefinite_root
from .fractional_exact import (
    absolute_power,
    matrix,
    riemann_liouville as exact_riemann_liouville,
    riemann_liouville_variance,
)
from .fractional_transition import draw, times
from .grid import Grid, grid

BLOCK = 2048  # paths drawn at once: their states are K times as large as what is kept
SLOWEST, FASTEST, COUNT = 0.3, 30.0, 8  # of the usual speeds, times horizon and step
WIDEST = 40.0  # σ √T beyond which no price in double precision differs from its bound
ROUNDS, ROUNDING = 60, 1e-15  # of bisection at worst, and relative to the root


class RoughBergomi(NamedTuple):
    """v = ξ exp(η V - η²/2 Var V), dS = S √v dZ"""

    hurst: float  # of V, in (0, 1)
    eta: float  # in time^{-H}, not negative
    rho: float  # correlation of Z and W, in [-1, 1]
    xi: float  # E v, per time


class Market(NamedTuple):
    """n paths at time 0 and at the ends of N steps; A is 2 if each has a mirror image, all Brownian motions negated, else 1."""

    price: Tensor  # (N + 1, A, n)  S
    variance: Tensor  # (N + 1, A, n)  v, per time


class Estimate(NamedTuple):
    """A mean over paths, or what follows from one, and its standard error by the delta method."""

    value: Tensor  # (...)
    standard_error: Tensor  # (...)


Driver = Callable[[Tensor], tuple[Tensor, Tensor]]  # like (n,) -> V (N + 1, n) and ΔW (N, n)


def usual_speeds(horizon: float, step: float) -> Tensor:
    """Eight, from 0.3 / T to 30 / h: for the index of about 0.1 that volatilities have."""
    return geometric_speeds(SLOWEST / horizon, max(FASTEST / step, 1 / horizon), COUNT)


def simulate(
    model: RoughBergomi,
    t: Tensor,
    like: Tensor,
    speeds: Tensor | None = None,
    remainder: bool = True,
    antithetic: bool = False,
    generator: torch.Generator | None = None,
) -> Market:
    """Paths by the Markov approximation; linear in the steps.

    Args (here and below):
        t: (N,) ends of the steps, from time 0 on.
        like: (n,) gives the number of paths, dtype and device.
        speeds: (K,) in 1 / time; None for `usual_speeds` of the shortest step.
        remainder: False for the sum of the K processes alone.
        antithetic: draw to each path its mirror image.
        generator: source of chance; the draws are made on its device.

    Raises:
        ConfigError: X01 for parameters out of range.
        DataError: D17 for times that do not increase from 0.
    """
    clock = _clock(model, t)
    horizon = float(clock.h.sum())
    if speeds is None:
        speeds = usual_speeds(horizon, float(clock.h.min()))
    found = riemann_liouville(model.hurst, speeds, horizon)
    at = times(clock)[:, 0, 0].to(found.weights.device)
    variance = covariance(found, at, found, at)
    lacking = (at ** (2 * model.hurst) - variance).clamp(min=0) * remainder  # (N + 1,)

    def driver(like: Tensor) -> tuple[Tensor, Tensor]:
        path = draw(found, clock, like[:, None], generator)
        rest = lacking.sqrt().to(like)[:, None] * _normals(len(at), like, generator)
        return path.value[..., 0] + rest, path.dw[..., 0]

    return _market(model, clock, variance + lacking, driver, like, antithetic, generator)


def simulate_exactly(
    model: RoughBergomi,
    t: Tensor,
    like: Tensor,
    antithetic: bool = False,
    generator: torch.Generator | None = None,
) -> Market:
    """Paths whose V has its own law at the times t, jointly with W: O(N³), and N² for each path."""
    clock = _clock(model, t)
    # another device may give eigenvectors another sign
    at = times(clock)[:, 0, 0].cpu()
    root = semidefinite_root(joint_covariance(model.hurst, at)).to(like)

    def driver(like: Tensor) -> tuple[Tensor, Tensor]:
        moved = root @ _normals(root.shape[-1], like, generator)
        value, dw = moved[: len(at) - 1], moved[len(at) - 1 :]
        return torch.nn.functional.pad(value, (0, 0, 1, 0)), dw

    return _market(model, clock, at ** (2 * model.hurst), driver, like, antithetic, generator)


def joint_covariance(hurst: float, t: Tensor) -> Tensor:
    """Of V(t_1), ..., V(t_N) and W(t_1) - W(t_0), ..., W(t_N) - W(t_{N-1}) for t (N + 1,): (2N, 2N)

    Cov(V(t), W(s)) = √(2H) (t^α - (t - s)^α) / α for s <= t, α = H + 1/2.
    """
    a, late = hurst + 0.5, t[1:]
    left = absolute_power((late[:, None] - t).clamp(min=0.0), torch.as_tensor(a, dtype=t.dtype))
    cross = -left.diff(dim=1) * math.sqrt(2 * hurst) / a
    own = matrix(exact_riemann_liouville(hurst), late) / riemann_liouville_variance(hurst)
    return torch.cat(
        [torch.cat([own, cross], 1), torch.cat([cross.mT, torch.diag(t.diff())], 1)], 0
    )


def _market(
    model: RoughBergomi,
    clock: Grid,
    variance: Tensor,
    driver: Driver,
    like: Tensor,
    antithetic: bool,
    generator: torch.Generator | None,
) -> Market:
    """Of V with its variance (N + 1,) and ΔW, as drawn block by block."""
    h, variance = (part.to(like)[:, None, None] for part in (clock.h[:, 0, 0], variance))
    signs = like.new_tensor([1.0, -1.0] if antithetic else [1.0])[:, None]
    blocks = []
    for block in torch.split(like, BLOCK):
        V, dw = (part[:, None] * signs for part in driver(block))  # (N + 1, A, n), (N, A, n)
        other = _normals(len(h), block, generator)[:, None] * signs * h.sqrt()
        v = model.xi * torch.exp(model.eta * V - model.eta**2 / 2 * variance)
        dz = model.rho * dw + math.sqrt(1 - model.rho**2) * other
        moves = v[:-1].sqrt() * dz - v[:-1] * h / 2
        log_price = torch.nn.functional.pad(moves.cumsum(0), (0, 0, 0, 0, 1, 0))
        blocks.append(Market(log_price.exp(), v))
    return Market(*(torch.cat(parts, -1) for parts in zip(*blocks, strict=True)))


def _normals(rows: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """(rows, n) for like (n,)."""
    device = like.device if generator is None else generator.device
    z = torch.randn(rows, *like.shape, dtype=like.dtype, device=device, generator=generator)
    return z.to(like.device)


def price(terminal: Tensor, strike: Tensor, call: bool = True) -> Estimate:
    """E max(S - K, 0) of calls, E max(K - S, 0) of puts, by the mean over paths.

    Args:
        terminal: (A, n) S at maturity, as in `Market.price[-1]`; a path and its mirror image count as one.
        strike: (...) K, relative to S(0).
        call: False for puts.
    """
    sign = 1.0 if call else -1.0
    payoff = (sign * (terminal.double() - strike.to(terminal.device)[..., None, None])).clamp(min=0)
    each = payoff.mean(-2)  # (..., n)
    return Estimate(each.mean(-1), each.std(-1) / math.sqrt(each.shape[-1]))


def smile(terminal: Tensor, strike: Tensor, maturity: float) -> Estimate:
    """The implied volatility at every strike (...), from puts below S(0) and calls above: these vary less.

    The standard error is that of the price over its derivative in the volatility.

    Raises:
        DataError: D14 where no path ends beyond the strike.
    """
    strike = strike.double().to(terminal.device)
    call, put = price(terminal, strike), price(terminal, strike, False)
    above = strike >= 1
    beyond = call.value.where(above, put.value)
    error = call.standard_error.where(above, put.standard_error)
    sigma = _inverse(beyond, beyond + _exercised(strike, True), strike, True) / math.sqrt(maturity)
    return Estimate(sigma, error / vega(sigma, strike, maturity))


def black_scholes(sigma: Tensor, strike: Tensor, maturity: float, call: bool = True) -> Tensor:
    """Φ(d) - K Φ(d - s) of calls, d = -log K / s + s / 2, s = σ √T > 0; less 1 - K of puts  [3]

    Args (here and below):
        sigma, strike: (...), in double precision and positive.
        maturity: T.
    """
    sigma, strike = sigma.double(), strike.double()
    beyond = _out_of_the_money(sigma * math.sqrt(maturity), strike)
    return beyond + _exercised(strike, call)


def vega(sigma: Tensor, strike: Tensor, maturity: float) -> Tensor:
    """√T φ(d), the derivative of both prices in σ."""
    root = math.sqrt(maturity)
    return root * _slope(sigma.double() * root, strike.double())


def implied_volatility(value: Tensor, strike: Tensor, maturity: float, call: bool = True) -> Tensor:
    """σ > 0 with `black_scholes(σ, K, T) = value`: (...)

    By Newton's method inside of a bracket, from the inflection on  [4], for the logit of the price between its
    bounds, which has no flat ends. In double precision; no gradient.

    Raises:
        DataError: D14 for a price that no volatility gives: a call must be above max(1 - K, 0) and below 1, a
            put above max(K - 1, 0) and below K.
    """
    value, strike = value.detach().double(), strike.detach().double()
    value, strike = value + 0 * strike, strike + 0 * value
    beyond = value - _exercised(strike, call)  # of a call above S(0) or of a put below it
    return _inverse(beyond, value, strike, call) / math.sqrt(maturity)


def _inverse(beyond: Tensor, value: Tensor, strike: Tensor, call: bool) -> Tensor:
    """s with `_out_of_the_money(s, K) = beyond`; D14 tells of the price of the option, `value`."""
    _require_price(beyond, value, strike, call)
    most = strike.clamp(max=1)
    low, high = torch.zeros_like(strike), torch.full_like(strike, WIDEST)
    s = (2 * strike.log().abs()).sqrt().clamp(1e-8, WIDEST)  # where the price is steepest
    for _ in range(ROUNDS):
        found = _out_of_the_money(s, strike)
        excess = torch.logit(found / most) - torch.logit(beyond / most)
        low, high = s.where(excess < 0, low), s.where(excess > 0, high)
        newton = s - excess * found * (most - found) / (most * _slope(s, strike))
        within = (newton >= low) & (newton <= high)  # a NaN or an infinite step compares as false
        moved = newton.where(within, (low + high) / 2)
        if bool(((moved - s).abs() <= ROUNDING * s).all()):
            break
        s = moved
    return s


def _exercised(strike: Tensor, call: bool) -> Tensor:
    """What the option is worth at S(0)."""
    return ((1 - strike) if call else (strike - 1)).clamp(min=0)


def _out_of_the_money(s: Tensor, strike: Tensor) -> Tensor:
    """The price of a call for K >= 1, else of a put: all its digits, however small it is."""
    sign = torch.where(strike >= 1, 1.0, -1.0).to(s)
    d = -strike.log() / s + s / 2
    return sign * (_normal_cdf(sign * d) - strike * _normal_cdf(sign * (d - s)))


def _normal_cdf(x: Tensor) -> Tensor:
    """Φ(x); torch's own is one less than a number near one for small Φ."""
    found: Tensor = torch.special.erfc(-x / math.sqrt(2)) / 2
    return found


def _slope(s: Tensor, strike: Tensor) -> Tensor:
    """φ(d), of either price in s."""
    d = -strike.log() / s + s / 2
    return torch.exp(-d.square() / 2) / math.sqrt(2 * math.pi)


def _require_price(beyond: Tensor, value: Tensor, strike: Tensor, call: bool) -> None:
    fits = (beyond > 0) & (beyond < strike.clamp(max=1)) & (strike > 0)
    if not bool(fits.all()):
        v, k = float(value[~fits].flatten()[0]), float(strike[~fits].flatten()[0])
        low, high = (max(1 - k, 0), 1.0) if call else (max(k - 1, 0), k)
        raise DataError(
            "D14",
            f"a {'call' if call else 'put'} of strike {k:g} at the price {v:g}",
            f"a strike above 0 and a price between {low:g} and {high:g}, both excluded",
            "No volatility gives another one; of simulated prices, draw more paths or ask for nearer strikes",
        )


def _clock(model: RoughBergomi, t: Tensor) -> Grid:
    """The steps to the times t, after a look at all that the user gave."""
    h, eta, rho, xi = model
    if not (0 < h < 1 and 0 <= eta < math.inf and -1 <= rho <= 1 and 0 < xi < math.inf):
        raise ConfigError(
            "X01",
            f"{model}",
            "0 < hurst < 1, eta >= 0, -1 <= rho <= 1 and xi > 0",
            "xi is the square of a volatility",
        )
    clock = grid(t, t0=0.0)
    if t.ndim != 1 or len(clock.h) < len(t):  # equal times share a step
        raise DataError(
            "D17",
            f"times of shape {tuple(t.shape)} in {len(clock.h)} steps from 0",
            "one row of times that increase from above 0",
            "Take `torch.arange(1, N + 1) * h` for N equal steps",
        )
    return clock

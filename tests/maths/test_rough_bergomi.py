"""Oracles: the law of V by quadrature, prices drawn from it by dense algebra, Black and Scholes, an exact solution at H = 1/2."""

import itertools
import math

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from torch.testing import assert_close

from tsdyn.errors import ConfigError, DataError
from tsdyn.maths.fractional import geometric_speeds, speeds_for
from tsdyn.maths.rough_bergomi import (
    RoughBergomi,
    black_scholes,
    implied_volatility,
    joint_covariance,
    price,
    simulate,
    simulate_exactly,
    smile,
    usual_speeds,
    vega,
)

F64 = torch.float64
PUBLISHED = RoughBergomi(hurst=0.07, eta=1.9, rho=-0.9, xi=0.235**2)
STRIKES = torch.tensor([0.8, 0.9, 1.0, 1.1, 1.2], dtype=F64)
WIDE = geometric_speeds(0.3, 1e4, 8)


def even(n, horizon=1.0):
    return torch.arange(1, n + 1, dtype=F64) * (horizon / n)


def paths(n):
    return torch.empty(n, dtype=F64)


def log_ratio(market, model):
    """η V - η²/2 Var V"""
    return (market.variance / model.xi).log()


@pytest.mark.parametrize("hurst", [0.07, 0.3, 0.5, 0.8])
def test_the_joint_law_by_quadrature(hurst):
    """∫ of products of the kernel √(2H) (t - u)^{H - 1/2} with itself and with 1; u = s - r^{1/H} tames the end."""
    t = torch.tensor([0.0, 0.1, 0.15, 0.9], dtype=F64)
    C = joint_covariance(hurst, t)
    kernel = lambda t, u: math.sqrt(2 * hurst) * (t - u) ** (hurst - 0.5)
    q = 1 / hurst

    def both(s, t):
        if s == t:
            return s ** (2 * hurst)
        inner = lambda r: 2 * (t - s + r**q) ** (hurst - 0.5) * r ** (q / 2)
        return quad(inner, 0, s**hurst, epsabs=1e-12, limit=500)[0]

    def with_increment(t, a, b):
        top = min(b, t)
        return quad(lambda u: kernel(t, u), a, top, epsabs=1e-12)[0] if a < t else 0.0

    times = t.tolist()
    for i in range(1, 4):
        for j in range(1, 4):
            s, late = sorted((times[i], times[j]))
            assert_close(C[i - 1, j - 1].item(), both(s, late), rtol=1e-6, atol=0)
            crossed = with_increment(times[i], times[j - 1], times[j])
            assert_close(C[i - 1, 2 + j].item(), crossed, rtol=1e-6, atol=1e-9)
    assert_close(C, C.mT)
    assert_close(C[3:, 3:], torch.diag(t.diff()))


@pytest.mark.parametrize("draw", [simulate, simulate_exactly])
def test_the_law_of_the_variance(draw):
    """log (v / ξ) has mean -η²/2 t^{2H} and covariance η² Cov(V): five standard errors, and 0.4 % by speeds."""
    n, model = 20_000, PUBLISHED
    t = even(12)
    x = log_ratio(draw(model, t, paths(n)), model)[1:, 0]
    C = model.eta**2 * joint_covariance(model.hurst, torch.cat([t.new_zeros(1), t]))[:12, :12]
    variances = C.diagonal()
    assert ((x.mean(1) + variances / 2).abs() < 5 * (variances / n).sqrt()).all()
    se = ((variances[:, None] * variances + C**2) / n).sqrt()
    room = 0.0 if draw is simulate_exactly else 0.004 * model.eta**2
    assert ((torch.cov(x) - C).abs() < 5 * se + room).all()


def test_the_variance_of_the_approximation_alone_is_compensated_too():
    """E v = ξ for five slow speeds, whose sum lacks a third of the variance; η = 0.5 keeps the tail of v thin."""
    model = PUBLISHED._replace(eta=0.5)
    few = geometric_speeds(1 / 20, 20.0, 5)
    for remainder in (False, True):
        v = simulate(model, even(20), paths(20_000), few, remainder).variance[:, 0] / model.xi
        assert ((v.mean(1) - 1).abs() < 5 * v.std(1) / math.sqrt(20_000) + 1e-12).all()
        spread = v[-1].log().var() / 0.25
        assert spread > 0.97 if remainder else spread < 0.8


def test_published_parameters():
    """20000 paths of 312 steps, of eight wide speeds and of the usual ones."""
    t, like = even(312), paths(20_000)
    exact = smile(simulate_exactly(PUBLISHED, t, like).price[-1], STRIKES, 1.0)
    for speeds in (WIDE, None):
        terminal = simulate(PUBLISHED, t, like.float(), speeds).price[-1]
        mean, error = price(terminal, torch.zeros(()))
        assert abs(mean - 1) <= 3 * error
        found = smile(terminal, STRIKES, 1.0)
        assert abs(found.value[2] - 0.197) < 0.004
        apart = (found.value - exact.value).abs()
        both = (found.standard_error**2 + exact.standard_error**2).sqrt()
        assert (apart[:4] < 2 * both[:4]).all()
        assert apart[4] < 0.006
        assert (found.value.diff() < 0).all()  # the skew of a negative correlation


@pytest.mark.parametrize("draw", [simulate, simulate_exactly])
def test_brownian_volatility_has_a_solution(draw):
    """H = 1/2, ρ = 1: log S = 2/η (√v - √ξ) + ∫ (η/4 √v - v/2) dt, by Itô for √v; the error falls like √h."""
    model = RoughBergomi(0.5, 1.0, 1.0, 0.2)
    speeds = {"speeds": speeds_for(1.0, 1e-2)} if draw is simulate else {}
    errors = []
    for n in (25, 100, 400):
        S, v = draw(model, even(n), paths(500), **speeds)
        root = v.sqrt()
        drift = (root[:-1] / 4 * model.eta - v[:-1] / 2).mean(0)
        truth = 2 / model.eta * (root[-1] - math.sqrt(model.xi)) + drift
        errors.append((S[-1].log() - truth).square().mean().sqrt().item())
    assert errors[2] < 0.01
    for coarse, fine in itertools.pairwise(errors):
        assert 1.6 < coarse / fine < 2.5


def test_without_correlation_prices_are_mixtures():
    """ρ = 0: the mean of Black and Scholes over the realised volatilities of the same paths, four standard errors."""
    model = PUBLISHED._replace(rho=0.0)
    S, v = simulate(model, even(50), paths(20_000))
    realised = v[:-1].mean(0)[0].sqrt()
    for strike in STRIKES:
        mixed = black_scholes(realised, strike, 1.0)
        drawn = (S[-1, 0] - strike).clamp(min=0)
        apart = drawn - mixed
        assert abs(apart.mean()) < 4 * apart.std() / math.sqrt(20_000)


@pytest.mark.parametrize("antithetic", [False, True])
def test_still_variance_is_black_and_scholes(antithetic):
    model = PUBLISHED._replace(eta=0.0)
    S, v = simulate(model, even(7, 0.5), paths(40_000), antithetic=antithetic)
    assert_close(v, torch.full_like(v, model.xi))
    found = smile(S[-1], STRIKES, 0.5)
    assert ((found.value - 0.235).abs() < 4 * found.standard_error).all()
    log = S[-1, 0].log() / math.sqrt(0.5 * model.xi)
    assert abs(log.std() - 1) < 4 / math.sqrt(80_000)


def test_parity():
    """A call less a put is S - K, path by path."""
    terminal = simulate(PUBLISHED, even(10), paths(100)).price[-1]
    call, put = price(terminal, STRIKES), price(terminal, STRIKES, call=False)
    assert_close(call.value - put.value, terminal.mean() - STRIKES)
    sigma = torch.tensor(0.3)
    apart = black_scholes(sigma, STRIKES, 2.0) - black_scholes(sigma, STRIKES, 2.0, call=False)
    assert_close(apart, 1 - STRIKES)


def test_mirror_images():
    """log v / ξ + η²/2 Var V changes its sign, and with it the shares of W and of what is independent of it."""
    S, v = simulate(PUBLISHED, even(20), paths(9), antithetic=True)
    assert S.shape == v.shape == (21, 2, 9)
    level = -(PUBLISHED.eta**2) * even(20) ** (2 * PUBLISHED.hurst)
    product = (v[1:] / PUBLISHED.xi).log().sum(1)
    assert_close(product, level[:, None].expand_as(product))
    dz = (S.log().diff(dim=0) + v[:-1] / 40) / v[:-1].sqrt()
    assert_close(dz[:, 0], -dz[:, 1])


@pytest.mark.parametrize("antithetic", [False, True])
def test_standard_errors_are_the_spread_of_repetitions(antithetic):
    """400 repetitions: their deviation is known to 1 / √800, three of which are 11 %; 4 % for the tail of v."""
    model = PUBLISHED._replace(eta=1.0)
    S = simulate(model, even(10), paths(400 * 250), antithetic=antithetic).price[-1]
    values, errors = [], []
    for part in S.split(250, -1):
        for read in (price(part, STRIKES), smile(part, STRIKES, 1.0)):
            values.append(read.value)
            errors.append(read.standard_error)
    spread = torch.stack(values).view(400, 2, 5).std(0)
    told = torch.stack(errors).view(400, 2, 5).mean(0)
    assert_close(told / spread, torch.ones_like(told), rtol=0, atol=0.15)


@pytest.mark.parametrize("maturity", [0.1, 1.0, 4.0])
def test_black_and_scholes_by_the_mean_of_payoffs(maturity):
    for strike in (0.7, 1.0, 1.6):
        for sigma in (0.1, 0.8):
            s = sigma * math.sqrt(maturity)
            payoff = lambda z, s=s, strike=strike: (
                (math.exp(s * z - s**2 / 2) - strike) * norm.pdf(z)
            )
            call = quad(payoff, math.log(strike) / s + s / 2, 40, epsabs=1e-13)[0]
            found = black_scholes(torch.tensor(sigma, dtype=F64), torch.tensor(strike), maturity)
            assert_close(found.item(), call, rtol=1e-6, atol=1e-8)


def test_vega_is_the_derivative():
    sigma = torch.tensor([0.1, 0.3, 1.0, 0.2, 0.9], dtype=F64, requires_grad=True)
    for call in (True, False):
        (slope,) = torch.autograd.grad(black_scholes(sigma, STRIKES, 2.0, call).sum(), sigma)
        assert_close(slope, vega(sigma.detach(), STRIKES, 2.0))


@pytest.mark.parametrize("call", [True, False])
def test_prices_give_their_volatility_back(call):
    """To the rounding of the price: relative to it 1e-16 (1 + |1 - K| / price), and σ moves by that over vega."""
    sigma = torch.logspace(-2, math.log10(4), 40, dtype=F64)[:, None]
    strike = torch.logspace(-1.5, 1.5, 31, dtype=F64)
    for maturity in (0.02, 1.0, 9.0):
        value = black_scholes(sigma, strike, maturity, call)
        slope = vega(sigma, strike, maturity)
        rounding = 4e-16 * (1 + strike) / slope
        told = (rounding < 1e-4).expand_as(value)  # where the price says anything
        assert told.double().mean() > 0.15
        s, k = sigma.expand_as(value)[told], strike.expand_as(value)[told]
        found = implied_volatility(value[told], k, maturity, call)
        assert ((found - s).abs() < 10 * rounding.expand_as(value)[told] + 1e-13 * s).all()


def test_tiny_prices_keep_their_digits():
    """Far calls and puts of 1e-60: no time value is lost by subtraction, so that σ is found to 1e-10."""
    strike = torch.tensor([0.2, 5.0], dtype=F64)
    for call, k in ((False, strike[0]), (True, strike[1])):
        sigma = torch.tensor(0.1, dtype=F64)
        value = black_scholes(sigma, k, 1.0, call)
        assert 0 < value < 1e-50
        assert_close(implied_volatility(value, k, 1.0, call), sigma, rtol=1e-10, atol=0)


@pytest.mark.parametrize("draw", [simulate, simulate_exactly])
def test_a_generator_gives_the_same_paths(draw, device):
    t = even(8).to(device)
    one, same, other = (
        draw(
            PUBLISHED, t, torch.empty(6, device=device), generator=torch.Generator().manual_seed(k)
        )
        for k in (1, 1, 2)
    )
    assert one.price.dtype == torch.float32 and one.price.device.type == device
    assert torch.equal(one.price, same.price) and torch.equal(one.variance, same.variance)
    assert not torch.equal(one.price, other.price)


def test_many_paths_are_drawn_in_blocks():
    """5000 paths are more than one block, and none is a copy of another."""
    S = simulate(PUBLISHED, even(3), paths(5_000)).price[-1, 0]
    assert S.shape == (5_000,) and len(S.unique()) == 5_000


def test_usual_speeds():
    assert_close(usual_speeds(2.0, 0.01)[[0, -1]], torch.tensor([0.15, 3000.0], dtype=F64))
    assert len(usual_speeds(1.0, 1.0)) == 8


def test_bad_input():
    for wrong in (
        PUBLISHED._replace(hurst=0.0),
        PUBLISHED._replace(eta=-1.0),
        PUBLISHED._replace(rho=1.1),
        PUBLISHED._replace(xi=math.nan),
    ):
        with pytest.raises(ConfigError, match="TSD-X01"):
            simulate(wrong, even(3), paths(2))
    for t in ([0.2, 0.1], [0.0, 1.0], [0.5, 0.5], [-1.0, 1.0], [[0.5, 1.0]]):
        for draw in (simulate, simulate_exactly):
            with pytest.raises(DataError, match="TSD-D17"):
                draw(PUBLISHED, torch.tensor(t), paths(2))
    one = torch.tensor(1.0, dtype=F64)
    for value, strike, call in [
        (0.0, 1.1, True),
        (1.0, 1.1, True),
        (0.19, 0.8, True),
        (math.nan, 1.0, True),
        (0.1, 1.1, False),
        (0.8, 0.8, False),
        (0.1, -1.0, True),
    ]:
        with pytest.raises(DataError, match=r"TSD-D14.*price between"):
            implied_volatility(value * one, strike * one, 1.0, call)
    with pytest.raises(DataError, match="draw more paths"):
        smile(torch.ones(1, 10), torch.tensor(2.0), 1.0)

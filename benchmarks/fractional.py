"""How near is the Markov approximation to fractional Brownian motion, and what does it cost?

    OMP_NUM_THREADS=1 python benchmarks/fractional.py [--only NAME ...] [--quick]

speed       CPU seconds of one thread for 1000 paths of 1000 steps, the median of rounds in which the samplers take
            turns: the approximation by five processes (its laws of the steps worked out anew each time, and its
            weights), the exact circulant embedding of tsdyn, and the package `fbm` with Davies and Harte's method,
            which draws path by path: a few paths are timed and scaled to 1000.
covariance  the Frobenius norm of the error of the covariance at 0.01, 0.02, ..., 1, relative to that of the covariance,
            for 1 to 10 processes: speeds of `speeds_for` for steps of 0.01, those of the paper, 1/20 to 20, and the
            paper's own approximation with these (`daems`).
index       mean and standard deviation over paths of estimates of the Hurst index. By the likelihood of the motion of
            Riemann and Liouville, exact and of its approximations, at 200 times seen without error; and by the six
            estimators of `tsdyn.maths.hurst` for 1024 increments of fractional Brownian motion, with the mean of the
            standard error that each tells.
smile       implied volatilities of the rough Bergomi model, H = 0.07, η = 1.9, ρ = -0.9, ξ = 0.235², one year in 312
            steps: exact draws, and the approximation with and without the remainder; antithetic.
bridge      `FractionalSDE` of a motion of Riemann and Liouville from 0, seen at 2 as 0 ± 0.1: its exact posterior, and one
            learned by a network alone in 300 steps of Adam. log p of what is seen, its bound and the importance weighted
            estimate by 4000 paths, and the deviation of x(1).
memory      fractional Ornstein-Uhlenbeck processes of H = 0.8 and 0.3, 32 series to learn from and 32 to be judged by, of
            120 observations at random times, a noise of 15 % of the deviation, 4 observations in a time of relaxation
            and 30 such times. Log density of the series that were not learned from, and the CRPS of forecasts of their
            last 20 values, of linear models with and without memory, beside the law of the data.

Each of these is a function of the same name, which returns its tables as text.
"""

import argparse
import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import fbm
import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from tsdyn.batch import Paths, merge, split_after, take
from tsdyn.data.fractional_systems import FractionalOU
from tsdyn.data.tasks import Forecasting
from tsdyn.evaluation import markdown
from tsdyn.maths.fractional import (
    MarkovApproximation,
    covariance as covariance_of,
    daems,
    geometric_speeds,
    mandelbrot_van_ness,
    riemann_liouville,
    speeds_for,
)
from tsdyn.maths.fractional_exact import (
    Covariance,
    brownian_variance,
    fractional_brownian,
    matrix,
    riemann_liouville as exact_riemann_liouville,
    riemann_liouville_variance,
)
from tsdyn.maths.fractional_transition import sample
from tsdyn.maths.gaussian_evidence import condition, log_evidence
from tsdyn.maths.gaussian_paths import factored, fractional_brownian_paths, fractional_noise_paths
from tsdyn.maths.hurst import METHODS, hurst
from tsdyn.maths.minimise import minimise
from tsdyn.maths.rough_bergomi import (
    Market,
    RoughBergomi,
    price,
    simulate,
    simulate_exactly,
    smile as smile_of,
    usual_speeds,
)
from tsdyn.maths.score import gaussian_crps
from tsdyn.models.baselines import LastValue
from tsdyn.models.fractional_prior import QUICK, SMALLEST
from tsdyn.models.fractional_sde import FractionalSDE
from tsdyn.models.gp import StateSpaceGP
from tsdyn.models.kernels import Matern, Sum
from tsdyn.models.linear import Linear
from tsdyn.models.scaled import Scaled

F64 = torch.float64
INDICES = (0.1, 0.25, 0.5, 0.75, 0.9)
Sampler = Callable[[], object]


class Size(NamedTuple):
    """Of the whole; `--quick` is for a look."""

    rounds: int  # of timing
    packaged: int  # paths of `fbm` in each
    likelihoods: int  # paths whose likelihood is maximised
    estimates: int  # paths of the six estimators
    slow_estimates: int  # of the exact likelihood among them
    market: int  # paths of the market
    bridging: int  # steps of training of a bridge
    seeds: int  # data sets with memory
    fitting: int  # iterations of a fit to one


FULL = Size(11, 10, 12, 60, 60, 50_000, 300, 5, 25)
LOOK = Size(3, 2, 2, 10, 2, 5_000, 20, 2, 3)


def speed(size: Size) -> list[str]:
    n, t = 1000, torch.arange(1, 1001, dtype=F64) / 1000
    five = geometric_speeds(1 / 20, 20.0, 5)
    packaged = fbm.FBM(n=n, hurst=0.75, length=1, method="daviesharte")

    def approximate(make: Callable[..., MarkovApproximation], dtype: torch.dtype) -> Sampler:
        return lambda: sample(make(0.75, five, 1.0), t, torch.empty(n, 1, dtype=dtype))

    samplers: dict[str, Sampler] = {
        "Riemann-Liouville, 5 processes, float32": approximate(riemann_liouville, torch.float32),
        "Riemann-Liouville, 5 processes, float64": approximate(riemann_liouville, F64),
        "Mandelbrot-van Ness, 5 processes, float32": approximate(
            mandelbrot_van_ness, torch.float32
        ),
        "Mandelbrot-van Ness, 5 processes, float64": approximate(mandelbrot_van_ness, F64),
        "exact, circulant embedding, float64": lambda: fractional_brownian_paths(
            0.75, n, 1 / n, (n,)
        ),
        "fbm, Davies and Harte, float64": lambda: [packaged.fbm() for _ in range(size.packaged)],
    }
    scale = dict.fromkeys(samplers, 1.0) | {"fbm, Davies and Harte, float64": n / size.packaged}
    spent = cpu_seconds(samplers, size.rounds)
    rows = []
    for name, seconds in spent.items():
        scaled = [scale[name] * s for s in seconds]
        rows.append([name, *(f"{f(scaled):.3f}" for f in (statistics.median, min, max))])
    table = markdown(["sampler", "median", "least", "most"], rows)
    return [f"CPU seconds for 1000 paths of 1000 steps, H = 0.75\n\n{table}"]


def cpu_seconds(samplers: dict[str, Sampler], rounds: int) -> dict[str, list[float]]:
    """Of every round, after one that does not count."""
    spent: dict[str, list[float]] = {name: [] for name in samplers}
    for n in range(rounds + 1):
        for name, draw in samplers.items():
            before = time.process_time()
            draw()
            if n:
                spent[name].append(time.process_time() - before)
    return spent


def covariance(size: Size) -> list[str]:
    """Nothing is drawn; every size is the whole."""
    t = torch.arange(1, 101, dtype=F64) / 100
    truths: dict[str, Callable[[float], Covariance]] = {
        "Riemann-Liouville": exact_riemann_liouville,
        "Mandelbrot-van Ness": mandelbrot_van_ness_law,
    }
    usual = lambda count: speeds_for(1.0, 0.01, count)
    paper = lambda count: geometric_speeds(1 / 20, 20.0, count)
    motion, past = riemann_liouville, mandelbrot_van_ness
    # title, law, fewest processes, approximation by so many
    kinds: list[tuple[str, str, int, Callable[[float, int], MarkovApproximation]]] = [
        (
            "`riemann_liouville`, `speeds_for`",
            "Riemann-Liouville",
            2,
            lambda h, k: motion(h, usual(k), 1.0, "kernel"),
        ),
        (
            "`riemann_liouville`, speeds of the paper",
            "Riemann-Liouville",
            1,
            lambda h, k: motion(h, paper(k), 1.0, "kernel"),
        ),
        (
            "`mandelbrot_van_ness`, `speeds_for`",
            "Mandelbrot-van Ness",
            2,
            lambda h, k: past(h, usual(k), 1.0, "kernel"),
        ),
        (
            "`mandelbrot_van_ness`, speeds of the paper",
            "Mandelbrot-van Ness",
            1,
            lambda h, k: past(h, paper(k), 1.0, "kernel"),
        ),
        ("`daems`, as in the paper", "Mandelbrot-van Ness", 1, lambda h, k: daems(h, 1.0, k)),
    ]
    tables = []
    for title, law, fewest, make in kinds:
        rows = []
        for index in INDICES:
            truth = matrix(truths[law](index), t)
            errors = [
                off(make(index, count), truth, t) if count >= fewest else math.nan
                for count in range(1, 11)
            ]
            rows.append([f"{index:g}", *("" if math.isnan(e) else f"{e:.1e}" for e in errors)])
        head = ["H", *(f"K = {count}" for count in range(1, 11))]
        tables.append(f"{title}: relative error of the covariance\n\n{markdown(head, rows)}")
    return tables


def mandelbrot_van_ness_law(index: float) -> Covariance:
    """With the variance of the kernel."""
    return lambda s, t: brownian_variance(index) * fractional_brownian(index)(s, t)


def off(found: MarkovApproximation, truth: Tensor, t: Tensor) -> float:
    return float((covariance_of(found, t[:, None], found, t) - truth).norm() / truth.norm())


def index(size: Size) -> list[str]:
    return [by_likelihood(size), by_estimators(size)]


def by_likelihood(size: Size) -> str:
    """Riemann-Liouville paths at 200 times; the scale is known, as it is to the approximations."""
    n = 200
    t = torch.arange(1, n + 1, dtype=F64) / n

    def approximated(speeds: Tensor) -> Callable[[float], Covariance]:
        def law(h: float) -> Covariance:
            found = riemann_liouville(h, speeds, 1.0, "kernel")
            return lambda s, t: covariance_of(found, s, found, t)

        return law

    laws: dict[str, Callable[[float], Covariance]] = {
        "exact": exact_riemann_liouville,
        "K = 7, `speeds_for`": approximated(speeds_for(1.0, 1 / n)),
        "K = 7, 0.1 to 1000": approximated(geometric_speeds(0.1, 1000.0, 7)),
        "K = 5, 0.1 to 200": approximated(geometric_speeds(0.1, 200.0, 5)),
        "K = 5, speeds of the paper": approximated(geometric_speeds(1 / 20, 20.0, 5)),
    }
    rows = []
    for true in (0.2, 0.35, 0.5, 0.65, 0.8):
        paths = factored(matrix(exact_riemann_liouville(true), t), (size.likelihoods,))
        found = {name: most_likely(law, t, paths) for name, law in laws.items()}
        apart = (found["K = 7, `speeds_for`"] - found["exact"]).abs().max()
        rows.append([f"{true:g}", *map(spread, found.values()), f"{float(apart):.4f}"])
    head = ["H", *laws, "largest distance of `speeds_for` from exact"]
    title = f"Most likely H of {size.likelihoods} Riemann-Liouville paths at {n} times"
    return f"{title}\n\n{markdown(head, rows)}"


def most_likely(law: Callable[[float], Covariance], t: Tensor, paths: Tensor) -> Tensor:
    """Of every path (B, N): (B,)"""

    def loss(h: float, y: Tensor) -> float:
        return -float(log_evidence(law(h), t, y, 0.0))

    how = {"bounds": (0.01, 0.99), "method": "bounded", "options": {"xatol": 1e-4}}
    return torch.tensor([minimize_scalar(loss, args=(y,), **how).x for y in paths], dtype=F64)


def spread(values: Tensor) -> str:
    return f"{float(values.mean()):.3f} ± {float(values.std()):.3f}"


def by_estimators(size: Size) -> str:
    n, rows = 1024, []
    for true in (0.1, 0.3, 0.5, 0.7, 0.9):
        noise = fractional_noise_paths(true, n, size=(size.estimates,))
        row = [f"{true:g}"]
        for method in METHODS:
            count = size.slow_estimates if method == "maximum_likelihood" else size.estimates
            found = hurst(noise[:count], method, levels=False, replicates=100)
            row.append(f"{spread(found.value)} ({float(found.standard_error.mean()):.3f})")
        rows.append(row)
    title = (
        f"Six estimators, {size.estimates} paths of {n} increments ({size.slow_estimates} for the "
        "likelihood): mean ± standard deviation (standard error that is told)"
    )
    return f"{title}\n\n{markdown(['H', *METHODS], rows)}"


def smile(size: Size) -> list[str]:
    model = RoughBergomi(0.07, 1.9, -0.9, 0.235**2)
    steps = 312
    t = torch.arange(1, steps + 1, dtype=F64) / steps
    like = torch.empty(size.market // 2)  # with their mirror images
    strikes = torch.tensor([0.8, 0.9, 1.0, 1.1, 1.2], dtype=F64)
    five, wide = geometric_speeds(1 / 20, 20.0, 5), geometric_speeds(0.3, 1e4, 8)
    ways: dict[str, Callable[[], Market]] = {
        "exact": lambda: simulate_exactly(model, t, like, antithetic=True),
        "K = 8, usual speeds": lambda: simulate(model, t, like, None, antithetic=True),
        "K = 8, 0.3 to 10000": lambda: simulate(model, t, like, wide, antithetic=True),
        "K = 5, speeds of the paper": lambda: simulate(model, t, like, five, antithetic=True),
        "K = 8, 0.3 to 10000, no remainder": lambda: simulate(model, t, like, wide, False, True),
        "K = 5, speeds of the paper, no remainder": lambda: simulate(
            model, t, like, five, False, True
        ),
    }
    rows = []
    for name, draw in ways.items():
        before = time.process_time()
        terminal = draw().price[-1]
        seconds = time.process_time() - before
        mean, volatility = price(terminal, torch.zeros(())), smile_of(terminal, strikes, 1.0)
        cells = [f"{float(v):.4f} ± {float(e):.4f}" for v, e in zip(*volatility, strict=True)]
        forward = f"{float(mean.value) - 1:+.4f} ± {float(mean.standard_error):.4f}"
        rows.append([name, forward, *cells, f"{seconds:.2f}"])
    ends = " to ".join(f"{float(s):g}" for s in usual_speeds(1.0, 1 / steps)[[0, -1]])
    head = ["V", "E S - 1", *(f"K = {float(k):g}" for k in strikes), "CPU s"]
    title = f"Implied volatility by strike, {size.market} paths; usual speeds are {ends}"
    return [f"{title}\n\n{markdown(head, rows)}"]


def bridge(size: Size) -> list[str]:
    rows = []
    for h in (0.3, 0.5, 0.7, 0.9):
        exact = bridge_in_closed_form(h)
        rows.append([f"{h:g}", "exact", f"{exact[0]:.4f}", "", "", f"{exact[1]:.4f}", ""])
        # a control by a network wants short steps before what is seen
        usual = {"draws": 32, "bound": "landing", "neighbours": 1, "speeds": 5}
        for by, arguments in {"guide": {}, "network": usual | {"grading": (100, 4.0)}}.items():
            torch.manual_seed(0)
            before = time.process_time()
            model, seen = bridging(h, by=by, **arguments)
            if by == "network":
                train_bridge(model, seen, size.bridging)
            spent = time.process_time() - before
            with torch.no_grad():
                walk = model.paths(seen, 4000)
                density = -(walk.x[:, 0, -1, 0].square() / 0.01 + math.log(math.tau * 0.01)) / 2
                weight = (density - walk.log_ratio[:, 0]).double()
            bound, error = float(weight.mean()), float(weight.std()) / math.sqrt(len(weight))
            importance = float(weight.logsumexp(0)) - math.log(len(weight))
            told = f"{float(model.evidence(seen)):.4f}" if model.exact else ""
            deviation = float(walk.x[:, 0, 1, 0].std())
            cells = [told, f"{bound:.3f} ± {error:.3f}", f"{importance:.3f}", f"{deviation:.4f}"]
            rows.append([f"{h:g}", by, *cells, f"{spent:.1f}"])
    head = ["H", "posterior", "log evidence", "bound", "importance weighted", "sd x(1)", "CPU s"]
    return [f"A bridge, exact, by the guide and by a network alone\n\n{markdown(head, rows)}"]


def bridge_in_closed_form(h: float) -> tuple[float, float]:
    """Log density of what is seen, and the deviation of x(1)."""
    motion = exact_riemann_liouville(h)

    def law(s: Tensor, t: Tensor) -> Tensor:
        return motion(s, t) + SMALLEST**2  # x(0) has the least deviation there is

    seen = torch.tensor([2.0], dtype=F64), torch.zeros(1, dtype=F64), 0.01
    _, C = condition(law, *seen, torch.ones(1, dtype=F64))
    return float(log_evidence(law, *seen)), float(C.sqrt())


def bridging(h: float, **arguments: object) -> tuple[FractionalSDE, Paths]:
    """The motion with its kernel's variance, only the posterior of which is left to learn."""
    model = FractionalSDE(1, hurst=h, horizon=2.0, step=0.05, **arguments)
    prior = model.prior
    scale = float(riemann_liouville_variance(h)) ** 0.5
    fixed = {prior.kappa: -40.0, prior.log_sigma: raw_scale(scale), prior.log_std: -10.0}
    with torch.no_grad():
        for p, value in (fixed | {model.log_noise: raw_scale(0.1)}).items():
            p.fill_(value)
    for p in (*prior.parameters(), model.log_noise, model.level):
        p.requires_grad_(False)
    mask = torch.tensor([[False, False, True]])[..., None]
    return model, Paths(torch.tensor([[0.0, 1.0, 2.0]]), torch.zeros(1, 3, 1), mask)


def raw_scale(value: float) -> float:
    return math.log(value - SMALLEST) / QUICK


def train_bridge(model: FractionalSDE, seen: Paths, steps: int) -> None:
    free = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(free, lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        (-model.evidence(seen).mean()).backward()
        torch.nn.utils.clip_grad_norm_(free, 10.0)
        optimizer.step()
        scheduler.step()


class Judged(NamedTuple):
    """One model and one data set."""

    evidence: float  # nats per value of series not learned from; nan where there is no such law
    crps: float
    index: float  # H, nan where there is none
    rate: float  # of return, per unit of time
    seconds: float  # of fitting


LAST = 20  # values that are forecast
BROWNIAN = "`FractionalSDE`, Brownian"


def memory(size: Size) -> list[str]:
    tables = []
    for true in (0.8, 0.3):
        found = [contest(long_memory(true, seed), size.fitting) for seed in range(size.seeds)]
        tables.append(memory_table(true, found))
    return tables


def memory_table(true: float, found: list[dict[str, Judged]]) -> str:
    """Scores of data sets, every gain of a model with the least over the data sets."""
    plain = numbers(found, BROWNIAN)
    rows = []
    for name in found[0]:
        judged = numbers(found, name)
        own, score, index, rate, seconds = judged.unbind(-1)
        gain = judged - plain if name != BROWNIAN else torch.full_like(judged, math.nan)
        cells = [several(own), least(gain[:, 0]), several(score), least(-gain[:, 1])]
        cells += [several(index), several(rate), several(seconds, 1)]
        rows.append([name, *cells])
    gain_title = "gain on Brownian (least)"
    head = ["model", "log evidence", gain_title, "CRPS", gain_title, "H", "rate", "CPU s"]
    title = f"Data of H = {true:g}, {len(found)} seeds; log evidence in nats per value"
    return f"{title}\n\n{markdown(head, rows)}"


def numbers(found: list[dict[str, Judged]], name: str) -> Tensor:
    """(seeds, 5)"""
    return torch.tensor([each[name] for each in found], dtype=F64)


def several(values: Tensor, digits: int = 4) -> str:
    """Mean ± standard deviation over seeds."""
    if values.isnan().any():
        return ""
    return f"{float(values.mean()):.{digits}f} ± {float(values.std()):.{digits}f}"


def least(gains: Tensor) -> str:
    if gains.isnan().any():
        return ""
    return f"{float(gains.mean()):+.4f} ({float(gains.min()):+.4f})"


def long_memory(true: float, seed: int) -> FractionalOU:
    """The data; their law is known."""
    system = FractionalOU(n=64, length=120, span=60.0, hurst=true, rate=0.5, sigma=1.0, seed=seed)
    zero = torch.zeros((), dtype=F64)
    return dataclasses.replace(system, noise=0.15 * float(system.covariance(zero, zero)) ** 0.5)


def contest(system: FractionalOU, steps: int) -> dict[str, Judged]:
    """Every model, learned from one half of the series and judged by the other."""
    paths = system()
    train, test = (take(paths, list(range(k, k + 32))) for k in (0, 32))
    task = Forecasting(steps=LAST)
    given, want = split_after(test, task.cut(test))
    count, x = int(test.mask.sum()), want.x.double()

    def law_crps(law: tuple[Tensor, Tensor]) -> float:
        mean, var = (f.double() for f in law)
        return float(gaussian_crps(mean, var.sqrt(), x)[want.mask].mean())

    nan = math.nan
    own = float(system.log_evidence(test).sum()) / count
    found = {
        "law of the data": Judged(
            own, law_crps(system.law(given, want.t)), system.hurst, system.rate, nan
        )
    }
    for name, (model, seconds) in linear_sdes(train, steps).items():
        inner = model.model
        assert isinstance(inner, FractionalSDE)
        with torch.no_grad():
            own = float(inner.evidence(model.inside(in_doubles(test))).sum()) / count
            own -= float(model.std.log())
            rate = float(torch.nn.functional.softplus(inner.prior.kappa)) / float(model.unit)
            index = float(inner.hurst())
        score = law_crps(forecast_law(model, given, want))
        found[name] = Judged(own, score, index, rate, seconds)
    for name, model in markov().items():
        before = time.process_time()
        model.fit(train)
        seconds = time.process_time() - before
        with torch.no_grad():
            own = float(model.evidence(test).sum()) / count
            score = law_crps(model.posterior(given, want.t))
        found[name] = Judged(own, score, nan, nan, seconds)
    baselines: dict[str, Linear | LastValue] = {
        "`Linear`": Linear(1, reverting=True),
        "`LastValue`": LastValue(),
    }
    for name, baseline in baselines.items():
        before = time.process_time()
        baseline.on_epoch(0, task(train))
        seconds = time.process_time() - before
        score = law_crps(baseline.posterior(given, want.t))
        found[name] = Judged(nan, score, nan, nan, seconds)
    return found


def markov() -> dict[str, StateSpaceGP]:
    """Markov processes: the Brownian equation once more, and two and three of them added."""
    added = lambda n: Sum([Matern(0.5, 4.0**k, 1.0) for k in range(n)])
    return {
        "`StateSpaceGP`, Matérn-1/2": StateSpaceGP(1, Matern(0.5)),
        "`StateSpaceGP`, 2 Matérn-1/2": StateSpaceGP(1, added(2)),
        "`StateSpaceGP`, 3 Matérn-1/2": StateSpaceGP(1, added(3)),
    }


def forecast_law(model: Scaled, given: Paths, want: Paths) -> tuple[Tensor, Tensor]:
    """Mean and variance of wanted values, exact where the evidence is Gaussian in them: its gradient is Λ (mean - x)."""
    inner = model.model
    assert isinstance(inner, FractionalSDE)
    for p in inner.parameters():
        p.requires_grad_(False)
    known, asked = (model.inside(in_doubles(p)) for p in (given, want))
    x = torch.zeros_like(asked.x[..., 0], requires_grad=True)
    value = inner.evidence(merge(known, asked._replace(x=x[..., None]))[0]).sum()
    (slope,) = torch.autograd.grad(value, x, create_graph=True)
    rows = [torch.autograd.grad(-g.sum(), x, retain_graph=True)[0] for g in slope.unbind(1)]
    C = torch.linalg.inv(torch.stack(rows, 1))
    mean, var = (C @ slope.detach()[..., None]), C.diagonal(dim1=-2, dim2=-1)[..., None]
    return model.mean + model.std * mean, model.std.square() * var


def in_doubles(paths: Paths) -> Paths:
    return Paths(paths.t.double(), paths.x.double(), paths.mask)


def linear_sdes(train: Paths, steps: int) -> dict[str, tuple[Scaled, float]]:
    """Linear equations at their largest evidence; with stationary increments from where the other motion ended."""
    start, past = "`FractionalSDE`, Riemann-Liouville", "`FractionalSDE`, Mandelbrot-van Ness"
    found = {
        BROWNIAN: most_likely_sde({"index": "fixed"}, train, steps),
        start: most_likely_sde({}, train, steps),
    }
    model, seconds = most_likely_sde(
        {"kind": "mandelbrot_van_ness"}, train, steps // 5, found[start][0]
    )
    return found | {past: (model, seconds + found[start][1])}


def most_likely_sde(
    arguments: dict[str, str], train: Paths, steps: int, start: Scaled | None = None
) -> tuple[Scaled, float]:
    before = time.process_time()
    seen = in_doubles(train)
    # 60 units of time are about 175 median gaps
    inner = FractionalSDE(1, horizon=250.0, step=0.2, **arguments)
    model = Scaled(inner, 1).double()
    model.on_epoch(0, (seen, seen))
    if start is not None:
        inner.load_state_dict(start.model.state_dict(), strict=False)
    inside, count = model.inside(seen), int(seen.mask.sum())
    free = [p for p in inner.parameters() if p.requires_grad]
    lower, upper = ([torch.full_like(p, b) for p in free] for b in (-8.0, 8.0))
    minimise(lambda: -inner.evidence(inside).sum() / count, free, lower, upper, steps)
    return model, time.process_time() - before


TABLES: dict[str, Callable[[Size], list[str]]] = {
    "speed": speed,
    "covariance": covariance,
    "index": index,
    "smile": smile,
    "bridge": bridge,
    "memory": memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES), metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="fewer paths and rounds")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"## Fractional noise (torch {torch.__version__}, one CPU thread)\n")
    for name in asked.only:
        torch.manual_seed(0)
        np.random.seed(0)  # where `fbm` draws from
        start = time.process_time()
        for text in TABLES[name](LOOK if asked.quick else FULL):
            print(f"### {text}\n", flush=True)
        print(f"`{name}` took {time.process_time() - start:.0f} CPU s.\n", flush=True)


if __name__ == "__main__":
    main()

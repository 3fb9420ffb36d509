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

Each of these is a function of the same name, which returns its tables as text.
"""

import argparse
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
)
from tsdyn.maths.fractional_transition import sample
from tsdyn.maths.gaussian_evidence import log_evidence
from tsdyn.maths.gaussian_paths import factored, fractional_brownian_paths, fractional_noise_paths
from tsdyn.maths.hurst import METHODS, hurst
from tsdyn.maths.rough_bergomi import (
    Market,
    RoughBergomi,
    price,
    simulate,
    simulate_exactly,
    smile as smile_of,
    usual_speeds,
)

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


FULL = Size(11, 10, 12, 60, 60, 50_000)
QUICK = Size(3, 2, 2, 10, 2, 5_000)


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


TABLES: dict[str, Callable[[Size], list[str]]] = {
    "speed": speed,
    "covariance": covariance,
    "index": index,
    "smile": smile,
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
        for text in TABLES[name](QUICK if asked.quick else FULL):
            print(f"### {text}\n", flush=True)
        print(f"`{name}` took {time.process_time() - start:.0f} CPU s.\n", flush=True)


if __name__ == "__main__":
    main()

"""What does the likelihood of a Gaussian process cost, with its gradient, and is it right?

A Matérn-3/2 process (lengthscale 0.7, variance 1.3) is seen with noise of variance 0.09 at N irregular
times, gaps exponential of mean 0.1. Compared are log p(y) and its gradient by the logarithms of
lengthscale, variance and noise variance:

    ours      StateSpaceGP.evidence: an associative scan and the exact score
    gpytorch  ExactMarginalLogLikelihood by Cholesky, cost N^3, up to N = 10,000 (about two minutes there)
    loop      a Kalman filter written as a Python loop, through autograd, up to N = 10,000
    pyro      pyro.distributions.GaussianHMM, a parallel scan over Gaussians in information form

All in double precision on one CPU thread, each in a process of its own. CPU seconds are the median of a
few calls, or of one where that is long; memory is the growth of the peak resident set over imports and
a call on ten times, by resource.ru_maxrss. Errors are differences to ours: of log p(y) in nats, and of
the gradient, the largest as part of its largest entry.

    python benchmarks/state_space.py [--quick] [--no-dense]
"""

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tsdyn.batch import Paths
from tsdyn.evaluation import markdown
from tsdyn.maths.chain_sampling import sample_prior
from tsdyn.maths.kernels import chain
from tsdyn.maths.matern import matern
from tsdyn.models.gp import StateSpaceGP
from tsdyn.models.kernels import Matern
from tsdyn.models.likelihoods import GaussianNoise

LENGTHSCALE, VARIANCE, NOISE = 0.7, 1.3, 0.09
Found = tuple[float, list[float]]  # log p(y) and its gradient


def data(n: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    t = (0.1 * torch.empty(n, dtype=torch.float64).exponential_()).cumsum(0)
    f = sample_prior(chain(matern(1.5, LENGTHSCALE, VARIANCE), t), 1)[0, :, 0]
    return t, f + math.sqrt(NOISE) * torch.randn_like(f)


def ours(t: Tensor, y: Tensor) -> Callable[[], Found]:
    noise = GaussianNoise(1, math.sqrt(NOISE))
    model = StateSpaceGP(1, Matern(1.5, LENGTHSCALE, VARIANCE), noise, "zero")
    paths = Paths(t[None], y[None, :, None], torch.ones(1, len(t), 1, dtype=torch.bool))

    def call() -> Found:
        model.zero_grad()
        value = model.evidence(paths).sum()
        value.backward()
        by_deviation = float(noise.log_noise.grad)
        kernel = [float(p.grad) for p in (model.kernel.log_lengthscale, model.kernel.log_variance)]
        return value.item(), [*kernel, by_deviation / 2]

    return call


def gpytorch_cholesky(t: Tensor, y: Tensor) -> Callable[[], Found]:
    import gpytorch

    class Exact(gpytorch.models.ExactGP):
        def __init__(self) -> None:
            super().__init__(t, y, gpytorch.likelihoods.GaussianLikelihood())
            self.mean_module = gpytorch.means.ZeroMean()
            self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(1.5))

        def forward(self, at: Tensor) -> Any:
            mean, cov = self.mean_module(at), self.covar_module(at)
            return gpytorch.distributions.MultivariateNormal(mean, cov)

    model = Exact().double().train()
    model.covar_module.base_kernel.lengthscale = torch.tensor(LENGTHSCALE, dtype=torch.float64)
    model.covar_module.outputscale = torch.tensor(VARIANCE, dtype=torch.float64)
    model.likelihood.noise = torch.tensor(NOISE, dtype=torch.float64)
    score = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
    raw = [
        model.covar_module.base_kernel.raw_lengthscale,
        model.covar_module.raw_outputscale,
        model.likelihood.noise_covar.raw_noise,
    ]

    def call() -> Found:
        model.zero_grad()
        with gpytorch.settings.fast_computations(False, False, False):
            value = score(model(t), y) * len(t)
            value.backward()
        values = (LENGTHSCALE, VARIANCE, NOISE)
        # parameters are softplus(raw): d value / d log p = p d value / d raw / sigmoid(raw)
        gradient = [v * float(r.grad / r.sigmoid()) for v, r in zip(values, raw)]
        return value.item(), gradient

    return call


def by_logarithms(log_density: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[], Found]:
    """A call from a function of lengthscale, variance and noise variance."""

    def call() -> Found:
        start = torch.tensor([LENGTHSCALE, VARIANCE, NOISE], dtype=torch.float64).log()
        logs = start.requires_grad_()
        value = log_density(*logs.exp().unbind())
        (gradient,) = torch.autograd.grad(value, logs)
        return value.item(), gradient.tolist()

    return call


def loop(t: Tensor, y: Tensor) -> Callable[[], Found]:
    def log_density(lengthscale: Tensor, variance: Tensor, noise: Tensor) -> Tensor:
        states = chain(matern(1.5, lengthscale, variance), t)
        m, P = states.P0.new_zeros(2), states.P0
        total = m.new_zeros(())
        for k in range(len(t)):
            if k:
                A = states.A[k]
                m, P = A @ m, A @ P @ A.mT + states.Q[k]
            S, v = P[0, 0] + noise, y[k] - m[0]
            total = total - (torch.log(2 * math.pi * S) + v * v / S) / 2
            gain = P[:, 0] / S
            m, P = m + gain * v, P - gain[:, None] * P[0]
        return total

    return by_logarithms(log_density)


def pyro_hmm(t: Tensor, y: Tensor) -> Callable[[], Found]:
    import pyro.distributions as dist

    # it steps before it sees: from the stationary law any first step will do
    gaps = torch.cat([t.new_ones(1), t.diff()])

    def log_density(lengthscale: Tensor, variance: Tensor, noise: Tensor) -> Tensor:
        kernel = matern(1.5, lengthscale, variance)
        A, Q = kernel.transition(torch.zeros_like(gaps), gaps)
        zero = t.new_zeros(2)
        first = dist.MultivariateNormal(zero, kernel.covariance(t[:1])[0])
        step = dist.MultivariateNormal(zero.expand(len(t), 2), Q)
        seen = dist.Normal(t.new_zeros(1), noise.sqrt()).to_event(1)
        view = t.new_tensor([[1.0], [0.0]])
        hmm = dist.GaussianHMM(first, A.mT, step, view, seen, duration=len(t))
        return hmm.log_prob(y[:, None])

    return by_logarithms(log_density)


CASES = {"ours": ours, "gpytorch": gpytorch_cholesky, "loop": loop, "pyro": pyro_hmm}
MOST = {"ours": 1_000_000, "gpytorch": 10_000, "loop": 10_000, "pyro": 1_000_000}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, n: int, seconds: float) -> None:
    """Prints one case as JSON; run in a process of its own."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    CASES[name](*data(10))()
    t, y = data(n)
    call = CASES[name](t, y)
    before = peak()
    start = time.process_time()
    value, gradient = call()
    spent, grown = [time.process_time() - start], peak() - before
    while sum(spent) < seconds and len(spent) < 7:
        start = time.process_time()
        call()
        spent.append(time.process_time() - start)
    cpu = statistics.median(spent)
    print(json.dumps({"cpu": cpu, "grown": grown, "value": value, "gradient": gradient}))


def ask(name: str, n: int, seconds: float) -> dict[str, Any] | str:
    """What a process of its own found, or how it failed."""
    command = [sys.executable, __file__, "--measure", name, str(n), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return " ".join(reason.split())[:60]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def compared(n: int, names: list[str], seconds: float) -> list[list[str]]:
    """Rows of the table for one N."""
    own = ask("ours", n, seconds)
    if isinstance(own, str):
        raise SystemExit(f"error: {own}")
    rows = []
    for name in names:
        if n > MOST[name]:
            continue
        found = own if name == "ours" else ask(name, n, seconds)
        row = [f"{n:,}", name]
        if isinstance(found, str):
            rows.append([*row, f"fails: {found}", "", "", ""])
            continue
        far = max(abs(a - b) for a, b in zip(found["gradient"], own["gradient"]))
        row += [f"{found['cpu']:.3g}", f"{found['grown']:.0f}"]
        if name == "ours":
            row += ["", ""]
        else:
            largest = max(map(abs, own["gradient"]))
            row += [f"{abs(found['value'] - own['value']):.1e}", f"{far / largest:.1e}"]
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="N up to 10,000, without gpytorch there"
    )
    parser.add_argument("--no-dense", action="store_true", help="without gpytorch at N = 10,000")
    parser.add_argument(
        "--measure", nargs=3, metavar=("CASE", "N", "SECONDS"), help=argparse.SUPPRESS
    )
    asked = parser.parse_args()
    if asked.measure:
        name, n, seconds = asked.measure
        return measure(name, int(n), float(seconds))
    print(f"## Log likelihood and gradient of a Matérn-3/2 process (torch {torch.__version__})\n")
    rows = []
    for n in [1_000, 10_000] if asked.quick else [1_000, 10_000, 100_000, 1_000_000]:
        dense = n < 10_000 or not (asked.quick or asked.no_dense)
        names = [name for name in CASES if dense or name != "gpytorch"]
        rows += compared(n, names, 0.5 if asked.quick else 3.0)
    head = ["N", "", "CPU s", "peak MB above import", "error, nats", "error of gradient"]
    print(markdown(head, rows))


if __name__ == "__main__":
    main()

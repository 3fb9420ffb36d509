"""Is a plain loop over prepared steps as fast as it can be, and how far is torchsde from it?

Itô equations with diagonal noise, drift and diffusion one network each (D, 64, D), 100 Euler steps over
one unit of time. Compared are

    ours      grid, increments and solve: everything that a call costs
    torchsde  with a BrownianInterval that is told the step
    default   torchsde as it comes (some sizes only: it builds a tree of tens of thousands of nodes)
    hand      a loop written by hand, x + f h + g dW, increments drawn beforehand
    networks  200 evaluations of the networks and nothing else

Times are CPU milliseconds of one thread, the median of rounds in which the cases take turns. Memory is
the growth of the peak resident set of a fresh process, by resource.ru_maxrss, in MiB.

    python benchmarks/solver.py [--quick]
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torchsde
from torch import Tensor, nn

from tsdyn.maths.sde import SDE, Geometric, Langevin, LinearNoise
from tsdyn.maths.solve import (
    euler,
    exponential_euler,
    grid,
    heun,
    increments,
    lie,
    logarithmic,
    milstein,
    solve,
    solve_at,
    srk,
)

STEPS = 100
Case = Callable[[], Tensor]


class Networks(nn.Module):
    """Drift f and diffusion g, with the names that torchsde looks for."""

    sde_type, noise_type = "ito", "diagonal"

    def __init__(self, dim: int):
        super().__init__()
        self.drift, self.diffusion = (
            nn.Sequential(nn.Linear(dim, 64), nn.Tanh(), nn.Linear(64, dim)) for _ in range(2)
        )

    def f(self, t: Tensor, x: Tensor) -> Tensor:
        return self.drift(x)

    def g(self, t: Tensor, x: Tensor) -> Tensor:
        return self.diffusion(x)


def cases(batch: int, dim: int) -> dict[str, Case]:
    nets, x0, t = Networks(dim), torch.randn(batch, dim), torch.linspace(0, 1, STEPS + 1)
    sde, h = SDE(nets.f, nets.g), 1 / STEPS

    def ours(checkpoint: int = 0) -> Tensor:
        now = grid(t)
        return solve(euler(sde), x0, now, increments(now, x0), checkpoint=checkpoint)

    def told() -> Tensor:
        seed = int(torch.randint(2**31 - 1, ()))
        bm = torchsde.BrownianInterval(0.0, 1.0, size=(batch, dim), dt=h, entropy=seed)
        return torchsde.sdeint(nets, x0, t, bm=bm, dt=h, method="euler")

    def default() -> Tensor:
        return torchsde.sdeint(nets, x0, t, dt=h, method="euler")

    def hand() -> Tensor:
        dw, x, states = torch.randn(STEPS, batch, dim) * h**0.5, x0, [x0]
        for n in range(STEPS):
            x = x + nets.drift(x) * h + nets.diffusion(x) * dw[n]
            states.append(x)
        return torch.stack(states, 1)

    def networks() -> Tensor:
        total = x0.new_zeros(())
        for _ in range(STEPS):
            f, g = nets.drift(x0), nets.diffusion(x0)
            if f.requires_grad:
                total = total + f.sum() + g.sum()
        return total

    return {
        "ours": ours,
        "torchsde": told,
        "hand": hand,
        "networks": networks,
        "default": default,
        "ours, checkpoint=10": lambda: ours(10),
    }


def forward(case: Case) -> None:
    with torch.no_grad():
        case()


def both(case: Case) -> None:
    case().square().mean().backward()


def cpu_ms(
    named: dict[str, Case], run: Callable[[Case], None], seconds: float, rounds: int
) -> dict[str, float]:
    """Median CPU milliseconds of every case; at least three rounds, at most so many or so long."""
    for case in named.values():
        run(case)
    spent: dict[str, list[float]] = {name: [] for name in named}
    start = time.process_time()
    for n in range(rounds):
        for name, case in named.items():
            before = time.process_time()
            run(case)
            spent[name].append(1e3 * (time.process_time() - before))
        if n >= 2 and time.process_time() - start > seconds:
            break
    return {name: statistics.median(each) for name, each in spent.items()}


def table(head: list[str], rows: list[list[str]]) -> None:
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def against_others(sizes: list[tuple[int, int]], slow: list[tuple[int, int]], rounds: int) -> None:
    names = ["ours", "torchsde", "hand", "networks"]
    for title, run in [("Forward", forward), ("Forward and backward", both)]:
        rows = []
        for batch, dim in sizes:
            made = cases(batch, dim)
            ms = cpu_ms({name: made[name] for name in names}, run, 4.0, rounds)
            if (batch, dim) in slow:
                ms |= cpu_ms({"default": made["default"]}, run, 1.0, 3)
            ratios = [ms[name] / ms["ours"] for name in ("torchsde", "default") if name in ms]
            rows.append(
                [str(batch), str(dim)]
                + [f"{ms[name]:.1f}" if name in ms else "" for name in [*names, "default"]]
                + [f"{ratio:.2f}" for ratio in ratios]
                + [""] * (2 - len(ratios))
                + [f"{ms['ours'] / ms['hand']:.2f}", f"{ms['ours'] / ms['networks']:.2f}"]
            )
        print(f"### {title}, {STEPS} steps, CPU ms\n")
        head = ["batch", "dim", *names, "default", "torchsde / ours", "default / ours"]
        table([*head, "ours / hand", "ours / networks"], rows)


def clock_cases(t: Tensor, dim: int) -> dict[str, Case]:
    """States of every series at its own times t (B, T)."""
    batch, length = t.shape
    nets, x0, dt = Networks(dim), torch.randn(batch, dim), 1 / length
    sde = SDE(nets.f, nets.g)
    union, place = t.flatten().unique(return_inverse=True)
    place = place.view(batch, length)

    def pick(states: Tensor) -> Tensor:
        return states.gather(1, place[..., None].expand(-1, -1, dim))

    def by_torchsde() -> Tensor:
        seed = int(torch.randint(2**31 - 1, ()))
        bm = torchsde.BrownianInterval(0.0, 1.0, size=(batch, dim), dt=dt, entropy=seed)
        ts = torch.cat([union.new_zeros(1), union])
        states = torchsde.sdeint(nets, x0, ts, bm=bm, dt=dt, method="euler")
        return pick(states[1:].transpose(0, 1))

    return {
        "clock per series": lambda: solve_at(sde, x0, t, t0=0.0),
        "union of times": lambda: pick(solve_at(sde, x0, union, t0=0.0)),
        "torchsde on the union": by_torchsde,
    }


def clocks(rounds: int) -> None:
    """64 series, 50 irregular times each: a clock per series, or one clock on the union of all times."""
    t = (0.001 + 0.999 * torch.rand(64, 50)).sort(1).values
    rows = []
    for dim in (4, 16):
        named = clock_cases(t, dim)
        for title, run in [("forward", forward), ("forward and backward", both)]:
            ms = list(cpu_ms(named, run, 6.0, rounds).values())
            rows.append([title, str(dim), *(f"{each:.1f}" for each in ms)])
            rows[-1] += [f"{each / ms[0]:.1f}" for each in ms[1:]]
    print("### A clock per series: 64 series, 50 irregular times each, CPU ms\n")
    print(
        "The first two land on every time of every series. torchsde walks in steps of 1/50 and "
        "interpolates linearly at the union of times.\n"
    )
    head = ["", "dim", *named, "union / ours", "torchsde / ours"]
    table(head, rows)


def schemes(rounds: int) -> None:
    """What a step of each scheme costs, at batch 256 and dimension 16."""
    nets, x0, t = Networks(16), torch.randn(256, 16), torch.linspace(0, 1, STEPS + 1)
    sigma = lambda t: 0.1 + 0.1 * t
    sde = SDE(nets.f, nets.g)
    named = {
        "euler": (euler, sde),
        "heun": (heun, sde),
        "milstein": (milstein, sde),
        "srk, additive noise": (srk, SDE(nets.f, lambda t, x: sigma(t).expand_as(x))),
        "exponential_euler": (exponential_euler, Langevin(1.0, nets.f, sigma)),
        "lie": (lie, LinearNoise(nets.f, sigma)),
        "logarithmic": (logarithmic, Geometric(nets.f, sigma)),
    }
    made = {
        name: lambda scheme=scheme, equation=equation: solve_at(equation, x0, t, method=scheme)
        for name, (scheme, equation) in named.items()
    }
    ahead, back = cpu_ms(made, forward, 8.0, rounds), cpu_ms(made, both, 12.0, rounds)
    print(f"### Schemes, batch 256, dimension 16, {STEPS} steps, CPU ms\n")
    print("The last three need no network for the diffusion.\n")
    rows = [[name, f"{ahead[name]:.1f}", f"{back[name]:.1f}"] for name in made]
    table(["scheme", "forward", "forward and backward"], rows)


MEASURED = ("ours", "ours, checkpoint=10", "torchsde", "hand")


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def grow(name: str, batch: int, dim: int) -> None:
    """Prints by how many MiB the peak grows in forward and backward; run in a process of its own."""
    both(cases(2, 2)[name])
    before = peak()
    both(cases(batch, dim)[name])
    print(peak() - before)


def memory(sizes: list[tuple[int, int]]) -> None:
    rows = []
    for batch, dim in sizes:
        row = [str(batch), str(dim)]
        for name in MEASURED:
            command = [sys.executable, __file__, "--grow", name, str(batch), str(dim)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            row.append(f"{float(done.stdout):.0f}")
        rows.append(row)
    print(f"### Peak memory of forward and backward, {STEPS} steps, MiB over the imports\n")
    table(["batch", "dim", *MEASURED], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="fewer sizes and rounds: half a minute"
    )
    parser.add_argument("--grow", nargs=3, metavar=("CASE", "BATCH", "DIM"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if asked.grow:
        name, batch, dim = asked.grow
        return grow(name, int(batch), int(dim))
    start = time.time()
    print(
        f"## Solver (torch {torch.__version__}, torchsde {torchsde.__version__}, one CPU thread)\n"
    )
    # memory first: a process inherits the peak of the one that starts it
    memory([(256, 16)] if asked.quick else [(256, 16), (1024, 32)])
    if asked.quick:
        against_others([(32, 16), (256, 16)], [(32, 16)], rounds=5)
        clocks(rounds=3)
    else:
        sizes = [(batch, dim) for batch in (1, 32, 256, 1024) for dim in (4, 16, 32)]
        against_others(sizes, [(1, 16), (32, 16), (256, 16)], rounds=15)
        clocks(rounds=7)
        schemes(rounds=15)
    print(f"Took {time.time() - start:.0f} s.")


if __name__ == "__main__":
    main()

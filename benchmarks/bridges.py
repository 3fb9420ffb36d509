"""How near do bridges come to populations that they were not shown?

    TSDYN_DATA=<folder> OMP_NUM_THREADS=1 python benchmarks/bridges.py [names] [--seeds 0 1] [--half-bridges 3] [--rounds 6] [--slow]

Snapshots are held out, the others given. Exact W1 and W2 between as many drawn cells as were seen and those (2000 at
most), means over the held-out times; CPU seconds of one thread and peak MB of the process, imports included, which
took the megabytes of the first row. Rows: copies of the neighbours, McCann's interpolation of the exact plan,
the static bridge of Brownian motion, with references fitted to the snapshots, the published half bridges
(--slow; 3 x 6 instead of 10 x 10 iterations), matching by a network, and torchcfm where it is installed. The last row of each
table is one random half of a snapshot against the other: half the cells, and so further than the truth can be.

Systems: predators and prey (5 of 9 snapshots, 50 cells), repressilator (6 of 11, 100 cells), rotating process
(7 of 13, 200 cells), double well (4 of 7, 300 cells), with what was found of their parameters; embryoid bodies in 5 and 100
principal components, one of three times left out, and 300 cells of three
snapshots of five; hematopoiesis with growth, the time in the middle left out.
"""

import argparse
import importlib.util
import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import nn

from tsdyn.batch import Snapshots, snapshots_of
from tsdyn.data.load import load_dataset
from tsdyn.data.population_systems import POPULATION_SYSTEMS, simulate_population
from tsdyn.data.tensors import All
from tsdyn.evaluation import markdown
from tsdyn.lit.fit import fit
from tsdyn.maths.cost import quadratic
from tsdyn.maths.transport import sinkhorn
from tsdyn.models.base import Model
from tsdyn.models.bridge import SnapshotBridge
from tsdyn.models.bridge_matching import BridgeMatching
from tsdyn.models.reference_base import Reference
from tsdyn.models.reference_fields import GradientRFF
from tsdyn.models.reference_genes import Repressilator
from tsdyn.models.references import Affine, LotkaVolterra, Zero
from tsdyn.models.snapshot_baselines import CopyNext, CopyPrevious, TransportMidpoint
from tsdyn.population_scores import floor, score_populations


class Task(NamedTuple):
    """What is given, and what is held out, question by question."""

    given: list[Snapshots]
    want: list[Snapshots]
    sigma: float
    truth: dict[str, Any]


def alternate(system: str, cells: int, seed: int, times: list[float] | None = None) -> Task:
    """Every other snapshot of a system whose equation is known."""
    source = POPULATION_SYSTEMS[system]
    snapshots = simulate_population(source, cells, times, seed)
    even = torch.arange(len(snapshots.t)) % 2 == 0
    given, want = snapshots_of(snapshots, even), snapshots_of(snapshots, ~even)
    return Task([given], [want], source.sigma, source.truth)


def one_out(name: str, times: list[int], sigma: float, **options: Any) -> Task:
    """One snapshot at a time."""
    snapshots = load_dataset(name, **options)
    held = [torch.arange(len(snapshots.t)) == k for k in times]
    given = [snapshots_of(snapshots, ~h) for h in held]
    return Task(given, [snapshots_of(snapshots, h) for h in held], sigma, {})


def every_other_of_embryoids(seed: int) -> Task:
    """The published test of half bridges: 300 cells, snapshots 0, 2 and 4 given at times 0, 1 and 2."""
    snapshots = load_dataset("embryoid_body")
    g = torch.Generator().manual_seed(seed)
    some = torch.randperm(snapshots.x.shape[1], generator=g)[:300]
    few = Snapshots(snapshots.t / 2, snapshots.x[:, some], snapshots.mask[:, some])
    even = torch.tensor([True, False, True, False, True])
    want = snapshots_of(snapshots._replace(t=snapshots.t / 2), ~even)
    return Task([snapshots_of(few, even)], [want], 0.1, {})


TASKS: dict[str, Callable[[int], Task]] = {
    "lotka_volterra": lambda seed: alternate("lotka_volterra", 50, seed),
    "repressilator": lambda seed: alternate("repressilator", 100, seed),
    "ou2d": lambda seed: alternate("ou2d", 200, seed, [0.25 * k for k in range(13)]),
    "double_well": lambda seed: alternate("double_well", 300, seed),
    "embryoid_body": lambda seed: one_out("embryoid_body", [1, 2, 3], 0.25),
    "embryoid_body_300": every_other_of_embryoids,
    "embryoid_body_100": lambda seed: one_out("embryoid_body", [1, 2, 3], 0.1, dims=100),
    "hematopoiesis": lambda seed: one_out("mouse_hematopoiesis", [1], 0.3),
}
BRIDGES: dict[str, dict[str, tuple[Callable[[], Reference], dict[str, Any]]]] = {
    "lotka_volterra": {"Lotka-Volterra": (LotkaVolterra, {})},
    "repressilator": {"repressilator": (Repressilator, {"rounds": 25})},
    "ou2d": {"affine": (lambda: Affine(2), {"rounds": 15})},
    "double_well": {
        "affine": (lambda: Affine(2), {}),
        "gradient of random features": (lambda: GradientRFF(2), {"rounds": 6}),
    },
    "embryoid_body": {
        "affine": (lambda: Affine(5), {"rounds": 6}),
        "gradient of random features": (lambda: GradientRFF(5), {"rounds": 4}),
    },
    "embryoid_body_300": {
        "affine": (lambda: Affine(5), {"rounds": 6}),
        "gradient of random features": (lambda: GradientRFF(5), {"rounds": 4}),
    },
    "embryoid_body_100": {"affine": (lambda: Affine(100, ridge=0.1), {"rounds": 2})},
    "hematopoiesis": {
        "affine": (lambda: Affine(2), {"rounds": 4}),
        "Brownian, growth": (Zero, {"rounds": 0, "tau": (0.9, 0.999), "growth_rounds": 3}),
        "affine, growth": (
            lambda: Affine(2),
            {"rounds": 4, "tau": (0.9, 0.999), "growth_rounds": 3},
        ),
    },
}
BATCH, STEPS_OF_MATCHING = 128, 2000
STEPS = {"lotka_volterra": 0.02, "repressilator": 0.01, "embryoid_body_300": 0.05}  # as published


def model_of(task: str, row: str, sigma: float, options: argparse.Namespace) -> Model:
    """The model of a row, not yet trained."""
    plain: dict[str, Callable[[], Model]] = {
        "copy previous": CopyPrevious,
        "copy next": CopyNext,
        "transport midpoint": TransportMidpoint,
        "bridge, Brownian": lambda: SnapshotBridge(Zero(), sigma, rounds=0),
    }
    if row in plain:
        return plain[row]()
    if row.startswith("bridge matching"):
        dims = TASKS[task](0).given[0].x.shape[-1]
        return BridgeMatching(dims, 0.1 if task.startswith("embryoid") else sigma, kind="linear")
    if row.startswith("half bridges"):
        reference, _ = list(BRIDGES[task].values())[-1]
        return SnapshotBridge(
            reference(),
            sigma,
            method="sbirr",
            step=STEPS[task],
            rounds=options.rounds,
            half_bridges=options.half_bridges,
        )
    reference, settings = BRIDGES[task][row.removeprefix("bridge, ")]
    return SnapshotBridge(reference(), sigma, **settings)


def rows_of(task: str, options: argparse.Namespace) -> list[str]:
    names = ["copy previous", "copy next", "transport midpoint", "bridge, Brownian"]
    names += [f"bridge, {name}" for name in BRIDGES[task]]
    names.append("bridge matching, 2000 steps")
    if importlib.util.find_spec("torchcfm") is not None and task.startswith("embryoid"):
        names.append("torchcfm OT-CFM, 2000 steps")
    if options.slow and task in STEPS:
        names.append(f"half bridges, {options.half_bridges} x {options.rounds}")
    return names


def measured(job: tuple[str, str, int, argparse.Namespace]) -> dict[str, Any]:
    """Scores of one row, in a process of its own."""
    name, row, seed, options = job
    torch.set_num_threads(1)
    task = TASKS[name](seed)
    found, models, seconds = [], [], 0.0
    for given, want in zip(task.given, task.want, strict=True):
        torch.manual_seed(seed)
        if row == "transport midpoint":
            given = thinned(given)
        start = time.process_time()
        count = min(int(want.mask.sum(1).max()), 2000)
        if row.startswith("torchcfm"):
            model, draws = CopyPrevious(), torchcfm_draws(given, want.t, count)
        else:
            model = model_of(name, row, task.sigma, options)
            learn(model, given, options)
            draws = model.sample(given, want.t, count)
        seconds += time.process_time() - start
        found.append(score_populations(draws, want))
        models.append(model)
    keys = [k for k in found[0] if k.startswith("w1 at")]
    single = [f[k] for f in found for k in keys] if keys else [f["w1"] for f in found]
    return {
        "w1": sum(f["w1"] for f in found) / len(found),
        "w2": sum(f["w2"] for f in found) / len(found),
        "each": single,
        "seconds": seconds / len(found),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "parameters": errors_of(models[-1], task.truth),
    }


def learn(model: Model, given: Snapshots, options: argparse.Namespace) -> None:
    """What is solved at once; or 2000 steps of matching."""
    if isinstance(model, BridgeMatching):
        per_epoch = -(-int(given.mask.sum(1).max()) // BATCH)
        task: Any = All()
        fit(model, given, task, epochs=STEPS_OF_MATCHING // per_epoch, batch_size=BATCH)
    else:
        model.on_epoch(0, (given, given))


def torchcfm_draws(given: Snapshots, at: torch.Tensor, count: int) -> torch.Tensor:
    """Optimal-transport flow matching as published: 3 x 64 SELU, AdamW, exact plans of batches, 100 Euler steps per
    unit of time from the true cells of the snapshot before. Takes the library torchcfm."""
    from torchcfm.conditional_flow_matching import (  # type: ignore[import-not-found]
        ExactOptimalTransportConditionalFlowMatcher,
    )

    matcher = ExactOptimalTransportConditionalFlowMatcher(sigma=0.1)
    clouds = [x[m].float() for x, m in zip(given.x, given.mask, strict=True)]
    times = given.t.tolist()
    D = clouds[0].shape[1]
    sizes = [D + 1, 64, 64, 64]
    layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.SELU())]
    net = nn.Sequential(*layers, nn.Linear(64, D))
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=1e-5)
    for _ in range(STEPS_OF_MATCHING):
        inputs, targets = [], []
        for (x, y), (start, end) in zip(pairwise(clouds), pairwise(times), strict=True):
            x0, x1 = (c[torch.randint(len(c), (BATCH,))] for c in (x, y))
            s, z, u = matcher.sample_location_and_conditional_flow(x0, x1)
            inputs.append(torch.cat([z, (start + s * (end - start))[:, None]], 1))
            targets.append(u / (end - start))
        error = (net(torch.cat(inputs)) - torch.cat(targets)).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    found = []
    with torch.no_grad():
        for t in at.tolist():
            k = sum(s < t for s in times) - 1
            x = clouds[k][torch.randperm(len(clouds[k]))[:count]]
            steps = 100 * max(1, round(t - times[k]))
            h = (t - times[k]) / steps
            for i in range(steps):
                now = torch.full((len(x), 1), times[k] + i * h)
                x = x + h * net(torch.cat([x, now], 1))
            found.append(x)
    return torch.stack(found, 1)


def thinned(snapshots: Snapshots, most: int = 2000) -> Snapshots:
    """As many cells of each snapshot, the first ones: the exact plan is one of pairs."""
    most = min(most, int(snapshots.mask.sum(1).min()))
    return snapshots_of(
        snapshots._replace(mask=snapshots.mask & (snapshots.mask.cumsum(1) <= most)),
        torch.arange(len(snapshots.t)),
    )


def errors_of(model: Model, truth: dict[str, Any]) -> dict[str, float]:
    """Relative errors of the parameters: of a matrix, in the norm of Frobenius."""
    if not truth or not isinstance(model, SnapshotBridge):
        return {}
    known = dict(model.reference.parameters_by_name())
    errors = {}
    for name, value in truth.items():
        if name in known:
            want = torch.tensor(value, dtype=torch.float64)
            errors[name] = float((known[name] - want).norm() / want.norm())
    return errors


def table(name: str, options: argparse.Namespace) -> str:
    context = multiprocessing.get_context("spawn")
    lines = []
    for row in rows_of(name, options):
        found = []
        for seed in options.seeds:
            with ProcessPoolExecutor(1, context) as pool:
                found.append(pool.submit(measured, (name, row, seed, options)).result())
        lines.append(line(row, found))
        print("|", " | ".join(lines[-1]), "|", flush=True)
    for seed in options.seeds[:1]:
        task = TASKS[name](seed)
        halves = [floor(want) for want in task.want]
        w1, w2 = (sum(h[k] for h in halves) / len(halves) for k in ("w1", "w2"))
        lines.append(["half against half", f"{w1:.3f}", f"{w2:.3f}", "", "", "", ""])
    head = ["model", "W1", "W2", "W1 at each time", "CPU s", "peak MB", "relative error"]
    return markdown(head, lines)


def line(row: str, found: list[dict[str, Any]]) -> list[str]:
    def several(key: str, form: str) -> str:
        texts = [format(f[key], form) for f in found]
        return ", ".join(dict.fromkeys(texts))

    each = " ".join(f"{v:.3f}" for v in found[0]["each"])
    errors = "; ".join(
        " ".join(f"{k} {v:.1%}" for k, v in f["parameters"].items()) for f in found
    ).strip("; ")
    peak = f"{max(f['peak'] for f in found):.0f}"
    return [
        row,
        several("w1", ".3f"),
        several("w2", ".3f"),
        each,
        several("seconds", ".1f"),
        peak,
        errors,
    ]


def plan_of(job: tuple[int, int, float]) -> list[str]:
    """Time and memory of one plan between two clouds of n cells in D dimensions, Brownian motion of a given σ."""
    n, dims, sigma = job
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, dims, generator=g, dtype=torch.float64) for _ in range(2))
    precision = torch.eye(dims, dtype=torch.float64) / sigma**2
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.process_time()
    plan = sinkhorn(quadratic(x, 0.8 * y + 0.5, precision), tolerance=1e-3)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [
        f"{n} x {n}",
        str(dims),
        str(sigma),
        str(plan.iterations),
        f"{float(plan.error):.1e}",
        f"{seconds:.1f}",
        f"{peak:.0f}",
        f"{peak - before:.0f}",
    ]


def scale() -> str:
    """Plans of many cells, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    lines = []
    for job in [(1500, 5, 0.3), (3000, 5, 0.3), (3000, 5, 0.1), (3000, 30, 0.5), (20_000, 30, 0.5)]:
        with ProcessPoolExecutor(1, context) as pool:
            lines.append(pool.submit(plan_of, job).result())
        print("|", " | ".join(lines[-1]), "|", flush=True)
    return markdown(
        ["cells", "dims", "sigma", "iterations", "error", "CPU s", "peak MB", "above import"], lines
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--half-bridges", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--scale", action="store_true", help="time and memory of large plans only")
    options = parser.parse_args()
    if options.scale:
        print(f"\n{scale()}")
        return
    for name in options.names:
        print(f"\n{name}, seeds {json.dumps(options.seeds)}\n", flush=True)
        print(f"\n{table(name, options)}", flush=True)


if __name__ == "__main__":
    main()

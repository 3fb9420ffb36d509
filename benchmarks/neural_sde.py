"""What do stable neural SDEs gain, and against what? Classification and forecasts with missing data.

    python benchmarks/neural_sde.py classification [--data gun_point ...] [--missing 0 0.3 0.5 0.7] [--seeds 0 1 2 3 4]
    TSDYN_DATA=<folder> python benchmarks/neural_sde.py hopper [--missing 0 0.3 0.5 0.7] [--seeds 0 1]

Everything is trained and scored in one run, by one recipe for all trained models: Adam, the best weights
by validation; step sizes were chosen for each encoder on validation (3e-3 or 1e-2). Rows in time are dropped, the same ones for every model. Results are kept line by line
in --keep, and a run that was interrupted goes on where it stopped.

Classification: the archives' two parts in one pool, 70/15/15 % of every class, drawn by the seed. All
models end in the same head on 32 numbers; see MODELS. The recipe was chosen on the validation part.
Hopper: 4000 windows of 50 rows, 10 to forecast, 2800/600/600 in order, as published (Oh, Lim & Kim,
ICLR 2024). Test MSE is of the mean of the draws, in the units of the file.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tsdyn
from tsdyn.batch import Paths
from tsdyn.data.missing import Missing
from tsdyn.data.split import BySeries
from tsdyn.data.tasks import Classification, Forecasting, Thinned
from tsdyn.evaluation import markdown
from tsdyn.maths.near import interpolate
from tsdyn.maths.score import crps, interval
from tsdyn.models.base import Model
from tsdyn.models.baselines import LastValue
from tsdyn.models.classifier import Classifier
from tsdyn.models.ensemble import Ensemble
from tsdyn.models.gru import GRUForecaster
from tsdyn.models.linear import Linear
from tsdyn.models.neural_cde import NeuralCDE
from tsdyn.models.scaled import Scaled
from tsdyn.models.stable_sde import StableSDE
from tsdyn.predict import draw, reproducible

ARCHIVES = ["basic_motions", "japanese_vowels", "arrow_head", "gun_point"]
RATES = [0.0, 0.3, 0.5, 0.7]
RIDGES = torch.logspace(-3, 4, 15, dtype=torch.float64)
Pair = tuple[Paths, Any]


def sde(kind: str) -> tuple[str, dict[str, Any], float]:
    return "sde", {"kind": kind}, 3e-3


MODELS = {  # encoder, its options, step size of Adam
    "LSDE": sde("langevin"),
    "LNSDE": sde("linear_noise"),
    "GSDE": sde("geometric"),
    "neural ODE": sde("ode"),
    "neural CDE": ("cde", {"counts": False}, 1e-2),
    "GRU with time gaps": ("gru", {}, 1e-2),
}
STABLE = ("LSDE", "LNSDE", "GSDE")


def ridge(rows: Callable[[Paths], Tensor], train: Pair, val: Pair, test: Pair) -> float:
    """Accuracy of a linear regression of the classes on some features, its penalty chosen on validation."""

    def matrix(paths: Paths) -> Tensor:
        a = rows(paths).double()
        return torch.cat([a, torch.ones(len(a), 1, dtype=a.dtype)], 1)

    a, y = matrix(train[0]), torch.nn.functional.one_hot(train[1].y.long()).double()
    eye = torch.eye(a.shape[1], dtype=a.dtype)
    fits = [torch.linalg.solve(a.T @ a + r * eye, a.T @ y) for r in RIDGES]

    def accuracy(w: Tensor, pair: Pair) -> float:
        return float(((matrix(pair[0]) @ w).argmax(1) == pair[1].y).double().mean())

    return accuracy(max(fits, key=lambda w: accuracy(w, val)), test)


def window(paths: Paths, points: int = 48) -> Tensor:
    """Interpolated values at points spread over each series, flat."""
    last = paths.t.where(paths.mask.any(-1), -torch.inf).amax(1, keepdim=True)
    at = paths.t[:, :1] + (last - paths.t[:, :1]) * torch.linspace(0, 1, points).double()
    return interpolate(paths.t, paths.x, paths.mask, at).flatten(1)


def last_value(paths: Paths) -> Tensor:
    """The last observed value of every channel."""
    end = paths.t.amax(1, keepdim=True)
    return interpolate(paths.t, paths.x, paths.mask, end).flatten(1)


def classify(name: str, data: str, missing: float, seed: int) -> dict[str, float]:
    """Test accuracy of one model, and what its training cost."""
    paths = Missing(missing, seed=seed)(tsdyn.load_dataset(data))
    split = BySeries(seed=seed, stratify=True)
    cut = Classification()
    parts = split(paths, cut)
    train, (given, want) = cut(parts.train), parts.test
    start = time.process_time()
    if name == "most frequent class":
        usual = train[1].y.long().mode().values
        return {"accuracy": float((want.y == usual).double().mean()), "seconds": 0.0}
    if name in ("ridge on the last value", "ridge on the window"):
        rows = last_value if name == "ridge on the last value" else window
        return {
            "accuracy": ridge(rows, train, parts.val, parts.test),
            "seconds": time.process_time() - start,
        }
    encoder, options, lr = MODELS[name]
    torch.manual_seed(seed)
    model = Classifier(paths.x.shape[-1], int(paths.labels.max()) + 1, encoder, options=options)
    recipe = {"epochs": 60, "batch_size": 32, "lr": lr, "patience": 20, "seed": seed}
    tsdyn.fit(model, paths, cut, val=split, **recipe)
    spent = time.process_time() - start
    with torch.no_grad(), reproducible(model, seed):
        p = torch.stack([model.probabilities(given) for _ in range(16)]).mean(0)
    return {"accuracy": float((p.argmax(1) == want.y).double().mean()), "seconds": spent}


def kept(file: Path, key: list[Any], compute: Callable[[], dict[str, float]]) -> dict[str, float]:
    """A result from the file, or computed and written there."""
    lines = file.read_text().splitlines() if file.exists() else []
    for line in map(json.loads, lines):
        if line["key"] == key:
            return line["scores"]
    scores = compute()
    with file.open("a") as out:
        out.write(json.dumps({"key": key, "scores": scores}) + "\n")
    return scores


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {deviation:.3f}"


def classification(options: argparse.Namespace) -> None:
    names = ["most frequent class", "ridge on the last value", "ridge on the window", *MODELS]
    found: dict[tuple[str, str, float], list[dict[str, float]]] = {}
    for data in options.data:
        for missing in options.missing:
            for name in names:
                for seed in options.seeds:
                    key = ["classification", data, missing, name, seed]
                    scores = kept(options.keep, key, lambda k=key: classify(k[3], k[1], k[2], k[4]))
                    found.setdefault((data, name, missing), []).append(scores)
                print(
                    data,
                    missing,
                    name,
                    spread([s["accuracy"] for s in found[data, name, missing]]),
                    flush=True,
                )
    header = ["model", *(f"{m:.0%} dropped" for m in options.missing), "CPU s"]
    for data in options.data:
        rows = []
        for name in names:
            each = [found[data, name, m] for m in options.missing]
            seconds = statistics.mean(s["seconds"] for scores in each for s in scores)
            rows.append(
                [
                    name,
                    *(spread([s["accuracy"] for s in scores]) for scores in each),
                    f"{seconds:.0f}",
                ]
            )
        print(f"\n{data}: test accuracy, {len(options.seeds)} seeds\n\n{markdown(header, rows)}")
    mean = {
        (name, m): statistics.mean(s["accuracy"] for d in options.data for s in found[d, name, m])
        for name in names
        for m in options.missing
    }
    rows = [[name, *(f"{mean[name, m]:.3f}" for m in options.missing)] for name in names]
    best = [max(mean[name, m] for name in STABLE) for m in options.missing]
    rows.append(
        [
            "best stable SDE less neural CDE",
            *(f"{b - mean['neural CDE', m]:+.3f}" for b, m in zip(best, options.missing)),
        ]
    )
    print(f"\nmean of {len(options.data)} datasets\n\n{markdown(header[:-1], rows)}")


class ResidualRidge:
    """x(t) = x_last + W vec(interpolated window - x_last), its penalty chosen on validation; a mean alone."""

    def __init__(self, train: Pair, val: Pair):
        a, y = self.rows(train)
        eye = torch.eye(a.shape[1], dtype=a.dtype)
        fits = [torch.linalg.solve(a.T @ a + r * eye, a.T @ y) for r in RIDGES]
        b, truth = self.rows(val)
        self.weights = min(fits, key=lambda w: float((b @ w - truth).square().mean()))

    @staticmethod
    def rows(pair: Pair) -> tuple[Tensor, Tensor]:
        given, want = pair
        at = torch.arange(50, dtype=given.t.dtype).expand(len(given.t), -1)
        values = interpolate(given.t, given.x, given.mask, at).double()
        last = values[:, -1:]
        ones = torch.ones(len(values), 1, dtype=values.dtype)
        a = torch.cat([(values - last).flatten(1), ones], 1)
        return a, (want.x.double() - last).flatten(1)

    def mse(self, pair: Pair) -> float:
        a, y = self.rows(pair)
        return float((a @ self.weights - y).square().mean())


FORECASTERS: dict[str, Callable[[], Model]] = {
    "LSDE": lambda: StableSDE(14, "langevin", neighbours=8, draws=4),
    "LNSDE": lambda: StableSDE(14, "linear_noise", neighbours=8, draws=4),
    "GSDE": lambda: StableSDE(14, "geometric", neighbours=8, draws=4),
    "LSDE, ensemble of 4": lambda: Ensemble(FORECASTERS["LSDE"](), 4),
    "neural SDE": lambda: StableSDE(14, "neural", neighbours=8, draws=4),
    "neural ODE": lambda: StableSDE(14, "ode", neighbours=8, draws=1),
    "neural CDE": lambda: NeuralCDE(14, neighbours=8),
    "GRU with time gaps": lambda: GRUForecaster(14, neighbours=8),
}


def forecast(name: str, missing: float, seed: int) -> dict[str, float]:
    """Scores of one model on the test windows, and what its training cost."""
    paths = tsdyn.load_dataset("hopper", missing=missing)
    task, split = Forecasting(steps=10), BySeries(shuffle=False)
    parts = split(paths, task)
    given, want = parts.test
    start = time.process_time()
    if name == "residual ridge":
        mse = ResidualRidge(task(parts.train), parts.val).mse(parts.test)
        return {"mse": mse, "seconds": time.process_time() - start}
    if name == "last value":
        model: Model = LastValue()
    elif name == "Linear":
        model = tsdyn.fit(Linear(14), parts.train, task)
    else:
        torch.manual_seed(seed)
        recipe = {"epochs": 30, "batch_size": 128, "lr": 2e-3, "anneal": True, "seed": seed}
        thinned = Thinned(task, 0.2)  # more is dropped while training: another window every time
        model = Scaled(FORECASTERS[name](), 14)
        tsdyn.fit(model, paths, thinned, val=split, **recipe)
    spent = time.process_time() - start
    with torch.no_grad(), reproducible(model, seed):
        draws = draw(model, given, want.t, 100)
    low, high = interval(draws, 0.9)
    return {
        "mse": float((draws.mean(0) - want.x).square().mean()),
        "crps": float(crps(draws, want.x).mean()),
        "cover90": float(((want.x >= low) & (want.x <= high)).double().mean()),
        "seconds": spent,
    }


def hopper(options: argparse.Namespace) -> None:
    names = ["last value", "residual ridge", "Linear", *FORECASTERS]
    header = ["model", "test MSE x 1000", "CRPS x 1000", "90 % coverage", "CPU s"]
    for missing in options.missing:
        rows = []
        for name in names:
            drawn = name in FORECASTERS
            keys = [["hopper", missing, name, seed] for seed in (options.seeds if drawn else [0])]
            found = [kept(options.keep, k, lambda k=k: forecast(k[2], k[1], k[3])) for k in keys]
            rows.append(
                [name, *(cell(found, score) for score in ("mse", "crps", "cover90", "seconds"))]
            )
            print(missing, *rows[-1], flush=True)
        print(
            f"\nHopper, {missing:.0%} of rows dropped, seeds {options.seeds}\n\n{markdown(header, rows)}\n"
        )
    print("Published best, quoted from memory: 12 to 14 (x 1000), all rates.")


def cell(found: list[dict[str, float]], score: str) -> str:
    """The score of every seed."""
    scale, digits = {"mse": (1e3, 3), "crps": (1e3, 2), "cover90": (1, 3), "seconds": (1, 0)}[score]
    values = [f"{scale * f[score]:.{digits}f}" for f in found if score in f]
    return ", ".join(values) or "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["classification", "hopper"])
    parser.add_argument("--data", nargs="+", choices=ARCHIVES, default=ARCHIVES)
    parser.add_argument("--missing", type=float, nargs="+", default=RATES)
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--keep", type=Path, default=Path("neural_sde.jsonl"))
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="lightning")
    torch.set_num_threads(1)
    if options.part == "classification":
        options.seeds = options.seeds or list(range(5))
        classification(options)
    else:
        options.seeds = options.seeds or [0, 1]
        hopper(options)


if __name__ == "__main__":
    main()

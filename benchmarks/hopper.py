"""Does a stable neural SDE beat carrying the last value forward on the MuJoCo Hopper benchmark?

    TSDYN_DATA=<folder> python benchmarks/hopper.py [--missing 0.3] [--epochs 60] [--seeds 0 1]

The published protocol (Oh, Lim & Kim, ICLR 2024): 4000 windows of 50 rows, a part of them dropped, 10
rows to forecast; 2800/600/600 windows for training, validation and test, in order. Everything is
trained and scored in this one run. Test MSE is of the mean of 100 draws, in the units of the file;
the best weights are those of the best validation loss.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

import tsdyn
from tsdyn.batch import Paths
from tsdyn.data.split import BySeries
from tsdyn.data.tasks import Forecasting
from tsdyn.evaluation import evaluate
from tsdyn.lit.cli import main as train
from tsdyn.maths.near import interpolate
from tsdyn.models.base import Model
from tsdyn.models.linear import Linear

CONFIG = Path(__file__).parents[1] / "configs" / "hopper_langevin.yaml"
RIDGES = (1e-2, 1e-1, 1.0, 10.0, 100.0)


class ResidualRidge:
    """x(t) = x_last + W vec(interpolated window - x_last): the flat ridge, for its MSE only."""

    def __init__(self, train: tuple[Paths, Paths], val: tuple[Paths, Paths]):
        a, y, _ = self.rows(train)
        gram, cross = a.T @ a, a.T @ y
        eye = torch.eye(len(gram), dtype=a.dtype)
        fits = [torch.linalg.solve(gram + r * eye, cross) for r in RIDGES]
        b, truth, _ = self.rows(val)
        self.weights = min(fits, key=lambda w: float((b @ w - truth).square().mean()))

    @staticmethod
    def rows(pair: tuple[Paths, Paths]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        given, want = pair
        at = torch.arange(50, dtype=given.t.dtype).expand(len(given.t), -1)
        window = interpolate(given.t, given.x, given.mask, at).double()
        last = window[:, -1:]
        ones = torch.ones(len(window), 1, dtype=torch.float64)
        return (
            torch.cat([(window - last).flatten(1), ones], 1),
            (want.x.double() - last).flatten(1),
            last,
        )

    def mse(self, pair: tuple[Paths, Paths]) -> float:
        a, y, _ = self.rows(pair)
        return float((a @ self.weights - y).square().mean())


def trained(missing: float, epochs: int, seed: int, folder: str) -> Model:
    """The best checkpoint of the configuration, trained by the command line."""
    options = f'{{"missing": {missing}}}'
    code = train(
        [
            *["fit", "--config", str(CONFIG), "--name", f"seed{seed}"],
            *["--seed_everything", str(seed), "--data.seed", str(seed)],
            *["--data.source.init_args.options", options],
            *["--trainer.max_epochs", str(epochs), "--trainer.default_root_dir", folder],
        ]
    )
    if code:
        raise SystemExit(code)
    (best,) = Path(folder).glob(f"**/seed{seed}/*/checkpoints/0*.ckpt")
    return tsdyn.load(best)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--missing", type=float, default=0.3)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    paths = tsdyn.load_dataset("hopper", missing=options.missing)
    task = Forecasting(steps=10)
    parts = BySeries(shuffle=False)(paths, task)
    pair = task(parts.train)
    models: dict[str, Model] = {}
    seconds: dict[str, float] = {}
    start = time.process_time()
    models["Linear"] = tsdyn.fit(Linear(14), parts.train, task)
    seconds["Linear"] = time.process_time() - start
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            start = time.process_time()
            name = f"StableSDE langevin, seed {seed}"
            models[name] = trained(options.missing, options.epochs, seed, folder)
            seconds[name] = time.process_time() - start
    report = evaluate(models, *parts.test, samples=100)
    print(
        f"\nHopper, {options.missing:.0%} of rows dropped, test windows: {len(parts.test[0].t)}\n"
    )
    print("| model | test MSE | CRPS | coverage 80 % | coverage 95 % | CPU s to train |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, row in report.rows.items():
        print(
            f"| {name} | {row['rmse'] ** 2:.5f} | {row['crps']:.5f} | {row['cover80']:.3f} "
            f"| {row['cover95']:.3f} | {seconds.get(name, 0.0):.0f} |"
        )
    start = time.process_time()
    flat = ResidualRidge(pair, parts.val).mse(parts.test)
    print(
        f"| residual ridge on the flat window | {flat:.5f} | - | - | - | {time.process_time() - start:.0f} |"
    )


if __name__ == "__main__":
    main()

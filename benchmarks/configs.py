"""How do configurations of the same data compare, in one run and beside the baselines?

    python benchmarks/configs.py configs/lorenz_linear.yaml configs/lorenz_langevin.yaml ...

Each is trained as `tsdyn fit` trains it, and the weights of the best validation loss are scored on the
test part with 200 draws. The configurations must share source, task, split and seed of the data: the
questions of the test are then the same, and this is checked.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

import tsdyn
from tsdyn.batch import Paths
from tsdyn.evaluation import evaluate
from tsdyn.lit.cli import Command
from tsdyn.lit.quiet import quiet
from tsdyn.models.base import Model


def trained(config: Path, folder: str) -> tuple[Model, tuple[Paths, Paths]]:
    """The best model of a configuration, and the question of its test."""
    with quiet():
        run = Command(["fit", "--config", str(config), "--trainer.default_root_dir", folder])
    (best,) = Path(folder).glob(f"**/{config.stem}/*/checkpoints/0*.ckpt")
    return tsdyn.load(best), run.datamodule.parts.test


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", type=Path, nargs="+")
    models: dict[str, Model] = {}
    seconds: dict[str, float] = {}
    question: tuple[Paths, Paths] | None = None
    for config in parser.parse_args().configs:
        start = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            models[config.stem], own = trained(config, folder)
        seconds[config.stem] = time.process_time() - start
        question = question or own
        if not all(torch.equal(a.mask, b.mask) for a, b in zip(question, own, strict=True)):
            raise SystemExit(f"error: {config} asks another question than the first configuration")
    assert question is not None
    print(evaluate(models, *question, samples=200))
    print("CPU s to train: " + ", ".join(f"{name} {s:.0f}" for name, s in seconds.items()))


if __name__ == "__main__":
    main()

"""Cells of four systems whose equations are known, simulated and put where the loader looks.

python datasets/synthetic_snapshots/prepare.py [--seed 0] [--out DIR]
"""

import argparse
from pathlib import Path

import numpy as np

from tsdyn.data.files import SYNTHETIC_SNAPSHOTS, cache_folder
from tsdyn.data.population_systems import POPULATION_SYSTEMS, simulate_population
from tsdyn.data.snapshots import to_arrays


def prepare(out: Path, seed: int = 0) -> list[Path]:
    """A file for each system: x, snapshot, time, times, columns, sigma and truth."""
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for name, system in POPULATION_SYSTEMS.items():
        x, time = (u.numpy() for u in to_arrays(simulate_population(system, seed=seed)))
        times, snapshot = np.unique(time, return_inverse=True)
        made.append(out / Path(SYNTHETIC_SNAPSHOTS[name].path).name)
        np.savez_compressed(
            made[-1],
            x=x,
            snapshot=snapshot.astype(np.int16),
            time=time,
            times=times,
            columns=np.array(system.columns),
            sigma=np.array(system.sigma),
            truth=np.array(repr(system.truth)),
            seed=np.array(seed),
        )
    return made


if __name__ == "__main__":
    folder = Path(SYNTHETIC_SNAPSHOTS["ou2d"].path).parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=cache_folder() / folder)
    args = parser.parse_args()
    print(*prepare(args.out, args.seed), sep="\n")

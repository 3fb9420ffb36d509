"""MuJoCo hopper: the published file, checked; or the simulation run again, as long as you like.

    python datasets/hopper/prepare.py [--out DIR] [--published mujoco.npy]
    python datasets/hopper/prepare.py --simulate 10000 [--keep 100] [--out DIR]

Without arguments the published file is downloaded. The simulation needs the packages dm_control and
mujoco (extra `data`) and no network; 10,000 falls take about half a minute and 110 MB. With --keep 100
it makes what was published, but for the progress of MuJoCo since then.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np

from tsdyn.data.files import HOPPER, cache_folder, digest, obtain

STEPS = 200  # of 5 ms each: one second
CROP = 100  # rows kept of each fall in the published file
Array = np.ndarray[Any, Any]


def simulate(n: int, seed: int = 123) -> Array:
    """n falls of the hopper from random states: (n, STEPS, 14), 7 positions then 7 velocities.

    Torso position uniform in (0, 0.5), the angles of torso and joints in (-2, 2), velocities in
    (-5, 5); no torque at the joints. Rubanova, Chen & Duvenaud (2019), Latent ODEs for
    irregularly-sampled time series, section 5.1.
    """
    os.environ.setdefault("MUJOCO_GL", "disable")  # nothing is rendered
    from dm_control import suite

    chance = np.random.RandomState(seed)
    physics = suite.load("hopper", "stand").physics
    falls = np.empty((n, STEPS, 2 * physics.model.nq), dtype=np.float32)
    for fall in falls:
        with physics.reset_context():
            physics.data.qpos[:2] = chance.uniform(0, 0.5, size=2)
            physics.data.qpos[2:] = chance.uniform(-2, 2, size=physics.model.nq - 2)
            physics.data.qvel[:] = chance.uniform(-5, 5, size=physics.model.nv)
        for row in fall:
            row[:] = np.concatenate([physics.data.qpos, physics.data.qvel])
            physics.step()
    return falls


def scale(falls: Array) -> Array:
    """(x - min) / max per channel, over all falls and times: not into [0, 1], but as published."""
    low, high = falls.min((0, 1)), falls.max((0, 1))
    scaled: Array = (falls - low) / np.where(high == 0, 1, high)
    return scaled


def crop(falls: Array, seed: int = 1991) -> Array:
    """CROP rows of each fall, from a random row on: (n, CROP, 14)."""
    starts = np.random.RandomState(seed).randint(0, STEPS - CROP + 1, size=len(falls))
    return np.stack([fall[start : start + CROP] for fall, start in zip(falls, starts)])


def summary(path: Path) -> str:
    """What came out, in one line."""
    x = np.load(path, allow_pickle=False)
    return (
        f"{path}: {' x '.join(map(str, x.shape))} {x.dtype} in [{x.min():.3g}, {x.max():.3g}], "
        f"SHA256 {digest(path)}"
    )


def again(n: int, keep: int | None, out: Path) -> Path:
    """n new falls, scaled; all rows of all, or CROP rows of the first `keep`."""
    falls = scale(simulate(n))
    if keep is not None:
        falls = crop(falls[:keep])
    out.mkdir(parents=True, exist_ok=True)
    target = out / f"hopper_{'x'.join(map(str, falls.shape))}_simulated.npy"
    np.save(target, falls)
    return target


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="MuJoCo hopper.")
    parser.add_argument("--out", type=Path, default=cache_folder() / Path(HOPPER.path).parent)
    parser.add_argument("--published", type=Path, help="mujoco.npy, if you have it already")
    parser.add_argument("--simulate", type=int, metavar="N", help="make N new falls instead")
    parser.add_argument("--keep", type=int, metavar="K", help="crop the first K of them")
    args = parser.parse_args()
    print(
        summary(
            obtain(HOPPER, args.out, args.published)
            if args.simulate is None
            else again(args.simulate, args.keep, args.out)
        )
    )

"""CMU motion capture, subjects 09 and 35: the published cut, checked, as float32.

    python datasets/cmu_motion/prepare.py [--out DIR] [--source DIR]

A source is a folder with mocap09.npz and mocap35.npz; without one they are downloaded.
"""

import argparse
from pathlib import Path

import numpy as np

from tsdyn.data.files import CMU_MOTION, cache_folder, digest, download
from tsdyn.errors import DataError

URL = (
    "https://raw.githubusercontent.com/hegdepashupati/gaussian-process-odes/"
    "c084729817e09cb3910b45ec268eb4688e0a44f8/data/mocap/"
)
STEP = 0.01  # s
SHA256 = {
    "09": "484efdb5ad9a1abddf3f9eed9902f1edb317f6f6936303ef80de7e547f02fac3",
    "35": "c4592353e674e9bde051eb80e8c554aadf06e18970f3870447ea1d7a6cd5188b",
}
SHAPES = {
    "09": {"test": (2, 120, 50), "validation": (2, 120, 50), "train": (6, 120, 50)},
    "35": {"test": (4, 300, 50), "validation": (3, 300, 50), "train": (16, 300, 50)},
}


def convert(raw: Path, subject: str, out: Path) -> Path:
    """The three parts of a subject, with the time step, under the name by which they are looked for."""
    with np.load(raw, allow_pickle=False) as arrays:
        parts = {name: arrays[name].astype(np.float32) for name in SHAPES[subject]}
    for name, shape in SHAPES[subject].items():
        if parts[name].shape != shape:
            raise DataError(
                "D14",
                f"{raw}, array `{name}`: shape {parts[name].shape}",
                f"the published {shape}",
                "Get the file again",
            )
    out.mkdir(parents=True, exist_ok=True)
    target = out / Path(CMU_MOTION[subject].path).name
    np.savez_compressed(target, **parts, dt=np.float64(STEP))
    return target


def summary(path: Path, subject: str) -> str:
    """What came out, in one line."""
    with np.load(path, allow_pickle=False) as arrays:
        shapes = ", ".join(f"{name} {arrays[name].shape}" for name in SHAPES[subject])
    same = "as expected" if digest(path) == SHA256[subject] else "another packing"
    return f"{path}: {shapes}, SHA256 {digest(path)} ({same})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="CMU motion capture, subjects 09 and 35.")
    folder = Path(CMU_MOTION["09"].path).parent
    parser.add_argument("--out", type=Path, default=cache_folder() / folder)
    parser.add_argument("--source", type=Path, help="a folder with mocap09.npz and mocap35.npz")
    args = parser.parse_args()
    for subject in SHAPES:
        name = f"mocap{subject}.npz"
        raw = args.source / name if args.source else download(URL + name, args.out / name, None)
        print(summary(convert(raw, subject, args.out), subject))

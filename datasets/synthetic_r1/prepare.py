"""A surface of rank one: its values at the published points, by its equation.

python datasets/synthetic_r1/prepare.py [--out DIR]
"""

import argparse
from pathlib import Path

import numpy as np

from tsdyn.data.files import SYNTHETIC_R1, cache_folder

POINTS = Path(__file__).with_name(Path(SYNTHETIC_R1.path).name)


def surface(s: np.ndarray, t: np.ndarray) -> np.ndarray:
    """sin^2(2 pi s) cos(2 pi s) e^(-2 t) sin(3 pi t / 2)"""
    first = np.sin(2 * np.pi * s) ** 2 * np.cos(2 * np.pi * s)
    return first * np.exp(-2 * t) * np.sin(1.5 * np.pi * t)


def prepare(out: Path, points: Path = POINTS) -> Path:
    """The points of a file, with their values."""
    s, t = np.loadtxt(points, delimiter=",", skiprows=1, usecols=(0, 1), unpack=True)
    out.mkdir(parents=True, exist_ok=True)
    target = out / POINTS.name
    rows = (f"{a!r},{b!r},{c!r}" for a, b, c in np.stack([s, t, surface(s, t)], 1).tolist())
    target.write_text("\n".join(["s,t,y", *rows, ""]))
    return target


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=cache_folder() / Path(SYNTHETIC_R1.path).parent)
    print(prepare(parser.parse_args().out))

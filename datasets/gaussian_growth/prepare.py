"""Gaussian mixture with growth: a file at hand, checked and put where the loader looks.

    python datasets/gaussian_growth/prepare.py FILE [--out DIR]

README.md says where the file comes from.
"""

import argparse
from pathlib import Path

from tsdyn.data.files import GAUSSIAN_GROWTH, adopt

SHA256 = "8f78d593f00502802dfa3ea8135ff08a3e73e8687c683a9699583a8a1f84e51a"

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    print(adopt(args.file, GAUSSIAN_GROWTH, SHA256, args.out))

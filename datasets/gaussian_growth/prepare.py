"""Gaussian mixture with growth: the public table, checked and put where the loader looks.

    python datasets/gaussian_growth/prepare.py gaussian_10d.csv [--out DIR]

README.md says where the table comes from.
"""

import argparse
from pathlib import Path

from tsdyn.data.files import GAUSSIAN_GROWTH
from tsdyn.data.populations import convert

SHA256 = "a3840eb23fc210629b94c7c48c80477f3cf81fb12b53dbbf1ff9557ad978b5e8"  # of the numbers

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    print(convert(args.table, GAUSSIAN_GROWTH, SHA256, args.out))

"""Mouse hematopoiesis: the public table, checked and put where the loader looks.

    python datasets/mouse_hematopoiesis/prepare.py mouse_hematopoiesis.csv [--out DIR]

README.md says where the table comes from.
"""

import argparse
from pathlib import Path

from tsdyn.data.files import HEMATOPOIESIS
from tsdyn.data.populations import convert

SHA256 = "89db0f0356204474117c4df6ff5857c4fbb6348ddf11ad4848be661de75f75d4"  # of the numbers

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    print(convert(args.table, HEMATOPOIESIS, SHA256, args.out))

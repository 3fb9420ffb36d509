"""Toggle switch: the public table, checked and put where the loader looks.

    python datasets/toggle_switch/prepare.py simulation_gene.csv [--out DIR]

README.md says where the table comes from.
"""

import argparse
from pathlib import Path

from tsdyn.data.files import TOGGLE_SWITCH
from tsdyn.data.populations import convert

SHA256 = "15457a5522365c9d2c0e513169a79c4692b5f63df78c3e8cfce08cd45b3523de"  # of the numbers

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    print(convert(args.table, TOGGLE_SWITCH, SHA256, args.out))

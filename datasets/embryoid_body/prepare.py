"""Embryoid bodies: a file at hand, checked and put where the loader looks.

    python datasets/embryoid_body/prepare.py FILE [--out DIR]

README.md says where the file comes from.
"""

import argparse
from pathlib import Path

from tsdyn.data.files import EMBRYOID_BODY, adopt

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    print(adopt(args.file, EMBRYOID_BODY, args.out))

"""Mouse hematopoiesis: a file at hand, checked and put where the loader looks.

    python datasets/mouse_hematopoiesis/prepare.py FILE [--out DIR]

README.md says where the file comes from.
"""

import argparse
from pathlib import Path

from tsdyn.data.files import HEMATOPOIESIS, adopt

SHA256 = "937fa58ddf0d9b65d033b03ef744e420e93084a3703d75f351998dcccc296865"

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    print(adopt(args.file, HEMATOPOIESIS, SHA256, args.out))

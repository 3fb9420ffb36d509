"""Toggle switch: a file at hand, checked and put where the loader looks.

    python datasets/toggle_switch/prepare.py FILE [--out DIR]

README.md says where the file comes from.
"""

import argparse
from pathlib import Path

from tsdyn.data.files import TOGGLE_SWITCH, adopt

SHA256 = "24f52ad4869ec6e33e833041a17c85c6cf73cbf345421dd58fa7b9770277212c"

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    print(adopt(args.file, TOGGLE_SWITCH, SHA256, args.out))

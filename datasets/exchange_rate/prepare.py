"""Daily exchange rates of 8 currencies: the public table, checked.

    python datasets/exchange_rate/prepare.py [--out DIR] [--source exchange_rate.csv]

Without a source it is downloaded.
"""

import argparse
from pathlib import Path

from tsdyn.data.files import EXCHANGE_RATE, cache_folder, digest, obtain


def summary(path: Path) -> str:
    """What came out, in one line."""
    rows = path.read_text().split()
    header = rows[0].startswith("0,1")
    return (
        f"{path}: {len(rows) - header} days x {rows[-1].count(',') + 1} currencies, "
        f"SHA256 {digest(path)}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Daily exchange rates of 8 currencies.")
    parser.add_argument(
        "--out", type=Path, default=cache_folder() / Path(EXCHANGE_RATE.path).parent
    )
    parser.add_argument("--source", type=Path, help="the file, if you have it already")
    args = parser.parse_args()
    print(summary(obtain(EXCHANGE_RATE, args.out, args.source)))

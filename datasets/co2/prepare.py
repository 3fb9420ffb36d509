"""Weekly CO2 at Mauna Loa: from the table that statsmodels carries to `co2.csv`.

    python datasets/co2/prepare.py [--out DIR]

Needs the package statsmodels (extra `data`); no network.
"""

import argparse
import csv
import hashlib
import importlib.util
from datetime import date
from pathlib import Path

SHA256 = "2a09c02d19d60ad796de4955db0fb530dfd9b3ed79f4e5fde146861c02f1c5ea"  # of co2.csv


def source() -> Path:
    """The file inside statsmodels: columns date (YYYYMMDD), co2 (ppm; empty where not measured)."""
    found = importlib.util.find_spec("statsmodels")
    if found is None or found.origin is None:
        raise SystemExit("This needs the package statsmodels: pip install 'tsdyn[data]'")
    return Path(found.origin).parent / "datasets" / "co2" / "co2.csv"


def convert(raw: Path, out: Path) -> Path:
    """date,co2 -> series_id,time,co2 with dates as YYYY-MM-DD; weeks without a value stay, empty."""
    with raw.open(newline="") as file:
        rows = [(row["date"], row["co2"]) for row in csv.DictReader(file)]
    out.mkdir(parents=True, exist_ok=True)
    with (out / "co2.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["series_id", "time", "co2"])
        for day, value in rows:
            table.writerow(
                ["mauna_loa", date(int(day[:4]), int(day[4:6]), int(day[6:])).isoformat(), value]
            )
    return out / "co2.csv"


def summary(path: Path) -> str:
    """What came out, in one line."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    missing = sum(row["co2"] == "" for row in rows)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return (
        f"{path}: {len(rows)} weeks from {rows[0]['time']} to {rows[-1]['time']}, "
        f"{missing} without a value, SHA256 {digest} "
        f"({'as expected' if digest == SHA256 else 'NOT as expected'})"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Weekly CO2 at Mauna Loa.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    print(summary(convert(source(), parser.parse_args().out)))

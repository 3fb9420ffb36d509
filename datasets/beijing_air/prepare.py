"""Beijing multi-site air quality: daily means of a pollutant by temperature, pressure and day.

    python datasets/beijing_air/prepare.py [--out DIR] [--source DIR]

A source is a folder that holds the 12 files PRSA_Data_<station>_20130301-20170228.csv, at any depth;
without one the archive of the UCI repository is downloaded and unpacked.
"""

import argparse
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from tsdyn.data.files import BEIJING_AIR, cache_folder, download
from tsdyn.errors import DataError

URL = "https://archive.ics.uci.edu/static/public/501/beijing+multi+site+air+quality+data.zip"
COLUMNS = {"pm25": "PM2.5", "pm10": "PM10", "so2": "SO2"}
SHUFFLES = {"pm25": 40, "pm10": 60, "so2": 80}  # made by the published code before these folds
FOLDS = 5


def unpacked(archive: Path, folder: Path) -> Path:
    """The archive, and the one inside it, as files."""
    with zipfile.ZipFile(archive) as files:
        files.extractall(folder)
    for inner in folder.rglob("PRSA*.zip"):
        with zipfile.ZipFile(inner) as files:
            files.extractall(folder)
    return folder


def read(folder: Path) -> pd.DataFrame:
    """All hours at all stations, one file after another by name."""
    paths = sorted(folder.rglob("PRSA_Data_*.csv"))
    if not paths:
        raise DataError(
            "D01",
            f"no file PRSA_Data_*.csv under {folder}",
            "the files of the UCI archive",
            f"Download and unpack {URL}",
        )
    return pd.concat([pd.read_csv(path) for path in paths], ignore_index=True)


def daily(hours: pd.DataFrame) -> pd.DataFrame:
    """Means of each day at each station over hours without a hole; days first, then stations."""
    keys = ["year", "month", "day", "station"]
    return hours.dropna().groupby(keys).mean(numeric_only=True).reset_index()


def folds(count: int, before: int) -> np.ndarray:
    """The published test sets: (5, count)."""
    draws = np.random.RandomState(0)
    for _ in range(before):
        draws.shuffle(np.arange(count))
    order, test = np.arange(count), np.ones((FOLDS, count), dtype=bool)
    for fold in test:
        draws.shuffle(order)
        fold[order[: int(0.8 * count)]] = False
    return test


def arrays(days: pd.DataFrame, pollutant: str) -> dict[str, np.ndarray]:
    """What the file of a pollutant holds."""
    values = days[COLUMNS[pollutant]].to_numpy()
    mean, std = values.mean(), values.std()
    stations, station = np.unique(days["station"].to_numpy(dtype=str), return_inverse=True)
    dates = pd.to_datetime(days[["year", "month", "day"]])
    day = (dates - pd.Timestamp("1970-01-01")).dt.days
    index = [days["TEMP"].round(1), days["PRES"].round(1), day]
    return {
        "y": (values - mean) / std,
        "y_mean": mean,
        "y_std": std,
        "raw_index": np.stack([np.asarray(c, dtype=float) for c in index], 1),
        "station": station.astype(np.int8),
        "station_names": stations,
        "test_mask": folds(len(values), SHUFFLES[pollutant]),
    }


def prepare(source: Path, out: Path) -> list[Path]:
    """The file of each pollutant, under the name by which it is looked for."""
    days = daily(read(source))
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for pollutant, public in BEIJING_AIR.items():
        made.append(out / Path(public.path).name)
        np.savez_compressed(made[-1], **arrays(days, pollutant))
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    folder = Path(BEIJING_AIR["pm25"].path).parent
    parser.add_argument("--out", type=Path, default=cache_folder() / folder)
    parser.add_argument("--source", type=Path, help="a folder with the 12 csv files")
    args = parser.parse_args()
    raw = cache_folder() / "raw" / "beijing_air"
    source = args.source or unpacked(download(URL, raw / "beijing.zip", None), raw)
    for path in prepare(source, args.out):
        with np.load(path, allow_pickle=False) as made:
            print(f"{path}: {len(made['y'])} entries, mean {made['y_mean']:.2f} ug / m^3")

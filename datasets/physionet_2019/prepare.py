"""PhysioNet challenge 2019, early prediction of sepsis: each training set in one file.

    python datasets/physionet_2019/prepare.py [--out DIR] [--source DIR]

A source is a folder with training_setA.zip and training_setB.zip; without one they are downloaded. No SHA256
of the archives is known here: the records are counted.
"""

import argparse
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from tsdyn.batch import Clock, Names
from tsdyn.data.files import PHYSIONET_2019, cache_folder, download
from tsdyn.data.records import write_records
from tsdyn.errors import DataError

URL = "https://archive.physionet.org/users/shared/challenge-2019/"
COUNT = {"a": 20336, "b": 20000}  # records, as published
CHANNELS = (
    "HR O2Sat Temp SBP MAP DBP Resp EtCO2 BaseExcess HCO3 FiO2 pH PaCO2 SaO2 AST BUN Alkalinephos Calcium "
    "Chloride Creatinine Bilirubin_direct Glucose Lactate Magnesium Phosphate Potassium Bilirubin_total "
    "TroponinI Hct Hgb PTT WBC Fibrinogen Platelets"
).split()
STATIC = ("Age", "Gender", "Unit1", "Unit2", "HospAdmTime")
COLUMNS = (*CHANNELS, *STATIC, "ICULOS", "SepsisLabel")
CLASSES = ("no_sepsis", "sepsis")


class Record(NamedTuple):
    """One stay."""

    t: Tensor  # (T,), hours in intensive care
    x: Tensor  # (T, 34), NaN where nothing was observed
    static: Tensor  # (5,), NaN where unknown
    label: int  # 1 for sepsis at any hour of the stay


def parse(text: str, where: str) -> Record:
    """A table of 41 columns separated by `|`, one row an hour."""
    header, *lines = text.split()
    if tuple(header.split("|")) != COLUMNS:
        raise DataError(
            "D14",
            f"{where}: {header.count('|') + 1} columns, {header[:40]}...",
            "the 41 columns HR|O2Sat|...|ICULOS|SepsisLabel",
            "Get the archive again",
        )
    if not lines:
        raise DataError("D01", f"{where} tells of no hour", "at least one row", "")
    rows = torch.tensor([numbers(line, f"{where}, line {i}") for i, line in enumerate(lines, 2)])
    D = len(CHANNELS)
    return Record(rows[:, -2].double(), rows[:, :D], rows[0, D:-2], int(rows[:, -1].max()))


def numbers(line: str, where: str) -> list[float]:
    """The values of a row; `NaN` is one that was not observed."""
    try:
        values = [float(v) for v in line.split("|")]
    except ValueError:
        values = []
    if len(values) != len(COLUMNS):
        raise DataError("D03", f"{where}: `{line[:40]}...`", "41 numbers or NaN", "")
    return values


def records(archive: Path) -> Iterator[tuple[str, Record]]:
    """The records of training_setA.zip, in the order of their names."""
    with zipfile.ZipFile(archive) as files:
        for name in sorted(n for n in files.namelist() if n.endswith(".psv")):
            yield Path(name).stem, parse(files.read(name).decode(), f"{archive.name}, {name}")


def prepare(archive: Path, target: Path, count: int) -> Path:
    """One file of all records of a set, all their hours."""
    found = dict(records(archive))
    if len(found) != count:
        raise DataError(
            "D14", f"{archive} holds {len(found)} records", f"{count}", "Get the archive again"
        )
    stays = list(found.values())
    names = Names(tuple(found), tuple(CHANNELS), Clock("integer"), static=STATIC, classes=CLASSES)
    return write_records(
        target,
        [(stay.t, stay.x) for stay in stays],
        names,
        static=torch.stack([stay.static for stay in stays]),
        labels=torch.tensor([stay.label for stay in stays]),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="PhysioNet challenge 2019, both training sets.")
    parser.add_argument("--out", type=Path, default=cache_folder() / "physionet_2019")
    parser.add_argument("--source", type=Path, help="a folder with the published archives")
    args = parser.parse_args()
    for part, public in PHYSIONET_2019.items():
        name = f"training_set{part.upper()}.zip"
        archive = args.source / name if args.source else download(URL + name, args.out / name, None)
        print(prepare(archive, args.out / Path(public.path).name, COUNT[part]))

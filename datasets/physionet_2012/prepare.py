"""PhysioNet challenge 2012: the records of sets a and b, each set in one file.

    python datasets/physionet_2012/prepare.py [--out DIR] [--source DIR]

A source is a folder with set-a.tar.gz and set-b.tar.gz, and Outcomes-a.txt and Outcomes-b.txt if you want
labels; without one they are downloaded. No SHA256 of the archives is known here: the records are counted.
"""

import argparse
import csv
import math
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from tsdyn.batch import Clock, Names
from tsdyn.data.files import PHYSIONET_2012, cache_folder, download
from tsdyn.data.records import write_records
from tsdyn.errors import DataError, did_you_mean

URL = "https://physionet.org/files/challenge-2012/1.0.0/"
COUNT = 4000  # records of each set, as published
STATIC = ("Age", "Gender", "Height", "ICUType")
CHANNELS = (
    "Weight Albumin ALP ALT AST Bilirubin BUN Cholesterol Creatinine DiasABP FiO2 GCS Glucose HCO3 HCT "
    "HR K Lactate Mg MAP MechVent Na NIDiasABP NIMAP NISysABP PaCO2 PaO2 pH Platelets RespRate SaO2 "
    "SysABP Temp TroponinI TroponinT Urine WBC"
).split()
CLASSES = ("survived", "died")


class Record(NamedTuple):
    """One stay."""

    name: str
    t: Tensor  # (T,), in hours
    x: Tensor  # (T, 37), NaN where nothing was observed
    static: Tensor  # (4,), NaN where unknown


def parse(text: str, where: str) -> Record:
    """The lines Time,Parameter,Value of a record.

    -1 says that a fact of the patient, weight included, is not known. Values of one parameter at one
    minute are averaged. A record without any value keeps one row, at time 0.
    """
    cells: dict[tuple[float, int], list[float]] = defaultdict(list)
    static, name = torch.full((len(STATIC),), torch.nan), ""
    for number, line in enumerate(text.split()[1:], 2):
        time, parameter, value = fields(line, f"{where}, line {number}")
        if parameter == "RecordID":
            name = str(int(value))
        elif parameter in STATIC:
            static[STATIC.index(parameter)] = math.nan if value == -1 else value
        elif not (parameter == "Weight" and value == -1):
            cells[time, CHANNELS.index(parameter)].append(value)
    times = sorted({time for time, _ in cells}) or [0.0]
    x = torch.full((len(times), len(CHANNELS)), torch.nan)
    for (time, channel), values in cells.items():
        x[times.index(time), channel] = sum(values) / len(values)
    return Record(name, torch.tensor(times, dtype=torch.float64), x, static)


def fields(line: str, where: str) -> tuple[float, str, float]:
    """(time in hours, parameter, value) of `07:30,HR,88`."""
    known = ("RecordID", *STATIC, *CHANNELS)
    try:
        clock, parameter, value = line.split(",")
        hours, minutes = clock.split(":")
        read = int(hours) + int(minutes) / 60, parameter, float(value)
    except ValueError:
        raise DataError(
            "D14", f"{where}: `{line[:40]}`", "HH:MM,parameter,value", "Get the archive again"
        ) from None
    if parameter not in known:
        hint = did_you_mean(parameter, known)
        raise DataError("D14", f"{where}: parameter `{parameter}`", "one of the 41", hint)
    return read


def records(archive: Path) -> Iterator[Record]:
    """The records of set-a.tar.gz, in the order of their names."""
    with tarfile.open(archive) as files:
        inside = [m for m in files.getmembers() if m.isfile() and m.name.endswith(".txt")]
        for member in sorted(inside, key=lambda m: m.name):
            file = files.extractfile(member)
            assert file is not None
            yield parse(file.read().decode(), f"{archive.name}, {member.name}")


def deaths(outcomes: Path) -> dict[str, int]:
    """RecordID -> 1 for a death in hospital, from Outcomes-a.txt."""
    with outcomes.open(newline="") as file:
        return {
            row["RecordID"].strip(): int(row["In-hospital_death"])
            for row in csv.DictReader(file, skipinitialspace=True)
        }


def prepare(archive: Path, outcomes: Path | None, target: Path, count: int = COUNT) -> Path:
    """One file of all records of a set, with labels if there are outcomes."""
    found = list(records(archive))
    if len(found) != count:
        raise DataError(
            "D14", f"{archive} holds {len(found)} records", f"{count}", "Get the archive again"
        )
    names = Names(
        tuple(r.name for r in found),
        tuple(CHANNELS),
        Clock("float"),
        static=STATIC,
        classes=CLASSES,
    )
    facts = {"static": torch.stack([r.static for r in found])}
    if outcomes is not None:
        died = deaths(outcomes)
        if unknown := [r.name for r in found if r.name not in died]:
            raise DataError(
                "D14",
                f"{outcomes} does not tell of record {unknown[0]}",
                "an outcome for every record",
                "Take the outcomes of the same set",
            )
        facts["labels"] = torch.tensor([died[r.name] for r in found])
    return write_records(target, [(r.t, r.x) for r in found], names, **facts)


def raw(name: str, source: Path | None, folder: Path) -> Path | None:
    """A published file, from a folder, where it may be absent, or downloaded."""
    if source is None:
        return download(URL + name, folder / name, None)
    return source / name if (source / name).is_file() else None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="PhysioNet challenge 2012, sets a and b.")
    parser.add_argument("--out", type=Path, default=cache_folder() / "physionet_2012")
    parser.add_argument("--source", type=Path, help="a folder with the published files")
    args = parser.parse_args()
    for part, public in PHYSIONET_2012.items():
        archive = raw(f"set-{part}.tar.gz", args.source, args.out)
        if archive is None:
            parser.error(f"{args.source} has no set-{part}.tar.gz")
        outcomes = raw(f"Outcomes-{part}.txt", args.source, args.out)
        print(prepare(archive, outcomes, args.out / Path(public.path).name))

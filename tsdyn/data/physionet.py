"""Patients in intensive care: the challenges of PhysioNet and Computing in Cardiology 2012 and 2019.

Sources: Silva et al. (2012), Predicting in-hospital mortality of ICU patients; Reyna et al. (2020),
Early prediction of sepsis from clinical data.
"""

from typing import Literal

import torch

from ..batch import Names, Paths, stack
from .files import PHYSIONET_2012, PHYSIONET_2019, find
from .records import at_multiples, read_records

Part = Literal["a", "b", "all"]


def physionet_2012(part: Part = "all", quantum: float | None = 0.016) -> Paths:
    """The first 48 hours of 8000 stays in intensive care: 37 channels at irregular times, in hours.

    Age, gender, height and kind of unit are `static`; `labels` is death in hospital, where the
    outcomes were at hand.

    Args:
        part: "a" or "b", 4000 stays each, or "all" of them, a first.
        quantum: times are rounded to multiples of it, in hours; None keeps the minutes.
    """
    parts = ("a", "b") if part == "all" else (part,)
    read = [read_records(find("physionet_2012", PHYSIONET_2012[p])) for p in parts]
    paths = _complete(_together(read))
    return paths if quantum is None else at_multiples(paths, quantum)


def physionet_2019(part: Part = "all", hours: int = 72, intensity: bool = False) -> Paths:
    """The first hours of 40,336 stays in intensive care, one row an hour: 34 channels, mostly missing.

    Age, gender, unit and time of admission are `static`; `labels` is whether sepsis came at any hour
    of the whole stay.

    Args:
        part: "a" (20,336 stays) or "b" (20,000), from different hospitals, or "all", a first.
        hours: rows kept of each stay.
        intensity: how often each channel was observed so far, as covariates: when clinicians
            measure is itself informative.
    """
    parts = ("a", "b") if part == "all" else (part,)
    read = [read_records(find("physionet_2019", PHYSIONET_2019[p]), hours) for p in parts]
    paths = _complete(_together(read))
    return counted(paths) if intensity else paths


def counted(paths: Paths) -> Paths:
    """How many values of each channel were observed up to each row, as covariates `n_<channel>`."""
    names = paths.names
    covariates = tuple(f"n_{channel}" for channel in names.channels) if names else ()
    return paths._replace(
        covariates=paths.mask.cumsum(1).to(paths.x),
        names=names and names._replace(covariates=covariates),
    )


def _together(parts: list[Paths]) -> Paths:
    """One after the other; labels only if all parts have them."""
    if any(part.labels is None for part in parts):
        parts = [part._replace(labels=None) for part in parts]
    return stack(parts)


def _complete(paths: Paths) -> Paths:
    """Static covariates without holes: 0 for what is unknown, and beside each whether it is known."""
    assert paths.static is not None and paths.names is not None
    known = ~paths.static.isnan()
    names: Names = paths.names
    return paths._replace(
        static=torch.cat([paths.static.nan_to_num(0.0), known.to(paths.static)], 1),
        names=names._replace(static=names.static + tuple(f"{s}_known" for s in names.static)),
    )

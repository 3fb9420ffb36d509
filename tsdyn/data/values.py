"""Columns of a table -> numbers, and float64 -> float32 where nothing is lost by it."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..errors import DataError
from .clock import EXACT, Column, Place, spots

Floats = NDArray[np.float64]

LARGEST = float(np.finfo(np.float32).max)
OFFSET = 1e6  # how far from zero, in units of their spread, values may lie


def number(name: str, column: Column, place: Place, role: str) -> Floats:
    """A column of numbers (N,) as float64, NaN where it is missing.

    Raises:
        DataError: D03 text, D05 an infinite value, D14 a value that float32 cannot hold or an
            integer that float64 cannot.
    """
    column = pd.Series(column)
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        column = column.astype(dtype.categories.dtype)
    if not pd.api.types.is_numeric_dtype(column.dtype) or column.dtype.kind == "c":
        column = _read_numbers(name, column, place, role)
    values: Floats = column.to_numpy(dtype=np.float64, na_value=np.nan)
    if (bad := np.isinf(values)).any():
        raise DataError(
            "D05",
            f"{role} `{name}` is infinite in {spots(bad, place)}",
            "A value is finite or missing",
            "Replace it, or set it to NaN where it stands for a missing value",
        )
    if column.dtype.kind in "iu" and (bad := abs(values) > EXACT).any():
        raise DataError(
            "D14",
            f"{role} `{name}` holds integers beyond 2**53 in {spots(bad, place)}",
            "Values become floats, which hold every integer only up to there",
            "Subtract an offset, or leave the column out if it is an identifier",
        )
    if (bad := abs(values) > LARGEST).any():
        raise DataError(
            "D14",
            f"{role} `{name}` is beyond 3.4e38 in {spots(bad, place)}",
            "Values become float32",
            "Divide the column by its unit, or take its logarithm",
        )
    return values


def _read_numbers(name: str, column: Column, place: Place, role: str) -> Column:
    """Objects or text as numbers, where every one of them is a number."""
    dated = column.dtype.kind in "mMc" or isinstance(column.dtype, pd.PeriodDtype)
    read = (
        pd.Series(np.nan, index=column.index)
        if dated
        else pd.to_numeric(column.astype(object), errors="coerce")
    )
    bad = (read.isna() & column.notna()).to_numpy(dtype=bool)
    if bad.any():
        raise DataError(
            "D03",
            f"{role} `{name}` holds {str(column.iloc[int(bad.argmax())])!r} in {spots(bad, place)}",
            "It must hold numbers, NaN where they are missing",
            "Convert it, or say which columns are channels with channels=[...]",
        )
    return read


def narrow(values: Floats, names: Sequence[str]) -> NDArray[np.float32]:
    """float64 -> float32 (N, D), refused where values far from zero would become equal.

    Raises:
        DataError: D15.
    """
    short = values.astype(np.float32)
    for name, wide, rounded in zip(names, values.T, short.T):
        seen = wide[~np.isnan(wide)]
        if not len(seen):
            continue
        low, middle, high = np.quantile(seen, (0.25, 0.5, 0.75))
        spread = high - low or seen.std()
        far = abs(wide) > OFFSET * spread
        if spread == 0 or not far.any():
            continue
        before, after = len(np.unique(wide[far])), len(np.unique(rounded[far]))
        if after < before:
            raise DataError(
                "D15",
                f"column `{name}` lies around {middle:g} with a spread of {spread:g}: as float32 its "
                f"{before} distinct values become {after}",
                "Values lie within 1e6 times their spread",
                f"Subtract {middle:g} from the column and add it to the forecasts",
            )
    return short

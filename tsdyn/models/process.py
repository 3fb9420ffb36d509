"""A Gaussian process at the rows of several series: chains of states, and what is seen of them.

Of B series with D channels, C = D / O chains each make O channels: C is D where channels are independent
processes, 1 where all are mixed.
"""

from typing import NamedTuple

from torch import Tensor

from ..errors import DataError, ModelError
from ..maths.kalman import LinearGaussian, Sites
from ..maths.kernels import Kernel

ARRAYS = 30  # of the size of all covariances, held at once in smoothing and for gradients; measured


class Process(NamedTuple):
    """Chains (B, C or 1, N) of states at times t, and sites (B, C, N) of what is seen of them."""

    kernel: Kernel
    t: Tensor  # (B, 1, N)
    chain: LinearGaussian
    sites: Sites


def to_chains(x: Tensor, chains: int) -> Tensor:
    """(B, N, D) -> (B, C, N, O)"""
    return x.reshape(*x.shape[:-1], chains, -1).transpose(1, 2)


def to_channels(f: Tensor) -> Tensor:
    """(..., C, N, O) -> (..., N, D)"""
    return f.transpose(-3, -2).flatten(-2)


def require_times(t: Tensor, ordered: bool = True) -> None:
    """D04 unless times (B, N) are finite, D07 where they have to increase and do not."""
    if not t.isfinite().all():
        series, row = (~t.isfinite()).nonzero()[0].tolist()
        raise DataError(
            "D04",
            f"time {float(t[series, row])} in row {row} of series {series}",
            "a finite time in every row",
            "Leave out rows without a time; padding repeats the last time",
        )
    back = t.diff(dim=1) < 0
    if ordered and back.any():
        series, row = back.nonzero()[0].tolist()
        raise DataError(
            "D07",
            f"time {float(t[series, row + 1])} after {float(t[series, row])} in row {row + 1} of series {series}",
            "times that do not decrease",
            "Sort the rows of every series by time",
        )


def require_memory(rows: int, size: int, most: float) -> None:
    """M05 where states of `size` coordinates at so many rows would take more gigabytes than allowed."""
    needed = 8 * ARRAYS * rows * size**2 / 1e9
    if needed > most:
        raise ModelError(
            "M05",
            f"{rows} rows of states with {size} coordinates would take about {needed:.2g} GB",
            f"at most {most:g} GB (`memory` of the model)",
            "Ask about fewer series or shorter stretches at a time, take a kernel with a smaller state "
            "(fewer harmonics), or allow more",
        )

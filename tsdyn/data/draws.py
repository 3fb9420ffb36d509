"""Draws (S, B, T, D) <-> tables: quantiles, samples or the mean, and a parquet file that keeps all."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..batch import Clock, Names
from ..errors import ConfigError, DataError, missing_package
from .times import times_to_user

CHUNK = 2**22  # draws held a second time while they are summarised or written


def index_columns(t: Tensor, which: NDArray[np.integer[Any]], names: Names) -> pd.DataFrame:
    """The columns `series_id, time` of N rows: times (N,), and the series (N,) they belong to."""
    series = pd.Series(list(names.series)).iloc[which].to_numpy()
    return pd.DataFrame({"series_id": series, "time": times_to_user(t, names.clock)})


def draws_to_frame(
    t: Tensor,
    samples: Tensor,
    mask: Tensor,
    names: Names,
    kind: Literal["quantiles", "samples", "mean", "states"] = "quantiles",
    quantiles: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95),
) -> pd.DataFrame:
    """Draws (S, B, T, D) at times (B, T) as a frame, where `mask` (B, T, D) holds.

    "quantiles" gives `series_id, time, channel, mean, q0.05, ...`, "samples" gives
    `series_id, time, channel, sample, value`, "mean" gives `series_id, time, <channels>`, and "states", for draws
    that are numbers of states, `series_id, time, channel, p0, p1, ...`.
    """
    t, mask = t.cpu(), mask.cpu()
    if kind == "mean":
        rows = mask.any(-1)
        frame = index_columns(t[rows], rows.nonzero()[:, 0].numpy(), names)
        mean = samples.detach().mean(0).cpu().where(mask, torch.nan)[rows].numpy()
        return pd.concat([frame, pd.DataFrame(mean, columns=list(names.channels))], axis=1)
    if kind not in ("quantiles", "samples", "states"):
        raise ConfigError(
            "X01",
            f"`kind={kind!r}` is unknown",
            "It is one of quantiles, samples, mean, states",
            "",
        )
    b, i, d = (part.numpy() for part in mask.nonzero().unbind(1))
    frame = index_columns(t[b, i], b, names)
    channels = np.array(names.channels, dtype=object)
    if kind == "quantiles":
        frame["channel"] = channels[d]
        summary = _summaries(samples, mask, quantiles)  # (1 + Q, N)
        for name, values in zip(["mean", *(f"q{level:g}" for level in quantiles)], summary):
            frame[name] = values
        return frame
    if kind == "states":
        frame["channel"] = channels[d]
        for state, share in enumerate(shares(samples, mask).unbind(-1)):
            frame[f"p{state}"] = share[mask].numpy()
        return frame
    n = len(samples)
    frame["channel"] = pd.Categorical(channels[d], categories=list(names.channels))
    frame = frame.iloc[np.repeat(np.arange(len(b)), n)].reset_index(drop=True)
    frame["sample"] = np.tile(np.arange(n, dtype=np.int32), len(b))
    frame["value"] = np.concatenate([part.T.ravel() for part in _parts(samples, mask)])
    return frame


def shares(samples: Tensor, mask: Tensor, states: int | None = None) -> Tensor:
    """Shares of the draws (S, B, T, D) in each of n states: (B, T, D, n), zero where `mask` does not hold.

    Args:
        states: n; None is one more than the largest number drawn.

    Raises:
        DataError: D14 where a draw is not the number of a state.
    """
    values = samples.detach().cpu().where(mask, 0.0)
    n = int(values.max()) + 1 if states is None and values.numel() else states or 1
    wrong = (values < 0) | (values >= n) | (values != values.round())
    if bool(wrong.any()):
        raise DataError(
            "D14",
            f"a draw of {float(values[wrong][0]):g}",
            f"numbers of states, 0 to {n - 1}",
            "Ask for quantiles: this model draws values, not states",
        )
    found = [(values == state).float().mean(0).where(mask, 0.0) for state in range(n)]
    return torch.stack(found, -1)


def _parts(samples: Tensor, mask: Tensor) -> Iterator[NDArray[Any]]:
    """Draws where `mask` holds, some at a time: (S, n)."""
    flat = samples.detach().reshape(len(samples), -1)  # (S, B T D)
    for at in torch.split(mask.reshape(-1).nonzero()[:, 0], max(1, CHUNK // max(len(samples), 1))):
        yield flat[:, at.to(flat.device)].cpu().numpy()


def _summaries(samples: Tensor, mask: Tensor, quantiles: Sequence[float]) -> NDArray[np.float32]:
    """Mean and quantiles (1 + Q, N)."""
    out = np.empty((1 + len(quantiles), int(mask.sum())), dtype=np.float32)
    start = 0
    for part in _parts(samples, mask):
        place = slice(start, start := start + part.shape[1])
        out[0, place] = part.mean(0, dtype=np.float64)
        if len(quantiles):
            out[1:, place] = np.quantile(np.ascontiguousarray(part.T), quantiles, axis=1)
    return out


def write_table(frame: pd.DataFrame, path: str | Path) -> None:
    """A frame to a .csv or .parquet file, as the suffix says.

    Raises:
        ConfigError: X01 for another suffix, X03 where parquet needs a package.
    """
    path = Path(path)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        _arrow("writing parquet")
        frame.to_parquet(path, index=False)
    else:
        raise ConfigError(
            "X01", f"`{path}` is of unknown kind", "A .csv or .parquet file can be written", ""
        )


def _arrow(purpose: str) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise missing_package("pyarrow", "parquet", purpose) from error
    return pyarrow


def write_draws(
    path: str | Path, t: Tensor, samples: Tensor, mask: Tensor, names: Names, kind: str
) -> None:
    """Draws to a parquet file from which `read_draws` makes the same tensors.

    A row per series, time and channel: `series_id, time, t, channel, samples`, a list that is null
    where `mask` does not hold. `kind` is kept as it is.

    Raises:
        ConfigError: X03 where pyarrow is missing.
    """
    arrow = _arrow("writing draws")
    s, b, steps, d = samples.shape
    about = {
        "shape": [s, b, steps, d],
        "samples": str(samples.dtype).removeprefix("torch."),
        "t": str(t.dtype).removeprefix("torch."),
        "names": names._asdict(),
        "kind": kind,
    }
    which = np.arange(b).repeat(steps)
    index = index_columns(t.reshape(-1).cpu(), which, names)  # (B T) rows
    if any(isinstance(name, str) for name in names.series):
        index["series_id"] = index["series_id"].map(str)  # a column of parquet has one type
    index["t"] = t.reshape(-1).double().cpu().numpy()
    index = arrow.Table.from_pandas(index, preserve_index=False).replace_schema_metadata(
        {"tsdyn": json.dumps(about)}
    )
    schema = index.schema.append(arrow.field("channel", arrow.string()))
    number = arrow.float64() if samples.dtype == torch.float64 else arrow.float32()
    schema = schema.append(arrow.field("samples", arrow.large_list(number)))
    height = max(1, CHUNK // max(1, s * steps * d))  # series at a time
    with arrow.parquet.ParquetWriter(path, schema) as file:
        for first in range(0, b, height):
            last = min(first + height, b)
            part = index.slice(first * steps, (last - first) * steps)
            part = part.take(np.arange(len(part)).repeat(d))
            part = part.append_column("channel", [np.tile(names.channels, len(part) // d).tolist()])
            lists = _lists(arrow, samples[:, first:last], mask[first:last], number)
            file.write_table(part.append_column("samples", lists).cast(schema))


def _lists(arrow: Any, samples: Tensor, mask: Tensor, number: Any) -> Any:
    """A list of draws per series, time and channel, null where `mask` does not hold."""
    seen = mask.reshape(-1).cpu()
    draws = samples.detach().reshape(len(samples), -1)[:, seen.to(samples.device)].T.cpu()
    ends = np.concatenate([[0], seen.numpy().cumsum() * len(samples)])
    null = np.append(~seen.numpy(), False)
    return arrow.LargeListArray.from_arrays(
        arrow.array(ends, mask=null), arrow.array(draws.to(_dtype(number)).numpy().ravel(), number)
    )


def _dtype(number: Any) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, {"double": "float64", "float": "float32"}[str(number)])
    return dtype


def read_draws(path: str | Path) -> tuple[Tensor, Tensor, Tensor, Names, str]:
    """(t, samples, mask, names, kind), as they were given to `write_draws`.

    Where `mask` does not hold, samples are zero.

    Raises:
        DataError: D02 for a file that `write_draws` did not write.
        ConfigError: X03 where pyarrow is missing.
    """
    parquet = _arrow("reading draws").parquet
    kept = (parquet.read_schema(path).metadata or {}).get(b"tsdyn")
    if kept is None:
        raise DataError(
            "D02",
            f"`{path}` holds no draws",
            "A file of draws is made by Forecast.to_parquet",
            "A table of observations is read with tsdyn.read",
        )
    table = parquet.read_table(path, columns=["t", "samples"])
    about = json.loads(kept)
    s, b, steps, d = about["shape"]
    lists = table.column("samples").combine_chunks()
    mask = torch.tensor(lists.is_valid().to_numpy(zero_copy_only=False))
    samples = torch.zeros(b * steps * d, s, dtype=getattr(torch, about["samples"]))
    values = lists.flatten().to_numpy(zero_copy_only=False)
    samples[mask] = torch.tensor(values).reshape(-1, s).to(samples.dtype)
    t = torch.tensor(table.column("t").to_numpy()).reshape(b, steps, d)[..., 0]
    names: dict[str, Any] = {k: tuple(v) for k, v in about["names"].items()}
    return (
        t.to(getattr(torch, about["t"])),
        samples.T.reshape(s, b, steps, d),
        mask.reshape(b, steps, d),
        Names(**names | {"clock": Clock(*names["clock"])}),
        about["kind"],
    )

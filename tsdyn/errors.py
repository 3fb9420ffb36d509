"""Errors that say what came, what was wanted and what to do, under a code that never changes."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

CODES = {
    "D01": "no rows or no series",
    "D02": "missing column",
    "D03": "channel is not numeric",
    "D04": "time is missing or not finite",
    "D05": "value is infinite",
    "D06": "duplicate time in a series",
    "D07": "times are not sorted",
    "D08": "time zones are mixed",
    "D09": "time text is ambiguous",
    "D10": "too few observations",
    "D11": "series or channel without any observation",
    "D12": "channel is constant",
    "D13": "channels differ from those the model knows",
    "D14": "value does not fit its type",
    "D15": "scale loses precision",
    "D16": "gap needs too many solver steps",
    "D17": "query time is unusable",
    "D20": "snapshots are unusable",
    "D21": "covariates missing where they are needed",
    "M01": "model is not fitted",
    "M02": "loss is not finite",
    "M03": "solution blew up",
    "M04": "covariance is not positive semi-definite",
    "M05": "the model has no such answer",
    "M06": "iteration stopped before it converged",
    "C01": "checkpoint cannot be read",
    "C02": "checkpoint holds more than tensors and plain values",
    "C03": "checkpoint format is of another version",
    "C04": "checkpoint names an unknown class or other shapes",
    "C05": "checkpoint asks for a device that is absent",
    "X01": "unknown name",
    "X02": "configuration cannot be read",
    "X03": "optional package is missing",
}


class TsdynError(ValueError):
    """`TSD-<code>: <What came>. Wanted: <what was wanted>. <What to do>.`

    Args:
        code: a key of `CODES`.
        came: what was found, with series, row, column and time where they are known.
        wanted: what would have been right.
        do: what the user can do now.
    """

    def __init__(self, code: str, came: str, wanted: str, do: str):
        self.code, self.title = f"TSD-{code}", CODES[code]
        self.parts = code, came, wanted, do
        super().__init__(f"{self.code}: {sentence(came)}{wish(wanted)}{sentence(do)}".rstrip())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.parts  # so that it comes whole out of another process


def sentence(text: str) -> str:
    """With a capital, unless it begins with a name, and a full stop, and a space to go on."""
    text = text.strip()
    if not text:
        return ""
    first_word = text.split()[0]
    if first_word.rstrip(",:").isalpha():  # names.like, this_one or co2 stay as they are written
        text = text[0].upper() + text[1:]
    return f"{text}{'' if text[-1] in '.?!' else '.'} "


def wish(text: str) -> str:
    """`Wanted: a positive number.` for a phrase; a sentence of its own stays as it is."""
    text = text.strip()
    return sentence(f"Wanted: {text}" if text[:1].islower() or text[:1].isdigit() else text)


class DataError(TsdynError):
    """The data cannot be used as they are (D codes)."""


class ModelError(TsdynError):
    """The model is not ready, or its numbers broke (M codes)."""


class CheckpointError(TsdynError):
    """A file does not hold a model that may be loaded (C codes)."""


class ConfigError(TsdynError):
    """An option, a name or a configuration file is wrong, or a package is missing (X codes)."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: the nearest known one, else all of them, else nothing."""
    options = sorted({str(k) for k in known})
    near = difflib.get_close_matches(str(name), options, n=1)
    if near:
        return f"Did you mean `{near[0]}`?"
    return f"Known: {', '.join(options)}" if options else ""


def first(items: Sequence[object], n: int = 3) -> str:
    """The first n items and how many there are: `a, b, c (3 of 17)`."""
    shown = ", ".join(str(item) for item in items[:n])
    return shown if len(items) <= n else f"{shown} ({n} of {len(items)})"


def missing_package(package: str, extra: str, purpose: str) -> ConfigError:
    """X03: what to install so that `purpose` works."""
    return ConfigError(
        "X03",
        f"{purpose} needs the package `{package}`, which is not installed",
        "",
        f"Install it with: pip install 'tsdyn[{extra}]'",
    )

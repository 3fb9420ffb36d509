"""What a checkpoint may name: it may come from anywhere."""

import importlib.util
from collections.abc import Iterator
from typing import Any

from ..models.base import Model
from .known import below

TRUSTED = ("tsdyn.models.", "tsdyn.data.", "tsdyn.lit.data.", "torch.optim.")


def trusted(config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Defaults for a parser from the configuration in a checkpoint, and the names left out of it.

    A checkpoint may come from anywhere, so of classes and functions it may only name those of tsdyn,
    torch's optimisers, and models that are imported already. Others are for the user to name.
    """
    given = {f"{p}.{k}": v for p in ("model", "data") for k, v in config.get(p, {}).items()}
    strange = {k: [n for n in _names_in(v) if not _is_trusted(n)] for k, v in given.items()}
    kept = {k: v for k, v in given.items() if not strange[k]}
    return kept, [name for names in strange.values() for name in names]


def _names_in(value: Any) -> Iterator[str]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    for each in inner:
        yield from _names_in(each)
    if isinstance(value, str) and all(part.isidentifier() for part in value.split(".")):
        yield value


def _is_trusted(name: str) -> bool:
    root = name.partition(".")[0]
    if root == name or name.startswith(TRUSTED):
        return True
    if name in {f"{c.__module__}.{c.__qualname__}" for c in below(Model)}:
        return True
    return importlib.util.find_spec(root) is None  # a file `table.csv`: nothing to import

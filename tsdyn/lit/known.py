"""Names that a command may use, for hints: models, tasks, splits, and the arguments of classes."""

import contextlib
import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import Any

from ..models.base import Model


def known_names(path: str, key: str) -> list[str]:
    """Names that may have been meant: what `key` is known to take, and what stands beside `path`."""
    home, _, _ = path.rpartition(".")
    if key == "model.model":
        register()
        names = [_full(c) for c in below(Model) if not inspect.isabstract(c)]
    elif key.startswith("data."):
        files = _modules("data")
        places = {"data.task": ["tasks"], "data.ask": ["tasks"], "data.split": ["split"]}
        chosen = places.get(key, [m.__name__.rpartition(".")[2] for m in files])
        names = [n for m in files if m.__name__.rpartition(".")[2] in chosen for n in _inside(m)]
    else:
        home = home or {"model.optimizer": "torch.optim"}.get(key, "torch.optim.lr_scheduler")
        names = []
    with contextlib.suppress(ImportError):
        names += _inside(importlib.import_module(home)) if home else []
    return names if "." in path else [n.rpartition(".")[2] for n in names]


def register() -> None:
    """Import every model, so that their short names are known."""
    _modules("models")


def arguments_of(path: str) -> list[str]:
    """Names of the arguments of a class; none if there is no such class."""
    home, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(home), name)
        return list(inspect.signature(found.__init__).parameters)[1:]
    except (ImportError, AttributeError, ValueError, TypeError):
        return []


def _inside(module: Any) -> list[str]:
    """The public classes that a module shows."""
    members = inspect.getmembers(module, inspect.isclass)
    return [f"{module.__name__}.{name}" for name, _ in members if not name.startswith("_")]


def _full(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _modules(package: str) -> list[Any]:
    """All modules of one of tsdyn's packages."""
    root, home = Path(__file__).parents[1], (__package__ or "").rpartition(".")[0]
    names = [m.name for m in pkgutil.iter_modules([root / package]) if not m.name.startswith("_")]
    return [importlib.import_module(f"{home}.{package}.{name}") for name in names]


def below(cls: type) -> list[type]:
    """All classes derived from `cls`."""
    children: list[type] = cls.__subclasses__()
    return children + [deeper for child in children for deeper in below(child)]

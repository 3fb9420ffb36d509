"""Errors of the command line and of configuration files, each in one line with a hint."""

import argparse
import contextlib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..errors import ConfigError, TsdynError, did_you_mean
from ..models.base import Model

LONG = 200  # a list of all names that is longer than this helps nobody
Explain = Callable[[re.Match[str]], TsdynError]


def explain(
    error: argparse.ArgumentError,
    options: Iterable[str],
    files: Iterable[str] = (),
    unnamed: Iterable[str] = (),
) -> TsdynError:
    """What went wrong, for somebody who has never seen the parser.

    Args:
        error: of jsonargparse, often many lines long.
        options: all options of the verb, for a hint.
        files: the configuration files that were read.
        unnamed: what a checkpoint names but may not.
    """
    text = error.message
    read = ", ".join(files) or "the command line"
    key = _found(r'Parser key "([^"]*)"', text)

    def unknown_option(m: re.Match[str]) -> TsdynError:
        name = m[1].split()[0].split("=")[0]
        return _unknown(f"option `{name}`", did_you_mean(name, options))

    def unknown_key(m: re.Match[str]) -> TsdynError:
        keys = [o.removeprefix("--") for o in options]
        return _unknown(f"key `{m[1]}` in {read}", did_you_mean(m[1], keys))

    def unknown_argument(m: re.Match[str]) -> TsdynError:
        cls = _found(r"class_path[= ]'([^']*)'", text)
        hint = did_you_mean(m[1], arguments_of(cls))
        return _unknown(f"argument `{m[1]}` of {cls} ({key})", hint)

    def unknown_class(m: re.Match[str]) -> TsdynError:
        written = re.findall(r"(?:class_path '|Got value: |Given value: )([\w.]+)", text)
        path = next((w for w in written if w.startswith(m[1])), ".".join(m.groups()))
        return _unknown(f"`{path}` ({key})", did_you_mean(path, known_names(path, key)))

    def broken(m: re.Match[str]) -> TsdynError:
        where = [f"line {a} column {b}" for a, b in re.findall(r"line (\d+), column (\d+)", text)]
        what = " ".join(text.split(": ", 1)[1].split())
        what = re.sub(r' in "<unicode string>", line \d+, column \d+', "", what)
        return _unreadable(f"{read}, {where[-1] if where else 'somewhere'}: {what}", "YAML")

    def missing(m: re.Match[str]) -> TsdynError:
        names = m[1].replace("fit.", "").replace("validate.", "").replace("test.", "")
        return ConfigError(
            "X02",
            f"{names.replace('predict.', '')} not given",
            "".join(f"The checkpoint names {n}, which only you may" for n in unnamed),
            "Give a configuration file: -c configs/<name>.yaml",
        )

    def wrong_type(m: re.Match[str]) -> TsdynError:
        inner = re.findall(r'Parser key "([^"]*)"', text)
        name = ".".join(inner)
        return _unreadable(f"{name} is {m[2]}", _kind(m[1]))

    rules: list[tuple[str, Explain]] = [
        (r"unrecognized arguments: (.*)", unknown_option),
        (r"does not accept option '([^']*)'", unknown_key),
        (r"Option '([^']*)' is not accepted", unknown_argument),
        (r"module '([^']*)' has no attribute '([^']*)'", unknown_class),
        (r"No module named '([^']*)'", unknown_class),
        (r"Expected a dot import path string: (\S+)", unknown_class),
        (r"(?s)Problems parsing config: .*", broken),
        (r"arguments are required: (.*)", missing),
        (
            r"File does not exist: '([^']*)'",
            lambda m: _unreadable(f"{m[1]} does not exist", "a file"),
        ),
        (
            r"Unexpected config: (.*)",
            lambda m: _unreadable(f"{read} holds {m[1]!r}", "keys and values"),
        ),
        (r"Expected a <class '([^']*)'>\.? Got value: (.*)", wrong_type),
        (r"Expected a (.*?)\. Got value: (.*)", wrong_type),
    ]
    for pattern, rule in rules:
        found = re.search(pattern, text)
        if found:
            return rule(found)
    return _unreadable(" ".join(text.split())[:300], "")


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


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""


def _kind(name: str) -> str:
    return {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "str": "text",
    }.get(name, name)


def _unknown(what: str, hint: str) -> ConfigError:
    return ConfigError("X01", f"unknown {what}", "", hint if len(hint) < LONG else "")


def _unreadable(what: str, wanted: str) -> ConfigError:
    return ConfigError("X02", what, wanted, "")

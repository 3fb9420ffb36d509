"""Errors of the command line and of configuration files, each in one line with a hint.

The parser says what is wrong in many lines, for its own programmers. `RULES` is read from the top: the
first pattern that its message matches makes the error.
"""

import argparse
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..errors import ConfigError, TsdynError, did_you_mean
from .known import arguments_of, known_names

LONG = 200  # a list of all names that is longer than this helps nobody
PLAIN = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}


class Said(NamedTuple):
    """What the parser said, and of what."""

    text: str  # often many lines
    options: tuple[str, ...]  # all options of the verb
    read: str  # the configuration files, or the command line
    unnamed: tuple[str, ...]  # what a checkpoint names but may not

    @property
    def keys(self) -> list[str]:
        """The keys the parser was at, outermost first."""
        return re.findall(r'Parser key "([^"]*)"', self.text)

    @property
    def key(self) -> str:
        return self.keys[0] if self.keys else ""


Rule = Callable[[re.Match[str], Said], TsdynError]


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
    read = ", ".join(files) or "the command line"
    said = Said(error.message, tuple(options), read, tuple(unnamed))
    for pattern, rule in RULES:
        if found := re.search(pattern, said.text):
            return rule(found, said)
    return _unreadable(" ".join(said.text.split())[:300])


def _unknown_option(m: re.Match[str], said: Said) -> TsdynError:
    name = m[1].split()[0].split("=")[0]
    return _unknown(f"option `{name}`", did_you_mean(name, said.options))


def _unknown_key(m: re.Match[str], said: Said) -> TsdynError:
    keys = [option.removeprefix("--") for option in said.options]
    return _unknown(f"key `{m[1]}` in {said.read}", did_you_mean(m[1], keys))


def _unknown_argument(m: re.Match[str], said: Said) -> TsdynError:
    found = re.search(r"class_path[= ]'([^']*)'", said.text)
    path = found[1] if found else ""
    hint = did_you_mean(m[1], arguments_of(path))
    return _unknown(f"argument `{m[1]}` of {path} ({said.key})", hint)


def _unknown_class(m: re.Match[str], said: Said) -> TsdynError:
    written = re.findall(r"(?:class_path '|Got value: |Given value: )([\w.]+)", said.text)
    path = next((w for w in written if w.startswith(m[1])), ".".join(m.groups()))
    return _unknown(f"`{path}` ({said.key})", did_you_mean(path, known_names(path, said.key)))


def _broken_yaml(m: re.Match[str], said: Said) -> TsdynError:
    places = re.findall(r"line (\d+), column (\d+)", said.text)
    where = "line {} column {}".format(*places[-1]) if places else "somewhere"
    what = " ".join(said.text.split(": ", 1)[1].split())
    what = re.sub(r' in "<unicode string>", line \d+, column \d+', "", what)
    return _unreadable(f"{said.read}, {where}: {what}", "YAML")


def _missing(m: re.Match[str], said: Said) -> TsdynError:
    names = re.sub(r"\b(fit|validate|test|predict)\.", "", m[1])
    named = " ".join(f"The checkpoint names {n}, which only you may." for n in said.unnamed)
    return ConfigError(
        "X02", f"{names} not given", named, "Give a configuration file: -c configs/<name>.yaml"
    )


def _absent_file(m: re.Match[str], said: Said) -> TsdynError:
    return _unreadable(f"{m[1]} does not exist", "a file")


def _no_mapping(m: re.Match[str], said: Said) -> TsdynError:
    return _unreadable(f"{said.read} holds {m[1]!r}", "keys and values")


def _wrong_type(m: re.Match[str], said: Said) -> TsdynError:
    return _unreadable(f"{'.'.join(said.keys)} is {m[2]}", PLAIN.get(m[1], m[1]))


RULES: list[tuple[str, Rule]] = [
    (r"unrecognized arguments: (.*)", _unknown_option),
    (r"does not accept option '([^']*)'", _unknown_key),
    (r"Option '([^']*)' is not accepted", _unknown_argument),
    (r"module '([^']*)' has no attribute '([^']*)'", _unknown_class),
    (r"No module named '([^']*)'", _unknown_class),
    (r"Expected a dot import path string: (\S+)", _unknown_class),
    (r"(?s)Problems parsing config: .*", _broken_yaml),
    (r"arguments are required: (.*)", _missing),
    (r"File does not exist: '([^']*)'", _absent_file),
    (r"Unexpected config: (.*)", _no_mapping),
    (r"Expected a <class '([^']*)'>\.? Got value: (.*)", _wrong_type),
    (r"Expected a (.*?)\. Got value: (.*)", _wrong_type),
]


def _unknown(what: str, hint: str) -> ConfigError:
    return ConfigError("X01", f"unknown {what}", "", hint if len(hint) < LONG else "")


def _unreadable(what: str, wanted: str = "") -> ConfigError:
    return ConfigError("X02", what, wanted, "")

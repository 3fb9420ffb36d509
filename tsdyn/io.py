"""Models on disk: the class, its arguments, its tensors. Nothing else is ever read or imported.

A file is a dictionary {"tsdyn": {"format", "class", "arguments", "weights"}}, written by torch and
read with `weights_only=True`. Every class in it must be a `Part`, as models are, that is already known: one of
`tsdyn.models`, or one of the user's own whose module has been imported. Loading runs no code of the
file's choosing.
"""

import contextlib
import importlib
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from .errors import CheckpointError, did_you_mean
from .models.base import Model, Part

FORMAT = 1


def pack(model: Model) -> dict[str, Any]:
    """Class name, arguments (wrapped models packed likewise) and tensors, as plain types."""
    return {
        **_recipe(model),
        "weights": {k: v.detach().cpu() for k, v in model.state_dict().items()},
        "channels": [str(c) for c in model.channels],
    }


def _recipe(part: Part) -> dict[str, Any]:
    """Class and arguments; the tensors of what is wrapped are among those of the wrapper."""
    cls = type(part)
    return {
        "format": FORMAT,
        "class": f"{cls.__module__}.{cls.__qualname__}",
        "arguments": {k: _plain(v, f"{cls.__name__}.{k}") for k, v in part.arguments.items()},
        "weights": {},
    }


def unpack(packed: dict[str, Any], device: str | torch.device = "cpu") -> Model:
    """The model again, in eval mode."""
    model = _build(packed)
    if not isinstance(model, Model):
        raise CheckpointError(
            "C04",
            f"the checkpoint holds a {packed['class']}",
            "a Model",
            "Load the model it is part of",
        )
    try:
        model.load_state_dict(packed["weights"])
    except RuntimeError as error:
        raise CheckpointError(
            "C04",
            f"the tensors do not fit {packed['class']}: {str(error).splitlines()[-1].strip()}",
            "tensors of the names and shapes that the arguments give",
            "Load it with the version of tsdyn that wrote it",
        ) from None
    model.channels = tuple(packed.get("channels", ()))
    return model.eval().to(device)


def save(model: Model, path: str | Path) -> None:
    """Write the model to `path`. The file appears whole or not at all."""
    path, content = Path(path), {"tsdyn": pack(model)}
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("wb") as file:
            torch.save(content, file)
        os.replace(scratch, path)
    except (OSError, RuntimeError) as error:  # torch turns a full disk into a RuntimeError
        raise CheckpointError(
            "C01",
            f"cannot write {path}: {getattr(error, 'strerror', None) or error}",
            "a folder that can be written",
            "Choose another path",
        ) from None
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()


def load(path: str | Path, device: str = "auto") -> Model:
    """A model from `save`, or from any checkpoint written in training; in eval mode.

    Args:
        device: "cpu", "cuda", "cuda:1", ...; "auto" takes a GPU where there is one. A file written on
            a GPU loads on a machine without one.

    Raises:
        CheckpointError: C01 unreadable, C02 holds more than tensors and plain values, C03 another
            format version, C04 unknown class or other shapes, C05 device absent.
    """
    return unpack(_packed(read_checkpoint(path), path), find_device(device))


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The dictionary in a checkpoint file, on the CPU; nothing in it is executed."""
    path = Path(path)
    wanted = "a file written by tsdyn.save or by training"
    if not path.is_file():
        raise CheckpointError(
            "C01", f"{path} does not exist or is no file", wanted, "Check the path"
        )
    if path.stat().st_size == 0:
        raise CheckpointError("C01", f"{path} is empty", wanted, "Take an earlier checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not (_names_code(str(error)) or _is_bare_pickle(path)):
            raise _unreadable(path, "no tensors are found in it") from None
        raise CheckpointError(
            "C02",
            f"{path} holds objects other than tensors and plain values",
            wanted,
            "It was not executed. Do not load it by other means unless you trust who made it",
        ) from None
    except Exception as error:  # torch's reader meets random bytes with any error at all
        raise _unreadable(path, " ".join(str(error).split())) from None
    return content if isinstance(content, dict) else {}


def _names_code(reason: str) -> bool:
    """Whether torch refused a file because of a class or function in it, not because it is broken."""
    refused = ("GLOBAL", "Can only", "unsupported class", "unrecognized", "Disallowed")
    return any(word in reason for word in refused)


def _is_bare_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == b"\x80"


def find_device(device: str) -> torch.device:
    """The device of that name; "auto" is a GPU where there is one. C05 where it is absent."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise CheckpointError(
            "C05", f"`{device}` is no device", "cpu, cuda or cuda:<number>", ""
        ) from None
    absent = found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count()
    if absent or found.type not in ("cpu", "cuda"):
        raise CheckpointError(
            "C05",
            f"device `{device}` is not on this machine",
            f"cpu{'' if not torch.cuda.is_available() else ' or cuda'}",
            "Use device='auto' or device='cpu'",
        )
    return found


def _packed(content: dict[str, Any], path: str | Path) -> dict[str, Any]:
    packed = content.get("tsdyn")
    kinds = {"format": int, "class": str, "arguments": dict, "weights": dict}
    if not isinstance(packed, dict) or not all(
        isinstance(packed.get(key), kind) for key, kind in kinds.items()
    ):
        raise CheckpointError(
            "C01",
            f"{path} holds no tsdyn model",
            "a file written by tsdyn.save or by training",
            "Check the path",
        )
    return packed


def _build(packed: dict[str, Any]) -> Part:
    if packed["format"] != FORMAT:
        newer = packed["format"] > FORMAT
        raise CheckpointError(
            "C03",
            f"the checkpoint has format {packed['format']}",
            f"format {FORMAT}",
            "Update tsdyn" if newer else "Load and save it with the version of tsdyn that wrote it",
        )
    arguments = {k: _unplain(v) for k, v in packed["arguments"].items()}
    cls = find_class(packed["class"])
    try:
        return cls(**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            "C04",
            f"{packed['class']} does not take the stored arguments: {error}",
            "",
            "Load it with the version of tsdyn that wrote it",
        ) from None


def find_class(name: str) -> type[Part]:
    """The `Part` of that full name among those already known; C04 otherwise.

    A module of `tsdyn.models` is imported on demand; no other module ever is.
    """
    module, _, _ = name.rpartition(".")
    home = f"{__package__}.models."
    file = Path(__file__).parent / "models" / f"{module.removeprefix(home)}.py"
    if module.startswith(home) and module.removeprefix(home).isidentifier() and file.is_file():
        importlib.import_module(module)
    known = {f"{c.__module__}.{c.__qualname__}": c for c in _subclasses(Part)}
    if name not in known:
        raise CheckpointError(
            "C04",
            f"the checkpoint names the class `{name}`",
            "a Model of tsdyn, or one whose module is already imported",
            f"Import your module first. {did_you_mean(name, known)}",
        )
    return known[name]


def _subclasses(cls: type) -> list[type]:
    below: list[type] = cls.__subclasses__()
    return below + [deeper for c in below for deeper in _subclasses(c)]


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, Part):
        return _recipe(value)
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)  # numpy's float64 is a float, but not a plain one
    if value is None:
        return None
    if isinstance(value, list | tuple):
        return [_plain(v, where) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v, where) for k, v in value.items()}
    raise CheckpointError(
        "C04",
        f"argument {where} is a {type(value).__name__}",
        "numbers, text, lists, dictionaries and models, so that a file needs no code to be read",
        "Give the model plain arguments and build the object inside it",
    )


def _unplain(value: Any) -> Any:
    if isinstance(value, dict) and {"format", "class", "arguments", "weights"} <= set(value):
        return _build(value)
    if isinstance(value, list):
        return [_unplain(v) for v in value]
    if isinstance(value, dict):
        return {k: _unplain(v) for k, v in value.items()}
    return value


def _unreadable(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        "C01",
        f"{path} is not a readable checkpoint ({reason[:120]})",
        "a whole file written by tsdyn.save or by training",
        "It may be truncated: take an earlier checkpoint",
    )

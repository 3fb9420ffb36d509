"""Small files for tests of datasets, and the scripts that prepare the real ones."""

import hashlib
import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def script(name):
    """The module datasets/<name>/prepare.py."""
    path = ROOT / "datasets" / name / "prepare.py"
    spec = importlib.util.spec_from_file_location(f"prepare_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def put(folder, path, data):
    """A new file in a folder, in folders of its own where they are missing."""
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return target

"""Messages that people see, word for word; and every raise in the package has its three parts."""

import ast
import copy
import re
from pathlib import Path

import pytest
import torch

import tsdyn
from tsdyn import errors
from tsdyn.data.tasks import Forecasting
from tsdyn.errors import CODES, DataError, TsdynError, did_you_mean, first, missing_package
from tsdyn.io import find_class, find_device, pack, read_checkpoint, unpack
from tsdyn.models.baselines import LastValue
from tsdyn.models.linear import Linear

SOURCES = sorted(Path(tsdyn.__file__).parent.rglob("*.py"))
CODED = {"DataError", "ModelError", "CheckpointError", "ConfigError", "TsdynError"}


def message(ask) -> str:
    with pytest.raises(TsdynError) as caught:
        ask()
    return str(caught.value)


def test_m01():
    given, want = torch.zeros(1, 1), torch.zeros(1, 1)
    model = Linear(1)
    paths = tsdyn.Paths(given, want[..., None], want[..., None].bool())
    assert message(lambda: model.loss(paths, paths)) == (
        "TSD-M01: Linear was asked before it saw a training set. Wanted: a fitted model. "
        "Train it with `tsdyn.fit(model, paths, task)` or `tsdyn fit`, or load a trained one."
    )


def test_c01(tmp_path):
    path = tmp_path / "model.pt"
    assert message(lambda: read_checkpoint(path)) == (
        f"TSD-C01: {path} does not exist or is no file. "
        "Wanted: a file written by tsdyn.save or by training. Check the path."
    )
    path.touch()
    assert message(lambda: read_checkpoint(path)) == (
        f"TSD-C01: {path} is empty. "
        "Wanted: a file written by tsdyn.save or by training. Take an earlier checkpoint."
    )


def test_c02(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"tsdyn": Path("x")}, path)
    assert message(lambda: read_checkpoint(path)) == (
        f"TSD-C02: {path} holds objects other than tensors and plain values. "
        "Wanted: a file written by tsdyn.save or by training. "
        "It was not executed. Do not load it by other means unless you trust who made it."
    )


def test_c03():
    assert message(lambda: unpack(pack(LastValue()) | {"format": 2})) == (
        "TSD-C03: The checkpoint has format 2. Wanted: format 1. Update tsdyn."
    )


def test_c04():
    assert message(lambda: find_class("tsdyn.models.linear.Linaer")) == (
        "TSD-C04: The checkpoint names the class `tsdyn.models.linear.Linaer`. "
        "Wanted: a Model of tsdyn, or one whose module is already imported. "
        "Import your module first. Did you mean `tsdyn.models.linear.Linear`?"
    )


def test_c05():
    cuda = " or cuda" if torch.cuda.is_available() else ""
    assert message(lambda: find_device("cuda:77")) == (
        f"TSD-C05: Device `cuda:77` is not on this machine. Wanted: cpu{cuda}. "
        "Use device='auto' or device='cpu'."
    )


def test_x01():
    assert message(lambda: Forecasting()) == (
        "TSD-X01: Forecasting got neither fraction, steps nor horizon. "
        "Wanted: exactly one of fraction, steps and horizon. For example Forecasting(steps=24)."
    )


def test_x03():
    assert str(missing_package("matplotlib", "plot", "drawing")) == (
        "TSD-X03: Drawing needs the package `matplotlib`, which is not installed. "
        "Install it with: pip install 'tsdyn[plot]'."
    )


def test_one_error_for_all_and_each_its_title():
    error = DataError("D01", "came", "wanted", "do")
    assert isinstance(error, ValueError) and isinstance(error, TsdynError)
    assert error.code == "TSD-D01" and error.title == "no rows or no series"


def test_hints():
    assert did_you_mean("lineer", ["linear", "cubic"]) == "Did you mean `linear`?"
    assert did_you_mean("xyz", ["b", "a"]) == "Known: a, b"
    assert did_you_mean("xyz", []) == ""
    assert first([1, 2]) == "1, 2" and first(range(17)) == "0, 1, 2 (3 of 17)"


def raises():
    """Every construction of a coded error in the package, with its arguments."""
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id in CODED:
                    where = f"{file.relative_to(SOURCES[0].parent)}:{node.lineno}"
                    yield pytest.param(node, id=where)


@pytest.mark.parametrize("call", raises())
def test_every_raise_says_what_came_and_what_helps(call):
    assert len(call.args) == 4 and not call.keywords
    code, *parts = call.args
    if isinstance(code, ast.Constant):
        assert code.value in CODES
        kind = {"D": "DataError", "M": "ModelError", "C": "CheckpointError", "X": "ConfigError"}
        assert call.func.id == kind[code.value[0]]
    empty = [isinstance(p, ast.Constant) and p.value == "" for p in parts]
    assert not empty[0]
    own_words = isinstance(parts[0], ast.Constant | ast.JoinedStr)  # else another library's
    assert not (own_words and empty[1] and empty[2]), "neither what was wanted nor what to do"


def test_no_code_is_dead_and_none_is_unknown():
    """Every code but those raised through a variable is raised somewhere in the package."""
    text = "\n".join(f.read_text() for f in SOURCES if f.name != "errors.py")
    text += Path(errors.__file__).read_text().split("class TsdynError")[1]
    raised = set(re.findall(r"\"([DMCX]\d\d)\"", text))
    assert raised <= set(CODES)
    assert set(CODES) <= raised, f"never raised: {set(CODES) - raised}"


def test_errors_come_whole_out_of_another_process():
    error = errors.DataError("D14", "two came", "one", "Send one")
    back = copy.copy(error)  # by the same means as between processes
    assert type(back) is errors.DataError and str(back) == str(error) and back.code == "TSD-D14"

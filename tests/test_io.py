"""What is saved comes back and draws the same; what is no model is refused, and never executed."""

import importlib.util
import os
import pickle
import random
import stat
import sys

import numpy as np
import pytest
import torch
from imported_model import Constant

from tsdyn.data.synthetic import OrnsteinUhlenbeck
from tsdyn.data.tasks import Forecasting
from tsdyn.errors import CheckpointError
from tsdyn.io import FORMAT, find_class, find_device, load, pack, save, unpack
from tsdyn.models.base import Model
from tsdyn.models.baselines import LastValue, SeasonalNaive
from tsdyn.models.harmonic import Harmonic
from tsdyn.models.linear import Linear
from tsdyn.models.scaled import Scaled
from tsdyn.models.stable_sde import StableSDE

GIVEN, WANT = Forecasting(steps=3)(OrnsteinUhlenbeck(n=4, length=12)())


def fitted(model: Model) -> Model:
    model.on_epoch(0, (GIVEN, WANT))
    return model.eval()


def draws(model: Model) -> torch.Tensor:
    torch.manual_seed(0)
    with torch.no_grad():
        return model.sample(GIVEN, WANT.t, 3)


def refused(code: str, path, device: str = "cpu", match: str = "") -> CheckpointError:
    with pytest.raises(CheckpointError, match=match or None) as caught:
        load(path, device)
    assert caught.value.code == f"TSD-{code}", caught.value
    return caught.value


MODELS = [
    LastValue(),
    SeasonalNaive(2.5),
    Linear(1, 3, (4.0, 2.0), harmonics=1),
    Scaled(StableSDE(1, "geometric", hidden=8, neighbours=2, draws=2), 1),
    Scaled(Harmonic(Scaled(LastValue(), 1), 1, (3.0,), degree=2), 1),
    Constant(1, {"a": [1.0, 2.0]}),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda m: type(m).__name__)
def test_it_comes_back_with_the_same_draws(model, tmp_path):
    save(fitted(model), tmp_path / "deep" / "model.pt")
    back = load(tmp_path / "deep" / "model.pt", "cpu")
    assert type(back) is type(model) and not any(m.training for m in back.modules())
    assert torch.equal(draws(back), draws(model))
    assert pack(back)["arguments"] == pack(model)["arguments"]


def test_names_of_channels_travel_along(tmp_path):
    model = fitted(LastValue())
    model.channels = ("co2", np.str_("ch4"))
    save(model, tmp_path / "m")
    assert load(tmp_path / "m", "cpu").channels == ("co2", "ch4")


def test_arguments_of_numpy_are_written_as_plain_ones(tmp_path):
    """numpy's float64 is a float; written as it is, our own reader would refuse it."""
    save(SeasonalNaive(np.float64(2.5)), tmp_path / "m")
    back = load(tmp_path / "m", "cpu")
    assert back.period == 2.5 and type(back.period) is float


def test_a_file_written_on_a_gpu_is_read_without_one(device, tmp_path):
    model = fitted(Constant()).to(device)
    save(model, tmp_path / "m")
    content = torch.load(tmp_path / "m", weights_only=True)
    assert content["tsdyn"]["weights"]["value"].device.type == "cpu"
    assert load(tmp_path / "m", device).value.device.type == device


# -- files that are no model --


class Payload:
    """Executed by any reader that trusts its file."""

    def __init__(self, trap):
        self.trap = trap

    def __reduce__(self):
        return os.system, (f"touch {self.trap}",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [0, 2, 4, None])
@pytest.mark.parametrize("place", ["tsdyn", "arguments", "weights"])
def test_code_in_a_file_is_never_executed(protocol, place, tmp_path):
    trap, path = tmp_path / "trap", tmp_path / "model.pt"
    packed = pack(fitted(SeasonalNaive(1.0)))
    content = {"tsdyn": packed | {place: {"period": Payload(trap)}}}
    if place == "tsdyn":
        content = {"tsdyn": Payload(trap)}
    if protocol is None:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol))
    caught = refused("C01" if protocol == 0 else "C02", path)
    assert not trap.exists()
    if protocol != 0:
        assert "not executed" in str(caught)


def test_the_trap_would_have_sprung(tmp_path):
    """The payload of the test above does what it says when it is trusted."""
    pickle.loads(pickle.dumps(Payload(tmp_path / "trap")))  # noqa: S301
    assert (tmp_path / "trap").exists()


def test_a_class_of_the_file_s_choosing_is_never_imported(tmp_path):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'trap')!r}, 'w')\n")
    torch.save({"tsdyn": pack(LastValue()) | {"class": "evil.Model"}}, tmp_path / "m")
    sys.path.insert(0, str(tmp_path))
    try:
        refused("C04", tmp_path / "m", match=r"`evil\.Model`.*Import your module first")
    finally:
        sys.path.remove(str(tmp_path))
    assert not (tmp_path / "trap").exists() and "evil" not in sys.modules


@pytest.mark.parametrize(
    "content",
    [b"hello", b"series_id,time,x\na,1,2\n", b"\0" * 200, b"\x1f\x8b\x08junk", b"PK\x03\x04junk"],
    ids=["text", "table", "zeros", "gzip", "zip"],
)
def test_other_files(content, tmp_path):
    (tmp_path / "m").write_bytes(content)
    refused("C01", tmp_path / "m", match="not a readable checkpoint")


def test_missing_empty_and_a_folder(tmp_path):
    refused("C01", tmp_path / "none", match="does not exist")
    (tmp_path / "empty").touch()
    refused("C01", tmp_path / "empty", match="is empty.*[Tt]ake an earlier")
    refused("C01", tmp_path)


def test_truncated_and_spoiled_files_are_refused_with_a_code(tmp_path):
    """Any byte may be wrong: what comes is a model or a CheckpointError, nothing else."""
    save(fitted(Linear(1)), tmp_path / "m")
    whole = (tmp_path / "m").read_bytes()
    for part in (0.1, 0.5, 0.99):
        (tmp_path / "m").write_bytes(whole[: int(part * len(whole))])
        refused("C01", tmp_path / "m")
    chance = random.Random(0)
    for _ in range(100):
        spoiled = bytearray(whole)
        for _ in range(chance.choice([1, 10, 100])):
            spoiled[chance.randrange(len(whole))] = chance.randrange(256)
        (tmp_path / "m").write_bytes(bytes(spoiled))
        try:
            load(tmp_path / "m", "cpu")
        except CheckpointError as error:
            assert error.code in ("TSD-C01", "TSD-C02", "TSD-C03", "TSD-C04")


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"state_dict": {}},
        [1, 2],
        {"tsdyn": 3},
        {"tsdyn": {"format": 1}},
        {"tsdyn": {"format": "1", "class": "a", "arguments": {}, "weights": {}}},
        {"tsdyn": {"format": 1, "class": 3, "arguments": {}, "weights": {}}},
        {"tsdyn": {"format": 1, "class": "a", "arguments": [], "weights": {}}},
    ],
    ids=str,
)
def test_plain_content_that_is_no_model(content, tmp_path):
    torch.save(content, tmp_path / "m")
    refused("C01", tmp_path / "m", match="holds no tsdyn model")


@pytest.mark.parametrize("version, advice", [(FORMAT + 1, "Update tsdyn"), (0, "version of tsdyn")])
def test_another_format(version, advice, tmp_path):
    torch.save({"tsdyn": pack(LastValue()) | {"format": version}}, tmp_path / "m")
    refused("C03", tmp_path / "m", match=f"format {version}.*{advice}")


def changed(tmp_path, **fields):
    torch.save({"tsdyn": pack(fitted(Linear(1))) | fields}, tmp_path / "m")
    return tmp_path / "m"


def test_an_unknown_class_gets_a_hint(tmp_path):
    refused(
        "C04",
        changed(tmp_path, **{"class": "tsdyn.models.linear.Liner"}),
        match=r"Did you mean `tsdyn\.models\.linear\.Linear`",
    )
    refused("C04", changed(tmp_path, **{"class": "tsdyn.models..evaluation.X"}))
    refused("C04", changed(tmp_path, **{"class": "os.system"}))
    refused("C04", changed(tmp_path, **{"class": ""}))


def test_arguments_the_class_does_not_take(tmp_path):
    refused("C04", changed(tmp_path, arguments={"dims": 1}), match="does not take")
    refused("C04", changed(tmp_path, arguments={"dim": -1}), match="does not take")


def test_tensors_of_other_shapes_or_names(tmp_path):
    refused("C04", changed(tmp_path, arguments={"dim": 2}), match="size mismatch")
    refused("C04", changed(tmp_path, weights={}), match="do not fit")
    refused("C04", changed(tmp_path, weights={"std": 3}))


@pytest.mark.parametrize("name", ["cuda:99", "mps", "gpu", "meta", ""])
def test_a_device_that_is_absent(name, tmp_path):
    save(LastValue(), tmp_path / "m")
    refused("C05", tmp_path / "m", name, match=name)


def test_devices_by_name(device):
    assert find_device(device).type == device
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


# -- classes of the user's own --


def test_an_imported_class_is_known():
    assert find_class("imported_model.Constant") is Constant
    assert isinstance(unpack(pack(Constant())), Constant)


def test_a_class_whose_module_was_not_imported_is_not(tmp_path):
    (tmp_path / "later_module.py").write_text(
        "from imported_model import Constant\nclass Later(Constant):\n    pass\n"
    )
    torch.save({"tsdyn": pack(Constant()) | {"class": "later_module.Later"}}, tmp_path / "m")
    refused("C04", tmp_path / "m", match="Import your module first")
    spec = importlib.util.spec_from_file_location("later_module", tmp_path / "later_module.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert type(load(tmp_path / "m", "cpu")) is module.Later


# -- writing --


def test_an_argument_that_is_code_is_refused_before_anything_is_written(tmp_path):
    class Odd(Constant):
        def __init__(self, f):
            super().__init__()
            self.f = f

    with pytest.raises(CheckpointError, match=r"TSD-C04.*Odd\.f.*plain arguments"):
        save(Odd(print), tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_a_failure_in_writing_leaves_the_older_file(tmp_path, monkeypatch):
    save(SeasonalNaive(1.0), tmp_path / "m")
    before = (tmp_path / "m").read_bytes()

    def half(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(CheckpointError, match=r"TSD-C01.*No space left on device.*another path"):
        save(SeasonalNaive(2.0), tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="TSD-C01"):
        save(LastValue(), tmp_path / "file" / "m")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match="TSD-C01"):
        save(LastValue(), tmp_path / "folder")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_the_file_may_be_read_by_whom_the_umask_allows(tmp_path):
    (tmp_path / "other").touch()
    save(LastValue(), tmp_path / "m")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("m", "other")}
    assert len(modes) == 1

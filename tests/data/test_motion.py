"""Motion capture: how the parts come together, and the real trials where they are at hand."""

import numpy as np
import pytest
import torch
from data_files import ROOT, script, sha256
from torch.testing import assert_close

from tsdyn.data.checks import require_learnable
from tsdyn.data.files import CMU_MOTION
from tsdyn.data.load import load_dataset
from tsdyn.errors import DataError


@pytest.fixture
def trials(places):
    """Small arrays of the published form, value = 1000 trial + 10 frame + channel."""
    parts = {}
    for name, n in {"train": 3, "validation": 1, "test": 2}.items():
        n, frame, channel = np.ogrid[:n, :4, :50]
        parts[name] = (1000.0 * n + 10 * frame + channel).astype(np.float32)
    target = places[0] / CMU_MOTION["35"].path
    target.parent.mkdir()
    np.savez(target, dt=np.float64(0.01), **parts)
    return target


def test_parts_names_and_time(trials):
    paths = load_dataset("cmu_motion")
    assert paths.x.shape == (6, 4, 46) and paths.x.dtype == torch.float32 and paths.mask.all()
    assert paths.names.series[:4] == ("train-00", "train-01", "train-02", "validation-00")
    assert paths.names.channels[23:26] == ("joint_23", "joint_26", "joint_27")
    assert_close(paths.t[5], torch.tensor([0.0, 0.01, 0.02, 0.03]).double())
    assert_close(paths.x[2, 3, 24], torch.tensor(2000.0 + 30 + 26))
    test = load_dataset("cmu_motion", part="test", still=True)
    assert test.x.shape == (2, 4, 50) and test.names.series == ("test-00", "test-01")


def test_prepare_refuses_another_shape_and_keeps_the_values(trials, tmp_path):
    prepare = script("cmu_motion")
    with pytest.raises(DataError, match=r"TSD-D14.*`test`: shape \(2, 4, 50\)"):
        prepare.convert(trials, "35", tmp_path / "out")
    raw = {k: np.random.default_rng(0).normal(size=s) for k, s in prepare.SHAPES["09"].items()}
    np.savez(tmp_path / "mocap09.npz", **raw)
    made = prepare.convert(tmp_path / "mocap09.npz", "09", tmp_path / "out")
    assert made == tmp_path / "out" / "cmu_mocap09.npz"
    with np.load(made) as arrays:
        assert np.array_equal(arrays["test"], raw["test"].astype(np.float32))
        assert arrays["dt"] == 0.01
    assert "train (6, 120, 50)" in prepare.summary(made, "09")
    assert "another packing" in prepare.summary(made, "09")


def test_the_readme_quotes_the_checksums():
    readme = (ROOT / "datasets" / "cmu_motion" / "README.md").read_text()
    assert all(digest in readme for digest in script("cmu_motion").SHA256.values())
    assert all(source.path in readme for source in CMU_MOTION.values())


@pytest.mark.data
@pytest.mark.parametrize(
    "subject, n, frames, first", [("09", 10, 120, -0.9770980), ("35", 23, 300, 1.3448813)]
)
def test_as_published(real_data, subject, n, frames, first):
    paths = load_dataset("cmu_motion", subject=subject)
    assert paths.x.shape == (n, frames, 46)
    assert_close(float(paths.x[0, 0, 3]), first, rtol=0.0, atol=1e-6)
    # centred over all frames of the person, train to test
    assert paths.x.double().mean((0, 1)).abs().max() < 1e-5
    require_learnable(paths)
    # people move smoothly: a step of 0.01 s is about a tenth of the spread
    assert 0.05 < float(paths.x.diff(dim=1).std() / paths.x.std()) < 0.15
    still = load_dataset("cmu_motion", subject=subject, still=True)
    left_out = [c for c in still.names.channels if c not in paths.names.channels]
    assert left_out == ["joint_24", "joint_25", "joint_31", "joint_32"]
    assert still.x[..., [24, 25, 31, 32]].abs().max() < 1e-12


@pytest.mark.data
@pytest.mark.parametrize("subject", ["09", "35"])
def test_prepare_makes_the_real_file(real_data, subject, tmp_path):
    real, prepare = real_data / CMU_MOTION[subject].path, script("cmu_motion")
    assert sha256(real.read_bytes()) == prepare.SHA256[subject]
    with np.load(real) as wanted, np.load(prepare.convert(real, subject, tmp_path)) as made:
        assert list(made) == list(wanted)
        assert all(np.array_equal(made[k], wanted[k]) for k in wanted)

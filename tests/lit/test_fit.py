import warnings

import pytest
import torch
from toys import Bursting, Line, Mean, Ramp

from tsdyn.data.split import BySeries
from tsdyn.data.tasks import Forecasting
from tsdyn.errors import ConfigError, ModelError
from tsdyn.lit.fit import fit

TASK = Forecasting(fraction=0.5)


def test_nothing_is_said_or_left_or_drawn(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    model = Line()
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = fit(model, Ramp()(), TASK, val=0.2, epochs=2)
    assert fitted is model and not model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_learning_approaches_the_least_squares_line():
    paths = Ramp(slope=2.0)()
    model = fit(Line(hidden=8, dropout=0.0), paths, TASK, epochs=150, lr=3e-2)
    given, want = TASK(paths)
    # noise of 0.1 around a curve the model can follow: half its variance is the floor
    assert model.loss(given, want) < 1.5 * 0.5 * 0.1**2


def test_closed_form_takes_one_epoch():
    model = fit(Mean(), paths := Ramp()(), TASK, epochs=9)
    assert model.epochs == [0]
    assert model.mean.item() == pytest.approx(paths.x[paths.mask].mean().item(), rel=1e-5)


def test_best_validation_weights_come_back(tmp_path):
    paths, split = Ramp()(), BySeries(0.3, 0.0)
    model = fit(Line(dropout=0.0), paths, TASK, val=split, epochs=6, lr=0.9, folder=tmp_path)
    (best,) = (f for f in tmp_path.glob("*.ckpt") if f.name != "last.ckpt")
    given, want = split(paths, TASK).val
    assert model.loss(given, want).item() == pytest.approx(float(best.stem[4:]), abs=1e-4)
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)["tsdyn"]["weights"]
    assert not torch.equal(last["inside.weight"], model.inside.weight), "the last was not the best"


def test_same_seed_same_weights_whatever_was_drawn_before():
    def weights(seed):
        torch.manual_seed(0)
        model = Line()
        torch.rand(seed + 3)
        return fit(model, Ramp()(), TASK, epochs=2, batch_size=5, seed=seed).inside.weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_patience_and_time_end_training(tmp_path):
    model = Line()
    fit(model, Ramp()(), TASK, val=0.3, epochs=10_000, lr=0.0, patience=2, folder=tmp_path)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 2
    fit(model, Ramp()(), TASK, epochs=10**9, max_seconds=0.2)


def test_errors():
    with pytest.raises(ConfigError, match="TSD-X01: Patience"):
        fit(Line(), Ramp()(), TASK, patience=3)
    with pytest.raises(ModelError, match="TSD-M02: The loss is nan at step 2"):
        fit(Bursting(), Ramp()(), TASK, batch_size=4)

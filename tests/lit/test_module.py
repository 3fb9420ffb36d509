from functools import partial

import lightning as L
import pytest
import torch
from lightning.pytorch.cli import ReduceLROnPlateau
from toys import Line, Mean, Ramp

import tsdyn.io
from tsdyn.batch import Paths, take
from tsdyn.data.split import BySeries
from tsdyn.data.tasks import Forecasting
from tsdyn.errors import ConfigError, ModelError
from tsdyn.lit.callbacks import NonFiniteGuard, loose_state, suspects
from tsdyn.lit.data import LitData
from tsdyn.lit.module import LitModel
from tsdyn.lit.quiet import quiet

TASK = Forecasting(fraction=0.5)


@pytest.fixture(autouse=True)
def silence():
    with quiet(".*"):
        yield


def trainer(folder, epochs=2, **options):
    return L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=False,
        **options,
    )


def data(batch_size=4, **options):
    return LitData(Ramp(), TASK, BySeries(0.35, 0.2), batch_size, **options)


def test_scores_are_means_over_observed_values_however_batched(tmp_path):
    model, judged = Line(dropout=0.0).eval(), data()
    judged.setup("validate")
    exact = model.loss(*judged.parts.val)
    for size in (1, 3, 4, 100):
        (found,) = trainer(tmp_path).validate(LitModel(model), data(size), verbose=False)
        assert found["val/loss"] == pytest.approx(exact.item(), rel=1e-6)
        assert {"val/crps", "val/mse", "val/coverage_90"} <= set(found)


def test_judging_draws_the_same_every_time_and_disturbs_nobody(tmp_path):
    module = LitModel(Line())
    before = torch.get_rng_state()
    (first,) = trainer(tmp_path).validate(module, data(), verbose=False)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert trainer(tmp_path).validate(module, data(), verbose=False) == [first]


def test_closed_form_models_train_and_are_kept(tmp_path):
    model = Mean()
    fitting = trainer(tmp_path, epochs=3)
    fitting.fit(LitModel(model), datamodule=data())
    assert model.epochs == [0, 1, 2]
    train = fitting.datamodule.train
    assert model.mean.item() == pytest.approx(train.x[train.mask].mean().item(), rel=1e-5)
    assert fitting.global_step == 9, "steps are counted, so that checkpoints are written"
    assert model.channels == ("c0",)


def test_checkpoints_hold_the_model_and_load_without_trust(tmp_path):
    model = Line()
    fitting = trainer(tmp_path)
    fitting.fit(LitModel(model), datamodule=data())
    fitting.save_checkpoint(tmp_path / "a.ckpt", weights_only=False)
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert content["LitData"]["channels"] == ["c0"]
    given, want = fitting.datamodule.parts.val
    again = tsdyn.io.load(tmp_path / "a.ckpt", "cpu")
    with tsdyn.seed(1):
        draws = model.eval().sample(given, want.t, 3)
    with tsdyn.seed(1):
        assert torch.equal(again.sample(given, want.t, 3), draws)


def test_predictions_know_their_rows(tmp_path):
    asked = data(3)
    found = trainer(tmp_path).predict(LitModel(Line(), samples=5), asked)
    assert [p.rows for p in found][:2] == [(0, 1, 2), (3, 4, 5)]
    assert found[0].samples.shape == (5, 3, *found[0].mask.shape[1:])
    assert found[0].names.series == ("s0", "s1", "s2")


def test_plateau_scheduler_watches_validation(tmp_path):
    class Rising(Line):
        def loss(self, given, want):
            return super().loss(given, want) * 0 + 1.0

    def scheduler(optimizer, monitor="val/loss"):
        return ReduceLROnPlateau(optimizer, monitor, factor=0.1, patience=0)

    fitting = trainer(tmp_path, epochs=3)
    fitting.fit(LitModel(Rising(), partial(torch.optim.SGD, lr=1.0), scheduler), datamodule=data())
    assert fitting.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01)
    wrong = LitModel(Line(), scheduler=partial(scheduler, monitor="val/los"))
    with pytest.raises(ConfigError, match=r"TSD-X01.*Did you mean `val/loss`"):
        trainer(tmp_path).fit(wrong, datamodule=data())


def test_epoch_scheduler_steps_once_per_epoch(tmp_path):
    halving = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5)
    fitting = trainer(tmp_path, epochs=3)
    fitting.fit(LitModel(Line(), partial(torch.optim.SGD, lr=1.0), halving), datamodule=data())
    assert fitting.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.125)


def test_guard_stops_before_the_weights_are_spoilt(tmp_path):
    class Broken(Line):
        def loss(self, given, want):
            # finite, with a gradient that is not: d sqrt(u) / du at 0
            return super().loss(given, want) + (self.outside.bias * 0).abs().sqrt().sum()

    model = Broken()
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(
        ModelError, match=r"TSD-M02: Gradients are not finite: model\.outside\.bias"
    ):
        trainer(tmp_path, callbacks=[NonFiniteGuard()]).fit(LitModel(model), datamodule=data())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_guard_names_series_channel_and_value():
    paths = Ramp(dim=2)()
    paths.x[3, 1, 1] = 1e30
    paths.x[0, 2] = torch.nan  # not observed: nobody's business
    given, want = TASK(paths)
    assert suspects((given, want)) == "; given holds 1e+30 in series s3, channel c1"
    ordinary = TASK(take(Ramp()(), [1, 2]))
    assert suspects(ordinary) == "; no value looks wrong in series s1, s2"


def test_state_outside_of_buffers_is_found():
    model = Mean()
    before = loose_state(model)
    model.mean = model.mean + 1  # a buffer
    assert loose_state(model) == before
    model.cache = torch.zeros(2)
    assert loose_state(model).keys() - before.keys() == {("", "cache")}


def test_labels_and_unnamed_paths_have_no_channels(tmp_path):
    unnamed = LitData(lambda: Paths(*Ramp()()[:3]), TASK, BySeries(0.35, 0.2))
    model = Mean()
    trainer(tmp_path, 1).fit(LitModel(model), datamodule=unnamed)
    assert model.channels == ()

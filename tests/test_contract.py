"""Every file in configs/ must train, predict, and come back from disk. New models get these for nothing.

A configuration trains for two batches through the command line's own objects; then its model is asked
about a few series that it was to be judged on. Losses may be random: they are compared by means over
draws, within 5 standard errors (which ten draws know to a quarter).
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tsdyn.batch import Paths, each, take
from tsdyn.errors import DataError
from tsdyn.io import load
from tsdyn.lit.cli import Command
from tsdyn.models.base import Model
from tsdyn.predict import draw, forecast, reproducible

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
REPEATS = 10


class Trained(NamedTuple):
    model: Model
    given: Paths
    want: Paths
    file: Path  # the checkpoint


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda p: p.stem)
def trained(request, tmp_path_factory) -> Trained:
    folder = tmp_path_factory.mktemp(request.param.stem)
    options = {
        "default_root_dir": folder,
        "accelerator": "cpu",
        "max_epochs": 1,
        "limit_train_batches": 2,
        "limit_val_batches": 1,
        "num_sanity_val_steps": 0,
        "logger": "false",
    }
    flags = [text for k, v in options.items() for text in (f"--trainer.{k}", str(v))]
    try:
        cli = Command(["fit", "--config", str(request.param), *flags])
    except DataError as error:
        if error.code != "TSD-D01" or os.environ.get("TSDYN_DATA"):
            raise
        pytest.skip(f"the data of {request.param.name} are not here; set TSDYN_DATA")
    batches = cli.datamodule.val_dataloader() or cli.datamodule.train_dataloader()
    given, want, _ = next(iter(batches))
    rows = list(range(min(3, len(given.t))))
    (file,) = folder.rglob("last.ckpt")
    return Trained(cli.model.model, take(given, rows), take(want, rows), file)


@pytest.fixture
def case(trained, device) -> Trained:
    model = trained.model.to(device).eval()
    given, want = (each(p, lambda f: f.to(device)) for p in (trained.given, trained.want))
    return Trained(model, given, want, trained.file)


def losses(model: Model, pair: tuple[Any, Any], repeats: int = REPEATS) -> Tensor:
    """The loss of one question, with different draws of what is random in it, if anything is."""
    values: list[Tensor] = []
    with torch.no_grad():
        for seed in range(repeats):
            torch.manual_seed(seed)
            values.append(model.loss(*pair).double())
            if seed == 1 and torch.equal(*values):
                return values[0].expand(repeats)
    return torch.stack(values)


def assert_same_mean(a: Tensor, b: Tensor) -> None:
    error = ((a.var() + b.var()) / REPEATS).sqrt()
    scale = a.abs().mean().clamp(min=1.0)
    assert (a.mean() - b.mean()).abs() <= 5 * error + 1e-4 * scale


def test_loss_is_a_finite_number_whose_gradient_reaches_every_parameter(case):
    model = case.model.train()
    model.zero_grad()
    loss = model.loss(case.given, case.want)
    assert loss.ndim == 0 and loss.isfinite()
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if named:
        loss.backward()
    idle = [n for n, p in named if p.grad is None or not p.grad.isfinite().all()]
    assert not idle, f"no finite gradient reaches {idle}"
    still = [n for n, p in named if not p.grad.any()]
    assert not still, f"nothing moves {still}"


def test_samples_have_the_shape_of_what_was_asked_and_are_finite(case):
    draws = draw(case.model, case.given, case.want.t, 3)
    assert draws.shape == (3, *case.want.x.shape) and draws.isfinite().all()
    assert draws.dtype == case.given.x.dtype


def test_unobserved_values_are_never_read(case):
    clean, poisoned = (
        [p._replace(x=p.x.where(p.mask, filler)) for p in (case.given, case.want)]
        for filler in (0.0, torch.nan)
    )
    torch.testing.assert_close(losses(case.model, clean, 2), losses(case.model, poisoned, 2))
    draws = []
    for given, _ in (clean, poisoned):
        with reproducible(case.model, 0):
            draws.append(case.model.sample(given, case.want.t, 2))
    torch.testing.assert_close(*draws)


def test_gradients_stay_finite_where_nothing_was_observed(case):
    given, want = (p._replace(x=p.x.where(p.mask, torch.nan)) for p in (case.given, case.want))
    case.model.zero_grad()
    loss = case.model.loss(given, want)
    if loss.requires_grad:
        loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in case.model.parameters())


def test_it_comes_back_from_disk(case, device):
    back = load(case.file, device)
    assert type(back) is type(case.model) and back.channels == case.model.channels
    draws = []
    for model in (case.model, back):
        with reproducible(model, 0):
            draws.append(draw(model, case.given, case.want.t, 2))
    torch.testing.assert_close(*draws, rtol=0, atol=0)


def test_the_seed_decides_the_draws(case):
    given = each(case.given, Tensor.cpu)
    one, again, other = (
        forecast(case.model, given, times=case.want.t.cpu(), samples=2, seed=s).samples
        for s in (0, 0, 1)
    )
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_the_order_of_the_series_does_not_matter(case):
    order = torch.arange(len(case.given.t)).flip(0)
    turned = take(case.given, order), take(case.want, order)
    assert_same_mean(losses(case.model, (case.given, case.want)), losses(case.model, turned))


def test_every_value_weighs_the_same_whatever_series_it_shares_a_batch_with(case):
    """loss(all) n = sum over series of loss(series) n_series."""
    count = case.want.mask.flatten(1).sum(1).double()
    alone = [
        losses(case.model, (take(case.given, [b]), take(case.want, [b]))) * count[b]
        for b in range(len(count))
        if count[b] > 0
    ]
    together = losses(case.model, (case.given, case.want))
    assert_same_mean(together, torch.stack(alone).sum(0) / count.sum())


def test_padding_changes_nothing(case):
    def padded(p: Paths) -> Paths:
        def longer(f: Tensor) -> Tensor:
            return torch.cat([f, f[:, -1:], f[:, -1:]], 1)

        mask = torch.cat([p.mask, torch.zeros_like(p.mask[:, :1]).expand(-1, 2, -1)], 1)
        covariates = None if p.covariates is None else longer(p.covariates)
        return p._replace(t=longer(p.t), x=longer(p.x), mask=mask, covariates=covariates)

    pair = case.given, case.want
    assert_same_mean(losses(case.model, pair), losses(case.model, tuple(map(padded, pair))))


def test_there_are_configurations():
    assert CONFIGS

"""Every file in configs/ must train, predict, and come back from disk. New models get these for nothing.

A configuration trains for two batches through the command line's own objects; then its model is asked
about a few series that it was to be judged on: for values at times, or for their labels. Losses may be random: they are compared by means over
draws, within 5 standard errors (which ten draws know to a quarter).
"""

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tsdyn.batch import Entries, Paths, Snapshots, each
from tsdyn.data.jump_data import JumpTargets
from tsdyn.data.tasks import Labels
from tsdyn.errors import DataError
from tsdyn.io import load
from tsdyn.lit.cli import Command
from tsdyn.lit.kinds import kind_of
from tsdyn.models.base import Model
from tsdyn.predict import draw, forecast, reproducible

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
REPEATS = 10


class Trained(NamedTuple):
    model: Model
    given: Paths | Entries | Snapshots
    want: Paths | Labels | Entries | Snapshots
    file: Path  # the checkpoint

    @property
    def at(self) -> Tensor:
        """What a model is asked with: times (B, T) or (K,), indices (N, M), or of labels only how many there are (B,)."""
        if isinstance(self.want, Entries):
            return self.want.index
        if isinstance(self.want, JumpTargets):
            return self.want.initial
        return self.want.y if isinstance(self.want, Labels) else self.want.t

    @property
    def shape(self) -> torch.Size:
        """Of one draw: (B, T, D), (K, D), (N,) or (B,)."""
        if isinstance(self.want, Snapshots):
            return self.want.x[:, 0].shape
        if isinstance(self.want, JumpTargets):
            return self.want.rates.shape
        return self.want.x.shape if isinstance(self.want, Paths) else self.want.y.shape

    @property
    def counts(self) -> Tensor:
        """How many values of each series, or entries or labels, the loss is a mean over: (B,)."""
        if isinstance(self.want, Paths):
            return self.want.mask.flatten(1).sum(1).double()
        if isinstance(self.want, Snapshots | JumpTargets):
            return torch.ones(1)  # populations are one question, and so are simulated problems
        return torch.ones_like(self.want.y, dtype=torch.float64)

    @property
    def pair(self) -> tuple[Any, Any]:
        return self.given, self.want

    @property
    def rows(self) -> list[int]:
        """Of the question: series or entries."""
        return list(range(kind_of(self.given).questions(*self.pair)))

    def draw(self, model: Model, n: int) -> Tensor:
        """n draws of what is wanted."""
        if isinstance(self.given, Paths):
            return draw(model, self.given, self.at, n)
        return model.sample(self.given, self.at, n)


def rows_of(pair: tuple[Any, Any], rows: list[int]) -> tuple[Any, Any]:
    """Some series of a question."""
    return kind_of(pair[0]).slice(*pair, torch.tensor(rows, device=pair[0][0].device))


def moved(data: Any, device: str) -> Any:
    """The same container on a device."""
    tensors = {k: v.to(device) for k, v in data._asdict().items() if isinstance(v, Tensor)}
    return data._replace(**tensors)


def on_containers(f: Any, pair: tuple[Any, Any]) -> tuple[Any, ...]:
    """f of what is given, and of what is wanted where that has times too."""
    return tuple(f(p) if isinstance(p, Paths | Snapshots) else p for p in pair)


def with_unobserved(filler: float, pair: tuple[Any, Any]) -> tuple[Any, ...]:
    """The question with this number wherever nothing was observed."""

    def filled(p: Paths | Snapshots) -> Any:
        return p._replace(x=p.x.where(p.mask.view(*p.mask.shape[:2], -1), filler))

    return on_containers(filled, pair)


def nowhere(error: DataError) -> bool:
    """Whether data are not on this machine: a folder for them under TSDYN_DATA is a promise that they are."""
    needed = re.search(r"needs the file `([^/`]+)/", str(error))
    own = os.environ.get("TSDYN_DATA")
    return needed is not None and not (own and Path(own, needed[1]).is_dir())


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
        if not nowhere(error):
            raise
        pytest.skip(f"the data of {request.param.name} are not here; set TSDYN_DATA")
    batches = cli.datamodule.val_dataloader() or cli.datamodule.train_dataloader()
    given, want, _ = next(iter(batches))
    (file,) = folder.rglob("last.ckpt")
    every = Trained(cli.model.model, given, want, file)
    return Trained(cli.model.model, *rows_of(every.pair, every.rows[:3]), file)


@pytest.fixture
def case(trained, device) -> Trained:
    model = trained.model.to(device).eval()
    given, want = (moved(data, device) for data in trained.pair)
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
    draws = case.draw(case.model, 3)
    assert draws.shape == (3, *case.shape) and draws.isfinite().all()
    if isinstance(case.want, Labels):
        assert draws.dtype == case.want.y.dtype
        assert (draws >= 0).all() and (draws < case.model.arguments["classes"]).all()
    elif not isinstance(case.want, JumpTargets):
        values = case.given.y if isinstance(case.given, Entries) else case.given.x
        assert draws.dtype == values.dtype


def test_unobserved_values_are_never_read(case):
    clean, poisoned = (with_unobserved(filler, case.pair) for filler in (0.0, torch.nan))
    torch.testing.assert_close(losses(case.model, clean, 2), losses(case.model, poisoned, 2))
    draws = []
    for given, _ in (clean, poisoned):
        with reproducible(case.model, 0):
            draws.append(case.model.sample(given, case.at, 2))
    torch.testing.assert_close(*draws)


def test_gradients_stay_finite_where_nothing_was_observed(case):
    given, want = with_unobserved(torch.nan, case.pair)
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
            draws.append(case.draw(model, 2))
    torch.testing.assert_close(*draws, rtol=0, atol=0)


def test_the_seed_decides_the_draws(case):
    def draws(seed: int) -> Tensor:
        if isinstance(case.want, Paths):
            given = each(case.given, Tensor.cpu)
            return forecast(case.model, given, times=case.at.cpu(), samples=2, seed=seed).samples
        with reproducible(case.model, seed):
            return case.draw(case.model, 100)  # few of a few classes may agree

    one, again, other = draws(0), draws(0), draws(1)
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_the_order_of_the_series_does_not_matter(case):
    turned = rows_of(case.pair, case.rows[::-1])
    assert_same_mean(losses(case.model, case.pair), losses(case.model, turned))


def test_every_value_weighs_the_same_whatever_series_it_shares_a_batch_with(case):
    """loss(all) n = sum over series of loss(series) n_series."""
    count = case.counts
    alone = [
        losses(case.model, rows_of(case.pair, [b])) * count[b]
        for b in range(len(count))
        if count[b] > 0
    ]
    together = losses(case.model, case.pair)
    assert_same_mean(together, torch.stack(alone).sum(0) / count.sum())


def test_padding_changes_nothing(case):
    def longer(f: Tensor) -> Tensor:
        return torch.cat([f, f[:, -1:], f[:, -1:]], 1)

    def padded(p: Paths | Snapshots) -> Any:
        if isinstance(p, Snapshots):
            more = {k: longer(v) for k, v in p._asdict().items() if k != "t" and v is not None}
            more["mask"] = torch.cat([p.mask, torch.zeros_like(p.mask[:, :2])], 1)
            return p._replace(**more)
        mask = torch.cat([p.mask, torch.zeros_like(p.mask[:, :1]).expand(-1, 2, -1)], 1)
        covariates = None if p.covariates is None else longer(p.covariates)
        return p._replace(t=longer(p.t), x=longer(p.x), mask=mask, covariates=covariates)

    assert_same_mean(
        losses(case.model, case.pair), losses(case.model, on_containers(padded, case.pair))
    )


def test_there_are_configurations():
    assert CONFIGS

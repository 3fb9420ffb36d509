"""Probabilities that are what they say, learned from ragged series with holes."""

import math

import pytest
import torch

from tsdyn.batch import Paths, each, stack, take
from tsdyn.data.tasks import Classification, Labels, Thinned
from tsdyn.errors import ModelError
from tsdyn.evaluation import scores
from tsdyn.io import load, save
from tsdyn.lit.fit import fit
from tsdyn.models import fields
from tsdyn.models.classifier import Classifier
from tsdyn.models.gru import GRUEncoder

ENCODERS = ["sde", "cde", "gru"]


@pytest.fixture(autouse=True)
def no_noise(monkeypatch):
    """Brownian increments of zero: what an "sde" says is then decided by the series alone."""
    real = fields.increments
    monkeypatch.setattr(fields, "increments", lambda *a: real(*a)._replace(dw=real(*a).dw * 0.0))


def waves(n: int, seed: int = 0, missing: float = 0.3) -> Paths:
    """sin(w t + phase) at irregular times, in two channels; the class says whether w is 1 or 1.6."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    t = (0.1 + 0.8 * torch.rand(n, 25, generator=g)).cumsum(1)
    phase = 2 * math.pi * torch.rand(n, 1, generator=g)
    angle = torch.where(y == 1, 1.6, 1.0)[:, None] * t + phase
    x = 5 + 3 * torch.stack([angle.sin(), angle.cos()], -1)
    mask = torch.rand(x.shape, generator=g) >= missing
    length = torch.randint(18, 26, (n, 1), generator=g)
    padding = torch.arange(25) >= length
    t = torch.where(padding, t.gather(1, length - 1), t)
    mask = mask & ~padding[..., None]
    return Paths(t.double(), x.where(mask, torch.nan), mask, labels=y)


def pair(n: int = 6, **options) -> tuple[Paths, Labels]:
    return Classification()(waves(n, **options))


def fitted(encoder: str, train: tuple[Paths, Labels], **options) -> Classifier:
    model = Classifier(2, 2, encoder, hidden=8, **options)
    model.on_epoch(0, train)
    return model


@pytest.mark.parametrize("encoder", ENCODERS)
def test_loss_is_the_mean_surprise_about_the_label(encoder):
    given, want = pair()
    model = fitted(encoder, (given, want))
    p = model.probabilities(given)
    torch.testing.assert_close(p.sum(-1), torch.ones(6))
    torch.testing.assert_close(model.loss(given, want), -p.gather(1, want.y[:, None]).log().mean())


def test_weights_count_labels():
    given, want = pair(8)
    want = Labels(torch.tensor([0, 0, 0, 0, 0, 0, 1, 1]))
    model = fitted("gru", (given, want), weights=[0.5, 3.0])
    surprise = -model.probabilities(given).gather(1, want.y[:, None]).log()[:, 0]
    weight = torch.tensor([0.5] * 6 + [3.0] * 2)
    torch.testing.assert_close(model.loss(given, want), (weight * surprise).mean())
    balanced = fitted("gru", (given, want), weights="balanced")
    torch.testing.assert_close(balanced.weight, torch.tensor([8 / 12, 8 / 4]))


def test_weights_are_one_per_class():
    with pytest.raises(ValueError, match="3 weights for 2 classes"):
        Classifier(2, 2, weights=[1.0, 1.0, 1.0])


def test_draws_are_as_frequent_as_the_probabilities_say():
    given, want = pair()
    model = fitted("gru", (given, want))
    n = 20_000
    draws = model.sample(given, want.y, n)
    assert draws.shape == (n, 6) and draws.dtype == torch.int64
    p = model.probabilities(given)[:, 1]
    assert ((draws.double().mean(0) - p).abs() < 5 * (p * (1 - p) / n).sqrt()).all()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_gradient_reaches_every_parameter(encoder):
    given, want = pair()
    model = fitted(encoder, (given, want))
    model.loss(given, want).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.any(), name


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_ragged_batch_is_its_series_one_by_one(encoder):
    given, want = pair()
    model = fitted(encoder, (given, want)).double()
    given = given._replace(x=given.x.double())
    together = model.log_probabilities(given)
    padded = stack([given, waves(1)._replace(labels=None, x=waves(1).x.double())])
    for b in range(6):
        alone = model.log_probabilities(take(given, [b]))
        torch.testing.assert_close(together[b], alone[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(model.log_probabilities(padded)[:6], together, rtol=0, atol=1e-6)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_what_was_not_observed_is_never_read(encoder):
    given, want = pair()
    results = []
    for filler in (torch.nan, 1e6):
        torch.manual_seed(0)
        poisoned = given._replace(x=given.x.where(given.mask, filler))
        model = fitted(encoder, (poisoned, want))
        loss = model.loss(poisoned, want)
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in model.parameters())])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_units_do_not_matter(encoder):
    """Celsius or Fahrenheit, seconds since 1970 or minutes since noon."""
    given, want = pair()
    other = given._replace(t=1.7e9 + 60 * given.t, x=32 + 1.8 * given.x)
    answers = []
    for paths in (given, other):
        torch.manual_seed(0)
        answers.append(fitted(encoder, (paths, want)).log_probabilities(paths))
    torch.testing.assert_close(*answers, rtol=0, atol=1e-4)


def test_a_constant_channel_and_one_never_seen_are_left_alone():
    given, want = pair()
    given.x[..., 0] = 4.0
    given.mask[..., 1] = False
    model = fitted("cde", (given, want))
    assert model.log_probabilities(given).isfinite().all()
    assert model.std.tolist() == [1.0, 1.0]


def test_it_must_see_a_training_set_first():
    with pytest.raises(ModelError, match="M01"):
        Classifier(2, 2).loss(*pair())


def test_gaps_of_time_reach_the_recurrent_encoder():
    encoder, (given, _) = GRUEncoder(2, 4), pair()
    given = each(given, lambda f: f.float() if f.is_floating_point() else f)
    stretched = given._replace(t=2 * given.t)
    assert not torch.allclose(encoder(given), encoder(stretched))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_it_comes_back_from_disk(encoder, tmp_path):
    given, want = pair()
    options = {"sde": {"kind": "geometric"}, "cde": {"path": "natural"}, "gru": {"layers": 2}}[
        encoder
    ]
    model = fitted(encoder, (given, want), options=options, weights="balanced")
    save(model, tmp_path / "model.pt")
    back = load(tmp_path / "model.pt", "cpu")
    with torch.no_grad():
        torch.testing.assert_close(back.loss(given, want), model.loss(given, want), rtol=0, atol=0)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_it_tells_two_frequencies_apart(encoder):
    train, (given, want) = pair(256), pair(200, seed=1)
    model = Classifier(2, 2, encoder, hidden=16)
    model.on_epoch(0, train)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(*train).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        assert float(scores(want, model, given)["accuracy"]) > 0.9
        assert model.loss(given, want) < 0.4  # who knows nothing loses .69


@pytest.mark.parametrize("encoder", ENCODERS)
def test_it_trains_like_any_other_model(encoder):
    """One call, with missing values of its own in every batch and a part that validates."""
    task = Thinned(Classification(), 0.2, "value")
    model = Classifier(2, 2, encoder, hidden=8, weights="balanced")
    fit(model, waves(40), task, val=0.25, epochs=2, batch_size=16)
    assert model.fitted and model.channels == ()
    given, want = pair()
    assert model.sample(given, want.y, 5).shape == (5, 6)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_covariates_are_read_in_units_of_their_own(encoder):
    """The same classes from covariates in other units; and other ones from other covariates."""
    given, want = pair()
    extra = torch.rand(6, 25, 2, generator=torch.Generator().manual_seed(0))
    answers = []
    for covariates in (extra, 1000 + 50 * extra, extra.flip(1)):
        torch.manual_seed(0)
        paths = given._replace(covariates=covariates)
        model = Classifier(2, 2, encoder, hidden=8, covariates=2)
        model.on_epoch(0, (paths, want))
        answers.append(model.log_probabilities(paths))
    torch.testing.assert_close(answers[1], answers[0], rtol=0, atol=1e-4)
    assert (answers[2] - answers[0]).abs().max() > 1e-4

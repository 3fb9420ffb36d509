"""The recurrent baseline: blind to holes, padding and neighbours in a batch, and as good as a simple law allows."""

import torch

import tsdyn
from tsdyn.batch import Paths, stack
from tsdyn.data.synthetic import OrnsteinUhlenbeck
from tsdyn.data.tasks import Forecasting
from tsdyn.evaluation import evaluate
from tsdyn.models.gru import GRUForecaster
from tsdyn.models.scaled import Scaled


def question(length: int = 12, n: int = 4) -> tuple[Paths, Paths]:
    paths = OrnsteinUhlenbeck(n=n, length=length, dim=2, missing=0.3, seed=length)()
    return Forecasting(steps=3)(paths)


def test_loss_and_draws_are_those_of_the_posterior():
    """-log N(x; mean, var) by torch's own normal; 4000 draws within 5 standard errors."""
    given, want = question()
    model = GRUForecaster(2, hidden=8)
    with torch.no_grad():
        mean, var = model.posterior(given, want.t)
        exact = -torch.distributions.Normal(mean, var.sqrt()).log_prob(want.x.nan_to_num())
        torch.testing.assert_close(model.loss(given, want), exact[want.mask].mean())
        draws = model.sample(given, want.t, 4000)
    assert ((draws.mean(0) - mean).abs() < 5 * (var / 4000).sqrt()).all()


def test_a_ragged_batch_is_its_series_one_by_one_and_holes_are_not_read():
    model = GRUForecaster(2, hidden=8).double()
    pairs = [question(length, 1) for length in (6, 9, 20)]
    pairs = [(g._replace(x=g.x.double()), w._replace(x=w.x.double())) for g, w in pairs]
    given, want = (stack([p[i] for p in pairs]) for i in (0, 1))
    poisoned = given._replace(x=given.x.where(given.mask, torch.nan))
    together = model.posterior(poisoned, want.t).mean
    for b, (one, asked) in enumerate(pairs):
        alone = model.posterior(one, asked.t).mean[0]
        torch.testing.assert_close(together[b, : len(alone)], alone, rtol=0, atol=1e-9)


def test_the_gradient_reaches_every_parameter():
    model = GRUForecaster(2, hidden=8)
    model.loss(*question()).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.any(), name


def test_it_beats_the_last_value_on_reverting_paths():
    paths = OrnsteinUhlenbeck(n=300, length=20, dim=1)()
    task = Forecasting(steps=5)
    model = Scaled(GRUForecaster(1, hidden=16), 1)
    tsdyn.fit(model, paths, task, epochs=15, lr=5e-3, anneal=True)
    fresh = OrnsteinUhlenbeck(n=200, length=20, dim=1, seed=1)()
    report = evaluate(model, *task(fresh), samples=50)
    assert report["Scaled(GRUForecaster)"]["crps"] < 0.9 * report["last value"]["crps"]

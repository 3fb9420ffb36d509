"""Standard units inside, the data's units outside: nothing depends on the user's choice of units."""

import math

import pytest
import torch
from ragged import make
from torch import Tensor

from tsdyn.batch import Paths
from tsdyn.data.tasks import Forecasting, Imputation
from tsdyn.errors import ModelError
from tsdyn.models.base import Model
from tsdyn.models.baselines import LastValue
from tsdyn.models.scaled import Scaled
from tsdyn.models.stable_sde import StableSDE


class Watcher(Model):
    """N(0, 1) for everything, keeping what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Paths] = []
        self.asked: list[Tensor] = []

    def loss(self, given: Paths, want: Paths) -> Tensor:
        self.shown += [given, want]
        normal = torch.distributions.Normal(0.0, 1.0)
        return -normal.log_prob(want.x.where(want.mask, 0.0))[want.mask].mean()

    def sample(self, given: Paths, at: Tensor, n: int) -> Tensor:
        self.asked.append(at)
        return torch.randn(n, *at.shape, given.x.shape[-1])

    def on_epoch(self, epoch: int, train: tuple[Paths, Paths]) -> None:
        self.shown += list(train)


def data(dtype=torch.float32) -> Paths:
    pattern = [[True, True], [True, False], [False, True], [True, True]] * 3
    paths = make([pattern, pattern[::-1], pattern], 4, dtype=torch.float64)
    return paths._replace(x=paths.x.to(dtype))


def moved(paths: Paths, shift: Tensor, scale: Tensor, start: float, unit: float) -> Paths:
    return paths._replace(x=shift + scale * paths.x, t=start + unit * paths.t)


def fitted(inner: Model, pair: tuple[Paths, Paths]) -> Scaled:
    model = Scaled(inner, 2).eval()
    model.on_epoch(0, pair)
    return model


def test_inside_everything_is_standard():
    paths = moved(data(), torch.tensor([5.0, -2.0]), torch.tensor([0.1, 30.0]), 1.7e9, 3600.0)
    inner = Watcher()
    given, want = Forecasting(fraction=0.7)(paths)
    fitted(inner, (given, want))
    seen = [torch.cat([p.x[..., d][p.mask[..., d]] for p in inner.shown]) for d in range(2)]
    for x in seen:
        assert abs(float(x.mean())) < 1e-5 and abs(float(x.std(correction=0)) - 1) < 1e-5
    gaps = torch.cat([given.t.diff(dim=1).flatten(), want.t.diff(dim=1).flatten()])
    inside = torch.cat([p.t.diff(dim=1).flatten() for p in inner.shown])
    assert inside.dtype == torch.float32 and float(inner.shown[0].t.min()) == 0.0
    both = (gaps > 0) == (inside > 0)
    assert both.all()


def test_unit_of_time_is_the_median_gap():
    t = torch.tensor([[10.0, 12.0, 13.0, 16.0, 18.0]], dtype=torch.float64)
    paths = Paths(t, torch.randn(1, 5, 2), torch.ones(1, 5, 2).bool())
    model = fitted(Watcher(), Forecasting(steps=1)(paths))
    assert model.unit == 2.0 and model.origin == 10.0
    assert model.inside_time(t).tolist() == [[0.0, 1.0, 1.5, 3.0, 4.0]]


@pytest.mark.parametrize(
    "inner", [LastValue, lambda: StableSDE(2, hidden=8, neighbours=2, draws=2)]
)
def test_units_change_the_loss_by_their_logarithm_and_carry_the_draws_along(inner):
    """-log p(a + b x) = -log p(x) + log b per observed value of the channel."""
    shift, scale = torch.tensor([5.0, -200.0]), torch.tensor([0.01, 30.0])
    torch.manual_seed(1)
    one, two = inner(), inner()
    two.load_state_dict(one.state_dict())
    results = []
    for model, paths in ((one, data()), (two, moved(data(), shift, scale, 1.7e9, 86400.0))):
        given, want = Imputation(0.3)(paths, torch.Generator().manual_seed(0))
        model = fitted(model, (given, want))
        torch.manual_seed(7)
        results.append((model.loss(given, want), model.sample(given, want.t, 4), want))
    (loss, draws, want), (loss_moved, draws_moved, _) = results
    share = want.mask.sum((0, 1)) / want.mask.sum()
    torch.testing.assert_close(loss_moved, loss + (share * scale.log()).sum(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close((draws_moved - shift) / scale, draws, rtol=2e-3, atol=2e-3)


def test_seconds_since_1970_keep_their_order():
    """Ten values a second apart today: as float32 all of them would have one time."""
    t = 1.75e9 + torch.arange(10, dtype=torch.float64)[None]
    paths = Paths(t, torch.randn(1, 10, 2), torch.ones(1, 10, 2).bool())
    inner = Watcher()
    given, want = Forecasting(steps=3)(paths)
    model = fitted(inner, (given, want))
    model.sample(given, want.t, 1)
    assert inner.shown[0].t.tolist() == [[float(i) for i in range(7)]]
    assert inner.asked[0].tolist() == [[7.0, 8.0, 9.0]]


def test_a_constant_channel_keeps_its_unit():
    x = torch.stack([torch.randn(1, 6), torch.full((1, 6), 1e4)], -1)
    paths = Paths(torch.arange(6.0)[None], x, torch.ones(1, 6, 2).bool())
    model = fitted(Watcher(), Forecasting(steps=2)(paths))
    assert model.std[1] == 1.0 and model.mean[1] == 1e4


def test_covariates_are_standardised_too():
    covariates = 100 + 5 * torch.randn(4, 200, 3)
    paths = Paths(
        torch.arange(200.0).expand(4, -1),
        torch.randn(4, 200, 2),
        torch.ones(4, 200, 2).bool(),
        covariates,
    )
    inner = Watcher()
    model = Scaled(inner, 2, covariates=3)
    model.on_epoch(0, Forecasting(steps=50)(paths))
    shown = inner.shown[0].covariates
    assert shown.mean().abs() < 0.5 and (shown.std() - 1).abs() < 0.1


def test_moments_come_from_the_first_training_set_alone():
    model = fitted(Watcher(), Forecasting(fraction=0.5)(data()))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    later = moved(data(), torch.ones(2), 9 * torch.ones(2), 3.0, 2.0)
    model.on_epoch(1, Forecasting(fraction=0.5)(later))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_before_training_it_refuses():
    given, want = Forecasting(fraction=0.5)(data())
    for ask in (lambda m: m.loss(given, want), lambda m: m.sample(given, want.t, 2)):
        with pytest.raises(ModelError, match=r"TSD-M01.*Scaled.*[Tt]rain"):
            ask(Scaled(LastValue(), 2))


def test_draws_of_a_scaled_last_value_are_those_of_last_value():
    """A walk knows no unit, so wrapping it changes nothing: same mean, same variance."""
    given, want = Forecasting(fraction=0.7)(data())
    plain, n = LastValue(), 4000
    law = plain.posterior(given, want.t)
    draws = fitted(LastValue(), (given, want)).sample(given, want.t, n)
    error = 4.5 * (law.var / n).sqrt()
    assert ((draws.mean(0) - law.mean).abs() <= error + 1e-5)[want.mask].all()
    assert ((draws.var(0) / law.var - 1).abs()[want.mask] < 4.5 * math.sqrt(2 / n) + 1e-4).all()

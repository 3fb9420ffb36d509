"""Questions to a model: when is asked about, what comes back, and what is left as it was."""

import math

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from tsdyn.batch import Clock, Names, Paths, take
from tsdyn.data.synthetic import OrnsteinUhlenbeck
from tsdyn.errors import DataError
from tsdyn.models.base import Model
from tsdyn.models.baselines import LastValue, LinearInterpolation
from tsdyn.predict import ahead, fill, forecast, impute, median_gap, simulate

FLOAT = Clock("float")


class Noisy(Model):
    """N(0, 1) plus a bias, with dropout, and a note of how it was asked."""

    def __init__(self, dim: int = 2, fails: bool = False):
        super().__init__()
        self.bias = nn.Parameter(torch.ones(()))
        self.inside = nn.Sequential(nn.Dropout(0.5), nn.Identity())
        self.fails = fails
        self.calls: list[tuple[bool, bool, int]] = []

    def loss(self, given: Paths, want: Paths) -> Tensor:
        return self.bias

    def sample(self, given: Paths, at: Tensor, n: int) -> Tensor:
        self.calls.append((self.training, torch.is_inference_mode_enabled(), len(at)))
        draws = torch.randn(n, *at.shape, given.x.shape[-1])
        if self.fails:
            raise RuntimeError("broken")
        return self.bias + draws


def series(B: int = 3, T: int = 6, clock: Clock = FLOAT) -> Paths:
    """Series b has gaps of b + 1; the last row of series 1 is padding."""
    t = torch.arange(T, dtype=torch.float64) * torch.arange(1.0, B + 1)[:, None]
    mask = torch.ones(B, T, 2, dtype=torch.bool)
    if B > 1:
        t[1, -1] = t[1, -2]
        mask[1, -1] = False
    mask[0, 2, 1] = False
    x = torch.randn(B, T, 2, generator=torch.Generator().manual_seed(0))
    names = Names(tuple(f"s{b}" for b in range(B)), ("x", "y"), clock)
    return Paths(t.double(), x.where(mask, torch.nan), mask, names=names)


def test_the_seed_decides_and_nothing_else_does():
    model, paths = Noisy(), series()
    torch.manual_seed(1)
    a = forecast(model, paths, 3, samples=5, seed=7)
    torch.manual_seed(2)
    b = forecast(model, paths, 3, samples=5, seed=7)
    c = forecast(model, paths, 3, samples=5, seed=8)
    assert torch.equal(a.samples, b.samples) and not torch.equal(a.samples, c.samples)


def test_without_a_seed_torch_s_generator_decides():
    model, paths = Noisy(), series()
    draws = []
    for _ in range(2):
        torch.manual_seed(1)
        draws += [forecast(model, paths, 3, samples=5).samples for _ in range(2)]
    assert torch.equal(draws[0], draws[2]) and torch.equal(draws[1], draws[3])
    assert not torch.equal(draws[0], draws[1])


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_put_back_even_after_an_error(fails):
    model, paths = Noisy(fails=fails).train(), series()
    model.inside[1].eval()
    modes = [m.training for m in model.modules()]
    before = torch.get_rng_state()
    for ask in (
        lambda: forecast(model, paths, 2, seed=0),
        lambda: impute(model, paths, seed=0),
        lambda: simulate(model, [0.0, 0.0], [0.0, 1.0], seed=0),
    ):
        if fails:
            with pytest.raises(RuntimeError, match="broken"):
                ask()
        else:
            assert ask().samples.is_inference()
    assert torch.equal(torch.get_rng_state(), before)
    assert [m.training for m in model.modules()] == modes
    assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
    assert all(call[:2] == (False, True) for call in model.calls)


def test_the_caller_s_tensors_stay_as_they_were():
    paths = series()
    copies = [f.clone() for f in paths[:3]]
    fill(paths, impute(LastValue(), paths, seed=0))
    forecast(LastValue(), paths, 2)
    for now, then in zip(paths[:3], copies):
        torch.testing.assert_close(now, then, equal_nan=True)


def test_series_go_through_in_batches():
    model, paths = Noisy(), series(5)
    answer = forecast(model, paths, 2, samples=3, batch_size=2)
    assert [c[2] for c in model.calls] == [2, 2, 1] and answer.samples.shape == (3, 5, 2, 2)


# -- when --


def test_steps_are_median_gaps_of_each_series():
    answer = forecast(LastValue(), series(), 3)
    assert answer.t.tolist() == [[6, 7, 8], [10, 12, 14], [18, 21, 24]]
    assert answer.mask.all() and answer.names.series == ("s0", "s1", "s2")


def test_a_span_ends_at_the_same_distance_for_all():
    """Six units ahead: six steps of one, three of two, two of three; the rest is padding."""
    answer = forecast(LastValue(), series(), 6.0)
    assert answer.t[0].tolist() == [6, 7, 8, 9, 10, 11]
    assert answer.t[1].tolist() == [10, 12, 14, 14, 14, 14]
    assert answer.mask.any(-1).sum(1).tolist() == [6, 3, 2]
    assert len(answer.to_pandas("mean")) == 11


@pytest.mark.parametrize("gap", [0.1, 0.7, 1 / 3, 3600.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_span_of_whole_steps_is_that_many(gap, dtype):
    """0.7 / 0.1 is less than 7 in floating point, and so are gaps of rounded times."""
    t = (gap * torch.arange(40, dtype=torch.float64)).to(dtype)[None]
    paths = Paths(t, torch.randn(1, 40, 1), torch.ones(1, 40, 1).bool())
    for steps in (1, 3, 7, 24):
        assert ahead(paths, steps * gap).shape[1] == steps


def test_a_span_in_words():
    day = 86400.0
    paths = series(1, clock=Clock("datetime"))
    paths = paths._replace(t=1.7e9 + day * paths.t)
    answer = forecast(LastValue(), paths, "1w")
    torch.testing.assert_close(answer.t, 1.7e9 + day * torch.arange(6.0, 13.0).double()[None])


def test_times_for_all_and_for_each():
    paths = series()
    assert forecast(LastValue(), paths, times=[1.5, 9.0]).t.tolist() == [[1.5, 9.0]] * 3
    each = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert torch.equal(forecast(LastValue(), paths, times=each).t, each.double())
    assert impute(LastValue(), paths, times=torch.tensor([2.5])).t.tolist() == [[2.5]] * 3


def test_times_in_a_table():
    import pandas as pd

    paths = series(2)
    frame = pd.DataFrame({"series_id": ["s0", "s0", "s1"], "time": [7.0, 8.0, 20.0]})
    answer = forecast(LastValue(), paths, times=frame)
    assert answer.t.tolist() == [[7.0, 8.0], [20.0, 20.0]]
    assert len(answer.to_pandas("mean")) == 3  # what was asked, and no padding


@pytest.mark.parametrize(
    "question",
    [
        {},
        {"horizon": 1, "times": [9.0]},
        {"horizon": 0},
        {"horizon": -2},
        {"horizon": 0.5},
        {"times": []},
        {"times": [3.0, 2.0]},
        {"times": [3.0, math.nan]},
        {"times": torch.tensor([3.0, 2.0])},
        {"times": torch.tensor([3.0, torch.inf])},
        {"times": torch.zeros(0)},
    ],
    ids=str,
)
def test_unusable_times(question):
    with pytest.raises(DataError, match="TSD-D17"):
        forecast(LastValue(), series(1), **question)


def test_median_gap_falls_back_on_the_others():
    t = torch.tensor([[0.0, 2.0, 4.0, 5.0], [1.0, 1.0, 1.0, 1.0]])
    paths = Paths(t, torch.zeros(2, 4, 1), torch.ones(2, 4, 1).bool())
    assert median_gap(paths).tolist() == [2.0, 2.0]
    assert median_gap(paths._replace(t=t[:, :1])).tolist() == [1.0, 1.0]


# -- what --


def test_impute_answers_at_the_holes_alone():
    paths = series()
    answer = impute(LinearInterpolation(), paths, samples=500, seed=0)
    assert answer.kind == "imputation" and int(answer.mask.sum()) == 1
    assert answer.t[0, 0] == 2.0 and answer.mask[0, 0].tolist() == [False, True]
    before, after = float(paths.x[0, 1, 1]), float(paths.x[0, 3, 1])
    middle, std = (before + after) / 2, float(answer.std()[0, 0, 1])
    assert abs(float(answer.mean()[0, 0, 1]) - middle) < 4 * std / math.sqrt(500)


def test_fill_puts_means_into_holes_and_nowhere_else():
    paths = series()
    answer = impute(LastValue(), paths, samples=20, seed=0)
    full = fill(paths, answer)
    assert torch.equal(full.x[paths.mask], paths.x[paths.mask])
    filled = full.mask & ~paths.mask
    assert filled.nonzero().tolist() == [[0, 2, 1]]
    assert full.x[0, 2, 1] == answer.mean()[0, 0, 1]
    assert not full.mask[1, -1].any()  # padding stays padding


def test_fill_leaves_observed_values_and_unknown_times_alone():
    """Asked at a row that was seen, at one with a hole, at no row, and at a padded row."""
    paths = series()
    asked = torch.tensor([[1.0, 2.0, 2.5], [1.0, 2.0, 8.0], [0.0, 3.0, 99.0]])
    full = fill(paths, impute(LastValue(), paths, times=asked, samples=20, seed=0))
    assert torch.equal(full.x[paths.mask], paths.x[paths.mask])
    assert (full.mask & ~paths.mask).nonzero().tolist() == [[0, 2, 1]]


def test_nothing_is_missing():
    paths = series(1)
    whole = paths._replace(mask=torch.ones_like(paths.mask))
    with pytest.raises(DataError, match=r"TSD-D17.*[Nn]o value is missing.*Add the rows"):
        impute(LastValue(), whole)


def test_nothing_is_observed():
    paths = series(1)
    with pytest.raises(DataError, match="TSD-D10"):
        forecast(LastValue(), paths._replace(mask=torch.zeros_like(paths.mask)), 3)


def test_simulation_starts_where_it_is_told():
    answer = simulate(LastValue(), [1.0, -2.0], [5.0, 6.0, 9.0], samples=7, seed=0)
    assert answer.kind == "simulation" and answer.samples.shape == (7, 1, 3, 2)
    assert (answer.samples[:, 0, 0] == torch.tensor([1.0, -2.0])).all()


def test_simulation_goes_on_from_a_history():
    answer = simulate(LastValue(), series(), [20.0, 21.0], samples=2)
    assert answer.t.tolist() == [[20.0, 21.0]] * 3 and answer.names.series == ("s0", "s1", "s2")


@pytest.mark.parametrize("times", [[], [2.0, 1.0], [0.0, math.inf], [[0.0, 1.0]]], ids=str)
def test_simulation_wants_one_increasing_row(times):
    with pytest.raises(DataError, match="TSD-D17"):
        simulate(LastValue(), [0.0], times)


# -- channels --


def trained_on(channels: tuple[str, ...]) -> LinearInterpolation:
    model = LinearInterpolation()
    model.channels = channels
    return model


def test_channels_are_matched_by_name():
    """The model knows (y, x): draws, mask and names all come in its order."""
    paths = series(1)
    plain, swapped = impute(LinearInterpolation(), paths, seed=0, samples=400), None
    swapped = impute(trained_on(("y", "x")), paths, seed=0, samples=400)
    assert swapped.names.channels == ("y", "x")
    assert swapped.mask[0, 0].tolist() == plain.mask[0, 0].flip(0).tolist() == [True, False]
    a, b = plain.mean()[0, 0, 1], swapped.mean()[0, 0, 0]
    assert abs(float(a - b)) < 4 * float(plain.std()[0, 0, 1]) * math.sqrt(2 / 400)


def test_channels_the_model_does_not_know_are_dropped():
    paths = series(1)
    answer = impute(trained_on(("y",)), paths, seed=0)
    assert answer.samples.shape[-1] == 1 and answer.mask.sum() == 1
    assert forecast(trained_on(("y",)), paths, 2).samples.shape[-1] == 1


def test_a_channel_is_absent():
    with pytest.raises(DataError, match=r"TSD-D13"):
        forecast(trained_on(("x", "z")), series(1), 2)


def test_the_number_of_channels_is_wrong():
    with pytest.raises(DataError, match=r"TSD-D13.*3"):
        forecast(Noisy(dim=3), series(1), 2)


def test_a_table_of_times_is_answered_for_the_series_it_names():
    paths = OrnsteinUhlenbeck(n=4, length=10)()
    model = LastValue()
    ids = paths.names.series
    times = pd.DataFrame({"series_id": [ids[2], ids[0], ids[2]], "time": [11.0, 12.0, 13.0]})
    answer = forecast(model, paths, times=times, samples=5, seed=0)
    assert answer.names.series == (ids[0], ids[2])
    assert answer.t.tolist() == [[12.0, 12.0], [11.0, 13.0]]
    assert answer.mask[..., 0].tolist() == [[True, False], [True, True]]
    alone = model.posterior(take(paths, [2]), torch.tensor([[11.0, 13.0]])).mean
    many = forecast(model, paths, times=times, samples=4000, seed=0)
    error = many.mean()[1] - alone[0]
    assert (error.abs() < 4 * many.std()[1] / 4000**0.5).all()

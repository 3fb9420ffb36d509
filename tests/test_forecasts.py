"""What users hold: summaries of draws against torch's own, and errors that name what is wrong."""

import numpy as np
import pytest
import torch

from tsdyn.batch import Clock, Names, Paths
from tsdyn.errors import DataError
from tsdyn.forecasts import Forecast
from tsdyn.maths.score import crps

NAMES = Names(("a", "b"), ("x", "y"), Clock("float"))


def forecast(S: int = 50) -> Forecast:
    t = torch.tensor([[1.0, 2.0, 3.0], [1.0, 5.0, 5.0]], dtype=torch.float64)
    mask = torch.ones(2, 3, 2, dtype=torch.bool)
    mask[1, 2] = False
    return Forecast(t, torch.randn(S, 2, 3, 2), mask, NAMES)


def test_summaries_are_those_of_the_draws():
    f = forecast()
    torch.testing.assert_close(f.mean(), f.samples.mean(0))
    torch.testing.assert_close(f.std(), f.samples.std(0))
    torch.testing.assert_close(f.median(), f.samples.quantile(0.5, 0))
    for q in (0.0, 0.13, 0.9, 1.0):
        torch.testing.assert_close(f.quantile(q), f.samples.quantile(q, 0))
    low, high = f.interval(0.8)
    ends = np.quantile(f.samples.numpy(), [0.1, 0.9], axis=0, method="weibull")
    np.testing.assert_allclose(torch.stack([low, high]), ends, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("q", [-0.1, 1.5, float("nan")])
def test_levels_lie_between_zero_and_one(q):
    with pytest.raises(DataError, match=r"TSD-D14.*\[0, 1\]"):
        forecast().quantile(q)


def test_one_draw_has_no_quantiles():
    with pytest.raises(DataError, match=r"TSD-D10.*at least 2 draws.*samples=100"):
        forecast(1).median()
    with pytest.raises(DataError, match="TSD-D10"):
        forecast(1).crps(Paths(forecast().t, torch.zeros(2, 3, 2), forecast().mask))


def test_drawing_from_the_draws():
    f = forecast(20)
    some, again, other = (f.sample(7, seed=s) for s in (3, 3, 4))
    assert torch.equal(some, again) and not torch.equal(some, other)
    rows = [next(i for i in range(20) if torch.equal(f.samples[i], d)) for d in some]
    assert len(set(rows)) == 7  # joint, and none twice
    assert f.sample(45).shape == (45, 2, 3, 2)
    torch.manual_seed(0)
    a = f.sample(5)
    torch.manual_seed(0)
    assert torch.equal(a, f.sample(5))  # without a seed torch's generator decides


def test_crps_is_the_mean_over_what_was_asked_and_observed():
    f = forecast()
    mask = f.mask.clone()
    mask[0, 0, 0] = False
    x = torch.randn(2, 3, 2).where(mask, torch.nan)
    one = crps(f.samples, x)[mask].mean()
    torch.testing.assert_close(f.crps(Paths(f.t, x, torch.ones_like(mask) & mask)), one)


def test_crps_wants_the_same_times():
    with pytest.raises(DataError, match=r"TSD-D17.*times=truth\.t"):
        forecast().crps(Paths(torch.zeros(2, 4), torch.zeros(2, 4, 2), torch.ones(2, 4, 2).bool()))


def test_one_series_by_its_name():
    f = forecast()
    b = f["b"]
    assert len(f) == 2 and len(b) == 1 and b.names.series == ("b",)
    assert b.t.tolist() == [[1.0, 5.0]]  # padding gone
    assert torch.equal(b.samples, f.samples[:, 1:, :2])


def test_an_unknown_series_is_a_typing_error():
    with pytest.raises(DataError, match=r"TSD-D02.*`aa`.*Did you mean `a`"):
        forecast()["aa"]


def test_the_table_has_a_row_per_value_that_was_asked():
    f = forecast()
    frame = f.to_pandas("quantiles", quantiles=(0.1, 0.5))
    assert len(frame) == int(f.mask.sum())
    row = frame[(frame.series_id == "a") & (frame.time == 2.0) & (frame.channel == "y")]
    assert float(row["q0.5"].iloc[0]) == pytest.approx(float(f.median()[0, 1, 1]), rel=1e-6)
    assert len(f.to_pandas("samples")) == 50 * int(f.mask.sum())
    assert len(f.to_pandas("mean")) == 5  # rows in time


def test_parquet_keeps_everything(tmp_path):
    f = forecast()
    f.to_parquet(tmp_path / "f.parquet")
    back = Forecast.from_parquet(tmp_path / "f.parquet")
    assert torch.equal(back.samples[:, back.mask], f.samples[:, f.mask])
    assert torch.equal(back.t, f.t) and torch.equal(back.mask, f.mask)
    assert back.names == f.names and back.kind == f.kind


def test_a_picture(tmp_path):
    figure = forecast().plot()
    figure.savefig(tmp_path / "f.png")
    assert (tmp_path / "f.png").stat().st_size > 1000


def test_it_says_what_it_holds():
    assert (
        repr(forecast()) == "Forecast(forecast: 2 series, up to 3 times, channels x, y, 50 draws)"
    )


def test_probabilities_of_states():
    """Shares of draws by hand, in memory and as a table."""
    samples = torch.tensor([[[0.0], [2.0]], [[1.0], [2.0]], [[1.0], [0.0]], [[1.0], [2.0]]])[
        :, None
    ]
    mask = torch.tensor([[[True], [True]]])
    names = Names(("a",), ("state",))
    answer = Forecast(torch.tensor([[0.0, 1.0]]), samples, mask, names)
    want = torch.tensor([[0.25, 0.75, 0.0], [0.25, 0.0, 0.75]])
    torch.testing.assert_close(answer.probabilities()[0, :, 0], want)
    assert answer.probabilities(5).shape == (1, 2, 1, 5)
    table = answer.to_pandas("states")
    assert list(table.columns) == ["series_id", "time", "channel", "p0", "p1", "p2"]
    assert table[["p0", "p1", "p2"]].to_numpy().tolist() == want.tolist()


def test_probabilities_of_values_that_are_no_states():
    with pytest.raises(DataError, match="D14"):
        forecast().probabilities()
    one = torch.ones(2, 1, 1, 1)
    answer = Forecast(torch.zeros(1, 1), 3 * one, one[0] > 0, Names(("a",), ("state",)))
    with pytest.raises(DataError, match="0 to 2"):
        answer.probabilities(3)

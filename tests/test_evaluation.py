"""Scores of models whose law is known: the exact law is calibrated and nothing beats it."""

import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from tsdyn.batch import Names, Paths, Snapshots
from tsdyn.data.synthetic import OrnsteinUhlenbeck
from tsdyn.data.tasks import Classification, Forecasting, Imputation, Labels
from tsdyn.errors import DataError
from tsdyn.evaluation import backtest, default_baselines, evaluate, pit_counts, score_draws, scores
from tsdyn.maths import score
from tsdyn.models.base import Model
from tsdyn.models.baselines import LastValue, LinearInterpolation, SeasonalNaive


class Law(Model):
    """The exact law of a system, its spread made wider or narrower."""

    def __init__(self, system: OrnsteinUhlenbeck, width: float = 1.0):
        super().__init__()
        self.system, self.width = system, width

    def loss(self, given: Paths, want: Paths) -> Tensor:
        law = self.system.law(given, want.t)
        normal = torch.distributions.Normal(law.mean, law.var.sqrt() * self.width)
        return -normal.log_prob(want.x)[want.mask].mean()

    def sample(self, given: Paths, at: Tensor, n: int) -> Tensor:
        mean = self.system.law(given, at).mean.float()
        return mean + self.width * (self.system.sample_law(given, at, n).float() - mean)


SYSTEM = OrnsteinUhlenbeck(n=500, length=15, sigma=1.0, seed=3)
GIVEN, WANT = Forecasting(steps=1)(SYSTEM())


@pytest.fixture(scope="module")
def judged():
    torch.manual_seed(0)
    models = {"exact": Law(SYSTEM), "wide": Law(SYSTEM, 2.0), "narrow": Law(SYSTEM, 0.5)}
    return evaluate(models, GIVEN, WANT, samples=400)


def test_the_exact_law_covers_what_it_says(judged):
    """500 independent values, so a coverage has the standard error of a binomial."""
    for level in (0.5, 0.8, 0.95):
        error = 4 * math.sqrt(level * (1 - level) / 500)
        assert abs(judged["exact"][f"cover{round(100 * level)}"] - level) < error + 0.005


def test_coverage_tells_too_wide_from_too_narrow(judged):
    """A central 80 % interval twice as wide holds P(|Z| < 2 * 1.2816) = 0.9896, half as wide 0.478."""
    assert abs(judged["wide"]["cover80"] - 0.9896) < 4 * math.sqrt(0.9896 * 0.0104 / 500) + 0.005
    assert abs(judged["narrow"]["cover80"] - 0.478) < 4 * math.sqrt(0.478 * 0.522 / 500) + 0.005
    assert judged["narrow"]["width80"] < judged["exact"]["width80"] < judged["wide"]["width80"]


def test_the_probability_transform_is_flat_humped_or_horned(judged):
    """Ten bins of 50: chi-square with 9 degrees of freedom has mean 9 and variance 18."""
    counts = torch.tensor(judged.pit["exact"], dtype=torch.float64)
    assert counts.sum() == 500 and ((counts - 50) ** 2 / 50).sum() < 9 + 4 * math.sqrt(18)
    wide, narrow = judged.pit["wide"], judged.pit["narrow"]
    assert wide[0] + wide[9] < 40 < 160 < narrow[0] + narrow[9]


def test_nothing_beats_the_exact_law(judged):
    for name in ("crps", "wql", "energy"):
        best = judged["exact"][name]
        assert all(row[name] >= best for model, row in judged.rows.items() if model != "exact")


def test_crps_of_the_exact_law_is_its_expectation(judged):
    """E crps of a Gaussian law under itself is std / sqrt(pi)."""
    std = SYSTEM.law(GIVEN, WANT.t).var.sqrt()[WANT.mask]
    expected = float(std.mean()) / math.sqrt(math.pi)
    assert abs(judged["exact"]["crps"] - expected) < 4 * 0.42 * float(std.mean()) / math.sqrt(500)


def test_scores_are_the_formulas_value_by_value():
    draws = torch.randn(40, 3, 4, 2)
    mask = torch.rand(3, 4, 2) < 0.6
    x = torch.randn(3, 4, 2).where(mask, torch.nan)
    want = Paths(torch.zeros(3, 4), x, mask)
    found = score_draws(draws, want)
    d, y = draws[:, mask], x[mask]
    pairs = (d[:, None] - d[None]).abs().sum((0, 1)) / (2 * 40 * 39)
    assert found["crps"] == pytest.approx(float(((d - y).abs().mean(0) - pairs).mean()), rel=1e-5)
    assert found["mae"] == pytest.approx(float((d.quantile(0.5, 0) - y).abs().mean()), rel=1e-5)
    assert found["rmse"] == pytest.approx(float((d.mean(0) - y).square().mean().sqrt()), rel=1e-5)
    levels = torch.arange(1, 10) / 10
    q = d.quantile(levels, 0)
    loss = 2 * torch.maximum(levels[:, None] * (y - q), (levels[:, None] - 1) * (y - q))
    assert found["wql"] == pytest.approx(float(loss.sum(1).mean() / y.abs().sum()), rel=1e-4)
    ends = np.quantile(d.numpy(), [0.25, 0.75], axis=0, method="weibull")
    low, high = torch.from_numpy(ends)
    assert found["cover50"] == pytest.approx(float(((y >= low) & (y <= high)).float().mean()))
    assert found["width50"] == pytest.approx(float((high - low).mean()), rel=1e-5)
    assert sum(pit_counts(draws, want)) == int(mask.sum())


def test_the_same_seed_scores_the_same_and_leaves_the_generator_alone():
    before = torch.get_rng_state()
    a, b, c = (evaluate(LastValue(), GIVEN, WANT, samples=20, seed=s) for s in (1, 1, 2))
    assert a == b and a["LastValue"] != c["LastValue"]
    assert torch.equal(torch.get_rng_state(), before)


def test_baselines_stand_beside_where_they_make_sense():
    assert list(default_baselines(GIVEN, WANT, None)) == ["last value"]
    assert list(default_baselines(GIVEN, WANT, 2.0)) == ["last value", "seasonal naive"]
    between = Imputation(0.3)(SYSTEM(), torch.Generator().manual_seed(0))
    assert "linear interpolation" in default_baselines(*between, None)
    assert list(evaluate(LastValue(), GIVEN, WANT, samples=5, baselines=False).rows) == [
        "LastValue"
    ]


def test_the_report_is_a_table(judged):
    lines = str(judged).splitlines()
    assert [c.strip() for c in lines[0].split("|")[1:4]] == ["model", "crps", "mae"]
    assert len({len(line) for line in lines[:-1]}) == 1  # columns are straight
    assert lines[-1] == "500 values, 400 draws"
    frame = judged.to_pandas()
    assert len(frame) == 4 and frame.shape[1] >= 11


def regular(step: float, dtype=torch.float64, B: int = 2, T: int = 60) -> Paths:
    t = (step * torch.arange(T, dtype=torch.float64)).to(dtype).expand(B, -1)
    x = (t / step).round()[..., None].float()
    names = Names(tuple(range(B)), ("x",))
    return Paths(t, x, torch.ones(B, T, 1).bool(), names=names)


@pytest.mark.parametrize("step", [1.0, 0.1, 3600.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_backtest_wants_every_row_after_the_first_cut_once(step, dtype):
    """Four cut-offs of six steps: the last 24 rows of both series, the newest among them."""
    result = backtest(Counting(), regular(step, dtype), 6, cutoffs=4, samples=2)
    assert result.count == 48
    assert sorted(Counting.seen) == sorted(2 * list(range(36, 60)))


class Counting(LastValue):
    """Last value, with a note of which rows it was scored on."""

    seen: ClassVar[list[int]] = []

    def sample(self, given: Paths, at: Tensor, n: int) -> Tensor:
        if type(self).__name__ == "Counting":
            step = float(given.t[0, 1] - given.t[0, 0])
            Counting.seen += (at / step).round().long().flatten().tolist()
            assert float(given.t.max()) < float(at.min())  # nothing of the future
        return super().sample(given, at, n)


@pytest.fixture(autouse=True)
def nothing_counted():
    Counting.seen = []


def test_backtest_refits_on_what_was_known():
    ends = []

    def fitted(known: Paths) -> Model:
        ends.append(float(known.t.max()))
        return LastValue()

    backtest(fitted, regular(1.0), 5, cutoffs=3, samples=2)
    assert ends == [44.0, 49.0, 54.0]


def test_backtest_of_series_of_different_lengths():
    """The short one has no past at the first cut-off, and is left out there."""
    paths = regular(1.0)
    mask = paths.mask.clone()
    mask[1, :48] = False
    result = backtest(LastValue(), paths._replace(mask=mask), 6, cutoffs=3, samples=2)
    assert result.count == 18 + 6


def test_backtest_needs_a_past():
    with pytest.raises(DataError, match=r"TSD-D10.*cut-off 1 of 12"):
        backtest(LastValue(), regular(1.0), 6, cutoffs=12, samples=2)


def test_seasonal_naive_wins_on_a_season():
    paths = regular(1.0)
    paths = paths._replace(x=(2 * math.pi * paths.t / 12).sin()[..., None].float())
    result = backtest(LastValue(), paths, 6, cutoffs=2, samples=20, period=12.0)
    assert result["seasonal naive"]["mae"] < 1e-3 < result["last value"]["mae"]


# -- cheap scores, by the kind of thing wanted --


def test_scores_of_paths():
    torch.manual_seed(0)
    found = scores(WANT, LastValue(), GIVEN, 32)
    torch.manual_seed(0)
    draws = LastValue().sample(GIVEN, WANT.t, 32)
    assert set(found) == {"crps", "mse", "coverage_90"}
    torch.testing.assert_close(found["crps"], score.crps(draws, WANT.x)[WANT.mask].mean())


def test_scores_of_labels():
    class Guess(Model):
        def loss(self, given, want):
            return torch.zeros(())

        def sample(self, given, at, n):
            return torch.tensor([0, 1, 1]).expand(n, -1)

    want = Classification()(SYSTEM()._replace(labels=torch.zeros(500).long()))[1]
    assert isinstance(want, Labels)
    assert scores(Labels(torch.tensor([0, 1, 0])), Guess(), None)["accuracy"] == pytest.approx(
        2 / 3
    )


def test_scores_of_snapshots():
    """Draws of the population itself are at distance zero but for the sample; moved ones are not."""

    class Moved(Model):
        def __init__(self, by: float):
            super().__init__()
            self.by = by

        def loss(self, given, want):
            return torch.zeros(())

        def sample(self, given, at, n):
            return torch.randn(n, len(at), 2) + self.by

    mask = torch.ones(2, 400).bool()
    mask[1, 300:] = False
    want = Snapshots(torch.tensor([0.0, 1.0]), torch.randn(2, 400, 2), mask)
    near, far = (scores(want, Moved(by), None, 400)["energy"] for by in (0.0, 1.0))
    assert 0 < near < 0.05 < 0.5 < far


def test_an_unknown_kind_of_want_says_what_to_do():
    with pytest.raises(TypeError, match=r"str.*@scores\.register"):
        scores("text", LastValue(), None)


def test_a_model_without_its_own_name_in_the_way():
    """Names of baselines are words, so a model that is one of them keeps its row."""
    found = evaluate(LinearInterpolation(), GIVEN, WANT, samples=5, period=1.0)
    assert list(found.rows) == ["LinearInterpolation", "last value", "seasonal naive"]
    assert SeasonalNaive.__name__ not in found.rows


class Dice(Model):
    """P(y) whatever is given."""

    def __init__(self, p: tuple[float, ...]):
        super().__init__()
        self.p = torch.tensor(p)

    def loss(self, given, want):
        return -self.p[want.y].log().mean()

    def sample(self, given, at, n):
        return torch.multinomial(self.p, n * len(at), replacement=True).view(n, -1)


def test_classes_are_scored_by_accuracy_and_brier():
    """E sum_c (p_c - 1[y = c])^2 = .1² + 2 · .05² … in closed form; S = 4000 draws, 8 standard errors."""
    y = torch.tensor([0] * 30 + [1] * 20)
    given = Paths(torch.zeros(50, 1), torch.zeros(50, 1, 1), torch.ones(50, 1, 1, dtype=torch.bool))
    report = evaluate({"dice": Dice((0.6, 0.3, 0.1))}, given, Labels(y), samples=4000)
    exact = 0.6 * (0.16 + 0.09 + 0.01) + 0.4 * (0.36 + 0.49 + 0.01)
    error = (
        2 * (0.25 / 4000 / 50) ** 0.5
    )  # a share is known to (p (1 - p) / S B)^1/2, times slope 2
    assert abs(report["dice"]["brier"] - exact) < 8 * error
    assert report["dice"]["accuracy"] == report["most frequent class"]["accuracy"] == 0.6
    assert report["most frequent class"]["brier"] == 0.8

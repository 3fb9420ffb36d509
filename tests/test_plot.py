"""What a picture of the functions of a tensor shows: the law of the model, over the span of its data."""

import pytest
import torch
from numpy.testing import assert_allclose

from tsdyn import plot
from tsdyn.batch import Entries
from tsdyn.errors import ConfigError, ModelError
from tsdyn.maths.gaussian_paths import fractional_noise_paths
from tsdyn.maths.hurst import hurst_table
from tsdyn.models.kernels import Matern
from tsdyn.models.tucker import FunctionalTucker, Levels


def trained(rank: int = 2, core: str = "cp") -> FunctionalTucker:
    """A wave along a time from 10 to 30 times a number of each of four categories."""
    time = 10 + 20 * torch.rand(80, dtype=torch.float64)
    time[:2] = torch.tensor([10.0, 30.0])
    category = torch.arange(80).remainder(4).double() * 2  # 0, 2, 4, 6
    y = torch.sin(time / 3) * (category - 2.5) + 0.1 * torch.randn(80)
    data = Entries(torch.stack([time, category], 1), y)
    model = FunctionalTucker([Matern(1.5, 0.2), Levels()], rank, core, rounds=5, growth=2, starts=1)
    model.on_epoch(0, (data, data))
    return model


@pytest.mark.parametrize("core", ["cp", "tucker"])
def test_lines_and_bands_are_the_law_of_the_functions(core):
    model = trained(core=core)
    ax = plot.factors(model, level=0.9, points=50).axes[0]
    lines = [line for line in ax.lines if len(line.get_xdata()) == 50]
    at = torch.linspace(10.0, 30.0, 50, dtype=torch.float64)
    law = model.factor(0, at)
    assert len(lines) == len(ax.collections) == 2
    for r, (line, band) in enumerate(zip(lines, ax.collections, strict=True)):
        mean, deviation = law.mean[:, r], law.cov[:, r, r].sqrt()
        assert_allclose(line.get_xdata(), at)
        assert_allclose(line.get_ydata(), mean)
        vertices, width = band.get_paths()[0].vertices[:, 1], 1.644854 * deviation
        assert_allclose(vertices.max(), (mean + width).max(), rtol=1e-6)
        assert_allclose(vertices.min(), (mean - width).min(), rtol=1e-6)


def test_categories_are_points_with_bars():
    model = trained()
    ax = plot.factors(model, ["time", "station"]).axes[1]
    at = torch.tensor([0.0, 2.0, 4.0, 6.0], dtype=torch.float64)
    law = model.factor(1, at)
    assert len(ax.containers) == 2
    for r, bars in enumerate(ax.containers):
        points, _, (ends,) = bars.lines
        assert_allclose(points.get_xdata(), at, atol=0.5)  # side by side, each near its own
        assert_allclose(points.get_ydata(), law.mean[:, r])
        low, high = (torch.tensor([s[i][1] for s in ends.get_segments()]) for i in (0, 1))
        assert_allclose(high - low, 2 * 1.959964 * law.cov[:, r, r].sqrt(), rtol=1e-6)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "2", "4", "6"]
    assert ax.get_xlabel() == "station"


def test_a_picture_of_each_rank(tmp_path):
    for rank in (1, 7):
        plot.factors(trained(rank)).savefig(tmp_path / f"{rank}.png")
        assert (tmp_path / f"{rank}.png").stat().st_size > 1000


def test_wrong_names_and_models_without_data():
    with pytest.raises(ConfigError, match="TSD-X01"):
        plot.factors(trained(), ["time"])
    with pytest.raises(ModelError, match="TSD-M01"):
        plot.factors(FunctionalTucker([Matern(), Matern()]))


def test_estimates_of_the_hurst_index_are_points_with_bars(tmp_path):
    found = hurst_table(fractional_noise_paths(0.7, 128, size=(3,)), False, replicates=5)
    made = plot.plot_hurst(found, ["a", "b", "c"], level=0.9, truth=[0.7, 0.7, 0.6], title="noise")
    ax = made.axes[0]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == [
        m.replace("_", " ") for m in found
    ]
    assert len(ax.containers) == 3
    for k, bars in enumerate(ax.containers):
        points, _, (ends,) = bars.lines
        assert_allclose(points.get_xdata(), [float(e.value[k]) for e in found.values()])
        assert_allclose(points.get_ydata().astype(float), range(len(found)), atol=0.35)
        reach = [float(s[1][0] - s[0][0]) for s in ends.get_segments()]
        assert_allclose(
            reach, [2 * 1.644854 * float(e.standard_error[k]) for e in found.values()], rtol=1e-6
        )
    dashed = [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--"]
    assert dashed == [0.7, 0.7, 0.6]
    assert [label.get_text() for label in ax.get_legend().get_texts()] == ["a", "b", "c"]
    made.savefig(tmp_path / "hurst.png")
    assert (tmp_path / "hurst.png").stat().st_size > 1000


def test_one_series_and_an_error_that_is_unknown():
    found = hurst_table(fractional_noise_paths(0.4, 128), False, replicates=5)
    bad = found["dfa"]._replace(standard_error=torch.tensor(torch.nan))
    _, grid = plot.figure(1, 1, (4, 3))
    plot.plot_hurst({**found, "dfa": bad}, ax=grid[0, 0])
    (bars,) = grid[0, 0].containers
    assert len(bars.lines[0].get_xdata()) == len(found)
    assert grid[0, 0].get_legend() is None


@pytest.mark.parametrize("wrong", [{"names": ["a"]}, {"truth": [0.1, 0.2, 0.3]}])
def test_names_and_indices_of_another_number_of_series(wrong):
    found = hurst_table(fractional_noise_paths(0.4, 128, size=(2,)), False, replicates=5)
    with pytest.raises(ConfigError, match="TSD-X01"):
        plot.plot_hurst(found, **wrong)

"""What pictures of populations show: the cells, paths, drifts and values that were given, at their places."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from tsdyn import plot, plot_populations
from tsdyn.batch import Snapshots
from tsdyn.data.cell_results import GeneTrends
from tsdyn.errors import ConfigError, DataError
from tsdyn.models.bridge import SnapshotBridge
from tsdyn.models.references import Zero
from tsdyn.models.static_bridge import Walks

D = 3


@pytest.fixture
def snapshots():
    """Clouds of 40, 30 and 50 cells that move along the first coordinate; what is padding is no number."""
    x = torch.randn(3, 50, D, dtype=torch.float64)
    x[..., 0] += torch.tensor([0.0, 5.0, 10.0])[:, None]
    mask = torch.arange(50) < torch.tensor([[40], [30], [50]])
    return Snapshots(torch.tensor([0.0, 1.0, 2.0]), x.where(mask[..., None], torch.nan), mask)


@pytest.fixture
def walks(snapshots):
    bridge = SnapshotBridge(Zero(), 0.5, rounds=0).solve(snapshots)
    return bridge.sample_paths(torch.linspace(0, 2, 21), 100)


class Constant:
    """b = value."""

    def __init__(self, *value):
        self.value, self.asked = torch.tensor(value), []

    def drift(self, x, t):
        self.asked.append((x, t))
        return self.value.to(x).expand(x.shape)


def offsets(collection):
    return np.ma.getdata(collection.get_offsets())


def of_kind(ax, kind):
    return [c for c in ax.collections if type(c).__name__ == kind]


class TestTrajectories:
    def test_pieces_of_the_chosen_paths_in_the_colour_of_their_time(self, snapshots, walks):
        ax = plot_populations.trajectories(snapshots, walks, most=3).axes[0]
        (lines,) = of_kind(ax, "LineCollection")
        pieces = torch.tensor(np.array(lines.get_segments())).view(3, 20, 2, 2)
        for path, i in zip(pieces, (0, 50, 99), strict=True):
            assert_allclose(path[:, 0], walks.x[i, :-1, :2])
            assert_allclose(path[:, 1], walks.x[i, 1:, :2])
        middle = torch.linspace(0.05, 1.95, 20, dtype=torch.float64)
        assert_allclose(lines.get_array(), middle.repeat(3), atol=1e-6)
        assert lines.get_clim() == (0.0, 2.0)

    def test_every_cell_is_there_once_and_padding_is_not(self, snapshots, walks):
        ax = plot_populations.trajectories(snapshots, walks, dims=(2, 0)).axes[0]
        (cells,) = of_kind(ax, "PathCollection")
        assert_allclose(offsets(cells), snapshots.x[snapshots.mask][:, [2, 0]])
        assert_allclose(cells.get_array(), [0.0] * 40 + [1.0] * 30 + [2.0] * 50)

    def test_width_is_mass(self, snapshots, walks):
        weights = walks.weights.clone()
        weights[:50], weights[50:] = 0.5 / 100, 1.5 / 100
        ax = plot_populations.trajectories(snapshots, walks._replace(weights=weights), most=2)
        (lines,) = of_kind(ax.axes[0], "LineCollection")
        width = np.array(lines.get_linewidths())
        assert_allclose(width[20:], 3 * width[:20], rtol=1e-6)

    def test_into_axes_that_are_there(self, snapshots, walks):
        made, grid = plot.figure(1, 2, (6, 3))
        assert plot_populations.trajectories(snapshots, walks, ax=grid[0, 1]) is made
        assert of_kind(grid[0, 1], "LineCollection") and not grid[0, 0].collections

    def test_paths_of_other_coordinates(self, snapshots, walks):
        with pytest.raises(DataError, match=r"TSD-D14.*\(100, 21, 2\)"):
            plot_populations.trajectories(snapshots, walks._replace(x=walks.x[..., :2]))
        with pytest.raises(DataError, match="TSD-D14"):
            plot_populations.trajectories(snapshots, walks._replace(weights=walks.weights[:5]))
        with pytest.raises(DataError, match="TSD-D14"):
            plot_populations.trajectories(
                snapshots, Walks(walks.t[:1], walks.x[:, :1], walks.weights[:, :1])
            )


class TestField:
    def test_streamlines_follow_the_drift(self, snapshots):
        ax = plot_populations.field(Constant(1.0, 2.0, -7.0), 0.5, snapshots).axes[0]
        (lines,) = of_kind(ax, "LineCollection")
        ends = np.array([(s[-1] - s[0]) for s in lines.get_segments()])
        ends = ends[np.abs(ends).sum(1) > 1e-9]
        assert len(ends) > 20
        assert_allclose(ends[:, 1], 2 * ends[:, 0], atol=1e-6)

    def test_streamlines_are_near_cells_of_the_interval(self, snapshots):
        ax = plot_populations.field(Constant(1.0, 0.0, 0.0), 0.5, snapshots).axes[0]
        (lines,) = of_kind(ax, "LineCollection")
        places = torch.tensor(np.concatenate(lines.get_segments()))
        near = snapshots.x[:2][snapshots.mask[:2]][:, :2]
        assert torch.cdist(places, near).amin(1).max() < 1.5
        far = snapshots.x[2][:, :2]  # of the last snapshot, which is not asked about
        assert torch.cdist(far, places).amin(1).max() > 2.0

    def test_the_other_coordinates_are_those_of_the_nearest_cell(self, snapshots):
        bridge = Constant(1.0, 0.0, 0.0)
        plot_populations.field(bridge, 1.5, snapshots, neighbours=1, dims=(0, 2))
        ((x, t),) = bridge.asked
        cells = snapshots.x[1:][snapshots.mask[1:]]
        nearest = torch.cdist(x[:, [0, 2]], cells[:, [0, 2]]).argmin(1)
        assert t == 1.5
        assert_allclose(x[:, 1], cells[nearest, 1])

    def test_drift_is_averaged_over_the_other_coordinates(self, snapshots):
        """Where b = (third coordinate, 1), its mean over all cells has one slope everywhere."""

        class Third:
            def drift(self, x, t):
                return torch.stack([x[:, 2], torch.ones_like(x[:, 2]), x[:, 0]], 1)

        ax = plot_populations.field(Third(), 0.5, snapshots, neighbours=1000).axes[0]
        (lines,) = of_kind(ax, "LineCollection")
        slope = snapshots.x[:2][snapshots.mask[:2]][:, 2].mean()
        ends = np.array([(s[-1] - s[0]) for s in lines.get_segments()])
        assert_allclose(ends[:, 0], slope * ends[:, 1], atol=1e-6)

    def test_a_bridge_in_two_dimensions_and_at_every_kind_of_time(self, snapshots):
        flat = snapshots._replace(x=snapshots.x[..., :2])
        bridge = SnapshotBridge(Zero(), 0.5, rounds=0).solve(flat)
        for t in (0.0, 0.5, 1.0, 1.7):
            ax = plot_populations.field(bridge, t, flat).axes[0]
            (lines,) = of_kind(ax, "LineCollection")
            steps = np.array([(s[-1] - s[0])[0] for s in lines.get_segments()])
            assert (steps > 0).mean() > 0.7  # cells move to the right

    def test_no_drift_is_no_error(self, snapshots, tmp_path):
        bridge = SnapshotBridge(Zero(), 0.5, rounds=0).solve(snapshots)
        made = plot_populations.field(bridge, 2.0, snapshots)  # where it is the reference: zero
        made.savefig(tmp_path / "still.png")

    def test_a_single_cell(self):
        one = Snapshots(torch.tensor([0.0]), torch.zeros(1, 1, 2), torch.ones(1, 1).bool())
        plot_populations.field(Constant(1.0, 0.0), 0.0, one)

    def test_unusable_times_numbers_and_shapes(self, snapshots):
        with pytest.raises(DataError, match="TSD-D17"):
            plot_populations.field(Constant(1.0, 0.0, 0.0), math.nan, snapshots)
        with pytest.raises(ConfigError, match="TSD-X01"):
            plot_populations.field(Constant(1.0, 0.0, 0.0), 0.5, snapshots, neighbours=0)

        class Flat:
            def drift(self, x, t):
                return x[:, :2]

        with pytest.raises(DataError, match="TSD-D14"):
            plot_populations.field(Flat(), 0.5, snapshots)


class TestHeldOut:
    def test_a_panel_for_each_with_both_populations(self, snapshots):
        seen = snapshots.x[1, :30]
        drawn = {"one": seen + 1, "another": torch.randn(7, D)}
        made = plot_populations.held_out(drawn, seen, around=snapshots)
        assert [ax.get_title(loc="left") for ax in made.axes] == ["one", "another"]
        for ax, x in zip(made.axes, drawn.values(), strict=True):
            given, both = of_kind(ax, "PathCollection")[:2]
            assert len(offsets(given)) == 120
            colours = both.get_facecolors()[:, :3]
            blue = colours[:, 2] > colours[:, 0]
            places = offsets(both)
            for found, own in ((places[blue], seen), (places[~blue], x)):
                assert_allclose(np.sort(found[:, 0]), own[:, 0].double().sort().values)

    def test_wrong_shapes(self, snapshots):
        seen = snapshots.x[1, :30]
        with pytest.raises(DataError, match=r"TSD-D14.*bad"):
            plot_populations.held_out({"good": seen, "bad": seen[:, :2]}, seen)
        with pytest.raises(DataError, match="TSD-D14"):
            plot_populations.held_out({}, seen)


@pytest.fixture
def found():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    mean = torch.stack([t, 1 - t, t**2], 1)
    levels = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
    return GeneTrends(t, ("a", "b", "c"), mean, levels, mean + (levels - 0.5)[:, None, None])


class TestTrends:
    def test_means_and_bands(self, found):
        made = plot_populations.trends(found, genes=["c", "a"])
        assert [ax.get_title(loc="left") for ax in made.axes] == ["c", "a"]
        for ax, g in zip(made.axes, (2, 0), strict=True):
            (line,) = ax.lines
            assert_allclose(line.get_ydata(), found.mean[:, g])
            outer, inner = ax.collections
            for band, width in ((outer, 0.45), (inner, 0.25)):
                vertices = band.get_paths()[0].vertices[:, 1]
                assert_allclose(vertices.max(), found.mean[:, g].max() + width)
                assert_allclose(vertices.min(), found.mean[:, g].min() - width)

    def test_cells_that_were_seen(self, found):
        few = found._replace(
            t=found.t[::5], mean=found.mean[::5] + 1, quantiles=found.quantiles[:, ::5]
        )
        ax = plot_populations.trends(found, observed=few).axes[1]
        assert_allclose(ax.lines[1].get_ydata(), few.mean[:, 1])

    def test_unknown_genes_and_wrong_shapes(self, found):
        with pytest.raises(DataError, match=r"TSD-D02.*`bb`.*Did you mean `b`"):
            plot_populations.trends(found, genes=["bb"])
        with pytest.raises(DataError, match="TSD-D14"):
            plot_populations.trends(found._replace(mean=found.mean[:, :2]))
        with pytest.raises(DataError, match="TSD-D14"):
            plot_populations.trends(found, genes=[])


class TestGrowth:
    def test_logarithms_of_factors_about_one(self, snapshots):
        factors = [torch.rand(40) * 4, torch.full((30,), 2.0)]
        made = plot_populations.growth(snapshots, factors, limit=4.0)
        assert [ax.get_title(loc="left") for ax in made.axes[:2]] == ["time 0", "time 1"]
        for ax, g, k in zip(made.axes, factors, (0, 1), strict=False):
            drawn = of_kind(ax, "PathCollection")[1]
            assert drawn.get_clim() == (-2.0, 2.0)
            order = g.log2().abs().argsort()
            assert_allclose(drawn.get_array(), g.log2().clamp(-2, 2)[order], rtol=1e-6)
            assert_allclose(offsets(drawn), snapshots.x[k, order, :2])
        assert [t.get_text() for t in made.axes[-1].get_yticklabels()] == ["1/4", "1", "4"]

    @pytest.mark.parametrize(("most", "end"), [(1.0, "1.1"), (2.4, "3"), (13.0, "15"), (0.1, "10")])
    def test_the_scale_ends_at_a_short_number(self, snapshots, most, end):
        made = plot_populations.growth(snapshots, [torch.full((40,), most)])
        assert made.axes[-1].get_yticklabels()[2].get_text() == end

    def test_cells_that_die_out_and_cells_that_do_not_grow(self, snapshots, tmp_path):
        dead = torch.ones(40)
        dead[:3] = 0.0
        for factors in (dead, torch.ones(40), torch.zeros(40)):
            plot_populations.growth(snapshots, [factors]).savefig(tmp_path / "growth.png")

    def test_wrong_shapes_and_numbers(self, snapshots):
        for values in ([torch.ones(39)], [torch.ones(40, 1)], [], [torch.ones(40)] * 4):
            with pytest.raises(DataError, match="TSD-D14"):
                plot_populations.growth(snapshots, values)
        with pytest.raises(DataError, match="TSD-D14"):
            plot_populations.growth(snapshots, [-torch.ones(40)])
        with pytest.raises(ConfigError, match="TSD-X01"):
            plot_populations.growth(snapshots, [torch.ones(40)], limit=1.0)


class TestFates:
    def test_probabilities_the_most_likely_on_top(self, snapshots):
        shares = [torch.rand(n, 2) for n in (40, 30)]
        made = plot_populations.fates(snapshots, shares, ["left", "right"])
        assert [ax.get_title(loc="left") for ax in made.axes[:2]] == ["left", "right"]
        cells = torch.cat([snapshots.x[0, :40], snapshots.x[1, :30]])[:, :2]
        for c, ax in enumerate(made.axes[:2]):
            drawn = of_kind(ax, "PathCollection")[1]
            value = torch.cat(shares)[:, c].double()
            assert_allclose(drawn.get_array(), value.sort().values)
            assert_allclose(offsets(drawn), cells[value.argsort()])
            assert drawn.get_clim() == (0.0, 1.0)

    def test_many_classes_stand_in_rows(self, snapshots):
        made = plot_populations.fates(snapshots, [torch.rand(40, 6)])
        assert [ax.get_title(loc="left") for ax in made.axes[:6]] == [
            f"class {c}" for c in range(6)
        ]

    def test_wrong_shapes(self, snapshots):
        with pytest.raises(DataError, match="TSD-D14"):
            plot_populations.fates(snapshots, [torch.rand(40, 2)], ["one"])
        with pytest.raises(DataError, match="TSD-D14"):
            plot_populations.fates(snapshots, [torch.rand(40, 2), torch.rand(30, 3)])
        for values in ([torch.rand(40)], [torch.rand(40, 0)]):
            with pytest.raises(DataError, match="TSD-D14"):
                plot_populations.fates(snapshots, values)


def test_coordinates_that_are_not_there(snapshots, walks):
    for dims in ((0, 3), (-1, 0)):
        with pytest.raises(ConfigError, match="TSD-X01"):
            plot_populations.trajectories(snapshots, walks, dims=dims)


def test_every_picture_can_be_written(snapshots, walks, found, tmp_path):
    seen = snapshots.x[1, :30]
    pictures = [
        plot_populations.trajectories(snapshots, walks, labels=("PC 1", "PC 2")),
        plot_populations.field(Constant(1.0, 1.0, 0.0), 1.0, snapshots),
        plot_populations.held_out({"a": seen}, seen),
        plot_populations.trends(found),
        plot_populations.growth(snapshots, [torch.rand(40)]),
        plot_populations.fates(snapshots, [torch.rand(40, 3)]),
    ]
    for k, made in enumerate(pictures):
        made.savefig(tmp_path / f"{k}.png")
        assert (tmp_path / f"{k}.png").stat().st_size > 3000

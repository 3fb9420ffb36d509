"""Snapshots from arrays and series and back, what is refused, and whole populations left out."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from tsdyn.batch import Names, Paths, Snapshots
from tsdyn.data import frames
from tsdyn.data.snapshots import (
    as_snapshots,
    fit_whitening,
    from_arrays,
    require_snapshots,
    to_arrays,
    unwhiten,
    whiten,
)
from tsdyn.data.split import LeaveOutSnapshots
from tsdyn.data.tensors import All
from tsdyn.errors import DataError

NAN, INF = float("nan"), float("inf")


def cells(count=7):
    """Cells at times 3, 0 and 1, and what each is: its number in every coordinate."""
    time = torch.tensor([3.0, 0.0, 1.0, 1.0, 0.0, 3.0, 1.0])[:count]
    return torch.arange(float(count)).repeat(2, 1).mT.double(), time


def at(*times, n=3):
    """n cells at each of these times, numbered through."""
    x = torch.arange(float(len(times) * n)).reshape(len(times), n, 1)
    mask = torch.ones(len(times), n, dtype=torch.bool)
    return Snapshots(torch.tensor(times, dtype=torch.float64), x, mask)


class TestArrays:
    def test_snapshots_in_order_of_time_and_cells_as_they_came(self):
        x, time = cells()
        found = from_arrays(x, time, weights=x[:, 0] + 1, growth=2 * x[:, 0] + 1)
        assert found.t.tolist() == [0, 1, 3] and found.t.dtype == torch.float64
        assert found.mask.tolist() == [[True] * 2 + [False], [True] * 3, [True] * 2 + [False]]
        assert found.x[..., 0].tolist() == [[1, 4, 0], [2, 3, 6], [0, 5, 0]]
        assert found.weights.tolist() == [[2, 5, 0], [3, 4, 7], [1, 6, 0]]
        assert found.growth.tolist() == [[3, 9, 0], [5, 7, 13], [1, 11, 0]]

    def test_there_and_back(self):
        x, time = cells()
        order = time.argsort(stable=True)
        again, when = to_arrays(from_arrays(x, time))
        assert_close(again, x[order], rtol=0, atol=0)
        assert_close(when, time[order].double(), rtol=0, atol=0)

    @pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, pd.DataFrame, list])
    def test_kinds_of_arrays_are_the_same(self, kind):
        x, time = cells()
        table = x.tolist() if kind is list else kind(x.numpy())
        # the labels of rows of a table are not their numbers
        column = pd.Series(time.numpy(), index=range(10, 17)) if kind is pd.DataFrame else time
        assert_close(from_arrays(table, column).x, from_arrays(x, time).x)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_precision_is_kept(self, dtype):
        x, time = cells()
        assert from_arrays(x.to(dtype), time.to(torch.int8)).x.dtype == dtype

    def test_on_its_device(self, device):
        x, time = (u.to(device) for u in cells())
        assert from_arrays(x, time).mask.device.type == device

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"x": torch.zeros(7)}, r"D14: Cells of shape \(7,\) came with"),
            ({"time": torch.zeros(6)}, r"D14: Cells of shape \(7, 2\).* growth of \(6,\)"),
            ({"weights": torch.ones(7, 1)}, r"D14.*growth of \(7,\), \(7, 1\)"),
            ({"x": [["a", "b"]] * 7}, "D14: Cells came as"),
            ({"x": [[1.0, 2.0], [1.0]]}, "D14: Cells came as"),
            ({"time": torch.tensor([0.0, 1, 1, NAN, 2, INF, 3])}, "D04: 2 cells .*first row 3"),
            ({"time": torch.zeros(7)}, "D20: 1 snapshot came"),
            ({"x": torch.zeros(0, 2), "time": torch.zeros(0)}, "D20: No snapshot came"),
        ],
    )
    def test_refused(self, change, message):
        x, time = cells()
        with pytest.raises(DataError, match=f"TSD-{message}"):
            from_arrays(**{"x": x, "time": time} | change)


class TestRequired:
    def snapshots(self):
        x, time = cells()
        ones = torch.ones(7, dtype=torch.float64)
        return from_arrays(x, time, ones, ones)

    def test_padding_is_never_looked_at(self):
        good = self.snapshots()
        hole = ~good.mask
        require_snapshots(
            good._replace(
                x=good.x.masked_fill(hole[..., None], NAN),
                weights=good.weights.masked_fill(hole, -1.0),
                growth=good.growth.masked_fill(hole, NAN),
            )
        )

    @pytest.mark.parametrize("bad", [[0.0, 0.0, 1.0], [0.0, 2.0, 1.0], [0.0, NAN, 1.0]])
    def test_times_increase(self, bad):
        with pytest.raises(DataError, match="TSD-D20: Snapshots are at times 0, "):
            require_snapshots(self.snapshots()._replace(t=torch.tensor(bad)))

    def test_none_is_empty(self):
        good = self.snapshots()
        mask = good.mask.clone()
        mask[1] = False
        with pytest.raises(DataError, match="TSD-D20: Snapshot 1 at time 1 has no cells"):
            require_snapshots(good._replace(mask=mask))

    @pytest.mark.parametrize("value", [NAN, INF, -INF])
    def test_coordinates_are_finite(self, value):
        good = self.snapshots()
        good.x[2, 1, 0] = value
        message = f"TSD-D14: 1 coordinate cannot be used, first {value} at time 3, cell 1, column 0"
        with pytest.raises(DataError, match=message):
            require_snapshots(good)

    @pytest.mark.parametrize("value", [-0.5, NAN, INF])
    def test_weights_are_not_negative(self, value):
        good = self.snapshots()
        good.weights[0, 1] = value
        with pytest.raises(DataError, match=f"D14: 1 weight .*{value} at time 0, cell 1. Wanted"):
            require_snapshots(good)

    def test_some_weight_in_each(self):
        good = self.snapshots()
        good.weights[0, 0] = 0.0
        require_snapshots(good)  # a cell may count nothing
        good.weights[2, :2] = 0.0
        with pytest.raises(DataError, match="TSD-D14: All weights of snapshot 2 are zero"):
            require_snapshots(good)

    @pytest.mark.parametrize("value", [0.0, -2.0, NAN, INF])
    def test_growth_is_positive(self, value):
        good = self.snapshots()
        good.growth[1, 2] = value
        with pytest.raises(DataError, match=r"TSD-D14: 1 growth .* at time 1, cell 2"):
            require_snapshots(good)


class TestWhitening:
    def test_mean_zero_variance_one_and_back(self):
        x = torch.randn(200, 3, dtype=torch.float64) * torch.tensor([1.0, 50.0, 1e-3]) + 7
        found = from_arrays(x, torch.arange(200) // 90)
        whitening = fit_whitening(found)
        z = whiten(found, whitening)
        inside = z.x[z.mask]
        assert_close(inside.mean(0), torch.zeros(3).double())
        assert_close(inside.std(0, correction=0), torch.ones(3).double())
        assert not z.x[~z.mask].any(), "padding stays zero"
        assert_close(unwhiten(z.x[z.mask], whitening), to_arrays(found)[0])

    def test_a_constant_coordinate_keeps_its_scale(self):
        x, time = cells()
        x[:, 1] = 4.0
        found = from_arrays(x, time)
        assert fit_whitening(found).scale[1] == 1.0
        assert not whiten(found, fit_whitening(found)).x[..., 1].any()


class TestSeries:
    def paths(self):
        t = torch.tensor([0.0, 0.5, 1.0, 1.0], dtype=torch.float64).repeat(3, 1)
        x = torch.arange(24.0).reshape(3, 4, 2)
        mask = torch.ones(3, 4, 2, dtype=torch.bool)
        mask[1, 1, 0] = mask[2, 2] = False
        mask[:, 3] = False  # padding
        return Paths(t, x, mask, names=Names(("a", "b", "c"), ("u", "v")))

    def test_frames_are_snapshots(self):
        found = as_snapshots(self.paths()._replace(weights=torch.tensor([1.0, 2.0, 3.0])))
        assert found.t.tolist() == [0, 0.5, 1]
        assert found.mask.tolist() == [[True] * 3, [True, False, True], [True, True, False]]
        assert found.x[1].tolist() == [[2, 3], [0, 0], [18, 19]]
        assert found.weights.tolist() == [[1, 2, 3], [1, 0, 3], [1, 2, 0]]

    def test_some_of_the_frames(self):
        found = as_snapshots(self.paths(), times=[1.0, 0.0])
        assert found.t.tolist() == [0, 1]
        with pytest.raises(
            DataError, match=r"TSD-D17: No snapshot is at 0.7. Wanted: one of 0, 0.5"
        ):
            as_snapshots(self.paths(), times=[0.0, 0.7])

    def test_times_differ(self):
        paths = self.paths()
        paths.t[1] += 0.1
        with pytest.raises(DataError, match="TSD-D14: Series are seen at different times"):
            as_snapshots(paths)


def test_growth_in_tables():
    frame = pd.DataFrame({"day": [1, 0, 1], "u": [1.0, 2, 3], "g": [1.5, 2.0, 0.5]})
    found = frames.to_snapshots(frame, time="day", growth="g")
    assert found.x.tolist() == [[[2], [0]], [[1], [3]]]
    assert found.growth.tolist() == [[2, 0], [1.5, 0.5]] and found.weights is None
    back = frames.snapshots_to_frame(found, ["u"])
    assert back.to_dict("list") == {"time": [0, 1, 1], "u": [2, 1, 3], "growth": [2, 1.5, 0.5]}


class TestLeaveOut:
    def test_what_is_given_and_wanted(self):
        data = at(0.0, 1.0, 2.0, 3.0, 4.0)
        train, (given, val), (rest, test) = LeaveOutSnapshots(val=(1.0,), test=(3.0,))(data, All())
        assert train.t.tolist() == given.t.tolist() == [0, 2, 4] and val.t.tolist() == [1]
        assert rest.t.tolist() == [0, 1, 2, 4] and test.t.tolist() == [3]
        assert test.x.flatten().tolist() == [9, 10, 11]
        seen = torch.cat([train.x.flatten(), val.x.flatten(), test.x.flatten()])
        assert sorted(seen.tolist()) == list(range(15)), "every cell once"

    def test_smaller_snapshots_are_trimmed(self):
        x, time = cells()
        parts = LeaveOutSnapshots(test=(1.0,))(from_arrays(x, time), All())
        assert parts.val is None and parts.train.x.shape == (2, 2, 2)
        assert parts.test[1].x.shape == (1, 3, 2)

    def test_nothing_is_kept(self):
        data = at(0.0, 1.0)
        assert LeaveOutSnapshots()(data, All())[1:] == (None, None)

    @pytest.mark.parametrize(
        "split, message",
        [
            (LeaveOutSnapshots(test=(0.5,)), "D17: No snapshot is at 0.5. Wanted: one of 0, 1, 2"),
            (LeaveOutSnapshots(val=(9.0,)), "D17: No snapshot is at 9"),
            (LeaveOutSnapshots((1.0,), (1.0,)), "D20: The snapshots at 1 are kept twice"),
            (LeaveOutSnapshots((1.0,), (2.0,)), "D20: 3 snapshots leave 1 for training"),
        ],
    )
    def test_refused(self, split, message):
        with pytest.raises(DataError, match=f"TSD-{message}"):
            split(at(0.0, 1.0, 2.0), All())

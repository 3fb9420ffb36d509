"""Oracle: numpy.interp and a search by hand, series by series and channel by channel."""

import numpy as np
import torch

from tsdyn.maths.near import interpolate, near


def problem():
    t = torch.rand(5, 12, dtype=torch.float64).sort(1).values
    t[2, 8:] = t[2, 8:9]  # padding repeats the last time
    x = torch.randn(5, 12, 3, dtype=torch.float64)
    mask = torch.rand(5, 12, 3) < 0.6
    mask[2, 9:] = False
    mask[3, :, 1] = False  # a channel that was never seen
    at = torch.rand(5, 7, dtype=torch.float64) * 1.4 - 0.2
    return t, x.where(mask, torch.nan), mask, at


def test_interpolate_is_numpy_interp():
    t, x, mask, at = problem()
    ours = interpolate(t, x, mask, at)
    for b in range(5):
        for d in range(3):
            seen = mask[b, :, d]
            expected = (
                np.interp(at[b], t[b, seen], x[b, seen, d]) if seen.any() else np.zeros(len(at[b]))
            )
            np.testing.assert_allclose(ours[b, :, d], expected, atol=1e-12)


def test_neighbours_are_those_found_by_hand():
    t, x, mask, at = problem()
    found = near(t, x, mask, at, k=3)
    for b in range(5):
        for d in range(3):
            times, values = t[b, mask[b, :, d]], x[b, mask[b, :, d], d]
            for q, moment in enumerate(at[b]):
                past = values[times <= moment].flip(0)[:3]
                ages = (moment - times[times <= moment]).flip(0)[:3]
                future = values[times > moment][:3]
                assert found.before[b, q, d, : len(past)].tolist() == past.tolist()
                torch.testing.assert_close(found.age[b, q, d, : len(past)], ages)
                assert found.after[b, q, d, : len(future)].tolist() == future.tolist()
                assert found.has_before[b, q, d].sum() == len(past)
                assert found.has_after[b, q, d].sum() == len(future)


def test_an_observation_at_the_query_time_counts_as_before():
    t, x = torch.tensor([[0.0, 1.0]]), torch.tensor([[[1.0], [3.0]]])
    found = near(t, x, torch.ones(1, 2, 1, dtype=torch.bool), torch.tensor([[1.0]]))
    assert found.before.item() == 3.0 and found.age.item() == 0.0 and not found.has_after.item()

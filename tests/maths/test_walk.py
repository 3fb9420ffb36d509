"""Random walks pinned to observations, against the covariances of Brownian motion and bridge."""

import math

import torch

from tsdyn.maths import walk
from tsdyn.maths.near import near

N = 20_000


def seen(t: list[float], x: list[float]):
    t = torch.tensor([t], dtype=torch.float64)
    return t, torch.tensor(x, dtype=torch.float64).view(1, -1, 1), torch.ones(1, len(x), 1).bool()


def covariance(draws: torch.Tensor) -> torch.Tensor:
    """(n, 1, Q, 1) -> (Q, Q); the mean is known to be zero."""
    r = draws[:, 0, :, 0]
    return r.T @ r / len(r)


def close_to(sample: torch.Tensor, exact: torch.Tensor, n: int) -> bool:
    """Entry by entry within 4 standard errors: var of a product of normals is s_ii s_jj + s_ij^2."""
    var = exact.diagonal()[:, None] * exact.diagonal() + exact.square()
    return bool(((sample - exact).abs() <= 4.5 * (var / n).sqrt() + 1e-12).all())


def test_rate_is_the_mean_square_per_time():
    t, x, mask = seen([0.0, 1.0, 3.0, 3.5], [0.0, 2.0, 1.0, 1.5])
    assert walk.rate(t, x, mask).item() == (4 + 1 + 0.25) / 3.5


def test_rate_jumps_over_holes_and_never_reads_them():
    t, x, mask = seen([0.0, 1.0, 3.0, 3.5], [0.0, math.nan, 1.0, math.inf])
    mask[0, 1] = mask[0, 3] = False
    assert walk.rate(t, x, mask).item() == torch.tensor(1 / 3, dtype=torch.float64)


def test_rate_is_pooled_where_a_channel_was_seen_once():
    t = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    x = torch.tensor([[[1.0, 3.0], [3.0, 9.0]], [[5.0, 4.0], [0.0, 0.0]]])
    mask = torch.tensor([[[1, 1], [1, 0]], [[1, 1], [0, 0]]]).bool()
    rate = walk.rate(t, x, mask)[:, 0]
    assert rate[:, 0].tolist() == [4.0, 4.0]  # of the only pair
    assert rate[:, 1].tolist() == [12.5, 12.5]  # no pair: mean of 3^2 and 4^2
    assert walk.rate(t, x, torch.zeros_like(mask)).tolist() == [[[1.0, 1.0]]] * 2


def test_free_after_the_last_value_it_is_brownian_motion():
    """cov(R(s), R(t)) = min(s, t) counted from the last value."""
    t, x, mask = seen([0.0, 2.0], [0.0, 0.0])
    at = torch.tensor([[2.5, 6.0, 3.0]], dtype=torch.float64)  # in any order
    found = near(t, x, mask, at)
    s = at[0] - 2.0
    exact = torch.minimum(s[:, None], s)
    assert close_to(covariance(walk.draw(at, found, found.weight, N)), exact, N)
    torch.testing.assert_close(walk.variance(found, found.weight)[0, :, 0], exact.diagonal())


def test_between_two_values_it_is_the_brownian_bridge():
    """cov(R(s), R(t)) = s (L - t) / L for s <= t, and values apart of a knot are independent."""
    t, x, mask = seen([0.0, 2.0, 5.0], [1.0, -1.0, 4.0])
    at = torch.tensor([[0.5, 1.5, 2.0, 3.0, 4.0]], dtype=torch.float64)
    found = near(t, x, mask, at)
    exact = torch.zeros(5, 5, dtype=torch.float64)
    for rows, start, length in (([0, 1], 0.0, 2.0), ([3, 4], 2.0, 3.0)):
        for i in rows:
            for j in rows:
                a, b = sorted((float(at[0, i]) - start, float(at[0, j]) - start))
                exact[i, j] = a * (length - b) / length
    assert close_to(covariance(walk.draw(at, found, found.weight, N)), exact, N)
    torch.testing.assert_close(walk.variance(found, found.weight)[0, :, 0], exact.diagonal())


def test_before_the_first_value_it_is_brownian_motion_backwards():
    t, x, mask = seen([3.0, 4.0], [0.0, 0.0])
    at = torch.tensor([[0.0, 2.0]], dtype=torch.float64)
    found = near(t, x, mask, at)
    exact = torch.tensor([[3.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    assert close_to(covariance(walk.draw(at, found, found.weight, N)), exact, N)


def test_draws_pass_through_the_values_whatever_the_unit_of_time():
    """Epoch seconds over half a century in float64: the pin is exact to rounding, not to minutes."""
    t = 1e9 * torch.linspace(0, 1.5, 5, dtype=torch.float64)[None] + 0.3
    x = torch.randn(1, 5, 1)  # float32, as data are
    found = near(t, x, torch.ones(1, 5, 1).bool(), t)
    draws = walk.draw(t, found, found.weight, 3)
    assert draws.dtype == torch.float32 and draws.abs().max() == 0.0
    late = torch.tensor([[1.5e9 + 1.3, 1.5e9 + 2.3]], dtype=torch.float64)
    found = near(t, x, torch.ones(1, 5, 1).bool(), late)
    exact = torch.tensor([[1.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    sample = covariance(walk.draw(late, found, found.weight, N).double())
    assert close_to(sample, exact, N)


def test_holes_of_one_channel_do_not_move_another():
    t = torch.arange(4.0)[None]
    x, at = torch.randn(1, 4, 2), torch.tensor([[1.5, 2.5]])
    mask = torch.ones(1, 4, 2).bool()
    mask[0, 2, 1] = False
    variance = walk.variance(near(t, x, mask, at), near(t, x, mask, at).weight)[0]
    torch.testing.assert_close(variance[:, 0], torch.tensor([0.25, 0.25]))
    torch.testing.assert_close(
        variance[:, 1], torch.tensor([0.375, 0.375])
    )  # gap of 2: .5 * 1.5 / 2

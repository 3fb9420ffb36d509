"""Oracles: torchcde where it is installed, scipy series by series, and the definition of each path."""

import pytest
import torch
from hypothesis import given
from scipy.interpolate import CubicSpline

from tests.ragged import ragged
from tsdyn.maths.near import interpolate
from tsdyn.maths.spline import (
    derivative,
    evaluate,
    hermite,
    linear,
    locf,
    moves,
    natural,
    rectilinear,
)

SMOOTH = [hermite, natural]
CONTINUOUS = [linear, *SMOOTH]
ALL = [locf, *CONTINUOUS]


def problem(B: int = 5, T: int = 12, D: int = 3, missing: float = 0.4):
    """Irregular clocks of their own, holes, a channel never seen, and padding."""
    t = torch.rand(B, T, dtype=torch.float64).cumsum(1)
    x = torch.randn(B, T, D, dtype=torch.float64)
    mask = torch.rand(B, T, D) >= missing
    mask[1, :, 1] = False
    t[2, 8:] = t[2, 7:8]
    mask[2, 8:] = False
    return t, x.where(mask, torch.nan), mask


def between(t: torch.Tensor, count: int = 41) -> torch.Tensor:
    """Times from the first to the last row of every series: (B, count)."""
    share = torch.linspace(0, 1, count, dtype=t.dtype)
    return t[:, :1] + share * (t[:, -1:] - t[:, :1])


@pytest.mark.parametrize("ours", CONTINUOUS)
@pytest.mark.parametrize("missing", [0.0, 0.3, 0.8])
def test_paths_are_those_of_torchcde(ours, missing):
    torchcde = pytest.importorskip("torchcde")
    theirs = {
        linear: (torchcde.linear_interpolation_coeffs, torchcde.LinearInterpolation),
        hermite: (
            torchcde.hermite_cubic_coefficients_with_backward_differences,
            torchcde.CubicSpline,
        ),
        natural: (torchcde.natural_cubic_coeffs, torchcde.CubicSpline),
    }
    coefficients, path = theirs[ours]
    t = torch.rand(12, dtype=torch.float64).cumsum(0)
    x = torch.randn(6, 12, 3, dtype=torch.float64)
    mask = torch.rand(6, 12, 3) >= missing
    mask[0, :, 0] = False
    expected = path(coefficients(x.where(mask, torch.nan), t), t)
    found = ours(t.expand(6, -1), x.where(mask, torch.nan), mask)
    for at in (t, between(t[None])[0]):
        queries = at.expand(6, -1)
        torch.testing.assert_close(
            evaluate(found, queries), expected.evaluate(at), rtol=0, atol=1e-9
        )
        # torchcde reads the piece to the left of a knot, and none before the first
        slopes = derivative(found, queries, side="left")[:, 1:]
        torch.testing.assert_close(slopes, expected.derivative(at)[:, 1:], rtol=0, atol=1e-7)


def test_the_rectilinear_path_is_that_of_torchcde():
    torchcde = pytest.importorskip("torchcde")
    t = torch.rand(9, dtype=torch.float64).cumsum(0)
    x = torch.randn(4, 9, 2, dtype=torch.float64)
    mask = torch.rand(4, 9, 2) < 0.6
    mask[:, 0] = True  # torchcde leaves what comes before open
    both = torch.cat([(t - t[0]).expand(4, -1)[..., None], x.where(mask, torch.nan)], -1)
    expected = torchcde.LinearInterpolation(
        torchcde.linear_interpolation_coeffs(both, rectilinear=0)
    )
    found = rectilinear(t.expand(4, -1), x.where(mask, torch.nan), mask)
    at = torch.linspace(0, 16, 65, dtype=torch.float64)
    torch.testing.assert_close(evaluate(found, at.expand(4, -1)), expected.evaluate(at))


@pytest.mark.parametrize("length", [2, 3, 4, 20])
def test_natural_is_the_natural_spline_of_scipy(length):
    t = torch.rand(3, length, dtype=torch.float64).cumsum(1)
    x = torch.randn(3, length, 2, dtype=torch.float64)
    at = between(t)
    path = natural(t, x, torch.ones_like(x, dtype=torch.bool))
    for b in range(3):
        for d in range(2):
            spline = CubicSpline(
                t[b], x[b, :, d], bc_type="natural" if length > 2 else "not-a-knot"
            )
            torch.testing.assert_close(
                evaluate(path, at)[b, :, d], torch.from_numpy(spline(at[b])), rtol=0, atol=1e-9
            )
            torch.testing.assert_close(
                derivative(path, at)[b, :-1, d],
                torch.from_numpy(spline(at[b, :-1], 1)),
                rtol=0,
                atol=1e-7,
            )


@pytest.mark.parametrize("ours", CONTINUOUS)
def test_a_straight_line_is_kept(ours):
    """Holes, clocks and padding do not bend what is straight between its first and last observation."""
    t, x, mask = problem()
    line = 2.0 - 3.0 * t[..., None].expand_as(x)
    mask[:, 0] = mask[:, 7] = True
    at = t[:, :1] + torch.linspace(0, 1, 30, dtype=t.dtype) * (t[:, 7:8] - t[:, :1])
    path = ours(t, line.where(mask, torch.nan), mask & (torch.arange(12) < 8)[:, None])
    expected = (2.0 - 3.0 * at)[..., None].expand(-1, -1, 3)
    if ours is natural:  # which also knows that the channel stands still afterwards
        path = natural(t[:, :8], line[:, :8].where(mask[:, :8], torch.nan), mask[:, :8])
    torch.testing.assert_close(evaluate(path, at), expected)


def test_linear_is_linear_interpolation():
    t, x, mask = problem()
    at = between(t) + 0.3
    torch.testing.assert_close(evaluate(linear(t, x, mask), at), interpolate(t, x, mask, at))


def test_locf_holds_what_was_seen_last():
    t, x, mask = problem()
    at = between(t)
    found = evaluate(locf(t, x, mask), at)
    for b in range(5):
        for d in range(3):
            times, values = t[b, mask[b, :, d]], x[b, mask[b, :, d], d]
            for q, moment in enumerate(at[b]):
                past = values[times <= moment]
                expected = past[-1] if len(past) else values[0] if len(values) else 0.0
                assert found[b, q, d] == expected


@pytest.mark.parametrize("ours", ALL)
@given(paths=ragged())
def test_observations_lie_on_the_path(ours, paths):
    """Also where rows share a time: the last of them counts. Nothing that is not observed is read."""
    t, x, mask = paths.t, paths.x.double(), paths.mask
    path = ours(t, x, mask)
    found = evaluate(path, t)
    assert found.isfinite().all() and derivative(path, t).isfinite().all()
    for b, d in torch.cartesian_prod(*map(torch.arange, (len(t), x.shape[-1]))).tolist():
        last = {float(t[b, i]): i for i in range(t.shape[1]) if mask[b, i, d]}
        for i in last.values():
            torch.testing.assert_close(found[b, i, d], x[b, i, d], rtol=0, atol=1e-9)
        if not last:
            assert not found[b, :, d].any()


@pytest.mark.parametrize("ours", ALL)
def test_single_precision_reproduces_observations(ours):
    t, x, mask = problem(50, 40, 3)
    found = evaluate(ours(t.float(), x.float(), mask), t.float())
    torch.testing.assert_close(found[mask], x.float()[mask], rtol=0, atol=1e-6)


@pytest.mark.parametrize("ours", ALL)
def test_the_ends_are_held(ours):
    t, x, mask = problem()
    path = ours(t, x, mask)
    first, last = t[:, :1], t[:, -1:]
    outside = torch.cat([first - 2.0, first - 1e-3, last + 1e-3, last + 2.0], 1)
    ends = torch.cat([first, first, last, last], 1)
    torch.testing.assert_close(evaluate(path, outside), evaluate(path, ends))
    assert not derivative(path, outside).any()
    assert not derivative(path, outside, side="left").any()


@pytest.mark.parametrize("ours", ALL)
def test_a_clock_per_series_is_each_series_alone(ours):
    t, x, mask = problem()
    at = between(t) + torch.rand(5, 1, dtype=t.dtype)
    together = ours(t, x, mask)
    for b, length in enumerate([12, 12, 8, 12, 12]):  # without its padding
        alone = ours(t[b : b + 1, :length], x[b : b + 1, :length], mask[b : b + 1, :length])
        for read in (evaluate, derivative):
            torch.testing.assert_close(
                read(together, at)[b], read(alone, at[b : b + 1])[0], rtol=0, atol=1e-12
            )


@pytest.mark.parametrize("ours", CONTINUOUS)
def test_the_derivative_is_that_of_the_path(ours):
    t, x, mask = problem()
    at = between(t, 23).requires_grad_()
    path = ours(t, x, mask)
    for d in range(3):
        (slope,) = torch.autograd.grad(evaluate(path, at)[..., d].sum(), at)
        inside = slice(1, -1)
        torch.testing.assert_close(derivative(path, at)[:, inside, d], slope[:, inside])


@pytest.mark.parametrize("ours", SMOOTH)
def test_smooth_paths_have_one_slope_at_every_row(ours):
    t, x, mask = problem()
    path = ours(t, x, mask)
    inner = t[:, 1:7]
    torch.testing.assert_close(
        derivative(path, inner, side="left"), derivative(path, inner), rtol=0, atol=1e-8
    )


def test_hermite_changes_nothing_before_the_last_observation():
    """A new observation is a new piece; natural splines change everywhere."""
    t = torch.rand(3, 7, dtype=torch.float64).cumsum(1)
    x = torch.randn(3, 7, 2, dtype=torch.float64)
    mask = torch.ones_like(x, dtype=torch.bool)
    at = between(t[:, :6])
    early = evaluate(hermite(t[:, :6], x[:, :6], mask[:, :6]), at)
    torch.testing.assert_close(evaluate(hermite(t, x, mask), at), early)
    assert not torch.allclose(
        evaluate(natural(t, x, mask), at), evaluate(natural(t[:, :6], x[:, :6], mask[:, :6]), at)
    )


def test_the_rectilinear_path_moves_time_first_and_reads_no_later_row():
    t, x, mask = problem()
    mask[:, 0], x[:, 0] = True, torch.randn(5, 3, dtype=x.dtype)
    path = rectilinear(t, x, mask)
    rows = evaluate(path, moves(t, t))
    torch.testing.assert_close(rows[..., 0], t - t[:, :1])
    torch.testing.assert_close(rows[..., 1:], evaluate(locf(t, x, mask), t))
    at = (t[:, :-1] + t[:, 1:]) / 2
    halfway = evaluate(path, moves(t, at))
    torch.testing.assert_close(halfway[..., 0], at - t[:, :1])
    torch.testing.assert_close(halfway[..., 1:], evaluate(locf(t, x, mask), at))
    torch.testing.assert_close(
        evaluate(rectilinear(t[:, :5], x[:, :5], mask[:, :5]), moves(t[:, :5], at[:, :4])),
        halfway[:, :4],
    )


@pytest.mark.parametrize("ours", [*ALL, rectilinear])
def test_gradients(ours):
    t, x, mask = problem(3, 6, 2)
    mask[0, :, 1] = False
    at = between(t, 9) + 0.01 if ours is not rectilinear else torch.rand(3, 9, dtype=t.dtype) * 10
    observed = x[mask].clone().requires_grad_()

    def read(observed):
        path = ours(t, torch.full_like(x, torch.nan).masked_scatter(mask, observed), mask)
        return evaluate(path, at), derivative(path, at)

    assert torch.autograd.gradcheck(read, (observed,))


def test_absolute_times_in_double_precision_keep_single_precision_values(device):
    """Seconds since 1970 a minute apart: distances are taken before they are rounded."""
    t, x, mask = problem()
    offset = 1.7e9
    near, far = (
        evaluate(natural(clock.to(device), x.float().to(device), mask.to(device)), at.to(device))
        for clock, at in ((60 * t, 60 * between(t)), (offset + 60 * t, offset + 60 * between(t)))
    )
    assert far.dtype == torch.float32
    torch.testing.assert_close(near, far, rtol=1e-4, atol=1e-4)

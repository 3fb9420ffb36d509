"""Oracles: least squares over all rows at once, scipy's bounded solvers, and problems whose answer is known."""

import pytest
import scipy.optimize
import torch
from torch import Tensor

from tsdyn.errors import ModelError
from tsdyn.maths.least_squares import (
    Expansion,
    levenberg_marquardt,
    not_negative,
    ridge_solution,
    scaled_eigh,
)


def rows(n: int = 50, F: int = 4, R: int = 2) -> tuple[Tensor, Tensor]:
    return torch.randn(n, F, dtype=torch.float64), torch.randn(n, R, dtype=torch.float64)


def free(n: int) -> tuple[Tensor, Tensor]:
    wide = torch.full((n,), torch.inf, dtype=torch.float64)
    return -wide, wide


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e8])
def test_sums_give_what_all_rows_give_in_any_units(scale):
    x, y = rows()
    x[:, 0] *= scale
    want = torch.linalg.lstsq(x, y).solution
    torch.testing.assert_close(ridge_solution(x.mT @ x, x.mT @ y), want)


def test_a_ridge_is_a_share_of_the_diagonal():
    x, y = rows()
    gram = x.mT @ x
    want = torch.linalg.solve(gram + 0.3 * torch.diag(gram.diagonal()), x.mT @ y)
    torch.testing.assert_close(ridge_solution(gram, x.mT @ y, 0.3), want)


def test_directions_that_are_not_seen_are_zero():
    """Two equal columns share what one of them would get, and a column of zeros gets nothing."""
    x, y = rows(F=1)
    twice = torch.cat([x, x, 0 * x], 1)
    found = ridge_solution(twice.mT @ twice, twice.mT @ y)
    alone = (x.mT @ y / x.square().sum())[0]
    torch.testing.assert_close(found, torch.stack([alone / 2, alone / 2, 0 * alone]))
    assert ridge_solution(torch.zeros(0, 0), torch.zeros(0, 2)).shape == (0, 2)


def test_scaled_eigenvalues_sum_to_the_number_of_columns_and_know_no_units():
    x, _ = rows()
    gram = x.mT @ x
    s = torch.tensor([1e3, 1.0, 1e-5, 7.0], dtype=torch.float64)
    (_, plain, _), (_, scaled, _) = scaled_eigh(gram), scaled_eigh(s[:, None] * gram * s)
    torch.testing.assert_close(plain, scaled)
    torch.testing.assert_close(plain.sum(), torch.tensor(4.0, dtype=torch.float64))


@pytest.mark.parametrize("seed", range(8))
def test_not_negative_is_scipys(seed):
    torch.manual_seed(seed)
    x, y = rows(F=5, R=1)
    x = x + 2 * x[:, :1]  # correlated: what turns negative first need not stay zero
    want, _ = scipy.optimize.nnls(x.numpy(), y[:, 0].numpy())
    torch.testing.assert_close(not_negative(x.mT @ x, (x.mT @ y)[:, 0]), torch.from_numpy(want))


def expansion(residual, theta: Tensor) -> Expansion:
    off, slope = residual(theta), torch.func.jacfwd(residual)(theta)
    return Expansion(off.square().sum(), slope.mT @ off, slope.mT @ slope)


def rosenbrock(theta: Tensor) -> Tensor:
    x, y = theta
    return torch.stack([10 * (y - x * x), 1 - x])


def test_levenberg_marquardt_ends_at_the_minimum():
    start = torch.tensor([-1.2, 1.0], dtype=torch.float64)
    found, least = levenberg_marquardt(lambda u: expansion(rosenbrock, u), start, *free(2))
    torch.testing.assert_close(found, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-9)
    assert least < 1e-18


def test_levenberg_marquardt_solves_linear_problems():
    x, y = rows(R=1)
    found, least = levenberg_marquardt(
        lambda u: expansion(lambda theta: x @ theta - y[:, 0], u), torch.zeros(4).double(), *free(4)
    )
    want = torch.linalg.lstsq(x, y)
    torch.testing.assert_close(found, want.solution[:, 0])
    assert least == pytest.approx(float((x @ found - y[:, 0]).square().sum()))


@pytest.mark.parametrize(
    "bounds", [((-2, -2), (0.5, 2)), ((-2, 1.5), (2, 3)), ((-2, -2), (-0.5, 0.1))]
)
def test_levenberg_marquardt_stays_between_bounds(bounds):
    low, high = (torch.tensor(b, dtype=torch.float64) for b in bounds)
    start = (low + high) / 2
    found, _ = levenberg_marquardt(lambda u: expansion(rosenbrock, u), start, low, high)
    want = scipy.optimize.least_squares(
        lambda u: rosenbrock(torch.tensor(u)).numpy(), start.numpy(), bounds=bounds, xtol=1e-15
    )
    torch.testing.assert_close(found, torch.from_numpy(want.x), rtol=0, atol=1e-5)


def test_levenberg_marquardt_turns_back_where_the_sum_is_not_finite():
    """|log θ|² from θ = 3 overshoots into θ < 0 at first."""
    start = torch.tensor([3.0], dtype=torch.float64)
    found, _ = levenberg_marquardt(lambda u: expansion(torch.log, u), start, *free(1))
    torch.testing.assert_close(found, torch.ones(1, dtype=torch.float64))


def test_a_start_that_is_not_finite_is_refused():
    start = torch.tensor([-1.0], dtype=torch.float64)
    with pytest.raises(ModelError, match=r"TSD-M02.*sum of squares is nan at \[-1.0\]"):
        levenberg_marquardt(lambda u: expansion(torch.log, u), start, *free(1))

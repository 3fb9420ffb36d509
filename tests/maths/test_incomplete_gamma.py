"""Oracles: mpmath with 40 digits, for values and for derivatives in both arguments."""

import mpmath
import pytest
import torch
from torch.testing import assert_close

from tsdyn.maths.incomplete_gamma import entire_lower, scaled_entire_lower, scaled_upper

A = [0.02, 0.52, 0.6, 0.75, 1.0, 1.25, 1.48, 1.9, 2.4]
X = [1e-6, 1e-3, 0.1, 0.9, 1.999, 2.0, 2.001, 3.0, 7.0, 30.0, 400.0, 1e4]


def lower(a, x):
    return mpmath.gammainc(a, 0, x, regularized=True) / x**a


def upper(a, x):
    return mpmath.exp(x) * mpmath.gammainc(a, x, regularized=True)


def truth(f, a, x):
    """f over the table of all a and x, with 40 digits."""
    with mpmath.workdps(40):
        rows = [[float(f(mpmath.mpf(p), mpmath.mpf(q))) for q in x] for p in a]
    return torch.tensor(rows, dtype=torch.float64)


def table(a, x):
    a, x = (torch.tensor(v, dtype=torch.float64) for v in (a, x))
    return a[:, None].expand(-1, len(x)).clone(), x.expand(len(a), -1).clone()


@pytest.mark.parametrize("ours, theirs", [(entire_lower, lower), (scaled_upper, upper)])
def test_values(ours, theirs):
    a, x = table(A, X)
    assert_close(ours(a, x), truth(theirs, A, X), rtol=1e-13, atol=0)


def test_the_series_alone():
    x = X[:6]
    expected = truth(lambda a, x: mpmath.exp(x) * lower(a, x), A, x)
    assert_close(scaled_entire_lower(*table(A, x)), expected, rtol=2e-14, atol=0)


@pytest.mark.parametrize("ours, theirs", [(entire_lower, lower), (scaled_upper, upper)])
def test_derivatives(ours, theirs):
    """The first and second in a, the first in x, on both sides of the switch.

    The second in a is as good as the trigamma function of torch: 1e-9.
    """
    a_values, x_values = [0.6, 1.0, 1.4, 2.3], [1e-3, 0.5, 1.9, 2.1, 8.0, 60.0]
    a, x = (v.requires_grad_() for v in table(a_values, x_values))
    da, dx = torch.autograd.grad(ours(a, x).sum(), (a, x), create_graph=True)
    (daa,) = torch.autograd.grad(da.sum(), a)
    for found, order, rtol in [(da, (1, 0), 1e-12), (daa, (2, 0), 2e-8), (dx, (0, 1), 1e-12)]:
        slope = lambda p, q, order=order: mpmath.diff(theirs, (p, q), order)
        expected = truth(slope, a_values, x_values)
        assert_close(found.detach(), expected, rtol=rtol, atol=1e-13)


def test_gradients_at_zero_are_finite():
    a = torch.tensor([0.6, 1.4], dtype=torch.float64, requires_grad=True)
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    value = entire_lower(a, x)
    assert_close(value, torch.exp(-torch.lgamma(a + 1)))
    assert_close(scaled_upper(a, x), torch.ones_like(a))
    for grad in torch.autograd.grad(value.sum() + scaled_upper(a, x).sum(), (a, x)):
        assert grad.isfinite().all()


@pytest.mark.parametrize("ours", [entire_lower, scaled_upper])
def test_gradcheck_to_second_order(ours):
    a, x = (v.requires_grad_() for v in table([0.6, 1.3], [0.4, 1.7, 2.6, 9.0]))
    assert torch.autograd.gradcheck(ours, (a, x))
    assert torch.autograd.gradgradcheck(ours, (a, x))

"""Minima that are known, inside the bounds and on them."""

import math

import pytest
import torch

from tsdyn.errors import ModelError
from tsdyn.maths.minimise import minimise


def infinite(*parameters):
    return [torch.full_like(p, -torch.inf) for p in parameters], [
        torch.full_like(p, torch.inf) for p in parameters
    ]


def test_a_quadratic_has_its_closed_form():
    root = torch.randn(5, 5).double()
    A, b = root @ root.T + torch.eye(5).double(), torch.randn(5).double()
    x, y = torch.zeros(2, 2).double().requires_grad_(), torch.zeros(()).double().requires_grad_()

    def objective():
        z = torch.cat([x.flatten(), y[None]])
        return z @ A @ z / 2 - b @ z

    value = minimise(objective, [x, y], *infinite(x, y))
    found = torch.cat([x.flatten(), y[None]]).detach()
    solution = torch.linalg.solve(A, b)
    torch.testing.assert_close(found, solution, rtol=0, atol=1e-4)
    assert abs(value + float(b @ solution) / 2) < 1e-8


def test_a_bound_holds_and_the_rest_adapts():
    """(x - 2)^2 + (x - y)^2 with x <= 1 has its minimum at x = y = 1."""
    x = torch.zeros(2).double().requires_grad_()
    lower, upper = infinite(x)
    upper[0][0] = 1.0
    minimise(lambda: (x[0] - 2) ** 2 + (x[0] - x[1]) ** 2, [x], lower, upper)
    torch.testing.assert_close(x.detach(), torch.ones(2).double(), rtol=0, atol=1e-5)


def test_a_start_outside_the_bounds_comes_in():
    x = torch.tensor(5.0).double().requires_grad_()
    minimise(lambda: -x, [x], [torch.tensor(0.0)], [torch.tensor(2.0)])
    assert x.item() == 2.0


def test_single_precision_parameters_stay_so():
    x = torch.zeros(3).requires_grad_()
    minimise(lambda: (x - 1.5).square().sum(), [x], *infinite(x))
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.detach(), torch.full((3,), 1.5))


def test_it_turns_back_where_the_objective_is_no_number():
    """-log(1 - x) - 3 log x has its minimum at 3 / 4; beyond 1 and below 0 it is not a number."""
    x = torch.tensor(0.01).double().requires_grad_()
    value = minimise(lambda: -torch.log(1 - x) - 3 * torch.log(x), [x], *infinite(x))
    torch.testing.assert_close(x.item(), 0.75, rtol=0, atol=1e-4)
    assert value == pytest.approx(4 * math.log(4) - 3 * math.log(3))


def test_it_has_to_start_from_a_number():
    x = torch.tensor(-1.0).double().requires_grad_()
    with pytest.raises(ModelError) as raised:
        minimise(lambda: torch.log(x), [x], *infinite(x))
    assert raised.value.code == "TSD-M02"

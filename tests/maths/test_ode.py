"""ODEs against closed forms, the matrix exponential, scipy's tableau and torchdiffeq."""

import math
from itertools import pairwise

import pytest
import torch
from scipy.integrate import RK45
from torch.testing import assert_close

from tsdyn.errors import DataError, ModelError
from tsdyn.maths import ode
from tsdyn.maths.ode import dormand_prince, rk4

F64 = torch.float64


def linear(d=3, T=5.0, n=11, batch=4):
    """dx/dt = A x, its states at n times by the matrix exponential."""
    a = torch.randn(d, d, dtype=F64) - torch.eye(d, dtype=F64)
    x0, t = torch.randn(batch, d, dtype=F64), torch.linspace(0, T, n, dtype=F64)
    exact = torch.stack([x0 @ torch.matrix_exp(a * s).T for s in t], 1)
    return (lambda t, x: x @ a.T), x0, t, exact


def test_the_tableau():
    """Same numbers as scipy's; weights of a consistent method."""
    assert_close(torch.tensor(ode._P, dtype=F64), torch.tensor(RK45.P, dtype=F64))
    assert_close(torch.tensor(ode._E, dtype=F64).abs(), torch.tensor(RK45.E, dtype=F64).abs())
    for c, row in zip(ode._C[1:], ode._A):
        assert math.isclose(sum(row), c)
    assert abs(sum(ode._E)) < 1e-15


def test_order_of_rk4():
    """Halving the step divides the error by 16."""
    field, x0, t, exact = linear()
    errors = [(rk4(field, x0, t, dt) - exact).abs().max() for dt in (0.1, 0.05, 0.025)]
    for a, b in pairwise(errors):
        assert abs(torch.log2(a / b) - 4) < 0.15


def test_rk4_sees_the_time():
    """dx/dt = 4 t³ is integrated exactly by Simpson's weights up to degree 3."""
    t = torch.tensor([[0.0, 1.0, 2.0], [1.0, 1.0, 3.0]], dtype=F64)
    x = rk4(lambda t, x: 4 * t**3 + 0 * x, torch.zeros(2, 2, dtype=F64), t, 0.5)
    assert_close(x, (t**4 - t[:, :1] ** 4)[..., None].expand(-1, -1, 2))


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_error_follows_the_tolerance(tolerance):
    """Within a factor of 100 above and below the relative error asked for, between steps too."""
    field, x0, t, exact = linear(n=101)
    x = dormand_prince(field, x0, t, rtol=tolerance, atol=tolerance)
    error = (x - exact).abs().max() / exact.abs().max()
    assert tolerance / 100 < error < tolerance * 100


def test_dense_output_has_order_four():
    """Between the ends of few steps the error is near that at the ends: sine by a harmonic field."""
    a = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=F64)
    x0 = torch.tensor([[0.0, 1.0]], dtype=F64)
    t = torch.linspace(0, 10, 1001, dtype=F64)
    x = dormand_prince(lambda t, x: x @ a.T, x0, t, rtol=1e-7, atol=1e-7)
    assert_close(x[0, :, 0], t.sin(), rtol=0, atol=1e-5)


def test_clock_and_steps_per_series():
    """Series of different rates on different clocks equal their single solves, step for step."""
    rate = torch.tensor([[0.1], [1.0], [30.0]], dtype=F64)
    t = torch.tensor([[0.0, 1.0, 5.0], [0.5, 0.5, 2.0], [-1.0, 0.0, 0.2]], dtype=F64)
    x0 = torch.ones(3, 2, dtype=F64)
    together = dormand_prince(lambda t, x: -rate * x, x0, t)
    exact = torch.exp(-rate * (t - t[:, :1]))[..., None].expand(-1, -1, 2)
    assert_close(together, exact, rtol=0, atol=1e-5)
    for row, r, x, s in zip(together, rate, x0, t):
        single = dormand_prince(lambda t, x, r=r: -r * x, x[None], s)
        assert_close(row, single[0], rtol=1e-12, atol=1e-14)


def test_a_start_before_the_first_time():
    t = torch.tensor([1.0, 2.0], dtype=F64)
    x0 = torch.ones(2, 1, dtype=F64)
    for solver in (rk4, dormand_prince):
        options = {"dt": 0.01} if solver is rk4 else {}
        x = solver(lambda t, x: -x, x0, t, t0=torch.tensor([0.0, 1.0]), **options)
        assert_close(x[0, :, 0], torch.exp(-t), rtol=0, atol=1e-6)
        assert_close(x[1, :, 0], torch.exp(1 - t), rtol=0, atol=1e-6)


def test_against_torchdiffeq():
    torchdiffeq = pytest.importorskip("torchdiffeq")
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3)
    ).double()
    field = lambda t, x: net(torch.cat([t.expand(len(x), 1), x], -1))
    x0, t = torch.randn(5, 3, dtype=F64), torch.linspace(0, 3, 7, dtype=F64)
    theirs = torchdiffeq.odeint(field, x0, t, rtol=1e-9, atol=1e-10).transpose(0, 1)
    assert_close(dormand_prince(field, x0, t, rtol=1e-9, atol=1e-10), theirs, rtol=0, atol=1e-7)
    assert_close(rk4(field, x0, t, 0.02), theirs, rtol=0, atol=1e-7)


def test_gradients():
    """d x(T) / d a = T x(T) and d x(T) / d x0 = e^{aT} for dx/dt = a x; gradcheck for a network."""
    a = torch.tensor(-0.7, dtype=F64).requires_grad_()
    x0 = torch.tensor([[2.0]], dtype=F64).requires_grad_()
    x = dormand_prince(lambda t, x: a * x, x0, torch.tensor([0.0, 1.5], dtype=F64), 1e-9, 1e-9)
    slopes = torch.autograd.grad(x[0, -1, 0], (a, x0))
    assert_close(slopes[0], 1.5 * x[0, -1, 0].detach(), rtol=1e-7, atol=0)
    assert_close(slopes[1][0, 0], (1.5 * a.detach()).exp(), rtol=1e-7, atol=0)

    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    net = net.double()
    t = torch.tensor([[0.0, 0.3, 1.0], [0.0, 0.0, 2.0]], dtype=F64)
    start = torch.randn(2, 2, dtype=F64).requires_grad_()
    for solver in (
        lambda x: dormand_prince(lambda t, x: net(x), x, t, 1e-10, 1e-10),
        lambda x: rk4(lambda t, x: net(x), x, t, 0.25),
        lambda x: rk4(lambda t, x: net(x), x, t, 0.25, checkpoint=3),
    ):
        assert torch.autograd.gradcheck(solver, start, atol=1e-6)


def test_values_do_not_depend_on_wanting_gradients():
    field, x0, t, _ = linear()
    with_graph = dormand_prince(field, x0.clone().requires_grad_(), t)
    assert_close(with_graph.detach(), dormand_prince(field, x0, t), rtol=1e-13, atol=1e-13)
    assert with_graph.requires_grad
    with torch.no_grad():
        assert not dormand_prince(field, x0.clone().requires_grad_(), t).requires_grad


def test_rejected_steps_leave_no_nan_in_gradients():
    """sqrt(1 - x) is NaN beyond 1: steps that went there are thrown away, on the way back too."""
    x0 = torch.zeros(3, 1, dtype=F64).requires_grad_()
    field = lambda t, x: 8 * (1 - x).sqrt()
    x = dormand_prince(field, x0, torch.tensor([0.0, 0.2499], dtype=F64), 1e-6, 1e-9)
    assert_close(x[:, -1].detach(), 1 - (1 - 4 * torch.full((3, 1), 0.2499, dtype=F64)) ** 2)
    (slope,) = torch.autograd.grad(x.sum(), x0)
    assert slope.isfinite().all()


def test_single_precision():
    field, x0, t, exact = linear()
    field32 = lambda t, x: field(t.double(), x.double()).float()
    x = dormand_prince(field32, x0.float(), t.float(), rtol=1e-5, atol=1e-6)
    assert x.dtype == torch.float32
    assert_close(x.double(), exact, rtol=0, atol=1e-3 * exact.abs().max().item())


def test_blow_up():
    """dx/dt = x² from 1 is 1 / (1 - t)."""
    t = torch.tensor([0.0, 0.5, 2.0], dtype=F64)
    x0 = torch.tensor([[0.1], [1.0]], dtype=F64)
    assert_close(
        dormand_prince(lambda t, x: x**2, x0, t[:2])[:, -1], 1 / (1 / x0 - 0.5), rtol=0, atol=1e-5
    )
    with pytest.raises(ModelError, match=r"TSD-M03: The step shrank.*series 1 at time 1,.*Bound"):
        dormand_prince(lambda t, x: x**2, x0, t)
    with pytest.raises(ModelError, match=r"TSD-M03.*series 1 .*time 2,"):
        rk4(lambda t, x: x**2, x0, t, 0.1)


def test_too_many_steps():
    x0, t = torch.ones(1, 1, dtype=F64), torch.tensor([0.0, 2.0], dtype=F64)
    with pytest.raises(ModelError, match=r"TSD-M03: 200 steps were not enough.*max_steps.*stiff"):
        dormand_prince(lambda t, x: -1e6 * (x - t.cos()), x0, t, max_steps=200)


def test_field_without_value():
    x0, t = torch.ones(2, 1, dtype=F64), torch.tensor([0.0, 2.0], dtype=F64)
    with pytest.raises(ModelError, match=r"TSD-M03: The field is not finite.*series 0 at time 0"):
        dormand_prince(lambda t, x: x * torch.nan, x0, t)


def test_unusable_times():
    for solver in (rk4, dormand_prince):
        with pytest.raises(DataError, match="TSD-D17"):
            solver(lambda t, x: x, torch.ones(1, 1), torch.tensor([1.0, 0.0]))

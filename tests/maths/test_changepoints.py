"""Oracles: independence across a reset, the superposition of responses across a switch."""

import pytest
import torch

from tsdyn.errors import ConfigError
from tsdyn.maths.changepoints import reset_at, switch_at
from tsdyn.maths.kernels import add, chain, gram
from tsdyn.maths.matern import matern
from tsdyn.maths.oscillator import oscillator
from tsdyn.maths.periodic import cosine, periodic
from tsdyn.maths.trend import wiener

TIMES = [1.0, 2.5]


def reset():
    return reset_at(TIMES, [matern(0.5, 0.3, 2.0), matern(2.5, 1.0), wiener(0.7, 0.1, 2.5)])


def switch():
    return switch_at(TIMES, [matern(2.5, 0.3, 2.0), matern(2.5, 1.0), matern(2.5, 0.1, 0.5)])


def test_a_reset_makes_the_stretches_independent():
    t = torch.linspace(0, 4, 33, dtype=torch.float64)  # the changepoints are among them
    first, second, third = t < 1.0, (t >= 1.0) & (t < 2.5), t >= 2.5
    found = gram(reset(), t, t)[..., 0, 0]
    parts = [matern(0.5, 0.3, 2.0), matern(2.5, 1.0), wiener(0.7, 0.1, 2.5)]
    wanted = torch.zeros_like(found)
    for rows, kernel in zip((first, second, third), parts):
        wanted[rows[:, None] & rows] = gram(kernel, t[rows], t[rows]).flatten()
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    rows = chain(reset(), t)
    for k in (int(first.sum()), int((first | second).sum())):
        assert not rows.A[k].any()
        torch.testing.assert_close(rows.Q[k], reset().covariance(t[k : k + 1])[0])


@pytest.mark.parametrize("make", [reset, switch])
def test_laws_of_a_markov_process_hold_across_changepoints(make):
    kernel = make()
    start, middle, end = torch.rand(3, 200, dtype=torch.float64).mul(4).sort(0).values
    (A, Q), (B, R), (C, S) = (
        kernel.transition(a, b) for a, b in ((start, middle), (middle, end), (start, end))
    )
    before, after = kernel.covariance(start), kernel.covariance(middle)
    back, noise = kernel.backward(start, middle)
    for found, wanted in (
        (B @ A, C),
        (B @ Q @ B.mT + R, S),
        (A @ before @ A.mT + Q, after),
        (back @ after, before @ A.mT),
        (back @ after @ back.mT + noise, before),
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


def test_nothing_changes_at_a_switch_between_equal_kernels():
    t, u = torch.rand(2, 15, dtype=torch.float64) * 4
    one = add(oscillator(3.0, 2.0), matern(1.5, 0.7))
    torch.testing.assert_close(gram(switch_at(TIMES, [one] * 3), t, u), gram(one, t, u))


def test_value_and_slope_go_on_at_a_switch():
    """A wave changes its frequency from 2 to 5 at t = 1: cos(2) cos(5 s) - 2 / 5 sin(2) sin(5 s)."""
    kernel = switch_at([1.0], [cosine(2.0), cosine(5.0)])
    t = torch.tensor([0.0, 0.5, 1.0, 1.2, 2.0], dtype=torch.float64)
    s = (t - 1).clamp(min=0)
    two = torch.tensor(2.0, dtype=torch.float64)
    later = two.cos() * torch.cos(5 * s) - 0.4 * two.sin() * torch.sin(5 * s)
    wanted = torch.where(t < 1, torch.cos(2 * t), later)
    found = gram(kernel, t[:1], t)[0, :, 0, 0]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    P = kernel.covariance(torch.tensor([0.99, 1.0], dtype=torch.float64))  # of (f, -f' / frequency)
    variances = torch.tensor([[1.0, 1.0], [1.0, 0.16]], dtype=torch.float64)
    torch.testing.assert_close(P.diagonal(dim1=-2, dim2=-1), variances)


def test_long_after_a_switch_the_new_kernel_rules():
    t = torch.linspace(60, 62, 9, dtype=torch.float64)
    new = matern(1.5, 0.5, 3.0)
    found = gram(switch_at([0.0], [matern(1.5, 2.0), new]), t, t)
    torch.testing.assert_close(found, gram(new, t, t), rtol=1e-12, atol=1e-12)


def test_gradients():
    parameters = torch.tensor([0.7, 0.9, 1.3, 0.4], dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.2, 0.6, 1.4, 2.0, 3.0], dtype=torch.float64, requires_grad=True)

    def both(p, t):
        kernels = [matern(1.5, p[0], p[1]), matern(1.5, p[2], p[3])]
        rows = [x for f in (reset_at, switch_at) for x in chain(f([1.0], kernels), t)[:3]]
        return [x[1:] if x.dim() == 3 else x for x in rows]

    assert torch.autograd.gradcheck(both, (parameters, t))


def test_nothing_of_a_switch_stays_on_the_cpu():
    """A device without values refuses to mix."""
    t = torch.empty(7, dtype=torch.float64, device="meta")
    kernel = switch()
    made = [*chain(kernel, t)[:3], *kernel.transition(t[:-1], t[1:]), gram(kernel, t, t)]
    assert {x.device.type for x in made} == {"meta"}


def test_what_is_refused():
    one, other = matern(0.5, 1.0), matern(1.5, 1.0)
    for times, kernels in (([1.0], [one]), ([2.0, 1.0], [one] * 3), ([], [one])):
        for f in (reset_at, switch_at):
            with pytest.raises(ConfigError, match=r"TSD-X01.*one fewer than kernels"):
                f(times, kernels)
    with pytest.raises(ConfigError, match=r"TSD-X01.*reset_at"):
        switch_at([1.0], [other, oscillator(1.0, 1.0)])
    with pytest.raises(ConfigError, match=r"TSD-X01.*different ways"):
        switch_at([1.0], [one, other])
    with pytest.raises(ConfigError, match=r"TSD-X01.*different ways"):
        reset_at([1.0], [other, periodic(1.0, 1.0, harmonics=3)])

"""Pulled steps are conditioned Gaussians, and their cost is that of Girsanov's theorem."""

import math
from itertools import pairwise

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

from tsdyn.maths.pull import (
    Pull,
    conditioned,
    divergence,
    landing,
    log_ratio,
    pulled,
    spread,
)
from tsdyn.maths.sde import SDE, Langevin, with_kl
from tsdyn.maths.solve import euler, exponential_euler, grid, increments, solve, solve_at

F64 = torch.float64


def number(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=F64)


def case(n: int = 50) -> tuple[torch.Tensor, torch.Tensor, Pull, torch.Tensor]:
    mean, target, e = torch.randn(3, n, dtype=F64)
    std, precision = 0.1 + torch.rand(2, n, dtype=F64)
    return mean, std, Pull(target, 5 * precision), e


def posterior(mean, std, pull) -> Normal:
    """Bayes' rule for a Gaussian prior and a Gaussian look, in information form."""
    precision = 1 / std**2 + pull.precision
    return Normal((mean / std**2 + pull.precision * pull.target) / precision, precision**-0.5)


def test_a_pulled_draw_is_one_of_bayes_rule():
    mean, std, pull, e = case()
    law = posterior(mean, std, pull)
    assert_close(conditioned(mean, std, pull, e), law.mean + law.stddev * e)


def test_divergence_is_that_of_two_normals():
    mean, std, pull, _ = case()
    exact = kl_divergence(posterior(mean, std, pull), Normal(mean, std))
    assert_close(divergence(mean, std, pull), exact)


def test_log_ratio_is_that_of_two_normals():
    mean, std, pull, e = case()
    law, z = posterior(mean, std, pull), conditioned(mean, std, pull, e)
    exact = law.log_prob(z) - Normal(mean, std).log_prob(z)
    assert_close(log_ratio(mean, std, pull, e), exact)
    assert_close(landing(mean, std, pull, e), exact)


def test_landing_has_the_gradient_of_log_q_with_its_pull_held():
    mean, std, pull, e = case()
    leaves = [f.requires_grad_() for f in (mean, std, *pull)]
    z = conditioned(mean, std, pull, e)
    held = posterior(mean, std, Pull(*(f.detach() for f in pull)))
    exact = torch.autograd.grad(
        (held.log_prob(z) - Normal(mean, std).log_prob(z)).sum(), leaves, retain_graph=True
    )
    assert_close(torch.autograd.grad(landing(mean, std, pull, e).sum(), leaves), exact)


def test_divergence_is_the_mean_log_ratio():
    n = 200_000
    mean, std, pull = number(0.3), number(0.5), Pull(number(-1.0), number(6.0))
    ratio = log_ratio(mean, std, pull, torch.randn(n, dtype=F64))
    tolerance = 4 * ratio.std().item() / math.sqrt(n)
    assert_close(ratio.mean(), divergence(mean, std, pull)[0], rtol=0, atol=tolerance)


@pytest.mark.parametrize("kappa, precision", [(0.5, 2.0), (3.0, 20.0)])
def test_one_long_step_costs_what_the_path_of_doobs_transform_costs(kappa, precision):
    """The transformed equation in 400 short steps, its cost carried along by `with_kl`."""
    r, sigma, target, h, n = 0.7, 0.8, -0.4, 1.0, 50_000

    def transformed(t, z):
        left = h - t
        decay = torch.exp(-kappa * left)
        end = z * decay + r * (1 - decay) / kappa
        var = sigma**2 * (1 - decay**2) / (2 * kappa)
        return r - kappa * z + sigma**2 * decay * (target - end) / (var + 1 / precision)

    g = lambda t, z: torch.full_like(z, sigma)
    q, p = SDE(transformed, g), SDE(lambda t, z: r - kappa * z, g)
    z0 = torch.tensor([[0.9, 0.0]], dtype=F64).expand(n, 2)
    walked = solve_at(with_kl(q, p), z0, torch.tensor([0, h], dtype=F64), h / 400, method=euler)
    end, cost = walked[:, -1].unbind(-1)

    decay = math.exp(-kappa * h)
    mean = number(0.9 * decay + r * (1 - decay) / kappa)
    std = spread(number(kappa), number(sigma), number(h))
    pull = Pull(number(target), number(precision))
    law = posterior(mean, std, pull)
    bias = 0.02  # of Euler's steps, largest near the end
    assert_close(
        cost.mean(), divergence(mean, std, pull)[0],
        rtol=bias, atol=4 * cost.std().item() / math.sqrt(n),
    )  # fmt: skip
    assert_close(end.mean(), law.mean[0], rtol=bias, atol=4 * end.std().item() / math.sqrt(n))
    assert_close(end.std(), law.stddev[0], rtol=bias + 4 / math.sqrt(2 * n), atol=0)


def test_a_far_and_weak_pull_is_a_constant_push_of_known_cost():
    """Posterior drift a - kappa z, prior drift b - kappa z: KL = 1/2 ((a - b) / sigma)² T.

    A target at m with precision (a - b) / (sigma² m) pushes by a - b as m grows.
    """
    kappa, sigma, a, b, T, far = 0.5, 0.7, 1.1, -0.4, 2.0, 1e9
    now = grid(torch.tensor([0.0, T], dtype=F64), 1e-4)
    std = spread(number(kappa), number(sigma), now.h)
    pull = Pull(number(far), number((a - b) / sigma**2 / far))
    total = divergence(number(0.3), std, pull).sum().item()
    # a step of length h costs tanh(kappa h / 2) / (kappa h / 2) of it, and less by 1e-9
    assert total == pytest.approx(0.5 * ((a - b) / sigma) ** 2 * T, rel=1e-4)


def walk(pull: Pull, t: torch.Tensor, x0: torch.Tensor, residual=lambda t, z: torch.sin(z)):
    sde = Langevin(number(0.4), residual, lambda t: number(0.6))
    now = grid(t)
    noise = increments(now, x0)
    return sde, now, noise, solve(pulled(sde, pull), torch.cat([x0, x0], -1), now, noise)


def test_without_a_pull_and_with_a_constant_residual_it_is_exponential_euler():
    t, x0 = torch.rand(3, 6, dtype=F64).cumsum(1), torch.randn(3, 2, dtype=F64)
    nothing = torch.zeros(5, 3, 2, dtype=F64)
    constant = lambda t, z: torch.full_like(z, 0.7)
    sde, now, noise, states = walk(Pull(nothing + 9.0, nothing), t, x0, constant)
    assert_close(states[..., :2], solve(exponential_euler(sde), x0, now, noise))


def test_the_drift_is_of_order_two():
    """A noiseless turn, dz1 = -z1 + 6 z2, dz2 = -z2 - 6 z1: e^{-t} times a rotation by 6 t."""
    turn = lambda t, z: 6 * torch.stack([z[:, 1], -z[:, 0]], -1)
    sde = Langevin(number(1.0), turn, lambda t: number(0.0))
    x0 = torch.tensor([[1.0, 0.0]], dtype=F64)
    exact = math.exp(-1) * torch.tensor([math.cos(6), -math.sin(6)], dtype=F64)
    errors = []
    for steps in (64, 128, 256):
        now = grid(torch.tensor([0.0, 1.0], dtype=F64), 1 / steps)
        nothing = torch.zeros(steps, 1, 2, dtype=F64)
        states = solve(
            pulled(sde, Pull(nothing, nothing)), x0.repeat(1, 2), now, increments(now, x0)
        )
        errors.append((states[0, -1, :2] - exact).norm())
    for coarse, fine in pairwise(errors):
        assert 1.8 < math.log2(coarse / fine) < 2.2


def test_the_walk_ends_each_step_where_the_conditioned_draw_does():
    t, x0 = torch.rand(3, 6, dtype=F64).cumsum(1), torch.randn(3, 2, dtype=F64)
    pull = Pull(torch.randn(5, 3, 2, dtype=F64), torch.rand(5, 3, 2, dtype=F64).exp())
    _, now, noise, states = walk(pull, t, x0)
    z, mean = states.chunk(2, -1)
    std = spread(number(0.4), number(0.6), now.h)
    ends = conditioned(mean.transpose(0, 1)[1:], std, pull, noise.dw / now.h.sqrt())
    assert_close(z.transpose(0, 1)[1:], ends)


def test_a_step_of_no_length_stands_still_costs_nothing_and_has_a_finite_gradient():
    kappa, sigma = number(0.4).requires_grad_(), number(0.6).requires_grad_()
    target, precision = number(3.0).requires_grad_(), number(2.0).requires_grad_()
    std, pull = spread(kappa, sigma, number(0.0)), Pull(target, precision)
    for cost in (divergence, lambda *f: log_ratio(*f, number(0.0)), lambda *f: landing(*f, number(0.0))):  # fmt: skip
        value = cost(number(1.0), std, pull)
        assert value.item() == 0
        gradients = torch.autograd.grad(
            value.sum(), [kappa, sigma, target, precision], allow_unused=True, retain_graph=True
        )
        assert all(g is None or g.isfinite().all() for g in gradients)
    t = torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 2.0]], dtype=F64)
    *_, states = walk(Pull(torch.ones(2, 2, 1).to(F64), torch.ones(2, 2, 1).to(F64)), t, torch.randn(2, 1, dtype=F64))  # fmt: skip
    assert_close(states[0, 1, :1], states[0, 2, :1], rtol=0, atol=1e-15)

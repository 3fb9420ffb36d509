"""Controlled paths with fractional noise: costs that are known, exact posteriors, Stratonovich's reading."""

import math

import pytest
import torch
from fractional_linear import TIMES, draws, evidence, linear, potentials

from tsdyn.maths.fractional import (
    brownian_motion,
    faded,
    geometric_speeds,
    mandelbrot_van_ness,
    riemann_liouville,
    speeds_for,
)
from tsdyn.maths.fractional_chain import Linear, Potentials, chain, guide, motion
from tsdyn.maths.fractional_walk import Equation, Start, start_of, steps_of, walk
from tsdyn.maths.grid import graded, grid

STD = 0.1  # of the observation of the bridges
TRUTH = {0.3: -1.2345, 0.7: -1.3229}  # log evidence of 0 at T = 2, K = 5, kernel variance


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def still(B=1, D=1, M=0):
    """x and ξ as the prior has them."""
    shift = torch.zeros(B, D, 1 + M, dtype=torch.float64)
    return Start(shift, torch.eye(1 + M, dtype=torch.float64).expand(B, D, -1, -1))


def test_a_constant_control_costs_half_its_square_in_every_coordinate():
    """½ u² T D: sums over coordinates, where a mean would be smaller by D."""
    D, u = 4, 1.0
    steps = grid(torch.tensor([0.25, 1.0], dtype=torch.float64), 0.1, t0=0.0)
    moving = motion(riemann_liouville(0.3, speeds_for(1.0, 0.1), 1.0), steps)
    law = Linear(*(torch.full((D,), v, dtype=torch.float64) for v in (0.5, 1.0, 0.0, 0.0)))

    def control(t, x, Y):
        return torch.full_like(x, u)

    found = walk(
        Equation(law),
        chain(moving, law),
        steps,
        still(1, D),
        None,
        3,
        control=control,
    )
    torch.testing.assert_close(found.divergence, torch.full((3, 1), 2.0, dtype=torch.float64))


def test_the_density_of_a_control_has_mean_one():
    """E_q p/q = 1, within four standard errors."""
    steps = grid(torch.tensor([1.0], dtype=torch.float64), 0.1, t0=0.0)
    law = linear(0.5, 1.0)
    moving = motion(riemann_liouville(0.7, speeds_for(1.0, 0.1), 1.0), steps)

    def control(t, x, Y):
        return 0.5 - 0.5 * x + 0.2 * Y[..., 1]

    found = walk(
        Equation(law),
        chain(moving, law),
        steps,
        still(),
        None,
        20_000,
        control=control,
        generator=seeded(),
    )
    ratio = torch.exp(-found.log_ratio[:, 0])
    error = ratio.std() / math.sqrt(len(ratio))
    assert abs(float(ratio.mean() - 1)) < 4 * float(error)
    both = found.log_ratio - found.divergence
    assert abs(float(both.mean())) < 4 * float(both.std()) / math.sqrt(len(ratio))
    torch.testing.assert_close(found.landing, found.log_ratio)


@pytest.mark.parametrize("kind", [riemann_liouville, mandelbrot_van_ness])
@pytest.mark.parametrize("hurst", [0.3, 0.8])
@pytest.mark.parametrize("dt", [None, 0.2])
def test_a_guided_path_of_a_linear_equation_is_a_draw_of_the_posterior(kind, hurst, dt):
    """Its importance weight is the evidence, for every draw and every step."""
    y = draws()
    approximation = kind(hurst, speeds_for(4.0, 0.05), 4.0)
    steps, law = grid(TIMES, dt, t0=0.0), linear(0.8, 1.3, 0.2, 0.5)
    moving = motion(approximation, steps)
    linked = chain(moving, law)
    known = guide(linked, potentials(steps, y))
    start = start_of(known, len(approximation.speeds))
    found = walk(Equation(law), linked, steps, start, steps_of(known), 5)
    u = (y - found.x[:, 0, :, 0]) / 0.1
    density = (-(u**2) / 2 - math.log(0.1) - math.log(2 * math.pi) / 2).sum(-1)
    weight = density - found.log_ratio[:, 0]
    want = evidence(approximation, law, y)
    torch.testing.assert_close(weight, want.expand(5), atol=1e-8, rtol=0)


def optimal(approximation, T):
    """u* = κ(τ) (0 - m) / (v(τ) + s²), the control that turns the motion into its bridge."""
    g, w = approximation.speeds, approximation.weights

    def control(t, x, Y):
        left = (T - t)[0]
        fade = torch.exp(-g * left)
        mean = x + (w * (fade - 1) * Y).sum(-1)
        rates = g[:, None] + g
        v = (w[:, None] * w * left * faded(rates * left)).sum()
        return (w * fade).sum() * (0 - mean) / (v + STD**2)

    return control


def bridge(hurst, steps, paths, seed=0):
    """Importance weights (n,) of controlled paths to an observation of 0 at T = 2, and those with the mean cost."""
    approximation = riemann_liouville(hurst, geometric_speeds(0.05, 20, 5), 2.0, "kernel")
    moving, law = motion(approximation, steps), linear()
    found = walk(
        Equation(law),
        chain(moving, law),
        steps,
        still(),
        None,
        paths,
        control=optimal(approximation, 2.0),
        generator=seeded(seed),
    )
    u = found.x[:, 0, -1, 0] / STD
    density = -(u**2) / 2 - math.log(STD) - math.log(2 * math.pi) / 2
    return density - found.log_ratio[:, 0], density - found.divergence[:, 0]


END = torch.tensor([2.0], dtype=torch.float64)


@pytest.mark.parametrize(
    "hurst, steps, elbo",
    [(0.7, grid(END, 2 / 800, 0.0), -1.356), (0.3, graded(END, 200, 4.0, 0.0), -1.28)],
    ids=["800 even steps", "200 graded steps"],
)
def test_the_optimal_control_in_small_steps(hurst, steps, elbo):
    """Bounds from below, near the evidence; the importance weighted one is at it. 2,048 paths.

    A control that is held over a step loses what the bound shows: -1.356 and -1.28 are its values for these steps.
    """
    weights, mean_cost = bridge(hurst, steps, 2048)
    error = float(weights.std()) / math.sqrt(2048)
    assert float(weights.mean()) == pytest.approx(elbo, abs=0.02 + 2 * error)
    assert float(weights.mean()) <= TRUTH[hurst] + 3 * error
    iwae = float(weights.logsumexp(0)) - math.log(2048)
    assert iwae == pytest.approx(TRUTH[hurst], abs=0.02)
    assert float(weights.std()) < 0.25 * float(mean_cost.std())


def test_even_steps_lose_two_nats_where_paths_are_rough():
    even, _ = bridge(0.3, grid(END, 2 / 200, 0.0), 2048)
    fine, _ = bridge(0.3, graded(END, 200, 4.0, 0.0), 2048)
    assert float(fine.mean()) > float(even.mean()) + 1.5  # measured 1.9


def test_the_landing_gradient_is_calm_at_the_optimum():
    """Of a scale of the control, at 1: the mean cost has a gradient of some variance, this one of next to none."""
    approximation = riemann_liouville(0.7, geometric_speeds(0.05, 20, 5), 2.0, "kernel")
    steps, law = grid(END, 0.02, 0.0), linear()
    moving, best = motion(approximation, steps), optimal(approximation, 2.0)
    linked = chain(moving, law)

    def gradients(cost):
        found = []
        for seed in range(40):
            size = torch.ones((), dtype=torch.float64, requires_grad=True)
            path = walk(
                Equation(law),
                linked,
                steps,
                still(),
                None,
                8,
                control=lambda t, x, Y: size * best(t, x, Y),  # noqa: B023
                control_held=lambda t, x, Y: size.detach() * best(t, x, Y),  # noqa: B023
                landing=True,
                generator=seeded(seed),
            )
            u = path.x[:, 0, -1, 0] / STD
            bound = (-(u**2) / 2 - getattr(path, cost)[:, 0]).mean()
            found.append(torch.autograd.grad(bound, size)[0])
        return torch.stack(found)

    calm, loud = gradients("landing"), gradients("divergence")
    assert float(calm.std()) < 0.35 * float(loud.std())
    both = float((calm.var() + loud.var()) / 40) ** 0.5
    assert abs(float(calm.mean() - loud.mean())) < 4 * both


@pytest.mark.parametrize("hurst, worst", [(0.3, 0.06), (0.5, 1e-3), (0.7, 1e-4)])
def test_products_with_the_noise_are_stratonovichs(hurst, worst):
    """dx = x ∘ dB has the solution exp(B): 1,600 steps, and the error falls with their number."""
    speeds = geometric_speeds(0.1, 200.0, 6)
    law = linear(0.0, 1.0, 1.0, 0.0)

    def error(count):
        steps = grid(torch.ones(1, dtype=torch.float64), 1 / count, 0.0)
        moving = motion(riemann_liouville(hurst, speeds, 1.0), steps)
        linked = chain(moving, law)

        def run(equation):
            return walk(equation, linked, steps, still(), None, 400, generator=seeded()).x[
                :, 0, -1, 0
            ]

        got, B = run(Equation(law, factor=lambda t, x: x)), run(Equation(law)) - 1
        want = torch.exp(B)
        return float(((got - want) ** 2).mean().sqrt() / (want**2).mean().sqrt())

    coarse, fine = error(400), error(1600)
    assert fine < worst and fine < 0.7 * coarse


def test_a_drift_of_its_own():
    """dx = (-κ x + sin t) dt without noise, against its integral; second order."""
    law = linear(0.7, 0.0, 1.0, 0.0)

    def error(count):
        steps = grid(torch.tensor([2.0], dtype=torch.float64), 2 / count, 0.0)
        moving = motion(brownian_motion(), steps)
        x = walk(
            Equation(law, residual=lambda t, x: torch.sin(t).expand_as(x)),
            chain(moving, law),
            steps,
            still(),
            None,
            1,
        ).x
        k, t = 0.7, 2.0
        wave = (k * math.sin(t) - math.cos(t) + math.exp(-k * t)) / (1 + k * k)
        return abs(float(x[0, 0, -1, 0]) - math.exp(-k * t) - wave)

    assert error(100) < 1e-3 and 3.5 < error(50) / error(100) < 4.5


def test_graded_steps():
    t = torch.tensor([[0.0, 1.0, 3.0], [0.5, 0.5, 2.5]], dtype=torch.float64)
    steps = graded(t, 4, 2.0)
    assert steps.stops == (0, 4, 8)
    ends = (steps.t + steps.h)[..., 0].T
    torch.testing.assert_close(ends[0, [3, 7]], t[0, 1:])
    torch.testing.assert_close(ends[1, [3, 7]], t[1, 1:])
    torch.testing.assert_close(ends[0, :4], 1 - (1 - torch.arange(1, 5) / 4.0).double() ** 2)
    even = graded(t, 4, 1.0)
    torch.testing.assert_close(even.h, grid(t, None, substeps=4).h)


def test_chance_is_the_generators():
    steps, law = grid(TIMES, None, t0=0.0), linear(0.3, 1.0, 0.0, 1.0)
    moving = motion(riemann_liouville(0.4, speeds_for(4.0, 0.1), 4.0), steps)
    linked = chain(moving, law)
    nothing = torch.zeros(len(steps.h) + 1, 1, 1, dtype=torch.float64)
    known = guide(linked, Potentials(nothing, nothing))

    def run(seed):
        start = start_of(known, 7)
        return walk(
            Equation(law), linked, steps, start, steps_of(known), 2, generator=seeded(seed)
        ).x

    assert torch.equal(run(1), run(1)) and not torch.equal(run(1), run(2))


def test_landing_on_a_guide_leaves_no_variance():
    """The guide of a linear equation is its posterior: to what moves the guide alone the gradient is zero, in every draw."""
    law, steps, y = linear(0.8, 1.3, 0.2, 0.5), grid(TIMES, None, t0=0.0), draws()
    approximation = riemann_liouville(0.3, speeds_for(4.0, 0.05), 4.0)

    def gradients(cost):
        level = torch.zeros((), dtype=torch.float64, requires_grad=True)
        linked = chain(motion(approximation, steps), law)
        seen = potentials(steps, y)
        known = guide(
            linked, Potentials(seen.target - level * (seen.precision > 0), seen.precision)
        )
        start, guided = start_of(known, 7), steps_of(known)
        found = walk(
            Equation(law), linked, steps, start, guided, 6, landing=True, generator=seeded()
        )
        u = (y - found.x[:, 0, :, 0]) / 0.1
        bound = -(u**2).sum(-1) / 2 - getattr(found, cost)[:, 0]
        each = [torch.autograd.grad(b, level, retain_graph=True)[0] for b in bound]
        return torch.stack(each)

    assert float(gradients("divergence").std()) > 0.1
    torch.testing.assert_close(
        gradients("landing"), torch.zeros(6, dtype=torch.float64), atol=1e-6, rtol=0
    )

"""Oracles: integrals of kernels by Gauss and Legendre, covariances in closed form, and chain rules."""

import math

import pytest
import torch
from torch.testing import assert_close

from tsdyn.errors import DataError
from tsdyn.maths.fractional import (
    brownian_motion,
    covariance,
    daems,
    geometric_speeds,
    mandelbrot_van_ness,
    riemann_liouville,
    speeds_for,
)
from tsdyn.maths.fractional_exact import matrix, multifractional
from tsdyn.maths.fractional_transition import (
    FractionalPath,
    draw,
    increments,
    sample,
    steps,
    times,
    transition,
    value,
    walk,
)
from tsdyn.maths.grid import Grid, grid
from tsdyn.maths.quadrature import gauss_legendre
from tsdyn.maths.sde import SDE
from tsdyn.maths.solve import euler, heun, solve

F64 = torch.float64
FIVE = geometric_speeds(1 / 20, 20.0, 5)
WIDE = geometric_speeds(0.1, 1000.0, 7)
KINDS = {
    "riemann_liouville": lambda hurst: riemann_liouville(hurst, FIVE, 1.0),
    "mandelbrot_van_ness": lambda hurst: mandelbrot_van_ness(hurst, FIVE, 1.0),
    "daems": lambda hurst: daems(hurst, 1.0),
}


def number(x):
    return torch.tensor(x, dtype=F64)


def even(n, horizon=1.0):
    return torch.arange(1, n + 1, dtype=F64) * (horizon / n)


@pytest.mark.parametrize("speeds", [FIVE, WIDE, speeds_for(1.0, 1e-2)])
@pytest.mark.parametrize("h", [1e-6, 1e-3, 0.01, 0.1, 1.0])
def test_the_root_is_one_of_the_covariance_of_all_that_moves(speeds, h):
    """C = ∫_0^h v v' ds over pieces that shrink to zero; relative to the sizes of its rows, to 1e-12."""
    law = transition(speeds, number(h))
    s, w = gauss_legendre(1.0, 20)
    ends = h * torch.cat([torch.zeros(1, dtype=F64), 2.0 ** torch.arange(-14, 1, dtype=F64)])
    lengths = ends.diff()
    s, w = (ends[:-1, None] + lengths[:, None] * s).flatten(), (lengths[:, None] * w).flatten()
    v = torch.cat([torch.exp(-speeds[:, None] * s), torch.ones(1, len(s), dtype=F64)])
    C = (v * w) @ v.mT
    scale = C.diagonal().sqrt()
    assert_close((law.root @ law.root.mT - C) / scale / scale[:, None], 0 * C, rtol=0, atol=1e-12)
    assert_close(law.decay, torch.exp(-speeds * h))
    assert_close(law.gain, (v[:-1] * w).sum(-1))


def test_few_normals_move_many_processes():
    """As many as the matrix has directions in double precision: 3 of 6 for small steps, 8 of 8 for large ones."""
    ranks = [transition(FIVE, number(h)).root.shape[-1] for h in (1e-3, 1e-2, 0.1, 1.0)]
    assert ranks == [3, 3, 4, 6]
    assert [transition(WIDE, number(h)).root.shape[-1] for h in (1e-3, 1.0)] == [4, 8]


@pytest.mark.parametrize("speeds", [FIVE, WIDE, speeds_for(1.0, 1e-2)])
@pytest.mark.parametrize("h", [1e-3, 0.1, 2.0])
def test_two_half_steps_are_one_step(speeds, h):
    half, whole = transition(speeds, number(h / 2)), transition(speeds, number(h))
    assert_close(half.decay**2, whole.decay, rtol=1e-12, atol=0)
    assert_close(half.decay * half.gain + half.gain, whole.gain, rtol=1e-12, atol=0)
    fade = torch.cat([half.decay, torch.ones(1, dtype=F64)])[:, None]  # of Y and of W
    C = half.root @ half.root.mT
    both = fade * C * fade.mT + C
    expected = whole.root @ whole.root.mT
    scale = expected.diagonal().sqrt()
    assert_close(
        both / scale / scale[:, None], expected / scale / scale[:, None], rtol=0, atol=1e-12
    )


def test_steps_far_beyond_the_memory_forget_all():
    """γ h = 200: the stationary law of every process, 1 / (γ_i + γ_j)."""
    speeds = number([20.0, 200.0])
    law = transition(speeds, number(10.0))
    assert (law.decay < 1e-80).all()
    C = law.root @ law.root.mT
    assert_close(C[:2, :2], 1 / (speeds[:, None] + speeds), rtol=1e-13, atol=0)
    assert_close(C[:, 2], number([0.05, 0.005, 10.0]), rtol=1e-13, atol=0)


def test_steps_of_one_size_are_one_law():
    assert steps(FIVE, grid(even(1000), t0=0.0).h[..., 0]).decay.shape == (1, 1, 5)
    ragged = torch.rand(7, 3, dtype=F64)
    ragged[2, 1] = 0.0  # a series that waits
    laws = steps(FIVE, ragged)
    assert laws.decay.shape == (7, 3, 5)
    assert_close(laws.decay, torch.exp(-FIVE * ragged[..., None]), rtol=1e-10, atol=0)
    assert not laws.root[2, 1].any() and (laws.decay[2, 1] == 1).all()
    for n, b in [(0, 0), (6, 2)]:
        C = laws.root[n, b] @ laws.root[n, b].mT
        alone = transition(FIVE, ragged[n, b]).root
        assert_close(C, alone @ alone.mT, rtol=1e-10, atol=1e-13)
    assert not steps(FIVE, torch.zeros(2, 1, dtype=F64)).root.any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hurst", [0.2, 0.5, 0.8])
def test_the_law_of_paths(kind, hurst):
    """Mean and covariance of 40000 paths at 12 uneven times, within five of their standard errors."""
    n, found = 40_000, KINDS[kind](hurst)
    t = torch.tensor([0.01, 0.02, 0.1, 0.11, 0.2, 0.35, 0.5, 0.6, 0.61, 0.8, 0.95, 1.0], dtype=F64)
    x = sample(found, t, torch.empty(n, 1, dtype=F64))[..., 0]
    C = covariance(found, t[:, None], found, t)
    variances = C.diagonal()
    assert ((x.mean(0)).abs() < 5 * (variances / n).sqrt()).all()
    se = ((variances[:, None] * variances + C**2) / n).sqrt()
    assert ((x.mT @ x / n - C).abs() < 5 * se).all()


@pytest.mark.parametrize("hurst", [0.3, 0.7])
def test_the_variance_of_increments_is_that_of_fractional_noise(hurst):
    """E(B(t + h) - B(t))² = h^{2H} at every t, for steps of 1/50: to 1.5 % of the approximation and 5 standard errors."""
    n, h = 20_000, 0.02
    found = mandelbrot_van_ness(hurst, geometric_speeds(0.1, 5000.0, 9), 1.0)
    x = sample(found, even(50), torch.empty(n, 1, dtype=F64))[..., 0]
    ratio = x.diff(dim=1).square().mean(0) / h ** (2 * hurst)
    assert ((ratio - 1).abs() < 0.015 + 5 * math.sqrt(2 / n)).all()


def test_brownian_motion_is_its_own_driver():
    """For H = 1/2 and a process of speed zero, B̂ is W, path by path."""
    for found in (brownian_motion(), riemann_liouville(0.5, speeds_for(1.0, 1e-2), 1.0)):
        path = draw(found, grid(even(30), t0=0.0), torch.empty(4, 2, dtype=F64))
        assert_close(path.value.diff(dim=0), path.dw, rtol=0, atol=1e-10)


def test_noise_and_brownian_motion_move_together():
    """Cov(B̂(t), W(t)) = Σ_k w_k (1 - e^{-γ_k t}) / γ_k, within five standard errors."""
    n, found = 20_000, riemann_liouville(0.3, FIVE, 1.0)
    path = draw(found, grid(even(4), t0=0.0), torch.empty(n, 1, dtype=F64))
    w, b = path.dw.sum(0)[:, 0], path.value[-1, :, 0]
    expected = float((found.weights * transition(FIVE, number(1.0)).gain).sum())
    variance = float(covariance(found, number(1.0), found, number(1.0)))
    assert abs(float((w * b).mean()) - expected) < 5 * math.sqrt((variance + expected**2) / n)
    assert abs(float(w.square().mean()) - 1) < 5 * math.sqrt(2 / n)


def test_paths_of_many_coordinates_and_clocks():
    """Coordinates have indices of their own and are independent; every series walks on its own clock."""
    n, hurst = 4_000, number([0.2, 0.8])
    clocks = number([[0.1, 0.4, 1.0], [0.5, 0.5, 0.9]])
    for make in (riemann_liouville, mandelbrot_van_ness):
        found = make(hurst, FIVE, 1.0)
        x = sample(found, clocks.repeat(n, 1), torch.empty(2 * n, 2, dtype=F64))
        x = x.reshape(n, 2, 3, 2)
        assert_close(x[:, 1, 0], x[:, 1, 1], rtol=0, atol=0)  # no time passes between them
        for b in range(2):
            for d in range(2):
                one = make(hurst[d], FIVE, 1.0)
                t = clocks[b]
                C = covariance(one, t[:, None], one, t)
                v = C.diagonal()
                se = ((v[:, None] * v + C**2) / n).sqrt()
                assert ((x[:, b, :, d].mT @ x[:, b, :, d] / n - C).abs() < 5 * se).all()
            across = x[:, b, :, 0].mT @ x[:, b, :, 1] / n
            v = x[:, b].square().mean(0)
            assert (across.abs() < 5 * (v[:, :1] * v[:, 1] / n).sqrt()).all()


def test_multifractional_paths():
    """H falls from 0.8 to 0.3; the covariance is that of an index per time."""
    n, t = 40_000, even(20, 2.0)
    hurst = lambda t: 0.3 + 0.5 * torch.sigmoid(7 * (1 - t))
    clock = grid(t, t0=0.0)
    found = riemann_liouville(hurst(times(clock)), geometric_speeds(0.05, 500.0, 7), 2.0, "kernel")
    x = draw(found, clock, torch.empty(n, 1, dtype=F64)).value[1:, :, 0].mT
    truth = matrix(multifractional(hurst), t)
    v = truth.diagonal()
    se = ((v[:, None] * v + truth**2) / n).sqrt()
    assert ((x.mT @ x / n - truth).abs() < 5 * se + 1e-3 * float(v.max())).all()


def test_single_precision_walks_the_same_paths():
    """The same normals: increments to 1e-4 from H = 0.3 on, and to 1e-2 for H = 0.1 with its larger weights."""
    law = steps(FIVE, torch.full((1000, 1), 1e-3, dtype=F64))
    z = torch.randn(1000, 50, 1, law.root.shape[-1], dtype=F64)
    double, single = walk(law, z)[0], walk(law, z.float())[0]
    assert single.dtype == torch.float32
    for hurst, bound in [(0.1, 1e-2), (0.3, 1e-4), (0.5, 1e-4), (0.9, 1e-4)]:
        w = riemann_liouville(hurst, FIVE, 1.0, "kernel").weights
        none = torch.zeros(1, 0, dtype=F64)
        ours = value(w, double, none, none), value(w, single, none, none.float())
        assert (ours[0].diff(dim=0) - ours[1].diff(dim=0)).abs().max() < bound


def motion(hurst, n, paths=2000):
    """An approximation and paths of n steps over (0, 1)."""
    found = riemann_liouville(hurst, geometric_speeds(0.1, 200.0, 6), 1.0, "kernel", 0.0)
    clock = grid(even(n), t0=0.0)
    return found, draw(found, clock, torch.empty(paths, 1, dtype=F64))


def solved(scheme, path, every, start=None):
    """x(1) of dx = x dB̂, x(0) = 1, by a scheme that sees every so many steps of the path."""
    coarse = FractionalPath(path.value[::every], path.states[::every], path.dw, path.past)
    n = len(coarse.value) - 1
    clock = Grid(even(n)[:, None, None] - 1 / n, torch.full((n, 1, 1), 1 / n, dtype=F64), (n,))
    sde = SDE(lambda t, x: 0 * x, lambda t, x: x)
    x0 = torch.ones_like(path.value[0])
    return solve(scheme(sde), x0, clock, increments(coarse))[:, 0]


def distance(x, truth):
    return float((x - truth).square().mean().sqrt() / truth.square().mean().sqrt())


@pytest.mark.parametrize(
    "hurst, bounds",
    [(0.3, (0.6, 0.25, 0.06)), (0.5, (0.02, 5e-3, 1e-3)), (0.7, (3e-3, 4e-4, 1e-4))],
)
def test_heun_follows_the_chain_rule(hurst, bounds):
    """dx = x ∘ dB̂ is x = exp(B̂), whatever the speeds; the error falls with the steps."""
    _, path = motion(hurst, 1600)
    truth = path.value[-1].exp()
    found = [distance(solved(heun, path, every), truth) for every in (16, 4, 1)]
    assert all(f < b for f, b in zip(found, bounds))
    assert found[0] > found[1] > found[2]


@pytest.mark.parametrize("hurst, bound", [(0.5, 0.04), (0.7, 0.01)])
def test_euler_reads_ito(hurst, bound):
    """dx = x dB̂ is x = exp(B̂ - (Σ w)² t / 2): the martingale part of B̂ is (Σ w) W."""
    found, path = motion(hurst, 1600)
    total = float(found.weights.sum())
    truth = (path.value[-1] - total**2 / 2).exp()
    errors = [distance(solved(euler, path, every), truth) for every in (16, 4, 1)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < bound
    # in its drift, Itô's equation is Stratonovich's with half of the weights' sum squared taken off
    sde = SDE(lambda t, x: -(total**2) / 2 * x, lambda t, x: x)
    clock = grid(even(1600), t0=0.0)
    other = solve(heun(sde), torch.ones_like(path.value[0]), clock, increments(path))[:, -1]
    assert distance(other, truth) < bound / 10


def test_additive_noise_of_a_linear_equation():
    """dx = -θ x dt + dB̂ by Heun: its variance at time 1 by the law of (x, Y), as the integral of a kernel."""
    theta, n, found = 1.5, 20_000, riemann_liouville(0.7, FIVE, 1.0)
    path = draw(found, grid(even(100), t0=0.0), torch.empty(n, 1, dtype=F64))
    sde = SDE(lambda t, x: -theta * x, lambda t, x: torch.ones_like(x))
    x = solve(heun(sde), torch.zeros(n, 1, dtype=F64), grid(even(100), t0=0.0), increments(path))
    # x(1) = ∫ k(1 - u) dW(u), k(r) = Σ_k w_k (γ_k e^{-γ_k r} - θ e^{-θ r}) / (γ_k - θ)
    r, weight = gauss_legendre(1.0, 60)
    decays = FIVE * torch.exp(-FIVE * r[:, None]) - theta * torch.exp(-theta * r[:, None])
    kernel = (decays / (FIVE - theta)) @ found.weights
    expected = float((weight * kernel**2).sum())
    assert abs(float(x[:, -1].var()) - expected) < expected * (5 * math.sqrt(2 / n) + 1e-3)


def test_gradients_in_the_index():
    """Of a path of fixed normals: through weights and modes, for numbers and for an index per time."""
    clock = grid(even(6), t0=0.0)

    def read(make):
        def path(hurst):
            generator = torch.Generator().manual_seed(3)
            return draw(make(hurst), clock, torch.empty(2, 2, dtype=F64), generator).value

        return path

    tame = {"speeds": geometric_speeds(0.5, 20.0, 3), "horizon": 1.0}
    for make in (riemann_liouville, mandelbrot_van_ness):
        hurst = number([0.3, 0.8]).requires_grad_()
        assert torch.autograd.gradcheck(read(lambda h, make=make: make(h, **tame)), hurst)
    hurst = torch.linspace(0.2, 0.9, 7, dtype=F64)[:, None, None].requires_grad_()
    assert torch.autograd.gradcheck(read(lambda h: riemann_liouville(h, **tame)), hurst)


def test_a_generator_gives_the_same_path_on_every_device(device):
    found = mandelbrot_van_ness(0.3, FIVE, 1.0)
    here, there = (
        sample(found, even(9).to(d), torch.empty(5, 2, device=d), torch.Generator().manual_seed(1))
        for d in ("cpu", device)
    )
    assert there.device.type == device and there.dtype == torch.float32
    assert_close(there.cpu(), here, rtol=1e-4, atol=1e-4)
    other = sample(found, even(9), torch.empty(5, 2), torch.Generator().manual_seed(2))
    assert not torch.equal(here, other)


def test_no_path_begins_before_zero():
    with pytest.raises(DataError, match="TSD-D17"):
        sample(brownian_motion(), number([-1.0, 1.0]), torch.empty(2, 1))

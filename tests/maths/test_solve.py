"""The loop: clocks, noise, stops, gradients, errors; and torchsde as an oracle for single paths."""

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tsdyn.errors import ConfigError, DataError, ModelError
from tsdyn.maths.adaptive import solve_torchsde
from tsdyn.maths.sde import SDE, Geometric, Langevin, LinearNoise, plain
from tsdyn.maths.solve import (
    Grid,
    Noise,
    euler,
    exponential_euler,
    grid,
    heun,
    increments,
    lie,
    logarithmic,
    milstein,
    require_finite,
    solve,
    solve_at,
    srk,
)

F64 = torch.float64


def net(*width, dtype=F64):
    layers = [torch.nn.Linear(a, b, dtype=dtype) for a, b in pairwise(width)]
    return torch.nn.Sequential(*[m for layer in layers for m in (layer, torch.nn.Tanh())][:-1])


def equations(d=3):
    """A scheme and an equation that it solves, for every scheme."""
    drift, spread = net(d, 8, d), net(d, 8, d)
    field = lambda t, x: drift(x) + torch.cos(t)
    sigma = lambda t: 0.3 + 0.1 * torch.sin(t)
    state = SDE(field, lambda t, x: 0.5 * spread(x).square() + 0.1)
    own = SDE(field, lambda t, x: 0.4 * x.cos() * (1 + t))  # g_i sees x_i only
    kappa = torch.tensor([0.0, 1.0, 2.5], dtype=F64)[:d]
    return [
        pytest.param(euler, state, id="euler"),
        pytest.param(heun, own, id="heun"),
        pytest.param(milstein, own, id="milstein"),
        pytest.param(srk, plain(Langevin(kappa, field, sigma)), id="srk"),
        pytest.param(exponential_euler, Langevin(kappa, field, sigma), id="exponential_euler"),
        pytest.param(lie, LinearNoise(field, sigma), id="lie"),
        pytest.param(logarithmic, Geometric(field, sigma), id="logarithmic"),
        pytest.param(lie, LinearNoise(field, sigma, "scalar"), id="lie-scalar"),
        pytest.param(milstein, SDE(field, state.diffusion, "scalar"), id="milstein-scalar"),
    ]


every_scheme = pytest.mark.parametrize("scheme, sde", equations())


def drawn(sde, x0, now, area=True):
    return increments(now, x0[:, :1] if sde.noise == "scalar" else x0, area=area)


# --- grids ---------------------------------------------------------------------------------------


def test_one_step_per_interval_without_dt():
    now = grid(torch.tensor([0.0, 1.0, 3.0]))
    assert now.t.flatten().tolist() == [0.0, 1.0]
    assert now.h.flatten().tolist() == [1.0, 2.0]
    assert now.stops == (0, 1, 2)
    assert grid(torch.tensor([0.0, 1.0, 3.0]), substeps=3).stops == (0, 3, 6)


def test_steps_are_at_most_dt_and_land_on_every_time():
    t = torch.tensor([[0.0, 0.5, 4.0], [0.0, 1.0, 1.0]], dtype=F64)
    now = grid(t, dt=0.3)
    assert now.stops == (0, 4, 16)
    assert now.h.max() <= 0.3
    ends = (now.t + now.h)[[s - 1 for s in now.stops[1:]], :, 0].T
    assert_close(ends, t[:, 1:])
    assert (now.h[4:, 1] == 0).all()  # this series waits


def test_decimal_times_cost_no_extra_step():
    """0.1 + 0.1 + ... is not 1.0; neither in float32 nor in float64 may that add a sliver of a step."""
    for dtype in (torch.float32, F64):
        t = torch.arange(11, dtype=dtype) * 0.1
        assert grid(t, dt=0.1).stops == tuple(range(11))
        assert grid(t, dt=0.05).stops == tuple(range(0, 22, 2))


def test_start_before_the_first_time():
    now = grid(torch.tensor([1.0, 2.0]), t0=0.0)
    assert now.stops == (1, 2)
    per_series = grid(torch.tensor([1.0, 2.0]), t0=torch.tensor([0.0, 1.0]))
    assert per_series.h[..., 0].T.tolist() == [[1.0, 1.0], [0.0, 1.0]]


def test_whole_numbers_as_times():
    now = grid(torch.tensor([0, 1, 2]), dt=0.5)
    assert now.t.flatten().tolist() == [0.0, 0.5, 1.0, 1.5]


@pytest.mark.parametrize(
    "t, options, code",
    [
        (torch.tensor([0.0, 2.0, 1.0]), {}, "D17"),
        (torch.tensor([[0.0, 1.0], [1.0, 0.5]]), {"dt": 0.1}, "D17"),
        (torch.tensor([0.0, float("nan")]), {}, "D17"),
        (torch.tensor([0.0, float("inf")]), {}, "D17"),
        (torch.tensor([0.0, 1.0]), {"t0": 0.5}, "D17"),
        (torch.tensor([]), {}, "D17"),
        (torch.zeros(2, 2, 2), {}, "D17"),
        (torch.zeros(2, 2), {"t0": torch.zeros(3)}, "D17"),
        (torch.tensor([0.0, 1.0]), {"dt": 0.0}, "D17"),
        (torch.tensor([0.0, 1.0]), {"dt": float("nan")}, "D17"),
        (torch.tensor([0.0, 1.0]), {"substeps": 0}, "D17"),
        (torch.tensor([0.0, 1.0]), {"dt": 1e-8}, "D16"),
    ],
)
def test_unusable_times(t, options, code):
    with pytest.raises(DataError, match=f"TSD-{code}"):
        grid(t, **options)


def test_unusable_times_are_named():
    with pytest.raises(DataError, match=r"eries 1 goes from time 1 to 0.5"):
        grid(torch.tensor([[0.0, 1.0], [1.0, 0.5]]))


# --- noise ---------------------------------------------------------------------------------------


def test_increments_have_the_law_of_brownian_motion():
    n = 200_000
    now = grid(torch.tensor([0.0, 0.5, 2.5], dtype=F64))
    noise = increments(now, torch.zeros(n, 1, dtype=F64), area=True)
    for h, dw, area in zip(now.h.flatten(), noise.dw[..., 0], noise.area[..., 0]):
        relative = 4 * (2 / n) ** 0.5  # standard error of a variance
        assert_close(dw.var(), h, rtol=relative, atol=0)
        assert_close(area.var(), h / 12, rtol=relative, atol=0)
        assert abs(dw.mean()) < 4 * (h / n) ** 0.5
        assert abs(torch.corrcoef(torch.stack([dw, area]))[0, 1]) < 4 / n**0.5


def test_steps_of_size_zero_have_no_noise():
    now = grid(torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 2.0]]))
    noise = increments(now, torch.zeros(2, 3), area=True)
    assert (noise.dw[1, 0] == 0).all() and (noise.area[1, 0] == 0).all()
    assert (noise.dw[1, 1] != 0).all()


def test_same_seed_same_path_and_numpy_is_not_asked(device):
    x0 = torch.ones(4, 2, device=device)
    t = torch.linspace(0, 1, 5, device=device)
    sde = SDE(lambda t, x: -x, lambda t, x: x.cos())
    for options in ({}, {"backend": "torchsde"}):
        before = np.random.get_state()[1].copy()
        runs = []
        for seed in (7, 7, 8):
            torch.manual_seed(seed)
            np.random.random(int(seed))  # what numpy does meanwhile must not matter
            runs.append(solve_at(sde, x0, t, 0.1, **options))
        assert torch.equal(runs[0], runs[1])
        assert not torch.equal(runs[0], runs[2])
        np.random.set_state(("MT19937", before, 0))
    state = np.random.get_state()[1].copy()
    generator = torch.Generator().manual_seed(3)
    a = solve_at(sde, x0, t, 0.1, generator=generator)
    b = solve_at(sde, x0, t, 0.1, generator=generator.manual_seed(3))
    assert torch.equal(a, b)
    assert (np.random.get_state()[1] == state).all()


# --- the loop ------------------------------------------------------------------------------------


@every_scheme
def test_ragged_clocks_equal_single_solves(scheme, sde):
    t = torch.rand(5, 6, dtype=F64).cumsum(1)
    t[1, 4:] = t[1, 3]  # padding
    t[2] = t[2, 0]
    x0 = torch.randn(5, 3, dtype=F64)
    now = grid(t, t0=0.0)
    noise = drawn(sde, x0, now)
    together = solve(scheme(sde), x0, now, noise)
    for b in range(5):
        length = len(t[b].unique())
        alone = grid(t[b, :length], t0=0.0)
        own = Noise(noise.dw[:length, b : b + 1], noise.area[:length, b : b + 1])
        single = solve(scheme(sde), x0[b : b + 1], alone, own)
        assert_close(together[b, :length], single[0], rtol=1e-6, atol=1e-6)
        assert torch.equal(together[b, length:], together[b, length - 1 : -1])  # stands still


@every_scheme
def test_stops_and_substeps_do_not_change_the_path(scheme, sde):
    """More asked times on the same steps: the same states."""
    x0 = torch.randn(4, 3, dtype=F64)
    often, seldom = torch.arange(9, dtype=F64) / 8, torch.arange(3, dtype=F64) / 2
    fine, coarse = grid(often), grid(seldom, dt=1 / 8)
    assert_close(fine[:2], coarse[:2])
    noise = drawn(sde, x0, fine)
    assert torch.equal(
        solve(scheme(sde), x0, fine, noise)[:, ::4], solve(scheme(sde), x0, coarse, noise)
    )


def test_a_time_asked_twice_and_the_start():
    x = solve_at(
        SDE(lambda t, x: x, lambda t, x: x), torch.ones(2, 1), torch.tensor([0.0, 0.0, 1.0, 1.0])
    )
    assert (x[:, :2] == 1).all()
    assert torch.equal(x[:, 2], x[:, 3])
    assert solve_at(
        SDE(lambda t, x: x, lambda t, x: x), torch.ones(2, 1), torch.tensor([3.0])
    ).tolist() == [[[1.0]], [[1.0]]]


def test_order_of_series_does_not_matter():
    scheme, sde = euler, equations()[0].values[1]
    t = torch.rand(6, 4, dtype=F64).cumsum(1)
    x0 = torch.randn(6, 3, dtype=F64)
    now = grid(t, dt=0.2)
    noise = increments(now, x0)
    order = torch.randperm(6)
    mixed = solve(
        scheme(sde),
        x0[order],
        Grid(now.t[:, order], now.h[:, order], now.stops),
        Noise(noise.dw[:, order]),
    )
    assert_close(mixed, solve(scheme(sde), x0, now, noise)[order], rtol=1e-12, atol=1e-12)


def test_controls_reach_the_functions_step_by_step():
    """dx = c(t) dt with c hoisted: the left sum of c."""
    t = torch.linspace(0, 1, 5, dtype=F64)
    sde = Langevin(0.0, lambda t, z, c, s: c.expand_as(z), lambda t, c, s: 0 * s)
    x = solve_at(
        sde, torch.zeros(3, 2, dtype=F64), t, 0.125, controls=lambda t: (t.square(), t + 1)
    )
    steps = torch.arange(8, dtype=F64) / 8
    assert_close(x[0, -1, 0], (steps.square() / 8).sum())
    through_torchsde = solve_at(
        sde,
        torch.zeros(3, 2, dtype=F64),
        t,
        0.125,
        controls=lambda t: (t.square(), t + 1),
        backend="torchsde",
    )
    assert_close(through_torchsde, x)


def test_increments_of_another_grid_are_refused():
    x0 = torch.ones(2, 1)
    fine, coarse = grid(torch.tensor([0.0, 1.0]), 0.1), grid(torch.tensor([0.0, 1.0]), 0.5)
    sde = SDE(lambda t, x: x, lambda t, x: x)
    with pytest.raises(ValueError, match="increments"):
        solve(euler(sde), x0, fine, increments(coarse, x0))
    with pytest.raises(ValueError, match="controls"):
        solve(euler(sde), x0, fine, increments(fine, x0), (torch.ones(3, 1),))
    with pytest.raises(ValueError, match="area=True"):
        solve(srk(sde), x0, fine, increments(fine, x0))
    with pytest.raises(ValueError, match="noise"):
        solve(euler(sde), x0, fine)
    with pytest.raises(TypeError, match="torchsde"):
        solve_at(sde, x0, torch.tensor([0.0, 1.0]), adaptive=True)


# --- gradients -----------------------------------------------------------------------------------


@every_scheme
def test_gradcheck(scheme, sde):
    x0 = torch.randn(2, 3, dtype=F64).requires_grad_()
    now = grid(torch.linspace(0, 1, 5, dtype=F64))
    noise = drawn(sde, x0.detach(), now)
    assert torch.autograd.gradcheck(lambda x: solve(scheme(sde), x, now, noise), x0)


def test_gradcheck_of_parameters():
    now = grid(torch.linspace(0, 1, 5, dtype=F64))
    x0 = torch.randn(2, 3, dtype=F64)
    noise = increments(now, x0)
    kappa = torch.tensor([0.5, 1.0, 2.0], dtype=F64).requires_grad_()
    level = torch.tensor(0.3, dtype=F64).requires_grad_()

    def by_langevin(kappa, level):
        sde = Langevin(kappa, lambda t, z: z.sin(), lambda t: level.expand(1))
        return solve(exponential_euler(sde), x0, now, noise)

    def by_geometric(kappa, level):
        sde = Geometric(lambda t, z: kappa - z.square(), lambda t: level * (1 + t))
        return solve(logarithmic(sde), x0, now, noise)

    assert torch.autograd.gradcheck(by_langevin, (kappa, level))
    assert torch.autograd.gradcheck(by_geometric, (kappa, level))


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
@every_scheme
def test_checkpointing_changes_nothing(scheme, sde, chunk):
    t = torch.tensor([0.0, 0.3, 0.3, 1.0, 2.0], dtype=F64)
    start = torch.randn(2, 3, dtype=F64)
    now = grid(t, dt=0.15)
    noise = drawn(sde, start, now)
    results = []
    for size in (0, chunk):
        x0 = start.clone().requires_grad_()
        x = solve(scheme(sde), x0, now, noise, checkpoint=size)
        x.square().sum().backward()
        results.append((x.detach(), x0.grad))
    assert_close(*results, rtol=1e-12, atol=1e-12)


def test_checkpointing_reaches_parameters_and_controls():
    drift = net(3, 8, 3)
    now = grid(torch.linspace(0, 1, 11, dtype=F64))
    x0 = torch.randn(4, 3, dtype=F64)
    noise = increments(now, x0)
    results = []
    for size in (0, 4):
        level = torch.full((len(now.h), 1, 1), 0.3, dtype=F64).requires_grad_()
        sde = SDE(lambda t, x, s: drift(x), lambda t, x, s: s * x)
        drift.zero_grad()
        solve(euler(sde), x0, now, noise, (level,), size).square().sum().backward()
        results.append((level.grad, *[p.grad.clone() for p in drift.parameters()]))
    assert_close(*results, rtol=1e-12, atol=1e-12)


def test_derivative_of_the_mean_of_geometric_brownian_motion():
    """d E z(T) / d gamma = T z0 e^{gamma T}, the standard error of the paths is 0.1 %."""
    gamma = torch.tensor(0.3, dtype=F64).requires_grad_()
    sigma = torch.tensor([0.6], dtype=F64)
    sde = Geometric(lambda t, z: gamma.expand_as(z), lambda t: sigma)
    z = solve_at(sde, torch.ones(400_000, 1, dtype=F64), torch.tensor([0.0, 1.0], dtype=F64), 0.25)
    (slope,) = torch.autograd.grad(z[:, -1].mean(), gamma)
    assert_close(slope, gamma.detach().exp(), rtol=0.01, atol=0)


# --- torchsde ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, accept", [(torch.float32, 1e-6), (F64, 1e-13)])
@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
@pytest.mark.parametrize("scheme", [euler, heun, milstein])
def test_same_increments_same_path_as_torchsde(scheme, noise, dtype, accept):
    drift = net(4, 16, 4, dtype=dtype)
    sde = SDE(lambda t, x: drift(x) + t, lambda t, x: 0.5 * x.cos() + 0.1 * t, noise)
    x0 = torch.randn(8, 4, dtype=dtype)
    t = torch.linspace(0, 1, 5, dtype=dtype)
    now = grid(t, 1 / 32)
    noise = increments(now, x0[:, :1] if noise == "scalar" else x0)
    theirs = solve_torchsde(sde, x0, t, now, scheme, noise=noise)
    assert_close(solve(scheme(sde), x0, now, noise), theirs, rtol=accept, atol=accept)


def test_increments_are_replayed_only_on_their_own_steps():
    now = grid(torch.tensor([0.0, 1.0]), 0.25)
    x0 = torch.ones(2, 1)
    sde = SDE(lambda t, x: x, lambda t, x: x)
    with pytest.raises(ValueError, match="No increment"):
        solve_torchsde(sde, x0, torch.tensor([0.0, 0.9]), now, euler, noise=increments(now, x0))


def test_adaptive_steps_of_torchsde_have_the_stationary_law():
    sde = SDE(lambda t, x: -x, lambda t, x: torch.full_like(x, 0.5))
    x = solve_at(
        sde,
        torch.zeros(20_000, 1, dtype=F64),
        torch.tensor([0.0, 4.0], dtype=F64),
        0.1,
        backend="torchsde",
        adaptive=True,
        rtol=1e-2,
        atol=1e-2,
    )
    want = torch.tensor(0.125 * (1 - torch.e**-8), dtype=F64)
    assert_close(x[:, -1].var(), want, rtol=4 * (2 / 20_000) ** 0.5, atol=0)


class Growth(torch.nn.Module):
    """a x"""

    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(0.5, dtype=F64))

    def forward(self, t, x):
        return self.a * x


def test_adjoint_gradients_approach_those_of_the_solver():
    """dx = a x dt + 0.2 x dW over the same Brownian motion: adjoint and backprop agree as dt -> 0."""
    drift = Growth()
    cases = {
        "backprop": SDE(drift, lambda t, x: 0.2 * x),
        "adjoint finds a module": SDE(drift, lambda t, x: 0.2 * x),
        "adjoint is told": SDE(lambda t, x: drift(t, x), lambda t, x: 0.2 * x),
    }
    grads = {}
    for case, sde in cases.items():
        torch.manual_seed(1)
        drift.zero_grad()
        x0 = torch.ones(64, 1, dtype=F64)
        x = solve_at(
            sde,
            x0,
            torch.tensor([0.0, 1.0], dtype=F64),
            2**-7,
            method=milstein,
            backend="torchsde",
            adjoint="adjoint" in case,
            parameters=[drift.a] if "told" in case else [],
        )
        x[:, -1].mean().backward()
        grads[case] = drift.a.grad.clone()
    first, *others = grads.values()
    assert_close(first, x[:, -1].mean().detach(), rtol=0.02, atol=0)  # d x(1) / d a = x(1)
    for other in others:
        assert_close(other, first, rtol=0.02, atol=0)


def test_torchsde_walks_one_clock_only():
    sde = SDE(lambda t, x: -x, lambda t, x: x)
    with pytest.raises(DataError, match=r"TSD-D17.*one clock"):
        solve_at(sde, torch.ones(2, 1), torch.zeros(2, 3).cumsum(1), backend="torchsde")
    with pytest.raises(DataError, match=r"TSD-D17.*2 starts"):
        starts = torch.tensor([0.0, 0.5])
        solve_at(sde, torch.ones(2, 1), torch.ones(1), t0=starts, backend="torchsde")
    with pytest.raises(TypeError, match="checkpoints"):
        solve_at(sde, torch.ones(2, 1), torch.ones(1), t0=0.0, backend="torchsde", checkpoint=2)
    with pytest.raises(ConfigError, match=r"TSD-X01.*lie"):
        solve_at(sde, torch.ones(2, 1), torch.zeros(3), method=lie, backend="torchsde")


def test_importing_the_solver_does_not_import_torchsde():
    program = "import sys, tsdyn.maths.solve, tsdyn.maths.ode; assert 'torchsde' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


# --- blow-ups ------------------------------------------------------------------------------------


def test_blow_up_names_series_time_and_step():
    sde = SDE(lambda t, x: x**3, lambda t, x: 0 * x)
    x0 = torch.tensor([[0.1], [10.0]])
    with pytest.raises(
        ModelError, match=r"TSD-M03.*series 1 .*time 3, in 4 steps of at most 0.25.*10"
    ):
        solve_at(sde, x0, torch.tensor([2.0, 3.0, 4.0]), 0.25)


def test_finite_states_pass_through():
    now = grid(torch.tensor([0.0, 1.0]))
    states = torch.ones(2, 2, 1)
    assert require_finite(states, now) is states
    states[1, 0] = torch.nan
    with pytest.raises(ModelError, match=r"TSD-M03.*series 1 is not finite at the start"):
        require_finite(states, now)

"""Oracles: the chain rule path by path, covariances of fractional mean reversion, and Itô's solvers at H = 1/2."""

import math

import pytest
import torch
from torch.testing import assert_close

from tsdyn.errors import ConfigError
from tsdyn.maths.fractional import covariance
from tsdyn.maths.fractional_exact import riemann_liouville, riemann_liouville_variance
from tsdyn.maths.fractional_mean_reversion import fractional_ou, mean_reverting
from tsdyn.maths.fractional_noise import (
    approximation,
    driven,
    fractional,
    fractional_increments,
    motion,
    pathwise,
    pathwise_exponential,
    pathwise_lie,
    pathwise_logarithmic,
)
from tsdyn.maths.grid import grid, increments
from tsdyn.maths.sde import SDE, Geometric, Langevin, LinearNoise, plain
from tsdyn.maths.solve import (
    Noise,
    euler,
    exponential_euler,
    heun,
    lie,
    logarithmic,
    milstein,
    solve,
    solve_at,
    srk,
)

F64 = torch.float64


def number(x):
    return torch.tensor(x, dtype=F64)


def even(n, horizon=1.0):
    return torch.arange(n + 1, dtype=F64) * (horizon / n)


def seeded():
    return torch.Generator().manual_seed(5)


def still(t, *u):
    """No drift, whatever is asked."""
    return torch.zeros(1, dtype=F64)


def constant(value):
    return lambda t, *u: number(value)


def motions(equation, now, x0):
    """B at the asked times (B, T, D), of the path that `solve_at` draws with the same generator."""
    value = torch.cat(
        [x0.new_zeros(1, *x0.shape), driven(equation, now, x0, seeded()).dw.cumsum(0)]
    )
    return value[list(now.stops)].transpose(0, 1)


# --- laws ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["riemann_liouville", "mandelbrot_van_ness"])
@pytest.mark.parametrize("hurst", [0.3, 0.7])
def test_mean_reversion_has_its_exact_covariance(kind, hurst):
    """dz = -κ z dt + σ dB from 0, a rate and a scale for every coordinate: within five standard errors."""
    n, t = 20_000, number([0.25, 0.5, 0.8, 1.0])
    kappa, sigma = number([0.5, 3.0]), number([1.0, 2.0])
    sde = Langevin(kappa, still, lambda t: sigma)
    equation = fractional(sde, hurst, 1.0, 0.01, kind)
    x = solve_at(equation, torch.zeros(n, 2, dtype=F64), t, 0.01, t0=0.0)
    size = float(riemann_liouville_variance(number(hurst)))
    driver = riemann_liouville(hurst)
    for d in range(2):
        exact = {
            "mandelbrot_van_ness": fractional_ou(hurst, kappa[d]),
            "riemann_liouville": mean_reverting(lambda s, t: driver(s, t) / size, kappa[d]),
        }[kind]
        C = sigma[d] ** 2 * exact(t[:, None], t)
        v = C.diagonal()
        se = ((v[:, None] * v + C**2) / n).sqrt()
        assert ((x[..., d].mT @ x[..., d] / n - C).abs() < 5 * se).all()


@pytest.mark.parametrize("hurst", [0.2, 0.8])
def test_the_motion_fits_itself_to_the_length_of_a_solve(hurst):
    """Var B(t) = t^{2H}, without a word on horizon and step, over a second and over 10000."""
    n = 20_000
    for end in (1.0, 1e4):
        sde = Langevin(0.0, still, constant(1.0))
        t = number([0.1, 0.5, 1.0]) * end
        x = solve_at(fractional(sde, hurst), torch.zeros(n, 1, dtype=F64), t, end / 100, 0.0)
        ratio = x[..., 0].square().mean(0) / t ** (2 * hurst)
        assert ((ratio - 1).abs() < 5 * math.sqrt(2 / n)).all()


# --- the chain rule, path by path ----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["riemann_liouville", "mandelbrot_van_ness"])
@pytest.mark.parametrize("hurst", [0.3, 0.5, 0.7, number([0.2, 0.5, 0.9])])
def test_multiplied_noise_is_the_exponential_of_the_motion(hurst, kind):
    """dz / z = growth dt + σ ∘ dB is log z = log z0 + growth t + σ B(t); so is dz = σ z ∘ dB without growth."""
    growth, sigma = number([0.5, -1.0, 0.0]), number([0.4, 1.0, 2.0])
    z0 = number([1.0, -2.0, 0.3]).repeat(6, 1)
    t = even(4, 2.0) + 7.0
    now = grid(t, 0.03)
    grown = fractional(
        Geometric(lambda t, z: growth.expand_as(z), lambda t: sigma), hurst, kind=kind
    )
    moved = fractional(LinearNoise(lambda t, z: 0 * z, lambda t: sigma), hurst, kind=kind)
    for equation, rate in ((grown, growth), (moved, 0.0)):
        B = motions(equation, now, z0)
        z = solve_at(equation, z0, t, 0.03, generator=seeded())
        elapsed = (t - 7.0)[:, None]
        assert_close((z / z0[:, None]).log(), rate * elapsed + sigma * B, rtol=1e-9, atol=1e-9)
        assert B[:, 1:].abs().min() > 0  # something moved


def coarser(noise, every):
    """The same path in steps that are so many times as long."""
    return Noise(noise.dw.unflatten(0, (-1, every)).sum(1))


def errors(step, x0, noise, truth, every=(16, 4, 1), n=1600):
    """Relative root mean squares of what a scheme misses at time 1, for steps of so many parts of 1/1600."""
    found = []
    for parts in every:
        clock = grid(number([0.0, 1.0]), parts / n)
        x = solve(step, x0, clock, coarser(noise, parts))[:, -1]
        found.append(float(((x - truth).square().mean() / truth.square().mean()).sqrt()))
    return found


@pytest.mark.parametrize(
    "hurst, bounds",
    [(0.3, (0.6, 0.25, 0.06)), (0.5, (0.03, 5e-3, 1.5e-3)), (0.7, (5e-3, 1e-3, 3e-4))],
)
@pytest.mark.parametrize("curve", ["exponential", "hyperbolic"])
def test_heun_follows_the_chain_rule(hurst, bounds, curve):
    """dx = x ∘ dB is x = exp B; dx = (1 + x²)^{1/2} (m dt + ∘ dB) is x = sinh(m t + B)."""
    if curve == "exponential":
        sde, x0 = SDE(lambda t, x: 0 * x, lambda t, x: x), torch.ones(2000, 1, dtype=F64)
        solution = torch.exp
    else:
        g = lambda t, x: (1 + x * x).sqrt()
        sde, x0 = SDE(lambda t, x: 0.5 * g(t, x), g), torch.zeros(2000, 1, dtype=F64)
        solution = lambda b: torch.sinh(0.5 + b)
    equation = fractional(sde, hurst, 1.0, 1 / 40)
    noise = driven(equation, grid(number([0.0, 1.0]), 1 / 1600), x0)
    found = errors(pathwise(equation), x0, noise, solution(noise.dw.sum(0)))
    assert found[0] > found[1] > found[2]
    assert all(f < b for f, b in zip(found, bounds)), found


def structured():
    kappa, drift = number([0.0, 2.0]), lambda t, z, *u: (z.flip(-1) + t).sin()
    sigma = lambda t, *u: number([0.3, 0.5]) * (1 + t)
    for noise in ("diagonal", "scalar"):
        yield pytest.param(Langevin(kappa, drift, sigma, noise), id=f"langevin-{noise}")
        yield pytest.param(LinearNoise(drift, sigma, noise), id=f"linear_noise-{noise}")
        yield pytest.param(Geometric(drift, sigma, noise), id=f"geometric-{noise}")


@pytest.mark.parametrize("hurst", [0.4, 0.7])
@pytest.mark.parametrize("sde", structured())
def test_a_structure_is_solved_to_order_one_and_goes_where_heun_goes(sde, hurst):
    """Steps four times as long miss four times as much, for any index; without the structure the limit is the same."""
    equation, x0 = fractional(sde, hurst, 1.0, 1 / 40), torch.full((1000, 2), 0.7, dtype=F64)
    finest = grid(number([0.0, 1.0]), 1 / 1600)
    noise = driven(equation, finest, x0)
    truth = solve(pathwise(equation), x0, finest, noise)[:, -1]
    found = errors(pathwise(equation), x0, noise, truth, (32, 8))
    assert 2.5 < found[0] / found[1] < 7, found  # 31 / 7 as the truth, too, is off by its step
    found = errors(heun(plain(sde)), x0, noise, truth)
    assert found[0] > found[1] and found[2] < 0.01, found


@pytest.mark.parametrize("hurst", [0.3, 0.7])
def test_linear_drift_within_the_scheme_is_solved_for_any_rate(hurst):
    """(z + f h) becomes z e^{-κh} + ...; with κ of 0 nothing changes, and at κh = 1000 nothing grows."""
    x0 = torch.full((5, 2), 0.7, dtype=F64)
    now = grid(even(8))
    linear = LinearNoise(lambda t, z: z.cos(), constant(0.5))
    growth = Geometric(lambda t, z: z.cos(), constant(0.5))
    noise = fractional_increments(motion(hurst, 1.0, 0.1), now, x0)
    for scheme, sde in ((pathwise_lie, linear), (pathwise_logarithmic, growth)):
        alone, with_zero = (
            solve(scheme(sde), x0, now, noise),
            solve(scheme(sde, number([0.0])), x0, now, noise),
        )
        assert_close(with_zero, alone, rtol=1e-12, atol=1e-12)
        held = solve(scheme(sde, number([8000.0])), x0, now, noise)
        assert held.isfinite().all() and held[:, 1:].abs().max() < 10
    # log z by the logarithmic scheme is a Langevin equation by the exponential one
    kappa = number([0.5, 3.0])
    z = solve(
        pathwise_logarithmic(Geometric(lambda t, z: kappa, constant(0.5)), kappa), x0, now, noise
    )
    additive = Langevin(kappa, lambda t, z: kappa, constant(0.5))
    assert_close(z.log(), solve(pathwise_exponential(additive), x0.log(), now, noise))


# --- H = 1/2 -------------------------------------------------------------------------------------


def test_half_is_brownian_motion():
    equation = fractional(Langevin(0.0, still, constant(1.0)), 0.5)
    now = grid(even(10))
    assert approximation(equation, now).speeds.tolist() == [0.0]
    ours = driven(equation, now, torch.zeros(4000, 2, dtype=F64)).dw
    assert_close(ours.square().mean((1, 2)), now.h[:, 0, 0], rtol=5 * math.sqrt(2 / 8000), atol=0)
    learned = approximation(equation._replace(hurst=number(0.5)), now)  # and of seven processes
    t = even(10)
    assert_close(
        covariance(learned, t[:, None], learned, t),
        torch.minimum(t[:, None], t),
        rtol=1e-9,
        atol=1e-9,
    )


def test_at_half_the_paths_are_those_of_the_solvers_of_ito():
    """The same increments: additive noise as it is, growth less σ²/2, and mean reversion to (κh)²."""
    x0, sigma = torch.full((50, 2), 0.7, dtype=F64), number([0.3, 0.9])
    drift, spread = lambda t, z: (z + t).sin(), lambda t: sigma * (1 + t)
    now = grid(even(20))
    noise = increments(now, x0)

    def both(ours, theirs):
        return solve(ours, x0, now, noise), solve(theirs, x0, now, noise)

    free = Langevin(0.0, drift, spread)
    assert_close(*both(pathwise_exponential(free), exponential_euler(free)), rtol=1e-12, atol=0)
    assert_close(*both(pathwise_exponential(free), euler(plain(free))), rtol=1e-12, atol=0)
    growth = Geometric(lambda t, z: drift(t, z) + spread(t).square() / 2, spread)
    stratonovich = Geometric(drift, spread)
    assert_close(*both(pathwise_logarithmic(stratonovich), logarithmic(growth)), rtol=1e-12, atol=0)
    apart = []
    fine = increments(grid(even(80)), x0)
    for every in (4, 2, 1):
        clock = grid(even(80 // every))
        held = Langevin(4.0, drift, spread)
        ends = [
            solve(s(held), x0, clock, coarser(fine, every))[:, -1]
            for s in (pathwise_exponential, exponential_euler)
        ]
        apart.append(float((ends[0] - ends[1]).square().mean().sqrt()))
    assert 3 < apart[0] / apart[1] < 5 and 3 < apart[1] / apart[2] < 5


def test_at_half_the_law_is_that_of_the_corrected_equation_of_ito():
    """arsinh x(1) ~ N(m, 1) for dx = (1 + x²)^{1/2} (m dt + ∘ dW), to which Itô adds the drift x / 2."""
    n, m, t = 20_000, 0.3, number([0.0, 1.0])
    g = lambda t, x: (1 + x * x).sqrt()
    ours = fractional(SDE(lambda t, x: m * g(t, x), g), 0.5)
    theirs = SDE(lambda t, x: m * g(t, x) + x / 2, g)
    x0 = torch.zeros(n, 1, dtype=F64)
    for x in (solve_at(ours, x0, t, 0.01), solve_at(theirs, x0, t, 0.01, method=milstein)):
        y = x[:, -1].asinh()
        assert abs(float(y.mean()) - m) < 5 / math.sqrt(n) + 1e-3  # the steps of Milstein's scheme
        assert abs(float(y.var()) - 1) < 5 * math.sqrt(2 / n) + 1e-2
    linear = LinearNoise(lambda t, z: 0.2 * z, constant(0.5))
    ito = linear._replace(drift=lambda t, z: (0.2 + 0.125) * z)
    z0 = x0 + 1
    logs = [solve_at(s, z0, t, 1 / 200)[:, -1].log() for s in (fractional(linear, 0.5), ito)]
    for y in logs:
        assert abs(float(y.mean()) - 0.2) < 5 * 0.5 / math.sqrt(n) + 1e-3
        assert abs(float(y.std()) - 0.5) < 5 * 0.5 / math.sqrt(2 * n)


# --- gradients -----------------------------------------------------------------------------------


def learners():
    kappa, drift = number([0.5, 2.0]), lambda t, z: z.flip(-1).sin()
    own = SDE(drift, lambda t, x: 0.5 + 0.3 * x.cos())
    return [own, *(p.values[0] for p in structured()), Langevin(kappa, drift, constant(1.0))]


@pytest.mark.parametrize("kind", ["riemann_liouville", "mandelbrot_van_ness"])
@pytest.mark.parametrize("sde", learners())
def test_the_gradient_in_the_index_is_that_of_finite_differences(sde, kind):
    """With the same normals; one index per coordinate, and one for all."""
    x0 = torch.full((2, 2), 0.5, dtype=F64)

    def read(hurst):
        equation = fractional(sde, hurst, 1.0, 0.25, kind, speeds=4)
        return solve_at(equation, x0, even(4), generator=seeded())

    for hurst in (number([0.3, 0.8]), number(0.4)):
        assert torch.autograd.gradcheck(read, hurst.requires_grad_())


def test_single_precision_learns_the_index_too():
    hurst = torch.tensor(0.3, requires_grad=True)
    equation = fractional(Langevin(1.0, lambda t, z: -z, lambda t: 0 * t + 1), hurst)
    x = solve_at(equation, torch.zeros(3, 2), torch.linspace(0, 1, 5), 0.1, checkpoint=3)
    assert x.dtype == torch.float32
    (slope,) = torch.autograd.grad(x.square().sum(), hurst)
    assert slope.isfinite() and slope != 0


# --- clocks --------------------------------------------------------------------------------------


def test_every_series_has_a_clock_and_its_motion_starts_with_it():
    """Var log z = σ² (t - t0)^{2H}, whatever t0; a repeated time and a series that waits stand still."""
    n, hurst, sigma = 10_000, 0.7, 0.5
    clocks, starts = number([[3.0, 3.5, 4.0, 4.0], [-1.0, 1.0, 1.0, 2.5]]), number([3.0, -2.0])
    sde = Geometric(lambda t, z: 0 * z, constant(sigma))
    equation = fractional(sde, hurst, 5.0, 0.1)
    ones = torch.ones(2 * n, 1, dtype=F64)
    z = solve_at(equation, ones, clocks.repeat(n, 1), 0.1, starts.repeat(n))[..., 0].view(n, 2, 4)
    elapsed = clocks - starts[:, None]
    expected = sigma**2 * elapsed ** (2 * hurst)
    assert ((z.log().square().mean(0) - expected).abs() <= 5 * expected * math.sqrt(2 / n)).all()
    assert (z[:, 0, 0] == 1).all()
    assert torch.equal(z[:, 0, 3], z[:, 0, 2]) and torch.equal(z[:, 1, 2], z[:, 1, 1])


@pytest.mark.parametrize("sde", structured())
def test_times_far_from_zero_change_nothing(sde):
    """The motion is zero where a solve starts: equations that do not see t do not see t0."""
    free = sde._replace(sigma=lambda t: number([0.5, 0.8]))
    free = free._replace(**{free._fields[-3]: lambda t, z: z.flip(-1).sin()})
    x0, t = torch.full((3, 2), 0.7, dtype=F64), even(6)
    for kind in ("riemann_liouville", "mandelbrot_van_ness"):
        equation = fractional(free, 0.3, kind=kind)
        here, there = (
            solve_at(equation, x0, t + s, 0.02, generator=seeded()) for s in (0.0, 1024.0)
        )
        assert_close(there, here, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("hurst", [0.3, 0.5, number([0.3, 0.7])])
@pytest.mark.parametrize("sde", structured())
def test_no_time_no_move(sde, hurst):
    x0 = torch.rand(3, 2, dtype=F64)
    for t in (number([2.0]), number([2.0, 2.0]), torch.full((3, 2), 2.0, dtype=F64)):
        x = solve_at(fractional(sde, hurst), x0, t, 0.1)
        assert torch.equal(x, x0[:, None].expand_as(x))


def test_steps_of_size_zero_have_no_noise():
    now = grid(torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 2.0]]), 0.1)
    dw = fractional_increments(motion(0.3, 2.0, 0.1), now, torch.zeros(2, 3)).dw
    assert (dw[now.h[:, 0, 0] == 0, 0] == 0).all() and (dw[:, 1] != 0).all()


# --- one motion for all --------------------------------------------------------------------------


def test_scalar_noise_is_one_motion():
    """The same path for all coordinates; indices of their own share W, and their covariance is that of one W."""
    n = 20_000
    sde = Langevin(0.0, still, constant(1.0), "scalar")
    x = solve_at(fractional(sde, 0.3), torch.zeros(5, 3, dtype=F64), even(3), 0.1)
    assert torch.equal(x[..., 0], x[..., 1]) and torch.equal(x[..., 0], x[..., 2])
    indices = number([0.3, 0.8])
    equation = fractional(sde, indices, 1.0, 0.1)
    x = solve_at(equation, torch.zeros(n, 2, dtype=F64), number([0.0, 1.0]), 0.1)[:, -1]
    one, other = (motion(h, 1.0, 0.1) for h in indices)
    expected = float(covariance(one, number(1.0), other, number(1.0)))
    assert abs(float(x.prod(1).mean()) - expected) < 5 * math.sqrt((1 + expected**2) / n)
    assert expected > 0.5
    own = solve_at(
        equation._replace(sde=sde._replace(noise="diagonal")),
        torch.zeros(n, 2, dtype=F64),
        number([0.0, 1.0]),
        0.1,
    )
    assert abs(float(own[:, -1].prod(1).mean())) < 5 / math.sqrt(n)


def test_controls_reach_the_functions_of_fractional_equations():
    """dz / z = c(t) dt + s ∘ dB with c and s hoisted."""
    sde = Geometric(lambda t, z, c, s: c.expand_as(z), lambda t, c, s: s)
    z0, t = torch.ones(3, 2, dtype=F64), even(4)
    controls = lambda t: (t.square(), 0 * t + 0.5)
    equation = fractional(sde, 0.7)
    z = solve_at(equation, z0, t, 0.125, controls=controls, generator=seeded())
    steps = torch.arange(8, dtype=F64) / 8
    B = motions(equation, grid(t, 0.125), z0)
    assert_close(z[:, -1].log(), steps.square().sum() / 8 + 0.5 * B[:, -1])


def test_a_generator_gives_the_same_path_on_every_device(device):
    sde = LinearNoise(lambda t, z: -z, lambda t: 0 * t + 0.5)
    for hurst in (0.3, torch.tensor([0.3, 0.8])):
        x = [
            solve_at(
                fractional(sde, hurst if d == "cpu" else torch.as_tensor(hurst).to(d)),
                torch.ones(5, 2, device=d), torch.linspace(0, 1, 9, device=d), generator=seeded(),
            )
            for d in ("cpu", device)
        ]  # fmt: skip
        assert x[1].device.type == device
        assert_close(x[1].cpu(), x[0], rtol=1e-4, atol=1e-4)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, word",
    [
        ({"hurst": 0.0}, "0 among"),
        ({"hurst": 1.0}, "1 among"),
        ({"hurst": -0.2}, "-0.2 among"),
        ({"hurst": float("nan")}, "nan among"),
        ({"hurst": torch.tensor([0.3, 1.5])}, "1.5 among"),
        ({"hurst": torch.full((2, 2), 0.3)}, r"shape \(2, 2\)"),
        ({"hurst": 0.3, "horizon": 0.0}, "horizon"),
        ({"hurst": 0.3, "horizon": float("inf")}, "horizon"),
        ({"hurst": 0.3, "step": -1.0}, "step"),
        ({"hurst": 0.3, "horizon": 1.0, "step": 2.0}, "step"),
        ({"hurst": 0.3, "speeds": 1}, "speeds"),
        ({"hurst": 0.3, "kind": "levy"}, "riemann_liouville"),
    ],
)
def test_unusable_motions(options, word):
    with pytest.raises(ConfigError, match=rf"TSD-X01.*{word}"):
        fractional(SDE(lambda t, x: x, lambda t, x: x), **options)


@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
@pytest.mark.parametrize("D", [1, 2])
def test_indices_of_other_coordinates(noise, D):
    sde = Langevin(0.0, still, constant(1.0), noise)
    with pytest.raises(ConfigError, match=r"TSD-X01.*3 Hurst indices"):
        solve_at(fractional(sde, number([0.3, 0.4, 0.5])), torch.zeros(2, D, dtype=F64), even(3))


@pytest.mark.parametrize("scheme", [milstein, srk, exponential_euler, lie, logarithmic])
def test_schemes_of_brownian_motion_are_refused(scheme):
    sde = SDE(lambda t, x: x, lambda t, x: x)
    with pytest.raises(ConfigError, match=rf"TSD-X01.*{scheme.__name__}"):
        solve_at(fractional(sde, 0.3), torch.ones(2, 1), torch.tensor([0.0, 1.0]), method=scheme)


def test_torchsde_is_refused():
    equation = fractional(SDE(lambda t, x: x, lambda t, x: x), 0.3)
    with pytest.raises(TypeError, match="torchsde"):
        solve_at(equation, torch.ones(2, 1), torch.tensor([0.0, 1.0]), backend="torchsde")

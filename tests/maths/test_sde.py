"""Laws, orders and invariants of SDEs whose solutions are known.

Strong orders: the same Brownian path, coarsened, drives solves with 16 to 256 steps; the slope of the
logarithm of the mean error against a path of 2048 steps by a scheme of higher or equal order is the
order. The reference's own error bends the slope by a few hundredths at most.
"""

import math

import pytest
import torch
from torch.testing import assert_close

from tsdyn.maths.sde import (
    SDE,
    Geometric,
    Langevin,
    LinearNoise,
    controlled,
    geometric,
    langevin,
    linear_noise,
    plain,
    with_kl,
)
from tsdyn.maths.solve import (
    Noise,
    euler,
    exponential_euler,
    grid,
    heun,
    increments,
    lie,
    logarithmic,
    milstein,
    solve,
    solve_at,
    srk,
)

F64 = torch.float64


def full(value):
    value = torch.tensor([value], dtype=F64)
    return lambda *_: value


def times(*t):
    return torch.tensor(t, dtype=F64)


# --- laws ----------------------------------------------------------------------------------------

N = 400_000  # paths: a mean has a standard error of 0.16 %, a variance of 0.22 % (normal law)


@pytest.mark.parametrize(
    "scheme, mean, variance",
    [
        (logarithmic, 1.5 * math.exp(0.3), 2.25 * math.exp(0.6) * math.expm1(0.36)),
        # Euler's five factors 1 + gamma h + sigma dW are independent
        (euler, 1.5 * 1.06**5, 2.25 * ((1.06**2 + 0.36 / 5) ** 5 - 1.06**10)),
    ],
)
def test_moments_of_geometric_brownian_motion(scheme, mean, variance):
    sde = Geometric(lambda t, z: torch.full_like(z, 0.3), full(0.6))
    z0 = torch.full((N, 1), 1.5, dtype=F64)
    z = solve_at(sde, z0, times(0, 1), 0.2, method=scheme)[:, -1]
    assert_close(z.mean().item(), mean, rtol=0.01, atol=0)
    assert_close(z.var().item(), variance, rtol=0.02, atol=0)  # the fourth moment is heavy


def test_geometric_steps_keep_the_sign_and_zero():
    """sigma = 2, h = 0.1: a step of Euler turns the sign with probability P(1 + 2 dW < 0)."""
    z0 = torch.tensor([1.0, -1.0, 0.0], dtype=F64).repeat(N // 10)[:, None]
    sde = Geometric(lambda t, z: torch.zeros_like(z), full(2.0))
    z = solve_at(sde, z0, times(0, 1), 0.1)
    assert torch.equal(z.sign(), z0[:, None].sign().expand_as(z))
    one = solve_at(sde, z0, times(0, 0.1), method=euler)[:, -1]
    turned = (one * z0 < 0)[z0 != 0].double().mean().item()
    theory = 0.5 * math.erfc(1 / (2 * math.sqrt(0.1)) / math.sqrt(2))
    assert abs(turned - theory) < 4 * math.sqrt(theory / (z0 != 0).sum().item())


def test_geometric_steps_hold_the_exponent():
    """A growth rate of 1000 over one unit of time is e^30 and not infinity."""
    sde = Geometric(lambda t, z: torch.full_like(z, 1000.0), full(0.1))
    z = solve_at(sde, times(1.0, -2.0)[:, None], times(0, 1))
    assert_close(z[:, -1, 0], times(1, -2) * math.exp(30))


@pytest.mark.parametrize(
    "scheme, h, variance",
    [
        (exponential_euler, 1.5, 0.125),  # exact for every step
        (euler, 0.1, 0.25 * 0.1 / (1 - 0.9**2)),
        (euler, 1.5, 0.25 * 1.5 / (1 - 0.5**2)),  # four times too wide, as the theory of Euler says
    ],
)
def test_stationary_law_of_ornstein_uhlenbeck(scheme, h, variance):
    """dz = -z dt + sigma dW, sigma = 0.5: N(0, sigma² / 2); Euler's is sigma² h / (1 - (1 - h)²)."""
    sde = Langevin(1.0, lambda t, z: torch.zeros_like(z), full(0.5))
    z0 = torch.randn(100_000, 1, dtype=F64) * variance**0.5
    at = torch.arange(1, 5, dtype=F64) * 6.0  # nearly independent: e^-6
    z = solve_at(sde, z0, at, h, t0=0.0, method=scheme).flatten()
    assert_close(z.var().item(), variance, rtol=0.01, atol=0)
    kurtosis = (z**4).mean() / (z**2).mean() ** 2
    assert abs(kurtosis - 3) < 0.05  # standard error sqrt(24 / N) = 0.008


@pytest.mark.parametrize("scheme, h", [(euler, 0.01), (srk, 0.05)])
def test_law_in_a_double_well(scheme, h):
    """dz = (z - z³) dt + sigma dW has the density exp(-2 U / sigma²), U = z⁴/4 - z²/2."""
    s = torch.linspace(-4, 4, 8001, dtype=F64)
    weight = torch.exp(-(s**4 / 2 - s**2) / 0.64)
    weight = weight / weight.sum()
    square, inside = (weight * s**2).sum(), weight[s.abs() < 0.5].sum()
    sde = SDE(lambda t, z: z - z**3, full(0.8))
    z = torch.randn(50_000, 1, dtype=F64)
    for _ in range(8):
        z = solve_at(plain(sde), z, times(0, 1), h, method=scheme)[:, -1]
    assert_close((z**2).mean(), square, rtol=0.015, atol=0)  # 4 standard errors: 4 * 0.65 / 224
    assert abs((z.abs() < 0.5).double().mean() - inside) < 4 * math.sqrt(0.18 / 50_000)


# --- strong orders -------------------------------------------------------------------------------


def coarsen(noise: Noise, h: float, k: int) -> Noise:
    """The same Brownian motion on steps k times as long, area included."""
    dw = noise.dw.unflatten(0, (-1, k))
    inside = h * (dw / 2 + noise.area.unflatten(0, (-1, k)))  # ∫ (W_s - W at the start of the step)
    before = dw.cumsum(1) - dw
    total = dw.sum(1)
    return Noise(total, (inside + h * before).sum(1) / (k * h) - total / 2)


def strong_order(scheme, sde, reference, z0, coarse=(16, 32, 64, 128, 256), fine=2048):
    """Slope of log E|z - reference| against log h at time 1, and the error in the middle."""
    like = z0[:, :1] if sde.noise == "scalar" else z0
    now = grid(times(0, 1), 1 / fine)
    noise = increments(now, like, area=True)
    best = solve(reference(sde), z0, now, noise)[:, -1]
    errors = []
    for n in coarse:
        now = grid(times(0, 1), 1 / n)
        z = solve(scheme(sde), z0, now, coarsen(noise, 1 / fine, fine // n))[:, -1]
        errors.append((z - best).abs().mean())
    h = torch.log(1 / torch.tensor(coarse, dtype=F64))
    y = torch.stack(errors).log()
    slope = ((h - h.mean()) * (y - y.mean())).sum() / (h - h.mean()).square().sum()
    return slope.item(), errors[len(errors) // 2].item()


GEOMETRIC = Geometric(lambda t, z: 0.5 * z.sin() - 0.3 * t.cos(), lambda t: 0.6 + 0.2 * t)
LINEAR = LinearNoise(lambda t, z: (2 * z).cos() - z + t.flip(-1), lambda t: 0.8 + 0.4 * t)
LANGEVIN = Langevin(1.0, lambda t, z: 0.5 * (3 * z).sin() + t, lambda t: 1.5 + 0.4 * (2 * t).cos())
DIAGONAL = SDE(lambda t, z: z.cos() - z, lambda t, z: 0.7 * (1 + z.square()).sqrt() * (1 + t / 2))
COUPLED = SDE(  # one W, and a diffusion that mixes the coordinates
    lambda t, z: z.cos() - z,
    lambda t, z: 0.4 * z.flip(-1) * (z.square().sum(-1, keepdim=True) + 1).rsqrt() + 0.3 * z,
    "scalar",
)


@pytest.mark.parametrize(
    "scheme, sde, reference, order, accept",
    [
        pytest.param(logarithmic, GEOMETRIC, logarithmic, 1.0, 0.1, id="logarithmic"),
        pytest.param(lie, LINEAR, lie, 1.05, 0.12, id="lie"),
        pytest.param(lie, LINEAR._replace(noise="scalar"), lie, 1.05, 0.12, id="lie-scalar"),
        pytest.param(exponential_euler, LANGEVIN, srk, 1.0, 0.1, id="exponential_euler"),
        pytest.param(euler, LANGEVIN, srk, 1.0, 0.1, id="euler-additive"),
        pytest.param(srk, LANGEVIN, srk, 1.5, 0.1, id="srk-additive"),
        pytest.param(euler, GEOMETRIC, logarithmic, 0.5, 0.1, id="euler-geometric"),
        pytest.param(euler, LINEAR, lie, 0.5, 0.1, id="euler-linear"),
        pytest.param(euler, DIAGONAL, milstein, 0.5, 0.1, id="euler-diagonal"),
        pytest.param(milstein, DIAGONAL, milstein, 1.0, 0.1, id="milstein"),
        pytest.param(milstein, GEOMETRIC, logarithmic, 1.0, 0.1, id="milstein-geometric"),
        pytest.param(milstein, COUPLED, milstein, 1.0, 0.1, id="milstein-scalar"),
        pytest.param(heun, COUPLED, heun, 1.0, 0.1, id="heun-scalar"),
    ],
)
def test_strong_order(scheme, sde, reference, order, accept):
    z0 = 1 + 0.3 * torch.randn(1000, 2, dtype=F64)
    found, _ = strong_order(scheme, sde, reference, z0)
    assert abs(found - order) < accept


def test_structure_beats_euler():
    z0 = torch.ones(1000, 1, dtype=F64)
    _, ours = strong_order(logarithmic, GEOMETRIC, logarithmic, z0, (16, 32, 64))
    _, eulers = strong_order(euler, GEOMETRIC, logarithmic, z0, (16, 32, 64))
    assert ours < 0.25 * eulers


def test_constant_geometric_paths_are_exact():
    """z(T) = z0 exp((gamma - sigma² / 2) T + sigma W(T)), whatever the steps."""
    gamma, sigma = times(0.3, -0.2), times(0.6, 1.5)
    sde = Geometric(lambda t, z: gamma.expand_as(z), lambda t: sigma)
    now = grid(times(0, 0.3, 2), 0.17)
    z0 = torch.randn(50, 2, dtype=F64)
    noise = increments(now, z0)
    exact = z0 * torch.exp((gamma - sigma**2 / 2) * 2 + sigma * noise.dw.sum(0))
    assert_close(solve(logarithmic(sde), z0, now, noise)[:, -1], exact, rtol=1e-12, atol=1e-12)


def test_heun_solves_stratonovich_and_euler_ito():
    """dz = z ∘ dW is exp(W); dz = z dW is exp(W - t/2)."""
    sde = SDE(lambda t, z: torch.zeros_like(z), lambda t, z: z)
    z0 = torch.ones(500, 1, dtype=F64)
    now = grid(times(0, 1), 1 / 1024)
    noise = increments(now, z0)
    w = noise.dw.sum(0)
    error = (solve(heun(sde), z0, now, noise)[:, -1] / w.exp()).log().abs().mean()
    assert error < 0.005
    error = (solve(milstein(sde), z0, now, noise)[:, -1] / (w - 0.5).exp()).log().abs().mean()
    assert error < 0.005


# --- stability -----------------------------------------------------------------------------------


def test_langevin_paths_contract_under_common_noise():
    """Rate kappa - L = 1.5 over two units of time: ratios below e^-3."""
    w1, w2 = torch.randn(16, 8, dtype=F64), torch.randn(8, 16, dtype=F64)
    w1, w2 = (w / torch.linalg.matrix_norm(w, 2) for w in (w1, w2))
    sde = Langevin(2.0, lambda t, z: 0.5 * (z @ w1.T).tanh() @ w2.T, full(0.5))
    now = grid(times(0, 2), 0.01)
    z0 = 3 * torch.randn(2, 200, 8, dtype=F64)
    noise = increments(now, z0[0])
    ends = [solve(exponential_euler(sde), z, now, noise)[:, -1] for z in z0]
    ratio = (ends[0] - ends[1]).norm(dim=1) / (z0[0] - z0[1]).norm(dim=1)
    assert ratio.max() < math.exp(-3)


def lyapunov(noise, d, spin, paths=1000, T=20.0, h=0.01):
    """log |z(T)| / T for dz = (0.5 + spin S) z dt + 1.5 z dW with S skew: the mean over paths."""
    s = torch.randn(d, d, dtype=F64)
    a = torch.matrix_exp((0.5 * torch.eye(d, dtype=F64) + spin * (s - s.T) / d**0.5) * h)
    # the drift's own flow in place of its Euler step, which would add spin² h / 2 to the rate
    sde = LinearNoise(lambda t, z: (z @ a.T - z) / h, full(1.5), noise)
    z0 = torch.randn(paths, d, dtype=F64)
    z = solve_at(sde, z0, times(0, T), h)[:, -1]
    return ((z.norm(dim=1) / z0.norm(dim=1)).log() / T).mean().item()


@pytest.mark.parametrize("d", [1, 4])
def test_scalar_noise_calms(d):
    """The exponent a - sigma² / 2 = -0.625; standard error sigma / sqrt(paths T) = 0.011."""
    assert abs(lyapunov("scalar", d, 0.0 if d == 1 else 2.0) + 0.625) < 0.035


def test_diagonal_noise_excites_many_dimensions():
    """a + sigma² / 2 - 3 sigma² / (d + 2) = 0.95 for d = 8 if the drift mixes the coordinates fast."""
    assert abs(lyapunov("diagonal", 8, 16.0) - 0.95) < 0.1


# --- making one equation from another ------------------------------------------------------------


def test_structures_are_plain_equations_too():
    """dz by the structure's own words, with control values after the state."""
    t, z = torch.rand(5, 1, dtype=F64), torch.randn(5, 3, dtype=F64)
    c = torch.randn(5, 3, dtype=F64)
    field = lambda t, z, c: t * z.sin() + c
    sigma = lambda t, c: 1 + t * c
    kappa = times(1, 2, 3)
    cases = [
        (Langevin(kappa, field, sigma), langevin, field(t, z, c) - kappa * z, sigma(t, c)),
        (LinearNoise(field, sigma), linear_noise, field(t, z, c), sigma(t, c) * z),
        (Geometric(field, sigma), geometric, field(t, z, c) * z, sigma(t, c) * z),
        (SDE(field, lambda t, z, c: sigma(t, c)), SDE, field(t, z, c), sigma(t, c)),
    ]
    for structure, make, drift, diffusion in cases:
        for sde in (plain(structure), make(*structure)):
            assert torch.equal(sde.drift(t, z, c), drift)
            assert torch.equal(sde.diffusion(t, z, c), diffusion)
        assert plain(structure._replace(noise="scalar")).noise == "scalar"
    one = plain(Langevin(1.0, field, lambda t, c: times(0.1))).diffusion(t, z, c)
    assert one.shape == z.shape  # a constant sigma reaches every coordinate


def test_controlled_field_sees_the_path():
    """dx = sin(t) dt through a path: 1 - cos(T)."""
    sde = SDE(controlled(lambda t, x, c: c.expand_as(x), torch.sin), lambda t, x: 0 * x)
    x = solve_at(sde, torch.zeros(2, 3, dtype=F64), times(0, 1, 2), 0.001)
    assert_close(x[0, :, 0], 1 - times(0, 1, 2).cos(), rtol=0, atol=1e-3)
    both = controlled(lambda t, x, c, u: c + u + x, torch.sin)
    t = torch.rand(4, 1, dtype=F64)
    assert_close(both(t, t, t), t.sin() + 2 * t)  # the path first, then what was hoisted


# --- Kullback-Leibler ----------------------------------------------------------------------------


def kl(posterior, prior, x0, T, dt, controls=None):
    start = torch.cat([x0, torch.zeros_like(x0[:, :1])], -1)
    sde = with_kl(posterior, prior)
    return solve_at(sde, start, times(0, T), dt, controls=controls)[:, -1]


def test_kl_of_two_constant_drifts():
    """Girsanov: T/2 sum_i ((a_i - b_i) / sigma_i)², on every path."""
    a, b, sigma = times(1, -2, 0), times(0.5, 1, 0), times(0.3, 1, 2)
    g = lambda t, x: sigma.expand_as(x)
    p, q = SDE(lambda t, x: a.expand_as(x), g), SDE(lambda t, x: b.expand_as(x), g)
    x0 = torch.randn(4, 3, dtype=F64)
    x = kl(p, q, x0, 2.0, 0.1)
    assert_close(x[:, -1], (((a - b) / sigma) ** 2).sum().expand(4))


def test_kl_of_one_noise_for_all():
    """Drifts that differ by c g: T c² / 2 with scalar noise, and D times that with diagonal noise."""
    c = 0.7
    g = lambda t, x: 1 + x.square()
    prior = SDE(lambda t, x: -x, g)
    posterior = SDE(lambda t, x: -x + c * g(t, x), g)
    x0 = 0.1 * torch.randn(6, 3, dtype=F64)
    for noise, times_d in [("scalar", 1), ("diagonal", 3)]:
        x = kl(posterior._replace(noise=noise), prior, x0, 0.2, 0.01)
        assert_close(x[:, -1], torch.full((6,), times_d * 0.2 * c**2 / 2, dtype=F64))


def test_kl_of_two_ornstein_uhlenbeck_processes():
    """dx = -x dt + s dW from its stationary law against dx = -3 x dt + s dW: T/2 (3 - 1)² / 2."""
    n, T = 20_000, 2.0
    g = lambda t, x: torch.full_like(x, 0.5)
    x0 = torch.randn(n, 1, dtype=F64) * 0.125**0.5
    x = kl(SDE(lambda t, x: -x, g), SDE(lambda t, x: -3 * x, g), x0, T, 0.02)[:, -1]
    exact = T / 2 * 4 / 2
    assert abs(x.mean() - exact) < 4 * x.std() / n**0.5 + 0.02 * exact  # Euler is 1 % too wide


def test_kl_takes_hoisted_values_and_leaves_the_path_alone():
    g = lambda t, x, u: 0.5 + u.expand_as(x) ** 2
    posterior = SDE(lambda t, x, u: u - x, g)
    prior = SDE(lambda t, x, u: -x, g)
    x0 = torch.randn(4, 2, dtype=F64)
    controls = lambda t: (t.cos(),)
    start = torch.cat([x0, torch.zeros_like(x0[:, :1])], -1)
    now = grid(times(0, 1), 0.1)
    noise = increments(now, start)
    x = solve(euler(with_kl(posterior, prior)), start, now, noise, controls(now.t))
    alone = solve(euler(posterior), x0, now, Noise(noise.dw[..., :2]), controls(now.t))
    assert_close(x[..., :2], alone)
    u = now.t.cos()
    assert_close(x[0, -1, 2], (0.1 * (u / (0.5 + u**2)).square()).sum())


@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
def test_kl_without_noise(noise):
    """g = 0: equal drifts add nothing, different ones infinity; no NaN in values or gradients."""
    a = torch.tensor([1.0, 0.0], dtype=F64).requires_grad_()
    g = lambda t, x: 0 * x
    x0 = torch.ones(3, 2, dtype=F64)
    prior = SDE(lambda t, x: torch.zeros_like(x), g, noise)
    still = SDE(lambda t, x: 0 * a.expand_as(x), g, noise)
    start = torch.cat([x0, 0 * x0[:, :1]], -1)
    now = grid(times(0, 1), 0.25)
    quiet = increments(now, start[:, :1] if noise == "scalar" else start)
    x = solve(euler(with_kl(still, prior)), start, now, quiet)
    assert (x[:, -1, -1] == 0).all()
    (slope,) = torch.autograd.grad(x.sum(), a)
    assert slope.isfinite().all()
    moved = SDE(lambda t, x: a.expand_as(x), g, noise)
    x = solve(euler(with_kl(moved, prior)), start, now, quiet)
    assert (x[:, -1, -1] == torch.inf).all()
    (slope,) = torch.autograd.grad(x[..., -1].sum(), a)
    assert (slope == 0).all()

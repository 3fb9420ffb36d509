import math

import pytest
import torch
from torch import Tensor

from tsdyn.errors import ModelError
from tsdyn.maths.affine_bridge import affine_bridge, bridge_moments_of
from tsdyn.maths.cost import matrix
from tsdyn.maths.gaussian_bridge import Gaussian, gaussian_bridge
from tsdyn.maths.gaussian_flow import (
    Flow,
    affine_flow,
    bridge_drift,
    bridge_moments,
    bridge_paths,
    linear_noise_flow,
    transition_cost,
)

SIGMA = 0.7
NODES = torch.tensor([0.0, 0.1, 0.15, 0.6, 1.3], dtype=torch.float64)


def seeded(n: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(n)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def rotating(D: int) -> tuple[Tensor, Tensor]:
    A = normal(D, D, seed=D)
    return A - A.mT - 0.5 * torch.eye(D, dtype=torch.float64), normal(D, seed=9)


def brownian(x: Tensor, t: Tensor, sigma: float = SIGMA) -> Flow:
    D = x.shape[1]
    return affine_flow(x, torch.zeros(D, D), torch.zeros(D), sigma, t)


def test_without_drift_it_is_brownian_motion() -> None:
    x = normal(4, 3)
    flow = brownian(x, NODES)
    one = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(flow.mean, x[:, None].expand(-1, 5, -1))
    torch.testing.assert_close(flow.cov[0], SIGMA**2 * NODES[:, None, None] * one)
    torch.testing.assert_close(flow.left[0], SIGMA**2 * (1.3 - NODES)[:, None, None] * one)


def test_one_coordinate_is_the_ornstein_uhlenbeck_law() -> None:
    rate, x = 1.7, torch.tensor([[0.3], [-2.0]], dtype=torch.float64)
    flow = affine_flow(x, torch.tensor([[-rate]]), torch.tensor([rate * 0.5]), SIGMA, NODES)
    kept = torch.exp(-torch.tensor(rate, dtype=torch.float32).double() * NODES)
    torch.testing.assert_close(flow.mean[..., 0], 0.5 + (x - 0.5) * kept, rtol=1e-6, atol=1e-7)
    var = SIGMA**2 * (1 - kept**2) / (2 * rate)
    torch.testing.assert_close(flow.cov[0, :, 0, 0], var, rtol=1e-6, atol=0)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 30.0])
def test_covariance_solves_the_lyapunov_equation_whatever_its_size(scale: float) -> None:
    A = scale * rotating(3)[0]
    flow = affine_flow(normal(1, 3), A, torch.zeros(3), SIGMA, NODES)
    P = flow.cov[0, -1]
    E = torch.linalg.matrix_exp(A * NODES[-1])
    noise = SIGMA**2 * (torch.eye(3, dtype=torch.float64) - E @ E.mT)
    torch.testing.assert_close(A @ P + P @ A.mT, -noise, rtol=1e-9, atol=1e-15 + 1e-9 * scale)
    torch.testing.assert_close(flow.ahead[0, 0], E, rtol=1e-9, atol=1e-12)


def test_cost_is_minus_the_log_density() -> None:
    A, b = rotating(2)
    x, y = normal(4, 2), normal(5, 2, seed=1)
    flow = affine_flow(x, A, b, SIGMA, NODES)
    law = torch.distributions.MultivariateNormal(flow.mean[:, -1], flow.cov[0, -1])
    want = -law.log_prob(y[:, None]).mT
    torch.testing.assert_close(matrix(transition_cost(flow, y)), want)
    several = flow._replace(cov=flow.cov.expand(4, -1, -1, -1))
    torch.testing.assert_close(matrix(transition_cost(several, y)), want)


def joint(flow: Flow, i: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance of all nodes after the first, written out."""
    S, D = len(flow.t) - 1, flow.mean.shape[-1]
    cov = torch.zeros(S, D, S, D, dtype=torch.float64)
    for r in range(1, S + 1):
        move = torch.eye(D, dtype=torch.float64)
        for s in range(r, S + 1):
            cov[s - 1, :, r - 1] = move @ flow.cov[0, r]
            cov[r - 1, :, s - 1] = (move @ flow.cov[0, r]).mT
            move = flow.step[0, s] @ move if s < S else move
    return flow.mean[i, 1:], cov


def test_bridges_are_the_law_of_all_nodes_given_the_last() -> None:
    A, b = rotating(2)
    flow = affine_flow(normal(3, 2), A, b, SIGMA, NODES)
    y = normal(1, 2, seed=4)
    mean, cov = joint(flow, 2)
    inner, last = cov[:-1, :, :-1].reshape(6, 6), cov[-1, :, -1]
    cross = cov[:-1, :, -1].reshape(6, 2)
    gain = cross @ last.inverse()
    want_mean = mean[:-1].flatten() + gain @ (y[0] - mean[-1])
    want_cov = (inner - gain @ cross.mT).reshape(3, 2, 3, 2)
    m, P = bridge_moments(flow, torch.tensor([2]), y)
    torch.testing.assert_close(m[0, 1:-1].flatten(), want_mean)
    for s in range(3):
        torch.testing.assert_close(P[0, s + 1], want_cov[s, :, s])
    n = 40_000
    paths = bridge_paths(flow, torch.full((n,), 2), y.expand(n, -1).clone(), seeded())
    drawn = paths[:, 1:-1].flatten(1)
    spread = want_cov.reshape(6, 6)
    error = 5 * (spread.diagonal() / n).sqrt()
    assert ((drawn.mean(0) - want_mean).abs() < error).all()
    found = torch.cov(drawn.mT)
    # the variance of a sample covariance is (C_ii C_jj + C_ij²) / n
    scale = ((spread.diagonal()[:, None] * spread.diagonal() + spread**2) / n).sqrt()
    assert ((found - spread).abs() < 5 * scale).all()
    assert (paths[:, -1] == y).all() and (paths[:, 0] == flow.mean[2, 0]).all()


def test_drift_of_a_brownian_bridge_points_at_its_end() -> None:
    x, y = normal(3, 2), normal(3, 2, seed=1)
    at = normal(3, 4, 2, seed=2)
    found = bridge_drift(brownian(x, NODES), torch.arange(3), y, at, SIGMA)
    torch.testing.assert_close(found, (y[:, None] - at) / (1.3 - NODES[:-1])[:, None])


def test_drift_of_a_bridge_is_that_of_its_mean() -> None:
    """Where a path is on the mean of the bridge, it follows the mean."""
    A, b = rotating(3)
    h = 1e-5
    t = torch.tensor([0.0, 0.5 - h, 0.5, 0.5 + h, 1.0], dtype=torch.float64)
    flow = affine_flow(normal(2, 3), A, b, SIGMA, t)
    y = normal(2, 3, seed=5)
    mean, _ = bridge_moments(flow, torch.arange(2), y)
    found = bridge_drift(flow, torch.arange(2), y, mean[:, :-1], SIGMA)[:, 2]
    torch.testing.assert_close(found, (mean[:, 3] - mean[:, 1]) / (2 * h), rtol=1e-6, atol=1e-6)


def predator_prey(x: Tensor) -> Tensor:
    u, v = x.unbind(-1)
    return torch.stack([u - 0.4 * u * v, 0.1 * u * v - 0.4 * v], -1)


def predator_prey_jacobian(x: Tensor) -> Tensor:
    return torch.func.vmap(torch.func.jacrev(predator_prey))(x)


def test_linear_noise_is_exact_in_time_for_an_affine_drift_to_second_order() -> None:
    A, b = rotating(2)
    x = normal(3, 2)
    exact = affine_flow(x, A, b, SIGMA, NODES)
    errors = []
    for steps in (20, 40):
        found = linear_noise_flow(
            x, lambda z: z @ A.mT + b, lambda z: A.expand(len(z), 2, 2), SIGMA, NODES, steps
        )
        torch.testing.assert_close(found.ahead, exact.ahead.expand(3, -1, -1, -1))
        errors.append(float((found.mean - exact.mean).abs().max()))
        torch.testing.assert_close(
            found.left, exact.left.expand(3, -1, -1, -1), rtol=2e-6, atol=2e-6
        )
    assert errors[1] < errors[0] / 10


def test_linear_noise_is_the_law_of_small_noise() -> None:
    x = torch.tensor([[5.0, 4.0]], dtype=torch.float64)
    sigma, n, h = 0.02, 4000, 0.002
    t = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    flow = linear_noise_flow(x, predator_prey, predator_prey_jacobian, sigma, t, steps=200)
    fine = linear_noise_flow(x, predator_prey, predator_prey_jacobian, sigma, t, steps=400)
    torch.testing.assert_close(flow.cov, fine.cov, rtol=1e-4, atol=0)
    cells, g = x.expand(n, -1), seeded(3)
    for _ in range(int(2 / h)):
        kick = torch.randn(n, 2, generator=g, dtype=torch.float64)
        half = cells + h / 2 * predator_prey(cells)
        cells = cells + h * predator_prey(half) + sigma * math.sqrt(h) * kick
    P = flow.cov[0, -1]
    scale = ((P.diagonal()[:, None] * P.diagonal() + P**2) / n).sqrt()
    assert ((torch.cov(cells.mT) - P).abs() < 4 * scale + 0.02 * P.abs().max()).all()
    curved = 20 * sigma**2  # the mean moves by the second order of the noise
    assert ((cells.mean(0) - flow.mean[0, -1]).abs() < 4 * (P.diagonal() / n).sqrt() + curved).all()


def test_a_drift_that_explodes_is_reported_with_the_cell() -> None:
    x = torch.tensor([[0.1], [50.0]], dtype=torch.float64)
    with pytest.raises(ModelError, match=r"TSD-M03.*cell 1 by 0.15") as caught:
        linear_noise_flow(x, lambda z: z**3, lambda z: 3 * z[..., None] ** 2, 0.1, NODES * 2 / 1.3)
    assert "ridge" in str(caught.value)


def test_affine_bridge_has_the_moments_of_its_draws() -> None:
    """Two ends as good as any: what is linear in them is tested pair by pair."""
    A, b = rotating(2)
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    bridge = affine_bridge(A, b, SIGMA, 1.0, t)
    x, y = normal(5, 2), normal(5, 2, seed=3)
    nodes = torch.tensor([0.0, 0.2, 0.7, 1.0], dtype=torch.float64)
    flow = affine_flow(x, A, b, SIGMA, nodes)
    rows = torch.arange(5)
    mean, cov = bridge_moments(flow, rows, y)
    u = torch.cat([x, y, torch.ones(5, 1)], 1)
    torch.testing.assert_close((bridge.mean @ u.mT).permute(2, 0, 1), mean[:, 1:-1])
    torch.testing.assert_close(bridge.cov, cov[0, 1:-1])
    at = normal(5, 3, 2, seed=8)
    want = bridge_drift(flow, rows, y, at, SIGMA)[:, 1:]
    linear = (bridge.drift @ u.mT).permute(2, 0, 1)
    bent = (bridge.feedback @ (at[:, 1:] - mean[:, 1:-1])[..., None])[..., 0]
    torch.testing.assert_close(linear + bent, want)


def test_gaussian_bridge_of_brownian_motion_is_the_published_one() -> None:
    """N(t (2) - 1, ((1 - t)² + t² + t (1 - t) √(4 + σ⁴)) I) between N(-1, I) and N(1, I)."""
    one, zero = torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    for sigma in (0.3, 1.0, 2.5):
        found = gaussian_bridge(
            Gaussian(zero - 1, one), Gaussian(zero + 1, one), 0 * one, zero, sigma, 1.0, t
        )
        var = t * (1 - t) * math.sqrt(4 + sigma**4) + (1 - t) ** 2 + t**2
        assert (found.cov - var[:, None, None] * one).abs().max() < 1e-12
        assert (found.mean - (2 * t - 1)[:, None]).abs().max() < 1e-12


def test_gaussian_bridge_moves_its_marginals_with_its_drift() -> None:
    """dm/dt = rate, dS/dt = slope S + S slopeᵀ + σ² I."""
    A, b = rotating(3)
    L, M = normal(3, 3, seed=6), normal(3, 3, seed=7)
    one = torch.eye(3, dtype=torch.float64)
    start, end = Gaussian(normal(3), L @ L.mT + one), Gaussian(normal(3, seed=2), M @ M.mT + one)
    h = 1e-5
    t = torch.tensor([1e-9, 0.4 - h, 0.4, 0.4 + h, 0.8 - 1e-9], dtype=torch.float64)
    found = gaussian_bridge(start, end, A, b, SIGMA, 0.8, t)
    rate, slope, S = found.rate[2], found.slope[2], found.cov[2]
    torch.testing.assert_close(
        (found.mean[3] - found.mean[1]) / (2 * h), rate, rtol=1e-6, atol=1e-6
    )
    moved = (found.cov[3] - found.cov[1]) / (2 * h)
    torch.testing.assert_close(
        moved, slope @ S + S @ slope.mT + SIGMA**2 * one, rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(found.cov[0], start.cov, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.cov[-1], end.cov, rtol=1e-6, atol=1e-6)


def test_moments_of_a_plan_are_those_of_its_pairs() -> None:
    A, b = rotating(2)
    x, y = normal(6, 2), normal(6, 2, seed=1)
    t = torch.tensor([0.3, 0.9], dtype=torch.float64)
    bridge = affine_bridge(A, b, SIGMA, 1.0, t)
    u = torch.cat([x, y, torch.ones(6, 1)], 1)
    found = bridge_moments_of(bridge, u.mT @ u / 6)
    means = (bridge.mean @ u.mT).movedim(-1, 0)
    drifts = (bridge.drift @ u.mT).movedim(-1, 0)
    for s in range(2):
        m, c = means[:, s] - means[:, s].mean(0), drifts[:, s] - drifts[:, s].mean(0)
        torch.testing.assert_close(found.cov[s], m.mT @ m / 6 + bridge.cov[s])
        torch.testing.assert_close(
            found.cross[s], c.mT @ m / 6 + bridge.feedback[s] @ bridge.cov[s]
        )
        torch.testing.assert_close(found.drift[s], drifts[:, s].mean(0))

"""Small chains in closed form, and what is known of them from dense matrices."""

import torch
from torch import Tensor

from tsdyn.maths.kalman import LinearGaussian, Sites


def gaps(t: Tensor) -> Tensor:
    """The time since the row before; 0 at the first row."""
    return torch.cat([torch.zeros_like(t[..., :1]), t.diff()], -1)


def matern12(t: Tensor, lengthscale, variance) -> LinearGaussian:
    """Cov = variance exp(-r / lengthscale)"""
    a = torch.exp(-gaps(t) / lengthscale)[..., None, None]
    q = -variance * torch.expm1(-2 * gaps(t) / lengthscale)[..., None, None]
    return LinearGaussian(a, q, torch.as_tensor(variance, dtype=t.dtype).reshape(1, 1))


def step32(dt: Tensor, lengthscale, variance) -> tuple[Tensor, Tensor]:
    rate = 3**0.5 / lengthscale
    x = rate * dt
    e, e2 = torch.exp(-x), torch.exp(-2 * x)
    A = [[e * (1 + x), e * dt], [-e * rate * x, e * (1 - x)]]
    corner = 2 * variance * rate * x**2 * e2
    Q = [
        [variance * (1 - e2 * (1 + 2 * x + 2 * x**2)), corner],
        [corner, variance * rate**2 * (1 - e2 * (1 - 2 * x + 2 * x**2))],
    ]
    return tuple(torch.stack([torch.stack(row, -1) for row in M], -2) for M in (A, Q))


def matern32(t: Tensor, lengthscale, variance) -> LinearGaussian:
    """Cov = variance (1 + x) exp(-x), x = sqrt(3) r / lengthscale; the state is (f, df/dt)."""
    lengthscale, variance = (torch.as_tensor(p, dtype=t.dtype) for p in (lengthscale, variance))
    P0 = torch.diag(torch.stack([variance, 3 * variance / lengthscale**2]))
    return LinearGaussian(*step32(gaps(t), lengthscale, variance), P0)


def covariance12(t: Tensor, u: Tensor, lengthscale, variance) -> Tensor:
    return variance * torch.exp(-(t[..., :, None] - u[..., None, :]).abs() / lengthscale)


def covariance32(t: Tensor, u: Tensor, lengthscale, variance) -> Tensor:
    x = 3**0.5 * (t[..., :, None] - u[..., None, :]).abs() / lengthscale
    return variance * (1 + x) * torch.exp(-x)


def irregular(*shape: int) -> Tensor:
    """Times with exponential gaps of mean 0.1."""
    return -0.1 * torch.rand(*shape, dtype=torch.float64).log().cumsum(-1)


def anything(N: int, S: int, *batch: int) -> tuple[LinearGaussian, Sites]:
    """A chain of all parts, and sites of which some see nothing and some everything."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*batch, *shape, dtype=torch.float64)

    def square(*shape: int) -> Tensor:
        root = normal(*shape, S, S) / S**0.5
        return root @ root.mT

    chain = LinearGaussian(
        0.7 * normal(N, S, S) / S**0.5, square(N), square(), normal(S), normal(N, S)
    )
    kind = torch.arange(N) % 3  # all of the state, one direction, nothing
    direction = normal(N, S)
    J = 3 * square(N) * (kind == 0)[:, None, None]
    J = J + (kind == 1)[:, None, None] * direction[..., :, None] * direction[..., None, :]
    return chain, Sites((J @ normal(N, S, 1))[..., 0], J, normal(N), normal(N, S))


def step_by_step(chain: LinearGaussian) -> LinearGaussian:
    """With m0 and b in place."""
    m0 = torch.zeros_like(chain.P0[..., 0]) if chain.m0 is None else chain.m0
    b = torch.zeros_like(chain.A[..., 0]) if chain.b is None else chain.b
    return chain._replace(m0=m0, b=b)


def joint(chain: LinearGaussian) -> tuple[Tensor, Tensor]:
    """Mean (N, S) and covariance (N, S, N, S) of all rows of one chain, from the definition."""
    chain = step_by_step(chain)
    N, S = chain.A.shape[:2]
    mean, cov = [chain.m0], torch.zeros(N, S, N, S, dtype=chain.A.dtype)
    cov[0, :, 0] = chain.P0
    for k in range(1, N):
        mean.append(chain.A[k] @ mean[-1] + chain.b[k])
        cov[k, :, :k] = torch.einsum("ij,jnk->ink", chain.A[k], cov[k - 1, :, :k])
        cov[:k, :, k] = cov[k, :, :k].permute(1, 2, 0)
        cov[k, :, k] = chain.A[k] @ cov[k - 1, :, k - 1] @ chain.A[k].mT + chain.Q[k]
    return torch.stack(mean), cov


def dense(chain: LinearGaussian, sites: Sites) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (N, S) and covariance (N, S, N, S) given everything seen, and log ∫ ∏ sites dp(x)."""
    N, S = sites.h.shape
    mean, cov = joint(chain)
    m, P = mean.flatten(), cov.reshape(N * S, N * S)
    J = torch.block_diag(*sites.J)
    c = torch.zeros_like(m) if sites.c is None else sites.c.flatten()
    s = 0.0 if sites.s is None else sites.s.sum()
    surprise = sites.h.flatten() - J @ (m - c)
    M = torch.eye(N * S, dtype=P.dtype) + P @ J
    after = torch.linalg.solve(M, P)
    log_z = s + (m - c) @ (sites.h.flatten() + surprise) / 2
    log_z = log_z + surprise @ after @ surprise / 2 - torch.logdet(M) / 2
    return (m + after @ surprise).view(N, S), after.view(N, S, N, S), log_z

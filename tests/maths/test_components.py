"""Oracle: torch.linalg, matrix by matrix."""

import pytest
import torch

from tsdyn.maths import components
from tsdyn.maths.components import first, last

SIZES = [1, 2, 3, 4, 6, 8]
COUNTS = [1, 100]


def matrices(S: int, *trailing: int) -> torch.Tensor:
    return torch.randn(S, S, *trailing, dtype=torch.float64)


@pytest.mark.parametrize("N", COUNTS)
@pytest.mark.parametrize("S", SIZES)
def test_products(S, N):
    A, B, v = matrices(S, 2, N), matrices(S, 1, N), torch.randn(S, 2, N, dtype=torch.float64)
    torch.testing.assert_close(components.matmul(A, B), first(last(A) @ last(B)))
    torch.testing.assert_close(
        components.matvec(A, v), (last(A) @ v.movedim(0, -1)[..., None])[..., 0].movedim(-1, 0)
    )
    torch.testing.assert_close(components.outer(v, v)[0, -1], v[0] * v[-1])
    torch.testing.assert_close(components.dot(v, v), v.movedim(0, -1).square().sum(-1))
    P = components.symmetric(B)
    found = components.sandwich(A, P)
    torch.testing.assert_close(found, first(last(A) @ last(P) @ last(A).mT))
    assert torch.equal(found, components.transpose(found))


@pytest.mark.parametrize("N", COUNTS)
@pytest.mark.parametrize("S", SIZES)
def test_inverse_and_determinant(S, N):
    A = components.one_plus(components.matmul(matrices(S, N), matrices(S, N)) / S)
    torch.testing.assert_close(last(components.inverse(A)), torch.linalg.inv(last(A)))
    sign, size = torch.linalg.slogdet(last(A))
    expected = size.where(sign > 0, torch.nan)
    torch.testing.assert_close(components.log_det(A), expected, equal_nan=True)


def test_one_plus():
    A = matrices(3, 2)
    assert torch.equal(last(components.one_plus(A)), last(A) + torch.eye(3))


@pytest.mark.parametrize("S", SIZES)
def test_derivatives(S):
    A = components.one_plus(matrices(S, 2) / (2 * S)).requires_grad_()
    for f in (components.inverse, components.log_det):
        assert torch.autograd.gradcheck(f, A)
        assert torch.autograd.gradgradcheck(f, A)


@pytest.mark.parametrize("S", SIZES)
@pytest.mark.parametrize("rank", [0, 1, 2, 8])
def test_a_factor_of_any_rank(S, rank):
    root = torch.randn(20, S, min(rank, S), dtype=torch.float64)
    P = first(root @ root.mT)
    L = components.factor(P)
    torch.testing.assert_close(components.matmul(L, L.transpose(0, 1)), P, rtol=0, atol=1e-12)
    assert not last(L).triu(1).any()
    slack = 1e-12 * torch.ones(S, 20).double() * max(P.amax(), 1)
    assert components.semidefinite(P, slack).all()
    if rank >= S:
        torch.testing.assert_close(last(L), torch.linalg.cholesky(last(P)))


@pytest.mark.parametrize("S", [2, 3, 8])
def test_a_negative_direction_is_found(S):
    """Eigenvalues from 1 down to -0.1, 0 or 0.1, and one that is not a number."""
    turn = torch.linalg.qr(torch.randn(4, S, S, dtype=torch.float64)).Q
    values = torch.ones(4, S, dtype=torch.float64)
    values[:, -1] = torch.tensor([-0.1, 0.0, 0.1, torch.nan])
    P = first(turn @ torch.diag_embed(values) @ turn.mT)
    found = components.semidefinite(P, torch.full((S, 4), 1e-9).double())
    assert found.tolist() == [False, True, True, False]


def test_a_factor_of_nothing_has_a_finite_gradient():
    P = torch.zeros(2, 2, 3, dtype=torch.float64, requires_grad=True)
    components.factor(P).sum().backward()
    assert P.grad is not None and P.grad.isfinite().all()

"""Rows of a chain have the joint law that they have in the whole chain."""

import pytest
import torch

from tsdyn.maths.chain_rows import at_rows, joint_covariance
from tsdyn.maths.kalman import LinearGaussian

N, S = 9, 2


def chain(*batch: int) -> LinearGaussian:
    A = torch.randn(*batch, N, S, S).double()
    root = torch.randn(*batch, N, S, S).double()
    P0 = torch.eye(S).double() + root[..., 0, :, :] @ root[..., 0, :, :].mT
    m0, b = torch.randn(*batch, S).double(), torch.randn(*batch, N, S).double()
    return LinearGaussian(A, root @ root.mT, P0, m0, b)


def dense(c: LinearGaussian) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (N, S) and covariance (N, S, N, S) of one chain, from its noise: x = M (m0, b) and M diag(P0, Q) M'."""
    M = torch.zeros(N, S, N, S).double()
    for j in range(N):
        M[j, :, j] = torch.eye(S).double()
        if j:
            M[j, :, :j] = torch.einsum("ab,bnc->anc", c.A[j], M[j - 1, :, :j])
    noise = c.Q.clone()
    noise[0] = c.P0
    shift = c.b.clone()
    shift[0] = c.m0
    mean = torch.einsum("jakb,kb->ja", M, shift)
    return mean, torch.einsum("jakb,kbc,ldkc->jald", M, noise, M)


@pytest.mark.parametrize("rows", [[0], [8], [0, 8], [3, 4, 7], list(range(N))])
def test_kept_rows_keep_their_joint_law(rows):
    c = chain()
    kept = at_rows(c, torch.tensor(rows))
    mean, cov = dense(c)
    own = cov[rows][:, :, rows].reshape(len(rows) * S, -1)
    torch.testing.assert_close(joint_covariance(kept), own, rtol=1e-12, atol=1e-12)
    x = [kept.m0]
    for k in range(1, len(rows)):
        x.append(kept.A[k] @ x[-1] + kept.b[k])
    torch.testing.assert_close(torch.stack(x), mean[rows], rtol=1e-12, atol=1e-12)


def test_series_keep_rows_of_their_own():
    c, rows = chain(3, 2), torch.tensor([[0, 5], [2, 3], [4, 8]])
    kept = joint_covariance(at_rows(c, rows[:, None]))
    for i in range(3):
        for j in range(2):
            one = LinearGaussian(*(f[i, j] for f in c))
            alone = joint_covariance(at_rows(one, rows[i]))
            torch.testing.assert_close(kept[i, j], alone, rtol=1e-12, atol=1e-12)


def test_chains_that_share_their_covariances():
    c = chain()
    b = torch.randn(4, N, S).double()
    kept = at_rows(c._replace(b=b), torch.tensor([1, 6]))
    for i in range(4):
        alone = at_rows(c._replace(b=b[i]), torch.tensor([1, 6]))
        torch.testing.assert_close(kept.b[i], alone.b)
        torch.testing.assert_close(kept.m0[i], alone.m0)

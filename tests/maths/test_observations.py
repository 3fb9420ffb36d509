"""Oracle: the joint normal density of all observations."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from tests.maths.chains import anything, joint
from tsdyn.errors import ModelError
from tsdyn.maths.kalman import LinearGaussian, log_z
from tsdyn.maths.observations import observe, observe_jointly

N, M, S = 6, 2, 3


@pytest.fixture(autouse=True)
def doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def density(chain: LinearGaussian, H, R, y, mask):
    """log N(y) of what is seen, from the mean and covariance of all rows; H (N, M, S), R (N, M, M)."""
    mean, cov = joint(chain)
    mean = (H @ mean[..., None])[..., 0].flatten()
    cov = torch.einsum("kms,kslt,lnt->kmln", H, cov, H).reshape(N * H.shape[1], -1)
    cov = cov + torch.block_diag(*R)
    seen = mask.flatten()
    return MultivariateNormal(mean[seen], cov[seen][:, seen]).log_prob(y.flatten()[seen])


def problem(M: int = M):
    chain, _ = anything(N, S)
    y, mask = torch.randn(N, M), torch.rand(N, M) < 0.6
    return chain, y.where(mask, torch.nan), mask


@pytest.mark.parametrize("M", [1, 2, 5])
@pytest.mark.parametrize("changing", [False, True])
@pytest.mark.parametrize("spread", ["one", "each", "all"])
def test_independent_errors(M, changing, spread):
    """Also more observations than the state has coordinates."""
    chain, y, mask = problem(M)
    H = torch.randn(N, M, S) if changing else torch.randn(M, S)
    R = 0.1 + torch.rand({"one": (), "each": (M,), "all": (N, M)}[spread])
    expected = density(chain, H.expand(N, M, S), torch.diag_embed(R.expand(N, M)), y, mask)
    torch.testing.assert_close(log_z(chain, observe(H, R, y, mask)), expected)


@pytest.mark.parametrize("M", [1, 2, 5])
@pytest.mark.parametrize("changing", [False, True])
def test_correlated_errors(M, changing):
    chain, y, mask = problem(M)
    shape = (N,) if changing else ()
    H, root = torch.randn(*shape, M, S), torch.randn(*shape, M, M)
    R = root @ root.mT + 0.1 * torch.eye(M)
    expected = density(chain, H.expand(N, M, S), R.expand(N, M, M), y, mask)
    torch.testing.assert_close(log_z(chain, observe_jointly(H, R, y, mask)), expected)


def test_everything_is_seen_without_a_mask():
    chain, y, _ = problem()
    y, H, R = torch.randn(N, M), torch.randn(M, S), torch.rand(M) + 0.1
    expected = density(chain, H.expand(N, M, S), torch.diag(R).expand(N, M, M), y, y < torch.inf)
    torch.testing.assert_close(log_z(chain, observe(H, R, y)), expected)
    torch.testing.assert_close(log_z(chain, observe_jointly(H, torch.diag(R), y)), expected)


def test_observations_of_the_same_thing():
    """Two that differ are one of their mean, with half the variance."""
    chain, y, _ = problem()
    y, H = torch.randn(N, 2), torch.randn(1, S).expand(2, S)
    R = torch.tensor(0.3)
    twice = log_z(chain, observe(H, R, y))
    once = log_z(chain, observe(H[:1], R / 2, y.mean(-1, keepdim=True)))
    difference = y[:, 0] - y[:, 1]
    # N(y1; f, R) N(y2; f, R) = N(mean; f, R / 2) N(y1 - y2; 0, 2 R)
    rest = torch.distributions.Normal(0.0, (2 * R).sqrt()).log_prob(difference).sum()
    torch.testing.assert_close(twice, once + rest)


@pytest.mark.parametrize("joint_errors", [False, True])
def test_gradients(joint_errors):
    """With respect to what is read, how sharply, and what came; unseen values have none."""
    chain, y, mask = problem()
    H = torch.randn(M, S, requires_grad=True)
    root = torch.randn(M, M, requires_grad=True)
    y = y.clone().requires_grad_()

    def value(function, H, root, y):
        R = root @ root.mT + 0.1 * torch.eye(M)
        R = R if joint_errors else torch.diag_embed(R.diagonal())
        if function is density:
            return density(chain, H.expand(N, M, S), R.expand(N, M, M), y, mask)
        if joint_errors:
            return log_z(chain, observe_jointly(H, R, y, mask))
        return log_z(chain, observe(H, R.diagonal(), y, mask))

    found, expected = (
        torch.autograd.grad(value(f, H, root, y), (H, root, y)) for f in (log_z, density)
    )
    for f, e in zip(found, expected):
        torch.testing.assert_close(f, e)
    assert not found[2][~mask].any()


def test_batches_of_series_and_of_readings():
    chain, _ = anything(N, S)
    y, H = torch.randn(4, N, M), torch.randn(4, 1, M, S)
    found = log_z(chain, observe(H, torch.tensor(0.2), y))
    for i in range(4):
        torch.testing.assert_close(
            found[i], log_z(chain, observe(H[i, 0], torch.tensor(0.2), y[i]))
        )


def test_errors_without_variance_are_refused():
    _, y, mask = problem()
    with pytest.raises(ModelError, match=r"TSD-M04: The variance R of an observation"):
        observe(torch.randn(M, S), torch.tensor([0.1, 0.0]), y, mask)
    with pytest.raises(ModelError, match=r"TSD-M04: The variance R of an observation"):
        observe(torch.randn(M, S), torch.tensor(-1.0), y, mask)
    with pytest.raises(ModelError, match=r"TSD-M04: The covariance R of the observations"):
        observe_jointly(torch.randn(M, S), -torch.eye(M), y)

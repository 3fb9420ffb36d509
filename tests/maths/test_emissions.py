"""Oracles: torch's distributions, weighted sums, and the gradient at what is called a summit."""

import torch

from tsdyn.maths.emissions import Categorical, Gaussian, Misread, fitted, log_densities


def laws(B: int = 6, T: int = 9, n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Laws of the states, and where something was observed."""
    law = torch.rand(B, T, n, dtype=torch.float64)
    return law / law.sum(-1, keepdim=True), torch.rand(B, T) < 0.7


def objective(emission, y, mask, law):
    return (log_densities(emission, y, mask) * law.where(mask[..., None], 0.0)).sum()


def test_categorical_shares_are_weighted_counts():
    law, mask = laws()
    y = torch.randint(0, 4, mask.shape)
    start = Categorical(torch.full((3, 4), 0.25, dtype=torch.float64))
    found = fitted(start, y, mask, law).probability
    for i in range(3):
        for o in range(4):
            weight = law[..., i] * mask
            expected = (weight * (y == o)).sum() / weight.sum()
            torch.testing.assert_close(found[i, o], expected)
    log = log_densities(Categorical(found), y, mask)
    assert log[mask][0, 1] == found[1, y[mask][0]].log()
    assert not log[~mask].any()


def test_a_state_without_weight_keeps_its_law():
    law, mask = laws()
    law[..., 1] = 0
    y = torch.randint(0, 4, mask.shape)
    start = Categorical(torch.rand(3, 4, dtype=torch.float64).softmax(-1))
    torch.testing.assert_close(fitted(start, y, mask, law).probability[1], start.probability[1])
    values = torch.randn(*mask.shape, 2, dtype=torch.float64)
    normal = Gaussian(torch.randn(3, 2).double(), torch.eye(2).double().expand(3, -1, -1))
    found = fitted(normal, values, mask, law)
    torch.testing.assert_close(found.mean[1], normal.mean[1])
    torch.testing.assert_close(found.covariance[1], normal.covariance[1])


def test_misreading_is_a_categorical_law_with_one_number():
    law, mask = laws()
    y = torch.randint(0, 3, mask.shape)
    error = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    table = torch.full((3, 3), 0.15, dtype=torch.float64).fill_diagonal_(0.7)
    torch.testing.assert_close(
        log_densities(Misread(error, 3), y, mask), log_densities(Categorical(table), y, mask)
    )
    best = fitted(Misread(error.detach(), 3), y, mask, law).error.requires_grad_()
    (slope,) = torch.autograd.grad(objective(Misread(best, 3), y, mask, law), best)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-10)


def test_gaussian_densities_are_those_of_torch():
    mean = torch.randn(3, 2, dtype=torch.float64)
    root = torch.randn(3, 2, 2, dtype=torch.float64)
    covariance = root @ root.mT + torch.eye(2)
    y = torch.randn(6, 9, 2, dtype=torch.float64)
    mask = torch.rand(6, 9) < 0.7
    law = torch.distributions.MultivariateNormal(mean, covariance)
    expected = law.log_prob(y[:, :, None]).where(mask[..., None], 0.0)
    holes = y.where(mask[..., None], torch.nan)
    torch.testing.assert_close(log_densities(Gaussian(mean, covariance), holes, mask), expected)


def test_gaussian_fit_is_the_summit():
    law, mask = laws()
    y = torch.randn(*mask.shape, 2, dtype=torch.float64).where(mask[..., None], torch.nan)
    start = Gaussian(torch.zeros(3, 2).double(), torch.eye(2).double().expand(3, -1, -1))
    found = fitted(start, y, mask, law)
    mean, covariance = (f.clone().requires_grad_() for f in found[:2])
    value = objective(Gaussian(mean, covariance), y, mask, law)
    for slope in torch.autograd.grad(value, [mean, covariance]):
        torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-9)


def test_the_floor_keeps_the_most_likely_covariance_above_it():
    """Against small moves among covariances above the floor."""
    law, mask = laws()
    y = torch.randn(*mask.shape, 2, dtype=torch.float64) * torch.tensor([1.0, 0.01])
    start = Gaussian(torch.zeros(3, 2).double(), torch.eye(2).double().expand(3, -1, -1), 0.2)
    found = fitted(start, y, mask, law)
    values = torch.linalg.eigvalsh(found.covariance)
    torch.testing.assert_close(values[:, 0], torch.full((3,), 0.2, dtype=torch.float64))
    best = objective(found, y, mask, law)
    for _ in range(50):
        move = 0.01 * torch.randn(3, 2, 2, dtype=torch.float64)
        shaken, vectors = torch.linalg.eigh(found.covariance + move + move.mT)
        allowed = (vectors * shaken.clamp(min=0.2)[:, None]) @ vectors.mT
        assert objective(Gaussian(found.mean, allowed), y, mask, law) <= best

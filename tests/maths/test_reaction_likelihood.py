"""Oracles: the closed recursion of immigration and death, joint Gaussian laws, exact laws of counts for many molecules."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from tsdyn.errors import DataError, ModelError
from tsdyn.maths.minimise import minimise
from tsdyn.maths.reaction_likelihood import Gaussian, Reading, filtered, log_likelihood
from tsdyn.maths.reactions import (
    ReactionNetwork,
    finite_state_projection,
    linear_noise,
    reachable,
    simulate,
)


def network(reactants: list, products: list, rates: list | Tensor) -> ReactionNetwork:
    before, after = torch.tensor(reactants), torch.tensor(products)
    return ReactionNetwork(after - before, torch.as_tensor(rates, dtype=torch.float64), before)


def immigration_death(rate: float = 20.0, death: float = 0.5) -> ReactionNetwork:
    return network([[0], [1]], [[1], [0]], [rate, death])


def predator_prey(rates: tuple[float, ...] = (0.5, 0.0025, 0.3)) -> ReactionNetwork:
    return network([[1, 0], [1, 1], [0, 1]], [[2, 0], [0, 2], [0, 0]], list(rates))


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


COUNT = Reading(torch.eye(1, dtype=torch.float64), 9.0 * torch.eye(1, dtype=torch.float64))
UNKNOWN = Gaussian(tensor(30.0), tensor(25.0)[:, None])


def counted(B: int = 3, T: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Irregular times, a time that comes twice, a hole."""
    t = torch.rand(B, T, dtype=torch.float64).cumsum(1)
    t[0, 3] = t[0, 2]
    y = 35 + 6 * torch.randn(B, T, 1, dtype=torch.float64)
    mask = torch.ones(B, T, 1, dtype=torch.bool)
    mask[1, 2] = False
    return t, y, mask


def by_hand(k: Tensor, t: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """Scalar Kalman recursion with m -> m e + k (1 - e), V -> V e² + (m e + k) (1 - e), e = exp(-death gap)."""
    level, death = k[0] / k[1], k[1]
    values = []
    for b in range(len(t)):
        m, V, total = tensor(30.0)[0], tensor(25.0)[0], tensor(0.0)[0]
        for row in range(t.shape[1]):
            if row:
                e = torch.exp(-death * (t[b, row] - t[b, row - 1]))
                m, V = m * e + level * (1 - e), V * e**2 + (m * e + level) * (1 - e)
            if mask[b, row, 0]:
                S = V + 9
                total = total + Normal(m, S.sqrt()).log_prob(y[b, row, 0])
                m, V = m + V / S * (y[b, row, 0] - m), V * 9 / S
        values.append(total)
    return torch.stack(values)


def test_immigration_and_death_in_closed_form():
    t, y, mask = counted()
    rates = tensor(20.0, 0.5).requires_grad_()
    reacts = immigration_death()._replace(rates=rates)
    found = log_likelihood(reacts, UNKNOWN, COUNT, t, y, mask, rtol=1e-9)
    expected = by_hand(rates, t, y, mask)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)
    slopes = [torch.autograd.grad(f.sum(), rates)[0] for f in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-6, atol=1e-6)


def test_each_series_may_have_rates_of_its_own():
    t, y, mask = counted()
    rates = torch.tensor([[20.0, 0.5], [10.0, 0.2], [30.0, 1.0]], dtype=torch.float64)
    found = log_likelihood(
        immigration_death()._replace(rates=rates), UNKNOWN, COUNT, t, y, mask, 1e-9
    )
    for b in range(3):
        alone = by_hand(rates[b], *(f[b : b + 1] for f in (t, y, mask)))
        torch.testing.assert_close(found[b : b + 1], alone, rtol=1e-7, atol=1e-7)


def test_one_observation_of_a_nonlinear_network():
    """Its law is that of `linear_noise`, seen through G and R."""
    G = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    R = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    t = tensor(0.0, 1.5)[None]
    start = Gaussian(tensor(70.0, 80.0), torch.zeros(2, 2, dtype=torch.float64))
    moments = linear_noise(predator_prey(), start.mean[None], t[0])
    law = MultivariateNormal(moments.mean[0, 1] @ G.T, G @ moments.cov[0, 1] @ G.T + R)
    y = torch.stack([torch.zeros(2), tensor(90.0, 160.0)])[None].double()
    mask = torch.tensor([[[False, False], [True, True]]])
    found = log_likelihood(predator_prey(), start, Reading(G, R), t, y, mask, 1e-9)
    torch.testing.assert_close(found[0], law.log_prob(y[0, 1]), rtol=1e-7, atol=1e-7)
    # the second channel alone
    mask[0, 1, 0] = False
    one = Normal(law.mean[1], law.covariance_matrix[1, 1].sqrt())
    found = log_likelihood(predator_prey(), start, Reading(G, R), t, y, mask, 1e-9)
    torch.testing.assert_close(found[0], one.log_prob(y[0, 1, 1]), rtol=1e-7, atol=1e-7)


def test_conditioning_is_that_of_the_joint_law():
    """After a row: mean and covariance of x given y, both Gaussian together."""
    prior = Gaussian(tensor(50.0, 60.0), torch.tensor([[9.0, 2.0], [2.0, 16.0]]).double())
    G, R = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[5.0]]).double()
    y = torch.full((1, 1, 1), 180.0, dtype=torch.float64)
    found = filtered(
        predator_prey(), prior, Reading(G, R), tensor(0.0)[None], y, torch.ones_like(y).bool()
    )
    precision = torch.linalg.inv(prior.cov) + G.T @ G / 5
    cov = torch.linalg.inv(precision)
    mean = cov @ (torch.linalg.inv(prior.cov) @ prior.mean + G[0] * 180 / 5)
    torch.testing.assert_close(found.mean[0, 0], mean)
    torch.testing.assert_close(found.cov[0, 0], cov)


def test_rows_without_observation_change_nothing():
    """In between, and padding behind; what stands there is not read, and gradients are finite."""
    t, y, mask = counted()
    rates = tensor(20.0, 0.5).requires_grad_()
    reacts = immigration_death()._replace(rates=rates)
    expected = log_likelihood(reacts, UNKNOWN, COUNT, t, y, mask, 1e-9)
    middle = (t[:, 2:3] + t[:, 3:4]) / 2
    longer = torch.cat([t[:, :3], middle, t[:, 3:], t[:, -1:]], 1)
    blank = torch.full_like(y[:, :1], torch.nan)
    values = torch.cat([y[:, :3], blank, y[:, 3:], blank], 1)
    none = torch.zeros_like(mask[:, :1])
    seen = torch.cat([mask[:, :3], none, mask[:, 3:], none], 1)
    found = log_likelihood(reacts, UNKNOWN, COUNT, longer, values, seen, 1e-9)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)
    (slope,) = torch.autograd.grad(found.sum(), rates)
    assert slope.isfinite().all()


def test_the_error_falls_with_the_number_of_molecules():
    """Exact laws of counts between two observations, noise in proportion: the Gaussian law is off by
    O(1 / √numbers) in the density, and with it the log likelihood."""
    gap, death = 0.7, 0.5
    errors = []
    for level in (20, 320):
        reacts = immigration_death(level * death, death)
        noise = 0.5 * math.sqrt(level)
        reading = Reading(COUNT.G, torch.full((1, 1), noise**2).double())
        space = reachable(reacts, torch.tensor([level]), torch.tensor([3 * level + 20]))
        one = torch.eye(len(space.states), dtype=torch.float64)[0]
        p = finite_state_projection(reacts, space, one, tensor(0.0, gap)).p[1]
        at = level + math.sqrt(level) * torch.linspace(-2, 2, 9).double()
        count = space.states[:, 0].double()
        exact = (p.log() + Normal(count, noise).log_prob(at[:, None])).logsumexp(-1)
        y = torch.stack([torch.zeros_like(at), at], 1)[..., None]
        mask = torch.tensor([False, True])[:, None].expand(9, 2, 1)
        start = Gaussian(tensor(float(level)), torch.zeros(1, 1).double())
        t = tensor(0.0, gap).expand(9, 2)
        found = log_likelihood(reacts, start, reading, t, y, mask, 1e-9)
        errors.append(float((found - exact).abs().max()))
    order = math.log(errors[0] / errors[1]) / math.log(16)
    assert errors[1] < 0.02 and 0.4 < order < 0.8


def estimated(reacts: ReactionNetwork, data: tuple) -> tuple[Tensor, Tensor]:
    """Most likely logarithms of the rates, and their standard errors by second differences of the slope."""
    theta = reacts.rates.log() + 0.3
    theta.requires_grad_()

    def loss() -> Tensor:
        return -log_likelihood(reacts._replace(rates=theta.exp()), *data).sum()

    wide = torch.full_like(theta, 3.0)
    minimise(loss, [theta], [theta.detach() - wide], [theta.detach() + wide], 15)

    def slope(shift: Tensor) -> Tensor:
        moved = (theta.detach() + shift).requires_grad_()
        value = -log_likelihood(reacts._replace(rates=moved.exp()), *data).sum()
        return torch.autograd.grad(value, moved)[0]

    h = 1e-3 * torch.eye(len(theta), dtype=torch.float64)
    information = torch.stack([(slope(e) - slope(-e)) / 2e-3 for e in h])
    cov = torch.linalg.inv((information + information.mT) / 2)
    return theta.detach(), cov.diagonal().sqrt()


@pytest.mark.parametrize("system", ["immigration and death", "predators and prey"])
def test_rates_are_recovered_from_exact_draws(system: str):
    """Within 3 standard errors, of which none exceeds a tenth."""
    if system == "immigration and death":
        reacts, level, noise, B, T, gap = immigration_death(), tensor(10.0), 2.0, 60, 8, 0.8
    else:
        reacts, level, noise, B, T, gap = predator_prey(), tensor(100.0, 150.0), 5.0, 20, 7, 1.0
    S = len(level)
    times = gap * torch.arange(T, dtype=torch.float64)
    x = simulate(reacts, level.expand(B, S), times).double()
    y = x + noise * torch.randn_like(x)
    eye = torch.eye(S, dtype=torch.float64)
    data = (
        Gaussian(level, 0.0 * eye),
        Reading(eye, noise**2 * eye),
        times.expand(B, T),
        y,
        torch.ones_like(y, dtype=torch.bool),
        1e-5,
    )
    theta, error = estimated(reacts, data)
    assert (error < 0.1).all()
    assert ((theta - reacts.rates.log()).abs() < 3 * error).all()


def test_numbers_near_zero():
    """A population that dies out, read with errors below zero: variances are not negative."""
    dying = network([[1]], [[0]], [1.0])
    t = torch.arange(12, dtype=torch.float64)[None]
    y = (20 * torch.exp(-t) - 40)[..., None]
    start = Gaussian(tensor(20.0), torch.zeros(1, 1).double())
    found = filtered(dying, start, COUNT, t, y, torch.ones_like(y, dtype=torch.bool))
    assert found.log_likelihood.isfinite().all()
    assert (found.mean[0, 3:] < 0).any() and (found.cov >= 0).all()


def test_what_is_refused():
    t, y, mask = counted()
    with pytest.raises(DataError, match=r"TSD-D14.*G \(2, 1\)"):
        log_likelihood(immigration_death(), UNKNOWN, Reading(torch.ones(2, 1), COUNT.R), t, y, mask)
    with pytest.raises(DataError, match="TSD-D17"):
        log_likelihood(immigration_death(), UNKNOWN, COUNT, t.flip(1), y, mask)
    sure = Gaussian(UNKNOWN.mean, 0.0 * UNKNOWN.cov)
    with pytest.raises(ModelError, match=r"TSD-M04.*row 0 of series 0"):
        log_likelihood(immigration_death(), sure, Reading(COUNT.G, 0.0 * COUNT.R), t, y, mask)

"""Oracles: closed forms, numerical derivatives, the limits of many data and of short gaps, and repeated data."""

import pytest
import torch

from tests.maths.jump_chains import complete, rate_matrix
from tsdyn.errors import DataError, ModelError
from tsdyn.maths.jump_counts import counts
from tsdyn.maths.jump_likelihood import (
    GammaRates,
    complete_errors,
    complete_log_likelihood,
    complete_rates,
    draw,
    expected_information,
    inner,
    log_likelihood,
    log_prior,
    mean,
    mode,
    observed_information,
    posterior,
    standard_errors,
)
from tsdyn.maths.jump_simulation import skeleton
from tsdyn.maths.rate_matrix import from_rates, stationary


def off(n: int) -> torch.Tensor:
    return ~torch.eye(n, dtype=torch.bool)


def paths(Q: torch.Tensor, B: int = 400, T: float = 8.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Jumps and holding times of all paths together."""
    _, N, R = complete(Q, torch.arange(B) % len(Q), T)
    return N.sum(0), R.sum(0)


def test_one_path_is_as_likely_as_its_waits_and_jumps():
    """0 for 0.3, then 2 for 1.1, then 1 until the end at 2: the product of densities, step by step."""
    Q = rate_matrix(3)
    N = torch.zeros(3, 3, dtype=torch.float64)
    N[0, 2] = N[2, 1] = 1
    R = torch.tensor([0.3, 0.6, 1.1], dtype=torch.float64)
    leave = -Q.diagonal()
    first = leave[0].log() - 0.3 * leave[0] + (Q[0, 2] / leave[0]).log()
    second = leave[2].log() - 1.1 * leave[2] + (Q[2, 1] / leave[2]).log()
    torch.testing.assert_close(complete_log_likelihood(Q, N, R), first + second - 0.6 * leave[1])


def test_complete_rates_are_the_summit_and_their_errors_its_width():
    N, R = paths(rate_matrix(3))
    Q = complete_rates(N, R).requires_grad_()
    (slope,) = torch.autograd.grad(complete_log_likelihood(from_rates(Q), N, R), Q)
    torch.testing.assert_close(
        slope[off(3)], torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-9
    )
    Q = Q.detach()
    information = observed_information(lambda q: complete_log_likelihood(q, N, R), Q, off(3))
    torch.testing.assert_close(
        standard_errors(Q, information), complete_errors(N, R), equal_nan=True
    )


def test_complete_rates_lie_within_their_errors():
    Q = rate_matrix(4)
    N, R = paths(Q)
    score = ((complete_rates(N, R) - Q) / complete_errors(N, R))[off(4)]
    assert float(score.abs().max()) < 4
    assert float(score.square().mean()) == pytest.approx(1, abs=4 * (2 / 12) ** 0.5)


def test_a_state_without_time_is_named():
    with pytest.raises(DataError, match=r"D10.*state 1"):
        complete_rates(torch.zeros(2, 2), torch.tensor([1.0, 0.0]))


def test_the_posterior_is_prior_times_likelihood():
    """On a grid of one rate, the others fixed."""
    N = torch.tensor([[0.0, 3.0], [2.0, 0.0]], dtype=torch.float64)
    R = torch.tensor([4.0, 1.5], dtype=torch.float64)
    prior = GammaRates(torch.full((2, 2), 1.7, dtype=torch.float64), torch.full_like(R, 0.6))
    found = posterior(prior, N, R)
    q = torch.linspace(0.01, 8, 20_000, dtype=torch.float64)
    Q = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64).repeat(len(q), 1, 1)
    Q[:, 0, 1] = q
    Q = from_rates(Q)
    log = complete_log_likelihood(Q, N, R) + log_prior(prior, Q)
    p = (log - log.max()).exp()
    assert mean(found)[0, 1].item() == pytest.approx(float((p * q).sum() / p.sum()), abs=1e-4)
    assert mode(found)[0, 1].item() == pytest.approx(float(q[log.argmax()]), abs=1e-3)
    draws = draw(found, 40_000)[:, 0, 1]
    error = 4 * float(draws.std()) / 200
    assert float(draws.mean()) == pytest.approx(float(mean(found)[0, 1]), abs=error)
    torch.testing.assert_close(draw(found, 3).sum(-1), torch.zeros(3, 2, dtype=torch.float64))


def test_two_states_at_one_gap_in_closed_form():
    """P_01 = a (1 - e^{-(a + b) Δ}) / (a + b)."""
    a, b, gap = 0.3, 0.7, 0.9
    Q = torch.tensor([[-a, a], [b, -b]], dtype=torch.float64)
    C = torch.tensor([[[5.0, 2.0], [3.0, 4.0]]], dtype=torch.float64)
    gone = 1 - torch.tensor(-gap, dtype=torch.float64).exp()
    P = torch.stack([1 - a * gone, a * gone, b * gone, 1 - b * gone]).view(2, 2)
    found = log_likelihood(Q, torch.tensor([gap], dtype=torch.float64), C)
    torch.testing.assert_close(found, (C * P.log()).sum())


def test_what_cannot_happen_has_likelihood_zero_and_what_was_not_seen_no_slope():
    Q = torch.tensor([[-1.0, 1.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    gaps = torch.ones(1, dtype=torch.float64)
    seen = torch.tensor([[[2.0, 1.0], [0.0, 3.0]]], dtype=torch.float64)
    (slope,) = torch.autograd.grad(log_likelihood(Q, gaps, seen), Q)
    assert bool(slope.isfinite().all())
    assert log_likelihood(Q, gaps, seen.mT).item() == -torch.inf


def test_the_likelihood_has_the_derivatives_it_should():
    Q = rate_matrix(3)
    gaps = torch.tensor([0.2, 1.5], dtype=torch.float64)
    C = torch.randint(1, 9, (2, 3, 3)).double()
    theta = Q[off(3)].log().requires_grad_()

    def value(theta):
        rates = torch.zeros_like(Q).masked_scatter(off(3), theta.exp())
        return log_likelihood(from_rates(rates), gaps, C)

    assert torch.autograd.gradcheck(value, theta)
    assert torch.autograd.gradgradcheck(value, theta)


def test_observed_and_expected_information_are_one_for_expected_data():
    Q = rate_matrix(4, 0.5)
    free = off(4) & (Q > 0)
    gaps = torch.tensor([0.1, 0.6, 2.0], dtype=torch.float64)
    P = torch.linalg.matrix_exp(Q * gaps[:, None, None])
    C = torch.rand(3, 4, 1, dtype=torch.float64) * 100 * P
    observed = observed_information(lambda q: log_likelihood(q, gaps, C), Q, free)
    expected = expected_information(Q, gaps, C, free)
    torch.testing.assert_close(observed.matrix, expected.matrix, rtol=1e-8, atol=1e-8)


def test_short_gaps_tell_as_much_as_complete_paths():
    Q = rate_matrix(3)
    gaps = torch.tensor([1e-5], dtype=torch.float64)
    C = 1e8 * torch.linalg.matrix_exp(Q * gaps[:, None, None])
    R = torch.full((3,), 1e3, dtype=torch.float64)
    found = standard_errors(Q, expected_information(Q, gaps, C, off(3)))
    torch.testing.assert_close(
        found, complete_errors(Q.clamp(min=0) * 1e3, R), rtol=1e-4, atol=0, equal_nan=True
    )


def test_errors_cover_the_scatter_of_repeated_data():
    """The first step of Newton from the truth stands for the fit: its scatter has the stated covariance."""
    Q, n = rate_matrix(3), 3
    t = 0.4 * torch.arange(20, dtype=torch.float64).expand(100, -1)
    seen = torch.ones_like(t, dtype=torch.bool)
    scores = []
    for _ in range(60):
        gaps, C = counts(t, skeleton(Q, stationary(Q), t), seen, n)
        theta = Q[off(n)].log().requires_grad_()
        moved = from_rates(torch.zeros_like(Q).masked_scatter(off(n), theta.exp()))
        scores += torch.autograd.grad(log_likelihood(moved, gaps, C), theta)
        information = expected_information(Q, gaps, C, off(n)).matrix
    steps = torch.linalg.solve(information, torch.stack(scores).T)  # of log rates: (K, repeats)
    spread = steps.square().mean(1) / torch.linalg.inv(information).diagonal()
    assert float((spread - 1).abs().max()) < 4 * (2 / 60) ** 0.5


def test_rates_that_data_cannot_tell_have_no_errors():
    """After a very long gap only the stationary law is seen: one number of two."""
    Q = torch.tensor([[-0.3, 0.3], [0.7, -0.7]], dtype=torch.float64)
    gaps = torch.tensor([1e3], dtype=torch.float64)
    C = 100 * torch.linalg.matrix_exp(Q * gaps[:, None, None])
    with pytest.raises(ModelError, match="M04"):
        standard_errors(Q, expected_information(Q, gaps, C, off(2)))


def test_rates_on_the_boundary_are_left_out():
    Q = rate_matrix(3)
    jumps = torch.full_like(Q, 5.0)
    jumps[0, 1] = 1e-5
    free = inner(Q, jumps)
    expected = off(3)
    expected[0, 1] = False
    torch.testing.assert_close(free, expected)
    gaps = torch.tensor([0.5], dtype=torch.float64)
    C = torch.linalg.matrix_exp(Q * gaps[:, None, None])
    errors = standard_errors(Q, expected_information(Q, gaps, C, free))
    torch.testing.assert_close(errors.isfinite(), free)


def test_information_with_other_unknowns():
    """Of a Gaussian density in (log q, φ), the inverse of the block of the inverse."""
    Q = torch.tensor([[-2.0, 2.0], [1.0, -1.0]], dtype=torch.float64)
    A = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    A = A @ A.mT + torch.eye(4)

    def log_density(q, others):
        theta = torch.cat(
            [torch.stack([q[0, 1], q[1, 0]]).log() - torch.tensor([2.0, 1.0]).log(), others]
        )
        return -theta @ A @ theta / 2

    found = observed_information(log_density, Q, off(2), torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(found.matrix, torch.linalg.inv(torch.linalg.inv(A)[:2, :2]))

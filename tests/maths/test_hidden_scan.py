"""Oracle: the loop over the rows, which is tested against all sequences of states one by one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.maths.jump_chains import rate_matrix
from tsdyn.maths import hidden_jump, hidden_scan
from tsdyn.maths.hidden_jump import clock, filtered, log_likelihood, smoothed, viterbi

CLOSE: dict[str, float] = {"rtol": 1e-10, "atol": 1e-10}
Problem = tuple[Tensor, Tensor, Tensor, Tensor]


def problem(n: int = 3, B: int = 2, T: int = 203, irregular: bool = True) -> Problem:
    """Sparse rates, holes, and padding behind that repeats the last time."""
    Q = rate_matrix(n, 0.5)
    first = torch.rand(n, dtype=torch.float64)
    gap = torch.rand(B, T - 1, dtype=torch.float64) if irregular else torch.full((B, T - 1), 0.3)
    gap[0, -5:] = 0.0
    t = torch.cat([torch.zeros(B, 1), gap.cumsum(1)], 1)
    log_density = 3 * torch.randn(B, T, n, dtype=torch.float64) - 4
    log_density[torch.rand(B, T) < 0.3] = 0.0
    log_density[0, -5:] = 0.0
    return Q, first / first.sum(), t, log_density


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], tuple[Any, Any]]:
    """What a function returns when series are scanned, in several chunks, and when they are looped over."""

    def run(f: Callable[[], Any]) -> tuple[Any, Any]:
        found = []
        for wide in (float("inf"), 0):
            monkeypatch.setattr(hidden_jump, "SHORT", 1)
            monkeypatch.setattr(hidden_jump, "WIDE", wide)
            monkeypatch.setattr(hidden_scan, "CHUNK", 1)
            found.append(f())
        return found[0], found[1]

    return run


@pytest.mark.parametrize("n, irregular", [(2, True), (3, False), (7, True)])
def test_laws_and_likelihoods_are_those_of_the_loop(both, n: int, irregular: bool):
    Q, first, t, log_density = problem(n, irregular=irregular)
    for f in (filtered, smoothed):
        for scanned, looped in zip(*both(lambda f=f: f(Q, first, clock(t), log_density))):
            torch.testing.assert_close(scanned, looped, **CLOSE)


@pytest.mark.parametrize("n, irregular", [(2, True), (3, False), (7, True)])
def test_the_best_sequence_is_that_of_the_loop(both, n: int, irregular: bool):
    Q, first, t, log_density = problem(n, irregular=irregular)
    scanned, looped = both(lambda: viterbi(Q, first, clock(t), log_density))
    assert torch.equal(scanned.states, looped.states)
    torch.testing.assert_close(scanned.log_density, looped.log_density, **CLOSE)


@pytest.mark.parametrize("T", [2, 3, 64, 65, 66, 130])
def test_every_length(both, T: int):
    """Whole chunks, and rows left over."""
    Q, first, t, log_density = problem(T=T + 10)
    t, log_density = t[:, :T], log_density[:, :T]
    for f in (filtered, smoothed, viterbi):
        for scanned, looped in zip(*both(lambda f=f: f(Q, first, clock(t), log_density))):
            torch.testing.assert_close(scanned, looped, **CLOSE)


def test_gradients_are_those_of_the_loop(both):
    Q, first, t, log_density = problem()
    inputs = [f.clone().requires_grad_() for f in (Q, first, log_density)]
    rows = clock(t)

    def slopes() -> tuple[Tensor, ...]:
        value = log_likelihood(inputs[0], inputs[1], rows, inputs[2])
        return torch.autograd.grad((value * torch.tensor([1.0, -2.0])).sum(), inputs)

    for scanned, looped in zip(*both(slopes)):
        torch.testing.assert_close(scanned, looped, rtol=1e-9, atol=1e-9)


def test_second_derivatives(both):
    Q, first, t, log_density = (f[:1, :9] if f.ndim == 3 else f for f in problem(T=20))
    rows = clock(t[:1, :9])
    free = Q > 0

    def value(theta: Tensor) -> Tensor:
        rates = torch.zeros_like(Q).masked_scatter(free, theta.exp())
        moved = rates - torch.diag(rates.sum(1))
        return log_likelihood(moved, first, rows, log_density).sum()

    scanned, looped = both(lambda: torch.autograd.functional.hessian(value, Q[free].log()))
    torch.testing.assert_close(scanned, looped, rtol=1e-9, atol=1e-9)


def test_labels_that_are_never_wrong(both):
    """Most states are impossible at most rows, and most elements from most states: no gradient is lost."""
    Q, first, t, _ = problem(n=4, B=1)
    state = torch.randint(4, (1, t.shape[1]))
    log_density = torch.full((1, t.shape[1], 4), -torch.inf, dtype=torch.float64)
    log_density.scatter_(2, state[..., None], 0.0)
    rows = clock(t[:1, :-6])
    density = log_density[:, :-6]
    moved = (Q + 0.1 * (1 - torch.eye(4)) - 0.3 * torch.eye(4)).requires_grad_()

    def found() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        value = log_likelihood(moved, first, rows, density)
        (slope,) = torch.autograd.grad(value.sum(), moved)
        known = smoothed(moved.detach(), first, rows, density)
        return value.detach(), slope, known.law, known.W

    for scanned, looped in zip(*both(found)):
        assert scanned.isfinite().all()
        torch.testing.assert_close(scanned, looped, **CLOSE)


def test_a_state_that_cannot_be_does_not_drown_the_others(both):
    """Two states that never meet; what is seen prefers the one where the path did not begin, by e^2000 a row."""
    Q = torch.zeros(2, 2, dtype=torch.float64)
    first = torch.tensor([1.0, 0.0], dtype=torch.float64)
    t = torch.arange(100, dtype=torch.float64)[None]
    log_density = torch.tensor([-1000.0, 1000.0], dtype=torch.float64).expand(1, 100, 2)
    for found in both(lambda: smoothed(Q, first, clock(t), log_density)):
        assert found.log_likelihood.item() == -100_000
        torch.testing.assert_close(found.law, first.expand(1, 100, 2))
        torch.testing.assert_close(found.W, torch.tensor([[[99.0, 0], [0, 0]]]).double())


def test_evidence_that_turns_round(both):
    """Two states that never meet, and rows that speak for the one and then for the other, e^±300 in all."""
    Q = torch.zeros(2, 2, dtype=torch.float64)
    first = torch.tensor([0.3, 0.7], dtype=torch.float64)
    t = torch.arange(101, dtype=torch.float64)[None]
    lean = torch.cat([torch.full((50,), 6.0), torch.full((51,), -6.0)]).double()
    log_density = torch.stack([lean, -lean], 1)[None]
    expected = first.log() + log_density[0].sum(0)
    for found in both(lambda: smoothed(Q, first, clock(t), log_density)):
        torch.testing.assert_close(found.log_likelihood[0], expected.logsumexp(0))
        torch.testing.assert_close(found.law[0], expected.softmax(0).expand(101, -1))


def test_what_no_sequence_explains_has_likelihood_zero(both):
    Q, first, t, log_density = problem()
    log_density[1, 100] = -torch.inf
    scanned, looped = both(lambda: filtered(Q, first, clock(t), log_density))
    assert scanned.log_likelihood[1] == -torch.inf
    torch.testing.assert_close(scanned.law, looped.law, **CLOSE)
    torch.testing.assert_close(scanned.log_likelihood, looped.log_likelihood, **CLOSE)
    scanned, looped = both(lambda: smoothed(Q, first, clock(t), log_density))
    torch.testing.assert_close(scanned.W, looped.W, **CLOSE)

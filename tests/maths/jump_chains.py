"""Markov chains for tests: rate matrices, and what complete paths leave behind."""

import torch
from torch import Tensor


def rate_matrix(n: int, links: float = 1.0) -> Tensor:
    """Rates in (0.2, 1.2), some of them absent, but for a cycle through all states."""
    rates = 0.2 + torch.rand(n, n, dtype=torch.float64)
    present = torch.rand(n, n) < links
    around = torch.arange(n)
    present[around, around.roll(-1)] = True
    rates = rates.where(present, 0.0).fill_diagonal_(0.0)
    return rates - torch.diag(rates.sum(-1))


def complete(Q: Tensor, first: Tensor, T: float) -> tuple[Tensor, Tensor, Tensor]:
    """Paths drawn jump by jump until T: last states (B,), jumps (B, n, n), holding times (B, n)."""
    n, B = len(Q), len(first)
    state, clock = first.clone(), torch.zeros(B, dtype=Q.dtype)
    N, R = torch.zeros(B, n, n, dtype=Q.dtype), torch.zeros(B, n, dtype=Q.dtype)
    rows = torch.arange(B)
    leave = -Q.diagonal()
    while len(rows):
        wait = -torch.rand(len(rows), dtype=Q.dtype).log() / leave[state[rows]]
        held = torch.minimum(wait, T - clock[rows])
        R[rows, state[rows]] += held
        clock[rows] += wait
        rows = rows[clock[rows] < T]
        if len(rows):
            new = torch.multinomial(Q[state[rows]].clamp(min=0), 1)[:, 0]
            N[rows, state[rows], new] += 1
            state[rows] = new
    return state, N, R

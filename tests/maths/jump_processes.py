"""Rate matrices whose laws are known."""

import torch
from torch import Tensor

from tsdyn.maths.rate_matrix import from_rates


def two_states(up: float = 0.3, down: float = 0.7) -> Tensor:
    """P_01(t) = up (1 - exp(-(up + down) t)) / (up + down)"""
    return from_rates(torch.tensor([[0.0, up], [down, 0.0]], dtype=torch.float64))


def cycle(forward: float, backward: float, n: int = 3) -> Tensor:
    """n states in a ring, which turns where the rates differ."""
    turn = torch.eye(n, dtype=torch.float64).roll(1, 1)
    return from_rates(forward * turn + backward * turn.mT)


def birth_death(up: Tensor, down: Tensor) -> Tensor:
    """up[i] from i to i + 1, down[i] from i + 1 to i."""
    return from_rates(torch.diag_embed(up, 1) + torch.diag_embed(down, -1))


def flashing_ratchet(V: float) -> Tensor:
    """A particle on three sites, in a potential that is switched on (0-2) and off (3-5)."""
    site = torch.arange(3, dtype=torch.float64)
    rates = torch.zeros(6, 6, dtype=torch.float64)
    rates[:3, :3] = torch.exp(-V / 2 * (site - site[:, None]))
    rates[3:, 3:] = 1.0
    rates[:3, 3:] = rates[3:, :3] = torch.eye(3, dtype=torch.float64)
    return from_rates(rates)


def random(*shape: int, n: int = 5) -> Tensor:
    """Rates uniform on (0, 1), every state joined to every other."""
    return from_rates(torch.rand(*shape, n, n, dtype=torch.float64))

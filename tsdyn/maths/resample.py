"""Draws by weight that are as even as chance allows.

[1] Douc, Cappé & Moulines. Comparison of resampling schemes for particle filtering. ISPA 2005.
"""

import torch
from torch import Tensor


def systematic(weights: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
    """i_k = F⁻¹((u + k) / n), u uniform, in random order: row numbers (n,) of weights (N,)  [1]

    Row i comes n w_i / Σw times, rounded up or down; where weights are equal and n = N, once.
    Of the order nothing is kept, so that the first few are a fair draw too.
    """
    u = torch.rand((), generator=generator, dtype=torch.float64, device=weights.device)
    reached = weights.double().cumsum(0)
    even = (torch.arange(n, dtype=torch.float64, device=weights.device) + u) / n * reached[-1]
    last = torch.searchsorted(reached, reached[-1:])  # rounding must not go past what has a weight
    i = torch.minimum(torch.searchsorted(reached, even, right=True), last)
    return i[torch.randperm(n, generator=generator, device=i.device)]

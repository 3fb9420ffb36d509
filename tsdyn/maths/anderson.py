"""Fixed points x = G(x), faster than by x <- G(x): the mixture of what was tried that changes least.

    x <- Σ_k θ_k G(x_k),   θ = argmin |Σ_k θ_k (G(x_k) - x_k)|²,   Σ_k θ_k = 1

[1] Walker & Ni. Anderson acceleration for fixed-point iterations. SIAM Journal on Numerical Analysis
    49, 2011.
"""

import math

import torch
from torch import Tensor


class Anderson:
    """The memory of one iteration, for problems side by side.

    Args:
        weights: (..., N), how much each coordinate counts in the norm.
        history: steps that are remembered.
    """

    def __init__(self, weights: Tensor, history: int = 10):
        self.root, self.history = weights.sqrt()[..., None], history
        self.targets: list[Tensor] = []
        self.residuals: list[Tensor] = []
        self.best = math.inf

    def mix(self, x: Tensor, target: Tensor, error: Tensor) -> Tensor:
        """The next x (..., N) after x and target = G(x), whose errors (...) decide when to start afresh."""
        worst = float(error.max())
        if not worst < 2 * self.best:  # also where it is not a number
            self.targets, self.residuals, self.best = [], [], worst
        self.best = min(self.best, worst)
        self.targets = [*self.targets[-self.history :], target]
        self.residuals = [*self.residuals[-self.history :], target - x]
        if len(self.targets) == 1:
            return target
        residuals = torch.stack(self.residuals, -1)  # (..., N, H + 1)
        changes = residuals.diff(dim=-1) * self.root
        length = changes.norm(dim=-2, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
        theta = _least_squares(changes / length, residuals[..., -1:] * self.root)
        steps = torch.stack(self.targets, -1).diff(dim=-1) / length
        mixed: Tensor = target - (steps @ theta)[..., 0]
        return mixed


def _least_squares(a: Tensor, y: Tensor) -> Tensor:
    """argmin |a θ - y|² for columns of length one, held near zero where they hardly differ."""
    ridge = 100 * torch.finfo(a.dtype).eps * torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    theta: Tensor = torch.linalg.solve(a.mT @ a + ridge, a.mT @ y)
    return theta

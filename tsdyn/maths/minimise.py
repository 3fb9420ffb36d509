"""The minimum of a smooth function of a few numbers between bounds.

[1] Byrd, Lu, Nocedal & Zhu. A limited memory algorithm for bound constrained optimization. SIAM
    Journal on Scientific Computing 16, 1995; scipy's L-BFGS-B.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from scipy.optimize import Bounds, minimize
from torch import Tensor

from ..errors import ModelError


def minimise(
    objective: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    lower: Sequence[Tensor],
    upper: Sequence[Tensor],
    steps: int = 200,
) -> float:
    """Moves parameters in place to a local minimum of the objective; its value there  [1]

    Where the objective is not finite the search turns back. The parameters end at the least value seen.

    Args:
        objective: a scalar that depends on the parameters, with gradients; finite at the start.
        parameters: leaves of the graph, of any shapes.
        lower, upper: of the same shapes; may be infinite.
        steps: most iterations.

    Raises:
        ModelError: M02 if the objective is not finite at the start.
    """

    def put(values: Tensor) -> None:
        own = torch.split(values, [p.numel() for p in parameters])
        with torch.no_grad():
            for p, value in zip(parameters, own, strict=True):
                p.copy_(value.view(p.shape))

    seen: list[float] = []
    best = torch.empty(0)

    def value_and_gradient(values: Any) -> tuple[float, Any]:
        nonlocal best
        put(torch.as_tensor(values))
        with torch.enable_grad():
            value = objective()
            if not value.isfinite():
                if not seen:
                    raise ModelError(
                        "M02",
                        f"the objective is {value.item()} where the search starts",
                        "a finite value",
                        "Start from other parameters",
                    )
                # a wall, higher than everything so far
                return max(seen) + 10 * (1 + max(seen) - min(seen)), 0.0 * values
            gradient = torch.autograd.grad(value, list(parameters))
        if not seen or value.item() < min(seen):
            best = _flat(parameters)
        seen.append(value.item())
        return seen[-1], _flat(gradient).numpy()

    least, most = _flat(lower), _flat(upper)
    minimize(
        value_and_gradient,
        _flat(parameters).clamp(least, most).numpy(),
        jac=True,
        bounds=Bounds(least.numpy(), most.numpy()),
        method="L-BFGS-B",
        options={"maxiter": steps},
    )
    put(best)
    return min(seen)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    """All numbers in one row, in double precision on the CPU, apart from the tensors."""
    return torch.cat([f.detach().double().cpu().flatten() for f in tensors]).clone()

"""A process that is ruled by one kernel after another.

[1] Garnett, Osborne, Reece, Rogers & Roberts. Sequential Bayesian prediction in the presence of
    changepoints and faults. The Computer Journal 2010.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..errors import ConfigError
from .blocks import carry, given_later
from .kernels import Kernel, Transition


def reset_at(times: Tensor | Sequence[float], kernels: Sequence[Kernel]) -> Kernel:
    """k_i(t, t') while both are in the i-th stretch, else 0: f forgets everything at a changepoint  [1]

    There A = 0 and Q is the covariance of the new kernel.

    Args:
        times: (K - 1,) increasing. The new kernel rules at its changepoint already.
        kernels: K; after a smaller state is filled up with zeros, all see the same of it (H).
    """
    times = _checked(times, kernels)
    size = max(k.H.shape[-1] for k in kernels)
    H = _shared_view([_longer(k.H, size) for k in kernels])
    stretches = _stretches(times, kernels)

    def number(t: Tensor) -> Tensor:
        return torch.searchsorted(times.to(t.device), t.detach().contiguous(), right=True)

    def covariance(t: Tensor) -> Tensor:
        parts = [k.covariance(t.clamp(a, b)) for k, a, b in stretches]
        return _choose(number(t), [_wider(P, size) for P in parts])

    def law(side: Callable[[Kernel], Transition], towards_end: bool) -> Transition:
        def transition(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
            same = (number(start) == number(end))[..., None, None]
            laws = [side(k)(start.clamp(a, b), end.clamp(a, b)) for k, a, b in stretches]
            A = _choose(number(end), [_wider(A, size) for A, _ in laws])
            Q = _choose(number(end), [_wider(Q, size) for _, Q in laws])
            fresh = covariance(end if towards_end else start)
            return A.where(same, 0.0), torch.where(same, Q, fresh)

        return transition

    return Kernel(
        " | ".join(k.name for k in kernels),
        H,
        covariance,
        law(lambda k: k.transition, True),
        law(lambda k: k.backward, False),
        _longer(kernels[0].units, size, 1.0),
        stationary=False,
        approximate=any(k.approximate for k in kernels),
    )


def switch_at(times: Tensor | Sequence[float], kernels: Sequence[Kernel]) -> Kernel:
    """The equation of kernel i drives the i-th stretch; f goes on, with its derivatives  [1]

    At a changepoint the state is kept, in the units of the new kernel. Before the first one the process
    is that of the first kernel; afterwards it comes to that of the new one as the old state is forgotten.

    Args:
        times: (K - 1,) increasing.
        kernels: K of one structure, which differ in their parameters.
    """
    times = _checked(times, kernels)
    H = _shared_view([k.H for k in kernels])
    names = {k.name for k in kernels}
    if len(names) > 1:
        raise ConfigError(
            "X01",
            f"a switch between {', '.join(sorted(names))}",
            "kernels of one structure",
            "Use reset_at",
        )
    stretches = _stretches(times, kernels)

    def transition(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        A, Q = kernels[0].transition(*(t.clamp(max=stretches[0][2]) for t in (start, end)))
        for (old, _, change), (new, a, b) in itertools.pairwise(stretches):
            crosses = ((start < change) & (end >= change))[..., None]
            ratio = (old.units / new.units)[..., None, :].to(start.device)
            ratio = torch.where(crosses, ratio, 1.0)  # (..., N, S)
            B, R = new.transition(start.clamp(a, b), end.clamp(a, b))
            B = B * ratio[..., None, :]
            A, Q = B @ A, carry(B, Q) + R
        return A, Q

    def covariance(t: Tensor) -> Tensor:
        # a moment earlier the state is still in the units of the first kernel
        base = torch.minimum(t, torch.nextafter(times[0], times[0] - 1).to(t.device))
        A, Q = transition(base, t)
        return carry(A, kernels[0].covariance(base)) + Q

    return Kernel(
        " > ".join(k.name for k in kernels),
        H,
        covariance,
        transition,
        lambda start, end: given_later(covariance(start), *transition(start, end)),
        kernels[0].units,
        stationary=False,
        noiseless=all(k.noiseless for k in kernels),
        approximate=any(k.approximate for k in kernels),
    )


def _checked(times: Tensor | Sequence[float], kernels: Sequence[Kernel]) -> Tensor:
    found = torch.as_tensor(times, dtype=torch.float64)
    if len(kernels) < 2 or len(found) != len(kernels) - 1 or bool((found.diff() <= 0).any()):
        raise ConfigError(
            "X01",
            f"changepoints {found.tolist()} for {len(kernels)} kernels",
            "increasing times, one fewer than kernels",
            "",
        )
    return found


def _stretches(times: Tensor, kernels: Sequence[Kernel]) -> list[tuple[Kernel, float, float]]:
    """Every kernel with the ends of its stretch."""
    ends = [-torch.inf, *times.tolist(), torch.inf]
    return list(zip(kernels, ends, ends[1:]))


def _shared_view(views: list[Tensor]) -> Tensor:
    """The H of all kernels, if it is one."""
    if any(H.shape != views[0].shape or not torch.equal(H, views[0]) for H in views):
        raise ConfigError(
            "X01",
            "kernels whose states are seen in different ways",
            "kernels of one structure on both sides of a changepoint",
            "Fix the number of harmonics of periodic kernels; write sums and products in one order",
        )
    return views[0]


def _choose(number: Tensor, options: list[Tensor]) -> Tensor:
    """Of options (..., N, S, S), that of the number (..., N)."""
    chosen = options[0]
    for i, option in enumerate(options):
        chosen = torch.where((number == i)[..., None, None], option, chosen)
    return chosen


def _longer(row: Tensor, size: int, value: float = 0.0) -> Tensor:
    return pad(row, (0, size - row.shape[-1]), value=value)


def _wider(matrix: Tensor, size: int) -> Tensor:
    """With zeros for coordinates that do not exist."""
    more = size - matrix.shape[-1]
    return pad(matrix, (0, more, 0, more))

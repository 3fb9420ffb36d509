"""Recursions along a hidden Markov chain as associative scans, for few and long series.

Given state i before some rows, (R, s) of these rows says that what is seen there has density exp(s_i), and that
the state behind them then has the law R_i·. Elements of neighbours combine, R_i· <- Σ_j w_ij R2_j· with
w_ij ∝ R1_ij exp(s2_j)  [1], each row scaled by those states only that are possible. Backwards the laws given
all rows go through the kernels P(x_k = i | x_{k+1} = j, y_1, ..., y_k), which need no scaling. The best
sequence is a scan of max and plus  [1], and the way back one of maps from states to states.

Inside, states come first and rows last, as `components` and `scan` have them: (n, ..., B, N). Rows are worked
on in chunks, so that memory does not grow with n² T.

[1] Hassan, Särkkä & García-Fernández. Temporal parallelization of inference in hidden Markov models. IEEE
    Transactions on Signal Processing 69, 2021.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .components import first as components_first, matmul
from .scan import Tensors, accumulate

LARGEST_EXPONENT = 700.0  # its exponential is finite
CHUNK = 1 << 18  # entries of matrices worked on at once: about what the caches of a core hold
SHORTEST_CHUNK = 64


class Steps(NamedTuple):
    """The way from each row to the next: P (G, n, n) of the gaps, and which of them, (B, T - 1)."""

    P: Tensor
    group: Tensor

    def between(self, rows: slice) -> Tensor:
        """P of some rows: (n, n, B, N), or (n, n, 1, 1) where all are the same."""
        if len(self.P) == 1:
            return self.P[0, :, :, None, None]
        return components_first(self.P)[:, :, self.group[:, rows]]

    def chunks(self) -> list[slice]:
        """Pieces of the rows, from the first to the last."""
        B, N = self.group.shape
        size = max(CHUNK // max(B * self.P[0].numel(), 1), SHORTEST_CHUNK)
        return [slice(k, min(k + size, N)) for k in range(0, N, size)]


def updated(law: Tensor, log_density: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    """law ∘ b, normalised over the states along `dim`, and the logarithm of its sum, without that axis.

    Only states that are possible set the scale: one that is not, however well it would explain what is
    seen, must not drown the others.
    """
    height = log_density.detach().where(law > 0, -torch.inf).amax(dim, keepdim=True)
    height = height.where(height.isfinite(), 0.0)  # where no possible state explains what is seen
    weight = law * (log_density - height).clamp(max=LARGEST_EXPONENT).exp()
    total = weight.sum(dim, keepdim=True)
    possible = total > 0
    total = total.where(possible, 1.0)  # so that no gradient is infinite times zero
    return weight / total, (total.log() + height.where(possible, -torch.inf)).squeeze(dim)


def filtered(steps: Steps, law: Tensor, log_density: Tensor) -> tuple[Tensor, Tensor]:
    """Laws given all rows up to each, and the log density of each given those before.

    Args:
        law: (B, n) given the row before the first.
        log_density: (B, N, n)

    Returns:
        (B, N, n), (B, N); differentiable.
    """
    state = law.mT[..., None]
    found = []
    for rows in steps.chunks():
        P, b = steps.between(rows), log_density[:, rows].movedim(-1, 0)  # (n, B, N)
        elements = updated(P, b[None], 1)
        (laws,) = accumulate(_combined, _moved, elements, (state,))
        before = torch.cat([state, laws[..., :-1]], -1)
        # once more from each row to the next, for the scales
        exact, scale = updated(_carried(before, P), b, 0)
        state = exact[..., -1:]
        found.append((exact.movedim(0, -1), scale))
    laws, scales = (torch.cat(f, 1) for f in zip(*found))
    return laws, scales


def smoothed(steps: Steps, law: Tensor) -> tuple[Tensor, Tensor]:
    """Laws given all rows, from those given all rows up to each.

    Args:
        law: (B, N + 1, n), filtered.

    Returns:
        (B, N + 1, n), and (B, N, n) arrivals r_k, with which P(x_k = a, x_{k+1} = b | all) =
        law_k(a) P_ab r_k(b) for the filtered law.
    """
    past = law.movedim(-1, 0)  # (n, B, N + 1)
    state = past[..., -1:]
    found, arrivals = [state], []
    for rows in reversed(steps.chunks()):
        P, now = steps.between(rows), past[..., rows]
        ahead = _carried(now, P)
        share = ahead.where(ahead > 0, 1.0).reciprocal().where(ahead > 0, 0.0)
        kernel = (now[:, None] * P * share).transpose(0, 1)  # (to, from, B, N)
        (laws,) = accumulate(_composed, _through, (kernel,), (state,), reverse=True)
        arrivals.append(torch.cat([laws[..., 1:], state], -1) * share)
        state = laws[..., :1]
        found.append(laws)
    return _joined(found), _joined(arrivals)


def most_likely(steps: Steps, best: Tensor, log_density: Tensor) -> tuple[Tensor, Tensor]:
    """States that are most likely together, and their log density with all that is seen.

    Args:
        best: (B, n) log density of each state and what is seen at the row before the first.
        log_density: (B, N, n)

    Returns:
        (B, N + 1) and (B,).
    """
    log_steps = Steps(steps.P.log(), steps.group)
    state = best.mT[..., None]
    origins = []
    for rows in steps.chunks():
        P, b = log_steps.between(rows), log_density[:, rows].movedim(-1, 0)
        (values,) = accumulate(_best_combined, _best_moved, (P + b,), (state,))
        before = torch.cat([state, values[..., :-1]], -1)
        origins.append((before[:, None] + P).argmax(0))
        state = values[..., -1:]
    density, last = state[..., 0].max(0)
    return _traced(origins, last[:, None]), density


def _traced(origins: list[Tensor], state: Tensor) -> Tensor:
    """States from the last one (B, 1) and where each comes from, chunks of (n, B, N): (B, N + 1)"""
    found = [state]
    for origin in reversed(origins):
        (states,) = accumulate(_map_combined, _mapped, (origin,), (state,), reverse=True)
        state = states[..., :1]
        found.append(states)
    return torch.cat(found[::-1], 1)


def _carried(law: Tensor, P: Tensor) -> Tensor:
    """law P: (n, B, N)"""
    return matmul(law[None], P)[0]


def _combined(earlier: Tensors, later: Tensors) -> Tensors:
    """The element (R, s) of two neighbours  [1]"""
    (R1, s1), (R2, s2) = earlier, later
    weight, scale = updated(R1, s2[None], 1)
    return matmul(weight, R2), s1 + scale


def _moved(state: Tensors, element: Tensors) -> Tensors:
    """The law behind an element."""
    (law,), (R, s) = state, element
    return (_carried(updated(law, s, 0)[0], R),)


def _composed(earlier: Tensors, later: Tensors) -> Tensors:
    """The kernel back through two steps."""
    return (matmul(later[0], earlier[0]),)


def _through(state: Tensors, element: Tensors) -> Tensors:
    """The law one step back."""
    return (_carried(state[0], element[0]),)


def _best_combined(earlier: Tensors, later: Tensors) -> Tensors:
    """max_k A_ik + B_kj: the best way through two steps."""
    A, B = earlier[0], later[0]
    out = A[:, 0, None] + B[0]
    for k in range(1, len(B)):
        out = torch.maximum(out, A[:, k, None] + B[k])
    return (out,)


def _best_moved(state: Tensors, element: Tensors) -> Tensors:
    return (_best_combined((state[0][None],), element)[0][0],)


def _map_combined(earlier: Tensors, later: Tensors) -> Tensors:
    """Where two steps back lead from each state."""
    return (earlier[0].gather(0, later[0]),)


def _mapped(state: Tensors, element: Tensors) -> Tensors:
    return (element[0].gather(0, state[0][None])[0],)


def _joined(chunks: list[Tensor]) -> Tensor:
    """Chunks (n, B, N), the last one first, as rows (B, N, n)."""
    return torch.cat(chunks[::-1], -1).movedim(0, -1)

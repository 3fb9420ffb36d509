"""x_k = a_k · x_{k-1} along a chain of N rows in O(log N) passes, whatever the dot means if it associates.

Rows next to each other are combined in pairs, the chain of half the length is solved in the same
way, and the rows left out follow in one more pass: N combinations and N actions in all. Every pass
is one call on whole tensors, and gradients flow through.

[1] Blelloch. Prefix sums and their applications. Carnegie Mellon University, CMU-CS-90-190, 1990.
[2] Särkkä & García-Fernández. Temporal parallelization of Bayesian smoothers. IEEE Transactions on
    Automatic Control 66, 2021.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]
Combine = Callable[[Tensors, Tensors], Tensors]  # (earlier rows, later rows) -> both in one
Act = Callable[[Tensors, Tensors], Tensors]  # (state, element) -> the state behind it
Backend = Literal["scan", "loop"]


def scan(combine: Combine, elements: Tensors, reverse: bool = False) -> Tensors:
    """(a_1, a_1 a_2, ..., a_1 ⋯ a_N), or (a_1 ⋯ a_N, ..., a_{N-1} a_N, a_N) in reverse  [1]

    Args:
        combine: of (earlier, later) elements, row by row; must associate.
        elements: tensors (..., N); the chain is the last axis of each.
    """
    head, tail = (slice(-1, None), slice(-1)) if reverse else (slice(1), slice(1, None))
    start = tuple(e[..., head] for e in elements)
    rest = tuple(e[..., tail] for e in elements)
    if rest[0].shape[-1] == 0:
        return start
    act: Act = (lambda state, e: combine(e, state)) if reverse else combine
    others = accumulate(combine, act, rest, start, reverse)
    ends = zip(others, start) if reverse else zip(start, others)
    return tuple(torch.cat(pair, -1) for pair in ends)


def accumulate(
    combine: Combine,
    act: Act,
    elements: Tensors,
    start: Tensors,
    reverse: bool = False,
    backend: Backend = "scan",
) -> Tensors:
    """x_k = act(x_{k-1}, a_k) from x_{-1} = start; in reverse x_k = act(x_{k+1}, a_k) from x_N = start.

    Args:
        combine: of (earlier, later) elements, with act(act(x, a), b) = act(x, combine(a, b)).
        act: of states and elements, row by row.
        elements: tensors (..., N); the chain is the last axis of each.
        start: tensors (..., 1) of the shapes that `act` returns.
        backend: "loop" takes one row after the other, which pays where a row holds many chains.

    Returns:
        The states at all rows, tensors (..., N).
    """
    if backend == "loop":
        return _loop(act, elements, start, reverse)
    if not reverse:
        return _halve(combine, act, elements, start)
    flipped = tuple(e.flip(-1) for e in elements)
    states = _halve(lambda a, b: combine(b, a), act, flipped, start)
    return tuple(s.flip(-1) for s in states)


def _halve(combine: Combine, act: Act, elements: Tensors, start: Tensors) -> Tensors:
    n = elements[0].shape[-1]
    if n == 1:
        return act(start, elements)
    pairs = combine(
        tuple(e[..., 0 : n - 1 : 2] for e in elements), tuple(e[..., 1::2] for e in elements)
    )
    odd = _halve(combine, act, pairs, start)  # behind rows 1, 3, 5, ...
    before = tuple(torch.cat([s, o[..., : (n - 1) // 2]], -1) for s, o in zip(start, odd))
    even = act(before, tuple(e[..., 0::2] for e in elements))
    return tuple(map(_interleave, even, odd))


def _interleave(even: Tensor, odd: Tensor) -> Tensor:
    out = even.new_empty(*even.shape[:-1], even.shape[-1] + odd.shape[-1])
    out[..., 0::2] = even
    out[..., 1::2] = odd
    return out


def _loop(act: Act, elements: Tensors, state: Tensors, reverse: bool) -> Tensors:
    # rows outermost in memory, so that each is contiguous when its turn comes
    rows: Sequence[Tensors] = list(
        zip(*(torch.unbind(e.movedim(-1, 0).contiguous()[..., None]) for e in elements))
    )
    states = []
    for row in reversed(rows) if reverse else rows:
        state = act(state, row)
        states.append(state)
    return tuple(torch.cat(s, -1) for s in zip(*(reversed(states) if reverse else states)))

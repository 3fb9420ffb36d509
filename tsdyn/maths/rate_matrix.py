"""Markov jump processes through their rate matrix: dp / dt = p Q, p a row.

Q is (..., n, n): Q[i, j] >= 0 is the rate of jumps from state i to state j, and Q[i, i] = -sum_j Q[i, j]
is minus the rate of leaving i, so that rows sum to zero. Rates are per unit of time. Leading axes are
independent processes. Everything is computed and returned in double precision and, where it is a
number and not a flag, can be differentiated with respect to Q.

[1] Norris. Markov chains. Cambridge University Press 1997: hitting times (3.3), classes (3.2).
[2] Grassmann, Taksar & Heyman. Regenerative analysis and steady state distributions for Markov
    chains. Operations Research 33 (1985): elimination without a subtraction.
[3] Metzner, Schütte & Vanden-Eijnden. Transition path theory for Markov jump processes. Multiscale
    Modeling & Simulation 7 (2009): committors.
[4] Schnakenberg. Network theory of microscopic and macroscopic behavior of master equation systems.
    Reviews of Modern Physics 48 (1976): currents and the production of entropy.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DataError, first

ROUNDING = 1e-6  # of the largest rate of a row: rows of single precision sum to zero within it


class Relaxation(NamedTuple):
    """How the process forgets where it began: one mode for every eigenvalue of Q but the zero."""

    time: (
        Tensor  # (..., n - 1)  1 / |Re eigenvalue|, decreasing; infinite where a mode never decays
    )
    oscillates: Tensor  # (..., n - 1)  True where the eigenvalue is not real


def from_rates(rates: Tensor) -> Tensor:
    """Q with the off-diagonal of `rates` (..., n, n) and rows that sum to zero; their diagonal is not read."""
    rates = _off_diagonal(rates.double())
    return rates - torch.diag_embed(rates.sum(-1))


def require_rate_matrix(Q: Tensor) -> None:
    """DataError: D14 with matrix, row and column unless Q is (..., n, n), finite, off its diagonal never
    negative, and has rows that sum to zero."""
    if Q.ndim < 2 or Q.shape[-1] != Q.shape[-2] or not Q.shape[-1]:
        raise _no_rate_matrix(f"a rate matrix of shape {tuple(Q.shape)}", "shape (..., n, n)")
    matrices = Q.detach().double().reshape(-1, *Q.shape[-2:])
    for wrong, wanted in (
        (~matrices.isfinite(), "finite rates"),
        (_off_diagonal(matrices) < 0, "rates of at least zero off the diagonal"),
    ):
        if bool(wrong.any()):
            m, i, j = wrong.nonzero()[0].tolist()
            came = f"Q[{i}, {j}] is {float(matrices[m, i, j]):g} in matrix {m}"
            raise _no_rate_matrix(came, wanted)
    sums = matrices.sum(-1)  # (M, n)
    wrong = sums.abs() > ROUNDING * matrices.abs().amax(-1)
    if bool(wrong.any()):
        m, i = wrong.nonzero()[0].tolist()
        came = f"row {i} of matrix {m} sums to {float(sums[m, i]):g}, column {i} to "
        came += f"{float(matrices[m, :, i].sum()):g}"
        raise _no_rate_matrix(came, "rows that sum to zero, Q[i, j] from state i to state j")


def transition(Q: Tensor, gap: Tensor) -> Tensor:
    """P(gap) = exp(Q gap): the law of the state `gap` later, for every state now: (..., n, n).

    Stochastic: entries of at least zero, rows that sum to one. For every gap of every process add an
    axis to Q; equal gaps of a process cost one exponential.

    Args:
        Q, gap: (..., n, n) and (...), broadcast; gaps are data, no gradient flows to them.
    """
    lead, n = Q.shape[:-2], Q.shape[-1]
    process = torch.arange(lead.numel(), device=Q.device).reshape(lead)
    process, gap = torch.broadcast_tensors(process, gap)  # type: ignore[no-untyped-call]
    P, where = unique_transitions(Q.reshape(-1, n, n), process, gap)
    return P[where]


def unique_transitions(Q: Tensor, process: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
    """exp(Q[process] gap), once for all that are equal: (U, n, n), and (...) which of them is where.

    Args:
        Q: (M, n, n)
        process, gap: (...) each, the first of them numbers below M.
    """
    gaps, number = torch.unique(gap.detach().to(Q.device, torch.float64), return_inverse=True)
    pairs, where = torch.unique(process * len(gaps) + number, return_inverse=True)
    length = gaps[pairs % max(len(gaps), 1), None, None]
    of_process = pairs.div(max(len(gaps), 1), rounding_mode="floor")
    P = torch.linalg.matrix_exp(Q.double()[of_process] * length).clamp(min=0)
    return P / P.sum(-1, keepdim=True), where


def master(Q: Tensor, p0: Tensor, t: Tensor) -> Tensor:
    """p(t) = p0 exp(Q t), which solves dp / dt = p Q: (..., n).

    Args:
        Q, p0, t: (..., n, n), (..., n) and (...), broadcast.
    """
    return (p0.double()[..., None, :] @ transition(Q, t))[..., 0, :]


def stationary(Q: Tensor) -> Tensor:
    """p with p Q = 0 and sum p = 1, by elimination without a subtraction: (..., n)  [2]

    Every entry is exact to a few roundings, however far apart the rates are. States that are left
    for good have probability zero.

    Raises:
        DataError: D14, naming the states, where more than one set of states is never left, so that
            the law depends on where the process began.
    """
    recurrent = _require_one_class(Q)
    # a recurrent state goes first: from every other one it is reached, so no pivot is zero
    place = torch.arange(Q.shape[-1], device=Q.device)
    start = recurrent.to(torch.int8).argmax(-1, keepdim=True)
    order = torch.where(place == start, -1, place).argsort(-1)
    rates = Q.double().take_along_dim(order[..., None], -2).take_along_dim(order[..., None, :], -1)
    shares: list[Tensor] = []
    for k in range(Q.shape[-1] - 1, 0, -1):
        leave, enter = rates[..., k, :k], rates[..., :k, k]
        shares.append(enter / leave.sum(-1, keepdim=True))
        # jumps through state k, without the time spent there
        rates = rates[..., :k, :k] + shares[-1][..., None] * leave[..., None, :]
    p = torch.ones_like(rates[..., 0])
    for share in reversed(shares):
        p = torch.cat([p, (p * share).sum(-1, keepdim=True)], -1)
        p = p / p.sum(-1, keepdim=True)
    return p.take_along_dim(order.argsort(-1), -1)


def relaxation(Q: Tensor) -> Relaxation:
    """Times 1 / |Re eigenvalue| over which deviations decay by e, the slowest first.

    An eigenvalue counts as real where its imaginary part is below 1e-7 of the largest rate.
    """
    n = Q.shape[-1]
    values = torch.linalg.eigvals(Q.double())  # (..., n)
    order = values.real.detach().argsort(-1, descending=True)[..., 1:]
    decay = values.real.take_along_dim(order, -1)
    turn = values.imag.detach().take_along_dim(order, -1).abs()
    scale = Q.detach().double().abs().reshape(*Q.shape[:-2], n * n).amax(-1, keepdim=True)
    stands = decay.abs() <= 1e-14 * n * scale
    time = decay.abs().where(~stands, 1.0).reciprocal().where(~stands, torch.inf)
    return Relaxation(time, turn > 1e-7 * scale)


def mean_first_passage(Q: Tensor, target: Tensor) -> Tensor:
    """m with sum_j Q[i, j] m_j = -1 off the target and m = 0 on it: (..., n)  [1]

    The mean time until a state of the target is reached, from each state; infinite where there is a
    chance that none ever is.

    Args:
        target: (..., n) bool, broadcast with the processes; D14 where it is empty.
    """
    _require_states(target, "target")
    Q, target = _stopped(Q, target)
    reach = _reachable(Q)
    hits = (reach & target[..., None, :]).any(-1)
    lost = (reach & ~hits[..., None, :]).any(-1)
    known = target | lost
    m: Tensor = torch.linalg.solve(_with_rows(Q, known), known.to(Q) - 1)
    return torch.where(lost, torch.inf, m)


def mean_first_passage_matrix(Q: Tensor) -> Tensor:
    """Mean times from state i until state j is first reached: (..., n, n), zero on the diagonal."""
    each = torch.eye(Q.shape[-1], dtype=torch.bool, device=Q.device)
    return mean_first_passage(Q[..., None, :, :], each).mT


def committor(Q: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """u with sum_j Q[i, j] u_j = 0, u = 0 on a and u = 1 on b: (..., n)  [3]

    The probability of reaching b, and before a, from each state.

    Args:
        a, b: (..., n) bool, broadcast with the processes; D14 where one is empty or both share a state.
    """
    _require_states(a, "a")
    _require_states(b, "b")
    if bool((a & b).any()):
        i = int((a & b).nonzero()[0][-1])
        raise DataError("D14", f"state {i} is both in a and in b", "states apart", "Choose others")
    Q, ends = _stopped(Q, a | b)
    b = b.expand_as(ends)
    hits = (_reachable(Q) & b[..., None, :]).any(-1)
    u: Tensor = torch.linalg.solve(_with_rows(Q, ends | ~hits), b.to(Q))
    return u


def flows(Q: Tensor, p: Tensor | None = None) -> Tensor:
    """J_ij = p_i Q[i, j]: jumps from i to j per unit of time: (..., n, n), zero on the diagonal.

    Args:
        p: (..., n), the law of the state; None for the stationary law.
    """
    p = stationary(Q) if p is None else p.double()
    return p[..., None] * _off_diagonal(Q.double())


def currents(Q: Tensor, p: Tensor | None = None) -> Tensor:
    """J_ij - J_ji, the net flow from i to j: (..., n, n), antisymmetric  [4]. p as in `flows`."""
    J = flows(Q, p)
    return J - J.mT


def entropy_production(Q: Tensor, p: Tensor | None = None) -> Tensor:
    """sum_{i < j} (J_ij - J_ji) ln(J_ij / J_ji) per unit of time: (...)  [4]. p as in `flows`.

    Zero for the stationary law of a reversible process; infinite where some jump has no way back.
    """
    J = flows(Q, p)
    there, back = J > 0, J.mT > 0
    both = there & back
    ratio = J.where(both, 1.0) / J.mT.where(both, 1.0)
    total = ((J - J.mT) * ratio.log()).sum((-2, -1)) / 2
    return torch.where((there & ~back).any(-1).any(-1), torch.inf, total)


def kemeny(Q: Tensor) -> Tensor:
    """sum_j p_j m_ij = -sum_k 1 / (eigenvalue k), over all but the zero one: (...)

    The mean time to a state drawn from the stationary law p; the same from every state i. D14 as
    `stationary`.
    """
    Q = Q.double()
    p = stationary(Q)[..., None, :]
    n = Q.shape[-1]
    rate = -Q.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None].detach()
    rate = rate.where(rate > 0, 1.0)  # one state, or none that is left
    # the inverse is that of -Q off its null space, plus (all rows p) / rate
    inverse: Tensor = torch.linalg.inv(rate * p.expand(*p.shape[:-2], n, n) - Q)
    return inverse.diagonal(dim1=-2, dim2=-1).sum(-1) - 1 / rate[..., 0, 0]


def is_reversible(Q: Tensor, rtol: float = 1e-8) -> Tensor:
    """Whether p_i Q[i, j] = p_j Q[j, i] for all pairs, to the relative precision `rtol`: (...) bool."""
    J = flows(Q)
    return ((J - J.mT).abs() <= rtol * (J + J.mT)).all(-1).all(-1)


def _off_diagonal(Q: Tensor) -> Tensor:
    """The matrix with zeros on its diagonal."""
    return Q.masked_fill(torch.eye(Q.shape[-1], dtype=torch.bool, device=Q.device), 0.0)


def _reachable(Q: Tensor) -> Tensor:
    """Whether state j can be reached from state i, itself included: (..., n, n), by doubling."""
    reach = (_off_diagonal(Q.detach()) > 0) | torch.eye(
        Q.shape[-1], dtype=torch.bool, device=Q.device
    )
    for _ in range(math.ceil(math.log2(Q.shape[-1]))):
        step = reach.to(torch.float32)
        reach = step @ step > 0
    return reach


def _require_one_class(Q: Tensor) -> Tensor:
    """The states that are entered again and again, (..., n); D14 if they fall apart."""
    reach = _reachable(Q)
    recurrent = (~reach | reach.mT).all(-1)  # whatever i reaches leads back to i
    apart = recurrent[..., None] & recurrent[..., None, :] & ~reach
    if bool(apart.any()):
        m, i, j = apart.reshape(-1, *Q.shape[-2:]).nonzero()[0].tolist()
        sets = reach.reshape(-1, *Q.shape[-2:])[m]
        one, other = (first(sets[k].nonzero()[:, 0].tolist(), 6) for k in (i, j))
        raise DataError(
            "D14",
            f"matrix {m} has states that are never left, {one}, and others, {other}",
            "one set of states in which the process ends, so that there is one stationary law",
            "Treat the sets as processes of their own, or add the rates that join them",
        )
    return recurrent


def _require_states(chosen: Tensor, name: str) -> None:
    if not bool(chosen.any(-1).all()):
        raise DataError(
            "D14", f"`{name}` is empty", "at least one state", "Mark the states with True, (..., n)"
        )


def _stopped(Q: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
    """The processes that end in the states `stop`, and these, of the same leading axes."""
    Q, stops = torch.broadcast_tensors(Q.double(), stop[..., None])  # type: ignore[no-untyped-call]
    return Q.masked_fill(stops, 0.0), stops[..., 0]


def _with_rows(Q: Tensor, known: Tensor) -> Tensor:
    """Q with the rows of the identity where the answer is known."""
    return torch.where(known[..., None], torch.eye(Q.shape[-1]).to(Q), Q)


def _no_rate_matrix(came: str, wanted: str) -> DataError:
    return DataError("D14", came, wanted, "Build it from the rates with `from_rates`")

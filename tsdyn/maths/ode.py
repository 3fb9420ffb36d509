"""Ordinary differential equations dx/dt = field(t, x), with a clock per series.

x is (B, D), t is (B, 1). Fixed steps share the loop of the SDEs; adaptive steps have a size for each
series, so that one stiff series does not slow the others and a batch gives what its rows would.

[1] Hairer, Nørsett & Wanner. Solving ordinary differential equations I. Springer 1993: the first
    step and the control of steps (II.4), the pair of Dormand & Prince (II.5).
[2] Shampine. Some practical Runge-Kutta formulas. Mathematics of Computation 46 (1986): values
    between the ends of a step.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ModelError
from .grid import grid, timeline
from .sde import Field
from .solve import require_finite, solve
from .steps import Noise, Step

# The tableau of Dormand & Prince: times, stages (the last one is the result), and the error.
_C = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_A = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_E = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
# x(t + s h) = x + h sum_j k_j (P_j1 s + P_j2 s² + P_j3 s³ + P_j4 s⁴)  [2]
_P = (
    (1.0, -8048581381 / 2820520608, 8663915743 / 2820520608, -12715105075 / 11282082432),
    (0.0, 0.0, 0.0, 0.0),
    (0.0, 131558114200 / 32700410799, -68118460800 / 10900136933, 87487479700 / 32700410799),
    (0.0, -1754552775 / 470086768, 14199869525 / 1410260304, -10690763975 / 1880347072),
    (0.0, 127303824393 / 49829197408, -318862633887 / 49829197408, 701980252875 / 199316789632),
    (0.0, -282668133 / 205662961, 2019193451 / 616988883, -1453857185 / 822651844),
    (0.0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423),
)


def runge_kutta4(field: Field) -> Step:
    """x + h (k1 + 2 k2 + 2 k3 + k4) / 6: the classical step, of order 4; needs no noise."""

    def prepare(t: Tensor, h: Tensor, noise: Noise | None, *u: Tensor) -> tuple[Tensor, ...]:
        return (h,)

    def advance(t: Tensor, x: Tensor, u: tuple[Tensor, ...], h: Tensor) -> Tensor:
        middle, end = torch.add(t, h, alpha=0.5), t + h
        k1 = field(t, x, *u)
        k2 = field(middle, torch.addcmul(x, k1, h, value=0.5), *u)
        k3 = field(middle, torch.addcmul(x, k2, h, value=0.5), *u)
        k4 = field(end, torch.addcmul(x, k3, h), *u)
        return torch.addcmul(x, k1 + 2 * (k2 + k3) + k4, h, value=1 / 6)

    return Step(prepare, advance, needs="nothing")


def rk4(
    field: Field,
    x0: Tensor,
    t: Tensor,
    dt: float | None = None,
    t0: float | Tensor | None = None,
    substeps: int = 1,
    checkpoint: int = 0,
) -> Tensor:
    """States at times t, (T,) or (B, T), from x0 (B, D) in steps of at most dt: (B, T, D).

    dt, t0 and substeps as in `grid`, checkpoint as in `solve`. M03 if the solution blows up.
    """
    now = grid(t, dt, t0, substeps)
    return require_finite(solve(runge_kutta4(field), x0, now, checkpoint=checkpoint), now)


def dormand_prince(
    field: Field,
    x0: Tensor,
    t: Tensor,
    rtol: float = 1e-6,
    atol: float = 1e-8,
    max_steps: int = 10_000,
    t0: float | Tensor | None = None,
) -> Tensor:
    """States at times t, (T,) or (B, T), from x0 (B, D) in steps of order 5: (B, T, D).

    Each series has steps of its own, such that the root mean square over its coordinates of
    error / (atol + rtol |x|) stays below one; between steps a polynomial of order 4 is read. The
    steps are found without gradients and walked again where gradients are wanted, so that these are
    the derivatives of the solution by those steps and do not pass through the choice of the steps.

    Raises:
        DataError: D17 for unusable times.
        ModelError: M03 if the field is not finite at the start, if a step shrinks to nothing (as
            where the solution runs to infinity), or after max_steps attempts.
    """
    clocks = timeline(t, t0).to(x0.device).expand(len(x0), -1)  # (B, 1 + T), double precision
    k0 = field(clocks[:, :1].to(x0), x0)
    with torch.no_grad():
        steps, states = _find(field, x0, k0, clocks, rtol, atol, max_steps)
    if torch.is_grad_enabled() and (k0.requires_grad or x0.requires_grad):
        states = _follow(field, x0, k0, clocks, steps)
    return states


class _Move(NamedTuple):
    """One step of every series, in double precision: (B, 1) each. A series that waits has end = start."""

    start: Tensor
    end: Tensor


def _find(
    field: Field,
    x: Tensor,
    k: Tensor,
    clocks: Tensor,
    rtol: float,
    atol: float,
    max_steps: int,
) -> tuple[list[_Move], Tensor]:
    """The accepted steps, and the states at the asked times."""
    now, last = clocks[:, :1], clocks[:, -1:]
    _require(k.isfinite().all(-1, keepdim=True), now, x, "the field is not finite", _BAD_FIELD)
    least = 16 * torch.finfo(torch.float64).eps * torch.maximum(now.abs(), last.abs())
    h = _first_step(field, now, x, k, last - now, rtol, atol)
    grew = torch.ones_like(now, dtype=torch.bool)
    moves: list[_Move] = []
    reached = [_start(clocks, x)]
    for _ in range(max_steps):
        if bool((now >= last).all()):
            return moves, _collect(reached, clocks, x)
        end = torch.where(now + h < last, now + h, last)
        ks, proposed = _stages(field, now, x, k, end - now)
        scale = atol + rtol * torch.maximum(x.abs(), proposed.abs())
        error = _rms(_combine(_E, ks) * (end - now).to(x) / scale).double()  # (B, 1)
        error = error.nan_to_num(nan=torch.inf, posinf=torch.inf)
        accept = error <= 1
        stuck = ~accept & (end - now <= least)
        _require(~stuck, now, x, "the step shrank to nothing", _BLOW_UP)
        move = _Move(now, end.where(accept, now))
        moves.append(move)
        reached.append(_read(clocks, move, x, ks))
        largest = torch.where(accept & grew, 10.0, 1.0)
        factor = (0.9 * error.clamp(min=1e-10) ** -0.2).clamp(min=0.2)
        h = (end - now) * torch.minimum(factor, largest)
        x, k = proposed.where(accept, x), ks[-1].where(accept, k)
        now, grew = move.end, accept
    _require(now >= last, now, x, f"{max_steps} steps were not enough", _BUDGET)
    return moves, _collect(reached, clocks, x)


def _follow(field: Field, x: Tensor, k: Tensor, clocks: Tensor, moves: list[_Move]) -> Tensor:
    """The states at the asked times by steps already known, with gradients."""
    first, reached = x, [_start(clocks, x)]
    for move in moves:
        moved = move.end > move.start
        if bool(moved.any()):
            ks, proposed = _stages(field, move.start, x, k, move.end - move.start)
            reached.append(_read(clocks, move, x, ks))
            x, k = proposed.where(moved, x), ks[-1].where(moved, k)
    return _collect(reached, clocks, first)


def _stages(
    field: Field, t: Tensor, x: Tensor, k: Tensor, h: Tensor
) -> tuple[list[Tensor], Tensor]:
    """The seven slopes of a step, and the state at its end, where the last slope is."""
    ks, moved, size = [k], x, h.to(x)
    for c, row in zip(_C[1:], _A):
        moved = torch.addcmul(x, _combine(row, ks), size)
        ks.append(field((t + c * h).to(x), moved))
    return ks, moved


def _combine(weights: tuple[float, ...], ks: list[Tensor]) -> Tensor:
    """sum_j w_j k_j"""
    total = ks[0] * weights[0]
    for w, k in zip(weights[1:], ks[1:]):
        if w:
            total = torch.add(total, k, alpha=w)
    return total


def _first_step(
    field: Field, t: Tensor, x: Tensor, k: Tensor, span: Tensor, rtol: float, atol: float
) -> Tensor:
    """A step over which an explicit Euler step would make an error near the tolerance: (B, 1)  [1]"""
    scale = atol + rtol * x.abs()
    size, slope = _rms(x / scale).double(), _rms(k / scale).double()
    tiny = 1e-6 * span
    guess = torch.where((size < 1e-5) | (slope < 1e-5), tiny, 0.01 * size / slope)
    guess = torch.minimum(guess, span)
    k1 = field((t + guess).to(x), torch.addcmul(x, k, guess.to(x)))
    bend = _rms((k1 - k) / scale).double() / guess.where(guess > 0, 1.0)
    steep = torch.maximum(slope, bend.nan_to_num(nan=0.0, posinf=0.0))
    better = torch.where(steep <= 1e-15, torch.maximum(tiny, 1e-3 * guess), (0.01 / steep) ** 0.2)
    return torch.minimum(torch.minimum(100 * guess, better), span)


def _rms(x: Tensor) -> Tensor:
    return x.square().mean(-1, keepdim=True).sqrt()


_Reached = tuple[Tensor, Tensor]  # places in the (B T) asked times, and the states there


def _start(clocks: Tensor, x: Tensor) -> _Reached:
    """The states at asked times that are the start itself."""
    b, k = (clocks[:, 1:] <= clocks[:, :1]).nonzero(as_tuple=True)
    return b * (clocks.shape[1] - 1) + k, x[b]


def _read(clocks: Tensor, move: _Move, x: Tensor, ks: list[Tensor]) -> _Reached:
    """The states at the asked times in (start, end], between the ends by the polynomial of [2]."""
    asked = clocks[:, 1:]
    b, k = ((asked > move.start) & (asked <= move.end)).nonzero(as_tuple=True)
    start, h = move.start[b], (move.end - move.start)[b]  # (M, 1)
    s = ((asked[b, k][:, None] - start) / h).to(x)
    weights = torch.cat([s, s**2, s**3, s**4], -1) @ x.new_tensor(_P).T  # (M, 7)
    slopes = torch.stack([slope[b] for slope in ks], 1)  # (M, 7, D)
    return b * asked.shape[1] + k, x[b] + h.to(x) * (weights[..., None] * slopes).sum(1)


def _collect(reached: list[_Reached], clocks: Tensor, x: Tensor) -> Tensor:
    """(B, T, D) from the states in the order in which they were reached."""
    places = torch.cat([place for place, _ in reached])
    states = torch.cat([state for _, state in reached])
    return states[places.argsort()].reshape(len(x), clocks.shape[1] - 1, x.shape[1])


_BAD_FIELD = "Check the parameters and the initial state for NaN and infinity"
_BLOW_UP = "Bound the field, scale the data, ask for a shorter stretch, or loosen `rtol` and `atol`"
_BUDGET = "Loosen `rtol` and `atol`, raise `max_steps`, or bound the field: it may be stiff"


def _require(fine: Tensor, t: Tensor, x: Tensor, what: str, do: str) -> None:
    """M03 with series, time and state where something is not fine; `fine` is (B, 1)."""
    if not bool(fine.all()):
        b = int((~fine[:, 0]).nonzero()[0])
        raise ModelError(
            "M03",
            f"{what} for series {b} at time {float(t[b]):.6g}, where the largest state is "
            f"{float(x[b].abs().amax()):.4g}",
            "a solution that can be followed to the last asked time",
            do,
        )

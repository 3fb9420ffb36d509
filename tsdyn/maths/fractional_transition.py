"""Paths of fractional noise in steps of any size, exact for the Markov approximation.

    Y(t + h) = e^{-γ h} Y(t) + (1 - e^{-γ h}) / γ · u + ε,   (ε, ΔW) ~ N(0, C),
    C = ∫_0^h v v' ds,   v = (e^{-γ_1 s}, ..., e^{-γ_K s}, 1)

for dY_k = (-γ_k Y_k + u) dt + dW with u constant over the step. All K processes and W move by one Brownian
motion, so that C has full rank in theory and that of three or four normals in double precision: a step
draws only those. No product γ h is too large, none too small.

An equation dx = f dt + σ dB̂ is solved along a path that has been drawn: with `increments(path)` for its
noise, `heun` reads σ ∘ dB̂, `euler` σ dB̂ in the sense of Itô. For the approximation the two differ by the
drift (Σ w)²/2 σ ∂σ/∂x, which grows without bound with the largest speed for H < 1/2 and vanishes with
it for H > 1/2: the first one has the limit that is wanted  [1].

[1] Daems, Opper, Crevecoeur & Birdal. Variational inference for SDEs driven by fractional noise. ICLR 2024.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .fractional import MarkovApproximation, faded, overlap, semidefinite_root
from .grid import Grid, grid
from .steps import Noise

SAME = 2.0**-40  # of the largest step: times written in decimals must not make all steps different


class Transition(NamedTuple):
    """Y(t + h) = decay Y(t) + gain u + ε with (ε, ΔW) = root z, z ~ N(0, I)"""

    decay: Tensor  # (..., K)
    gain: Tensor  # (..., K)  in units of time
    root: Tensor  # (..., K + 1, R)  the last row is that of ΔW; R <= K + 1


class FractionalPath(NamedTuple):
    """B̂ and what it is made of, at the start of all N steps and at their end."""

    value: Tensor  # (N + 1, B, D)
    states: Tensor  # (N + 1, B, D, K)  Y
    dw: Tensor  # (N, B, D)  the increments of W
    past: Tensor  # (B, D, M)  ξ


def transition(speeds: Tensor, h: Tensor) -> Transition:
    """The law of a step of size h (...), in double precision; no gradient flows into the root."""
    h = h.double()[..., None]
    with_w = torch.cat([speeds, speeds.new_zeros(1)])  # W is the process of speed zero
    x = speeds * h
    return Transition(torch.exp(-x), h * faded(x), semidefinite_root(overlap(with_w, h)))


def steps(speeds: Tensor, h: Tensor) -> Transition:
    """The laws of steps h (N, B or 1), (1, 1, ...) if all are the same; each size is worked out once."""
    unit = (h.double().amax() * SAME).clamp(min=torch.finfo(torch.float64).tiny)
    sizes, index = torch.unique((h / unit).round(), return_inverse=True)
    laws = transition(speeds, sizes * unit)
    return Transition(*(part[index if len(sizes) > 1 else index[:1, :1]] for part in laws))


def draw(
    approximation: MarkovApproximation,
    grid: Grid,
    like: Tensor,
    generator: torch.Generator | None = None,
) -> FractionalPath:
    """A path of B̂ for every series and coordinate, along a grid that starts at time 0.

    `like` is (B, D) and gives size, dtype and device. The indices of the approximation, and with them
    its weights, broadcast with (N + 1, B, D): () or (D,) for constant ones, (N + 1, 1, 1) for H(t). Gradients
    flow to them. The draws are made on the generator's device.
    """
    device = like.device if generator is None else generator.device

    def normals(*size: int) -> Tensor:
        z = torch.randn(*size, dtype=like.dtype, device=device, generator=generator)
        return z.to(like.device)

    # small matrices, whose eigenvectors another device may give another sign
    law = steps(approximation.speeds.detach().cpu(), grid.h[..., 0].cpu())
    z = normals(len(grid.h), *like.shape, law.root.shape[-1])
    states, dw = walk(law, z)
    phi = approximation.modes(times(grid).to(approximation.weights.device))
    past = normals(*like.shape, phi.shape[-1])
    return FractionalPath(value(approximation.weights, states, phi, past), states, dw, past)


def sample(
    approximation: MarkovApproximation,
    t: Tensor,
    like: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """B̂ at times t (T,) or (B, T), 0 <= t: (B, T, D) for `like` (B, D).

    Raises:
        DataError: D17 for times that decrease or are negative.
    """
    steps = grid(t, t0=0.0)
    path = draw(approximation, steps, like, generator)
    return path.value[list(steps.stops)].transpose(0, 1)


def walk(law: Transition, z: Tensor) -> tuple[Tensor, Tensor]:
    """Y from zero, (N + 1, B, D, K), and ΔW, (N, B, D), out of normals z (N, B, D, R)."""
    decay, root = law.decay.to(z), law.root.to(z)
    shock, dw = _product(root[..., :-1, :], z), _product(root[..., -1:, :], z)[..., 0]
    decays = decay[..., None, :].expand(len(z), -1, -1, -1)
    state = torch.zeros_like(shock[0])
    states = [state]
    for fade, move in zip(decays.unbind(0), shock.unbind(0)):
        state = torch.addcmul(move, state, fade)
        states.append(state)
    return torch.stack(states), dw


def value(weights: Tensor, states: Tensor, phi: Tensor, past: Tensor) -> Tensor:
    """Σ_k w_k Y_k + Σ_m φ_m ξ_m: (..., B, D) for states (..., B, D, K) and ξ (B, D, M); the others broadcast."""
    w, phi = weights.to(states), phi.to(states)
    # one weight for all is a product of a matrix and a vector, several times faster
    recent = states @ w if w.ndim == 1 else (states * w).sum(-1)
    return recent + (phi * past).sum(-1)


def increments(path: FractionalPath) -> Noise:
    """ΔB̂ of every step (N, B, D), for the schemes of `steps` that want no area."""
    return Noise(path.value.diff(dim=0))


def times(grid: Grid) -> Tensor:
    """The start of all steps and the end of the last: (N + 1, B or 1, 1), in double precision."""
    t, h = grid.t.double(), grid.h.double()
    return torch.cat([t, t[-1:] + h[-1:]])


def _product(root: Tensor, z: Tensor) -> Tensor:
    """root z: (N or 1, B or 1, I, R), (N, B, D, R) -> (N, B, D, I)"""
    if root.shape[:2] == (1, 1):
        return z @ root[0, 0].mT
    steps, clocks = root.shape[:2]
    rows = z.reshape(steps, clocks, -1, z.shape[-1])  # of one clock at one step
    return (rows @ root.mT).reshape(*z.shape[:-1], root.shape[-2])

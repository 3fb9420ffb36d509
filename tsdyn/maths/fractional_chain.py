"""A mean-reverting process with fractional noise as a linear chain, and the law of its steps given what comes later.

    dx = -κ x dt + σ dB̂,   s = (x, Y_1, ..., Y_K, ξ_1, ..., ξ_M),   s' = A s + N e,   e ~ N(0, I)

Steps of any length are exact in law for B̂. With Gaussian potentials on x at the ends of steps,

    p(later | s) ∝ exp(-s' Λ s / 2 + η' s),   e | s, later ~ N(Σ N' (η - Λ A s), Σ),   Σ = (I + N' Λ N)^{-1},

by a recursion backwards over the steps  [1]. Paths drawn step by step from that law are draws of the posterior, for steps
of any length; on the way the recursion finds the evidence. It is exact for the chain. Where an equation is not linear, it is a
proposal whose divergence from the prior is known in closed form  [2].

[1] Särkkä & García-Fernández. Temporal parallelization of Bayesian smoothers. IEEE TAC 66, 2021, section IV: the information
    form of the backward likelihoods.
[2] Schauer, van der Meulen & van Zanten. Guided proposals for simulating multi-dimensional diffusion bridges. Bernoulli 23,
    2017.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .fractional import MarkovApproximation, faded
from .fractional_transition import steps
from .grid import Grid
from .quadrature import gauss_legendre

WITHIN = 8  # points of a step
CLOSE = 1e-5  # relative; a divided difference is then 1e-10 from the derivative, and its own rounding 1e-11


class Motion(NamedTuple):
    """N steps of B̂ for B series (or 1) and D coordinates (or 1), in double precision."""

    h: Tensor  # (N, B, 1)
    speeds: Tensor  # (K,)
    decay: Tensor  # (N, B, K)
    root: Tensor  # (N, B, K + 1, R)  of the noise of Y and W, by the same normals
    before: Tensor  # (N, B, D, K)  weights at the starts of the steps
    after: Tensor  # (N, B, D, K)  and at their ends
    past: Tensor  # (N, B, D, M, P + 2)  φ at the start, at P points within and at the end of every step


class Linear(NamedTuple):
    """x(0) ~ N(mean, std²), dx = -κ x dt + σ dB̂, for D coordinates apart."""

    kappa: Tensor  # (D,)  in 1 / time, not negative
    sigma: Tensor  # (D,)
    mean: Tensor  # (D,)
    std: Tensor  # (D,)


class Drive(NamedTuple):
    """x' = fade x + σ J + reach r for a constant r,  J = ∫_0^h e^{-κ(h-u)} dB̂(u) = y · Y + e · e + past · ξ"""

    fade: Tensor  # (N, B, D)  e^{-κh}
    reach: Tensor  # (N, B, D)  (1 - e^{-κh}) / κ
    y: Tensor  # (N, B, D, K)
    e: Tensor  # (N, B, D, R)
    past: Tensor  # (N, B, D, M)


class Chain(NamedTuple):
    """s' = A s + N e, from s = (mean, 0, ...) + diag(std) e at the start."""

    A: Tensor  # (N, B, D, S, S)
    N: Tensor  # (N, B, D, S, R)
    mean: Tensor  # (D, S)
    std: Tensor  # (D, S)  zero for Y, one for ξ
    drive: Drive
    brownian: Tensor  # (N, B, R)  ΔW, of the same normals
    speeds: int  # K


class Potentials(NamedTuple):
    """exp(-(x - target)² precision / 2) at the start and at the end of every step; precision 0 says nothing."""

    target: Tensor  # (N + 1, B, D)
    precision: Tensor  # (N + 1, B, D)


class Guide(NamedTuple):
    """e | s ~ N(offset - gain s, root root') at every step, and the first s ~ N(mean, diag(std) Σ diag(std))."""

    offset: Tensor  # (N, B, D, R)
    gain: Tensor  # (N, B, D, R, S)
    root: Tensor  # (N, B, D, R, R)
    start: Tensor  # (B, D, S)  mean of the normals that the first s is made of
    start_root: Tensor  # (B, D, S, S)  and the root of their covariance
    log_evidence: Tensor  # (B, D)  log E exp(-Σ (x - target)² precision / 2)


def motion(approximation: MarkovApproximation, grid: Grid) -> Motion:
    """The steps of B̂ along a grid that starts at time 0; weights () or (D,) constant, (N + 1, B or 1, D or 1) for H(t)."""
    device = approximation.weights.device
    law = steps(approximation.speeds.detach().cpu(), grid.h[..., 0].cpu())
    N, K = len(grid.h), len(approximation.speeds)
    decay, root = (part.to(device).expand(N, *part.shape[1:]) for part in (law.decay, law.root))
    w = approximation.weights
    if w.ndim > 2:  # of every time, and such motions have no past
        phi = w.new_zeros(N, *w.shape[1:3], 0, WITHIN + 2)
    else:
        w = w.reshape(1, 1, -1, K).expand(N + 1, 1, -1, K)
        phi = approximation.modes(_points(grid).to(device)).movedim(0, -1)
    speeds = approximation.speeds.detach()
    return Motion(grid.h.double(), speeds, decay, root, w[:-1], w[1:], phi)


def drive(motion: Motion, kappa: Tensor) -> Drive:
    """How the motion enters x, for rates κ (D,).

    J = Σ_k w_k (γ_k D(κ, γ_k) Y_k + ∫ (κ e^{-κu} - γ_k e^{-γ_k u}) / (κ - γ_k) dW(h - u)), D the divided difference of
    e^{-ah} in a. The kernel of the integral is written in the functions whose integrals Y' and W' are, which span it but for
    about 1e-8 of its size where κ is between the speeds. With weights that move J takes the
    mean of e^{-κ(h-u)}: exact for κ = 0. With the past, ∫ e^{-κ(h-u)} dφ(u) is integrated by parts and then by Gauss's rule.
    """
    kappa, h, g = kappa.double(), motion.h, motion.speeds
    a = kappa * h
    fade, mean = torch.exp(-a), faded(a)  # (N, B, D)
    slow = kappa[:, None]  # (D, 1)
    gap = h[..., None]  # (N, B, 1, 1)
    unit = 1 / h.sum(0).amax().clamp(
        min=1e-12
    )  # over the whole stretch: a rate below is as good as none
    slope = divided(lambda a: torch.exp(-a * gap), slow, g, unit)  # (N, B, D, K)
    moved = mean[..., None] * (motion.after - motion.before)
    y = motion.after * g * slope + moved
    with_w = torch.cat([g, g.new_zeros(1)])
    many = gap[..., None]  # (N, B, 1, 1, 1)

    def shared(a: Tensor) -> Tensor:
        """a ∫_0^h e^{-a u} e^{-γ_i u} du"""
        return a * many * faded((a + with_w[:, None]) * many)

    kernel = divided(shared, slow[:, None], g, unit)  # (N, B, D, K + 1, K)
    moment = (kernel @ motion.after[..., None])[..., 0]  # (N, B, D, K + 1)  ∫ v(u) kernel(u) du
    e = moment @ inverse(motion.root).mT
    return Drive(fade, h * mean, y, e, _past(motion, kappa, fade))


def _points(grid: Grid) -> Tensor:
    """Times at which a drive wants φ: (P + 2, N, B, 1), dense near the start of a step, where φ may be like t^H."""
    t, h = grid.t.double(), grid.h.double()
    x, _ = gauss_legendre(1.0, WITHIN)
    inside = [t + float(v) ** 3 * h for v in x]
    return torch.stack([t, *inside, t + h])


def _past(motion: Motion, kappa: Tensor, fade: Tensor) -> Tensor:
    """φ(t + h) - e^{-κh} φ(t) - κ ∫_0^h e^{-κ(h-u)} φ(t + u) du: (N, B, D, M)"""
    phi, h = motion.past, motion.h
    x, w = (v.to(phi.device) for v in gauss_legendre(1.0, WITHIN))
    left = 1 - x**3
    weight = 3 * x**2 * w * h[..., None] * torch.exp(-(kappa * h)[..., None] * left)  # (N, B, D, P)
    between = (phi[..., 1:-1] @ weight[..., None])[..., 0]
    return phi[..., -1] - fade[..., None] * phi[..., 0] - kappa[:, None] * between


def divided(f: Callable[[Tensor], Tensor], a: Tensor, b: Tensor, unit: Tensor) -> Tensor:
    """(f(a) - f(b)) / (a - b), and f' at their mean where they are equal to five digits of a + b + unit."""
    width = CLOSE * (a + b + unit)
    close = (a - b).abs() < width
    mean = (a + b) / 2
    left, right = torch.where(close, mean + width, a), torch.where(close, mean - width, b)
    return (f(left) - f(right)) / (left - right)


def inverse(root: Tensor) -> Tensor:
    """R⁺ of roots (..., K + 1, R) as `semidefinite_root` makes them: (..., R, K + 1)"""
    size = root.square().sum(-1, keepdim=True)
    whitened = root / size.where(size > 0, 1.0)
    values = (whitened * root).sum(-2, keepdim=True)
    return (whitened / values.where(values > 0, 1.0)).mT


def chain(motion: Motion, linear: Linear) -> Chain:
    """The chain of a linear equation driven by the motion."""
    moves = drive(motion, linear.kappa)
    sigma = linear.sigma.double()[:, None]
    N, B, K1, R = motion.root.shape
    K = K1 - 1
    D, M = len(sigma), moves.past.shape[-1]
    B = max(B, moves.y.shape[1], moves.past.shape[1])
    parts = moves.fade[..., None], sigma * moves.y, sigma * moves.past
    first = torch.cat([p.expand(N, B, D, p.shape[-1]) for p in parts], -1)
    decay = torch.cat([motion.decay, motion.decay.new_ones(*motion.decay.shape[:2], M)], -1)
    rest = torch.nn.functional.pad(torch.diag_embed(decay), (1, 0))
    rest = rest[:, :, None].expand(N, B, D, K + M, K + M + 1)
    A = torch.cat([first[..., None, :], rest], -2)
    shock = motion.root[:, :, None, :-1].expand(N, B, D, K, R)
    from_e = (sigma * moves.e)[..., None, :].expand(N, B, D, 1, R)
    noise = torch.cat([from_e, shock, shock.new_zeros(N, B, D, M, R)], -2)
    mean, std = (torch.nn.functional.pad(v.double()[:, None], (0, K)) for v in linear[2:])
    return Chain(
        A,
        noise,
        torch.cat([mean, mean.new_zeros(D, M)], -1),
        torch.cat([std, std.new_ones(D, M)], -1),
        moves,
        motion.root[:, :, -1],
        K,
    )


def guide(chain: Chain, potentials: Potentials) -> Guide:
    """The law of every step given the potentials at its end and later, by one pass backwards."""
    target, precision = (p.double() for p in potentials)
    N, B, D, S, R = *target.shape, chain.A.shape[-1], chain.N.shape[-1]
    N -= 1
    eye = torch.eye(R, dtype=target.dtype, device=target.device)
    eta = target.new_zeros(B, D, S, 1)
    Lambda = target.new_zeros(B, D, S, S)
    log_evidence = target.new_zeros(B, D)
    found = []
    for n in reversed(range(N)):
        Lambda, eta, own = _seen(Lambda, eta, target[n + 1], precision[n + 1])
        A, noise = chain.A[n], chain.N[n]
        half = Lambda @ noise  # (B, D, S, R)
        C = torch.linalg.cholesky(eye + noise.mT @ half)
        root = torch.linalg.solve_triangular(C.mT, eye.expand_as(C), upper=True)  # Σ = root root'
        W = (half @ root).mT  # (B, D, R, S)  root' N' Λ
        white = root.mT @ (noise.mT @ eta)  # (B, D, R, 1)
        found.append(((root @ white)[..., 0], root @ (W @ A), root))
        spent = C.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_evidence = log_evidence + own - spent + white.square().sum((-2, -1)) / 2
        eta = A.mT @ (eta - W.mT @ white)
        Lambda = A.mT @ (Lambda - W.mT @ W) @ A
        Lambda = (Lambda + Lambda.mT) / 2
    Lambda, eta, own = _seen(Lambda, eta, target[0], precision[0])
    start, root, value = _start(chain, Lambda, eta)
    offset, gain, roots = (torch.stack(parts[::-1]) for parts in zip(*found, strict=True))
    return Guide(offset, gain, roots, start, root, log_evidence + own + value)


def _seen(
    Lambda: Tensor, eta: Tensor, target: Tensor, precision: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Λ and η with a potential on x, and what it adds that does not depend on s."""
    more = torch.zeros_like(Lambda[..., 0])
    more = torch.cat([precision[..., None], more[..., 1:]], -1)
    Lambda = Lambda + torch.diag_embed(more)
    pull = torch.cat([(precision * target)[..., None], torch.zeros_like(more[..., 1:])], -1)
    return Lambda, eta + pull[..., None], -precision * target.square() / 2


def _start(chain: Chain, Lambda: Tensor, eta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The law of the normals that the first state is made of, and log of what the potentials expect of it."""
    mean, std = chain.mean[..., None], chain.std[..., None]
    S = len(std[0])
    eye = torch.eye(S, dtype=std.dtype, device=std.device)
    C = torch.linalg.cholesky(eye + std * Lambda * std.mT)
    root = torch.linalg.solve_triangular(C.mT, eye.expand_as(C), upper=True)
    white = root.mT @ (std * (eta - Lambda @ mean))
    spent = C.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    at_mean = (mean * (eta - Lambda @ mean / 2)).sum((-2, -1))
    value = at_mean - spent + white.square().sum((-2, -1)) / 2
    return (root @ white)[..., 0], root, value


def log_evidence(guide: Guide, precision: Tensor) -> Tensor:
    """log p(y) of observations y = x + N(0, 1 / precision), from a guide with those as potentials: (B,)

    precision (N + 1, B, D) is zero where there is none.
    """
    there = precision > 0
    constant = (precision.where(there, 1.0).double().log() - math.log(2 * math.pi)) / 2
    whole: Tensor = guide.log_evidence + constant.where(there, 0.0).sum(0)
    return whole.sum(-1)

"""Gaussian processes in time whose past acts on their future through a state: f(t) = H x(t).

    x(end) = A x(start) + e,  e ~ N(0, Q)        Cov(f(end), f(start)) = H A Cov(x(start)) H'

A kernel is what makes A and Q from any two times; `chain` puts them in a row for given times, and sums,
products and mixtures of kernels are kernels. Everything is computed in double precision, because Q
shrinks with a high power of the gap. Parameters are numbers or tensors (...); leading axes broadcast
against those of the times, of which the last axis, N, is never a parameter's.

[1] Särkkä & Solin. Applied stochastic differential equations. Cambridge 2019, chapter 12.
[2] Solin & Särkkä. Explicit link between periodic covariance functions and state space models.
    AISTATS 2014: sums and products.
[3] Álvarez, Rosasco & Lawrence. Kernels for vector-valued functions: a review. 2012, section 4.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError
from .blocks import beside, block_diagonal, carry, doubles, kron, no_noise, per_row
from .kalman import LinearGaussian

Transition = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Kernel(NamedTuple):
    """A Gaussian process of O outputs with a state of S coordinates.

    Times are double, (..., N), start <= end. Matrices come as (..., N, S, S), or with one row for all
    where they are the same at all times.
    """

    name: str  # for messages
    H: Tensor  # (..., O, S)  what is seen of the state; O = 1 unless outputs are mixed
    covariance: Callable[[Tensor], Tensor]  # t -> Cov x(t)
    transition: Transition  # (start, end) -> A, Q of x(end) given x(start)
    backward: Transition  # (start, end) -> A, Q of x(start) given x(end) alone
    units: Tensor  # (..., S)  units * x are values and derivatives of f, whatever the parameters
    stationary: bool = True
    noiseless: bool = False  # Q is zero: the start decides the whole path
    approximate: bool = False  # a model of the kernel it is named after, not that kernel


def chain(kernel: Kernel, t: Tensor) -> LinearGaussian:
    """The states at non-decreasing times (..., N): x_0 ~ N(0, Cov x(t_0)), x_k = A_k x_{k-1} + e_k."""
    t = t.double()
    before = torch.cat([t[..., :1], t[..., :-1]], -1)
    A, Q = kernel.transition(before, t)
    return LinearGaussian(A, Q, kernel.covariance(t[..., :1])[..., 0, :, :])


def gram(kernel: Kernel, t: Tensor, u: Tensor) -> Tensor:
    """Cov(f(t), f(u)) of times (..., N) and (..., M) in any order: (..., N, M, O, O); dense."""
    rows, columns = t.double()[..., :, None], u.double()[..., None, :]
    early = torch.minimum(rows, columns).flatten(-2)
    late = torch.maximum(rows, columns).flatten(-2)
    A, _ = kernel.transition(early, late)
    H = kernel.H[..., None, :, :].to(rows.device)
    K = H @ A @ kernel.covariance(early) @ H.mT  # (..., N M, O, O)
    K = torch.where((rows >= columns).flatten(-2)[..., None, None], K, K.mT)
    return K.reshape(*K.shape[:-3], t.shape[-1], u.shape[-1], *K.shape[-2:])


def scale(kernel: Kernel, variance: Tensor | float) -> Kernel:
    """variance * k(t, t'); variance (...) is positive."""
    (factor,) = doubles(variance)

    def times(t: Tensor, matrices: Tensor) -> Tensor:
        return per_row(factor, t)[..., None, None] * matrices

    def scaled(law: Transition) -> Transition:
        def transition(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
            A, Q = law(start, end)
            return A, times(end, Q)

        return transition

    return kernel._replace(
        covariance=lambda t: times(t, kernel.covariance(t)),
        transition=scaled(kernel.transition),
        backward=scaled(kernel.backward),
    )


def add(*kernels: Kernel) -> Kernel:
    """k_1(t, t') + ... + k_n(t, t'): independent processes side by side, seen as their sum  [1]"""
    outputs = [k.H.shape[-2] for k in kernels]
    if len(set(outputs)) != 1:
        raise ConfigError(
            "X01",
            f"a sum of kernels of {outputs} outputs",
            "kernels of as many outputs each",
            "Mix their outputs with `coregionalize`",
        )
    return _side_by_side(kernels, " + ", beside([k.H for k in kernels]))


def coregionalize(kernels: Sequence[Kernel], mixing: Tensor) -> Kernel:
    """f_o(t) = sum_l mixing_ol g_l(t), g_l of kernel l: linear model of coregionalisation  [3]

    mixing is (..., O, L), its columns in the order of the L kernels, which have one output each. The
    covariance is sum_l mixing_l mixing_l' k_l(t, t'); one kernel L times is the intrinsic model.
    """
    outputs = {k.H.shape[-2] for k in kernels}
    if outputs != {1} or mixing.shape[-1] != len(kernels):
        raise ConfigError(
            "X01",
            f"mixing of shape {tuple(mixing.shape)} for {len(kernels)} kernels of {outputs} outputs",
            "a mixing (..., O, L) and L kernels of one output each",
            "Mix once, as the last step",
        )
    mixing, *views = doubles(mixing, *(k.H for k in kernels))
    columns = mixing[..., None].unbind(-2)  # L of (..., O, 1)
    return _side_by_side(kernels, ", ", beside([c * H for c, H in zip(columns, views)]))


def multiply(a: Kernel, b: Kernel) -> Kernel:
    """k_a(t, t') k_b(t, t'): the state is the Kronecker product of both  [2]

    Q = Q_a (x) P_b(end) + (A_a P_a(start) A_a') (x) Q_b: a sum of positive terms, where P - A P A' would
    cancel for short gaps.
    """

    def product(forward: Callable[[Kernel], Transition], towards_end: bool) -> Transition:
        def transition(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
            here, there = (start, end) if towards_end else (end, start)
            (A, Q), (B, R) = forward(a)(start, end), forward(b)(start, end)
            law = kron(A, B)
            terms = []
            if not a.noiseless:
                terms.append(kron(Q, b.covariance(there)))
            if not b.noiseless:
                carried = a.covariance(there) if a.noiseless else carry(A, a.covariance(here))
                terms.append(kron(carried, R))
            return law, functools.reduce(torch.add, terms) if terms else no_noise(law)

        return transition

    return Kernel(
        f"({a.name}) * ({b.name})",
        _every_pair(a.H, b.H),
        lambda t: kron(a.covariance(t), b.covariance(t)),
        product(lambda k: k.transition, True),
        product(lambda k: k.backward, False),
        _every_pair(a.units, b.units),
        a.stationary and b.stationary,
        a.noiseless and b.noiseless,
        a.approximate or b.approximate,
    )


def reversible(
    name: str,
    step: Callable[[Tensor], tuple[Tensor, Tensor]],
    covariance: Callable[[Tensor], Tensor],
    units: Tensor,
    signs: Sequence[float],
    H: Sequence[float] | None = None,
) -> Kernel:
    """A kernel whose law in reversed time is that of signs * x, as where x are f and its derivatives.

    Args:
        step: gaps (..., N) -> A, Q.
        covariance: of the state at times (..., N).
        units: (..., S).
        signs: S ones and minus ones.
        H: (S,) of the one output; the first coordinate where None.
    """
    sign = units.new_tensor(signs)
    seen = units.new_tensor(H or [1.0] + [0.0] * (len(signs) - 1))

    def backward(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        A, Q = step(end - start)
        flip = (sign[:, None] * sign).to(A.device)
        return flip * A, flip * Q

    return Kernel(
        name, seen[None], covariance, lambda start, end: step(end - start), backward, units
    )


def constantly(covariance: Tensor) -> Callable[[Tensor], Tensor]:
    """The same (..., S, S) at all times, on their device."""
    return lambda t: covariance[..., None, :, :].to(t.device)


def _every_pair(a: Tensor, b: Tensor) -> Tensor:
    """Products of coordinates (..., S_a) and (..., S_b), in the order of a Kronecker product."""
    a, b = doubles(a, b)
    return (a[..., :, None] * b[..., None, :]).flatten(-2)


def _side_by_side(kernels: Sequence[Kernel], sign: str, H: Tensor) -> Kernel:
    """Independent processes, whose states are stacked."""

    def both(laws: list[Transition]) -> Transition:
        def transition(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
            parts = [law(start, end) for law in laws]
            return block_diagonal([A for A, _ in parts]), block_diagonal([Q for _, Q in parts])

        return transition

    return Kernel(
        sign.join(k.name for k in kernels),
        H,
        lambda t: block_diagonal([k.covariance(t) for k in kernels]),
        both([k.transition for k in kernels]),
        both([k.backward for k in kernels]),
        beside([k.units for k in kernels]),
        all(k.stationary for k in kernels),
        all(k.noiseless for k in kernels),
        any(k.approximate for k in kernels),
    )

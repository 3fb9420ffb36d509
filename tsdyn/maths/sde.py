"""Itô SDEs as pairs of functions, and the ways of making one from another.

    dx = drift(t, x) dt + diffusion(t, x) dW

x is (B, D), t is (B, 1) in the user's unit of time. Every function may ask for more: what was
computed beforehand for the step (an embedding of a control path, time features) follows as `*u`.
drift has the units of x per time, diffusion those of x per square root of time.

Where the noise enters through sigma(t, *u) alone, schemes read it once for all N steps of a solve:
t is then (N, B, 1), or (N, 1, 1) on a clock shared by all series, and u has the N steps in front.

[1] Oh, Lim & Kim. Stable neural stochastic differential equations in analyzing irregular time
    series data. ICLR 2024.
[2] Øksendal. Stochastic differential equations. 6th ed., Springer 2003, section 8.6 (Girsanov).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Field = Callable[..., Tensor]  # (t, x, *u) -> (B, D)
Volatility = Callable[..., Tensor]  # (t, *u) -> broadcasts with (B, D); never sees the state
NoiseKind = Literal[
    "diagonal", "scalar"
]  # W of its own for every coordinate, or one W for all of them


class SDE(NamedTuple):
    """dx = drift(t, x, *u) dt + diffusion(t, x, *u) dW; diffusion is (B, D) for both kinds of noise."""

    drift: Field
    diffusion: Field
    noise: NoiseKind = "diagonal"


class Langevin(NamedTuple):
    """dz = (-kappa z + residual(t, z, *u)) dt + sigma(t, *u) dW  [1]

    If the residual's Lipschitz constant L is below kappa, paths under the same noise approach each
    other at rate kappa - L or faster, surely. kappa broadcasts with (B, D), in 1 / time.
    """

    kappa: Tensor | float
    residual: Field
    sigma: Volatility
    noise: NoiseKind = "diagonal"


class LinearNoise(NamedTuple):
    """dz = drift(t, z, *u) dt + sigma(t, *u) z dW  [1]

    Strong scalar noise calms: two paths under the same W part no faster than exp((L - sigma²/2) t).
    Diagonal noise calms in less than four dimensions and excites in more.
    """

    drift: Field
    sigma: Volatility
    noise: NoiseKind = "diagonal"


class Geometric(NamedTuple):
    """dz / z = growth(t, z, *u) dt + sigma(t, *u) dW; never changes sign, and stays at zero  [1]"""

    growth: Field
    sigma: Volatility
    noise: NoiseKind = "diagonal"


Dynamics = SDE | Langevin | LinearNoise | Geometric


def langevin(
    kappa: Tensor | float, residual: Field, sigma: Volatility, noise: NoiseKind = "diagonal"
) -> SDE:
    """dz = (-kappa z + residual(t, z, *u)) dt + sigma(t, *u) dW, without its structure  [1]"""
    return SDE(
        lambda t, z, *u: residual(t, z, *u) - kappa * z,
        lambda t, z, *u: sigma(t, *u).expand_as(z),
        noise,
    )


def linear_noise(drift: Field, sigma: Volatility, noise: NoiseKind = "diagonal") -> SDE:
    """dz = drift(t, z, *u) dt + sigma(t, *u) z dW, without its structure  [1]"""
    return SDE(drift, lambda t, z, *u: sigma(t, *u) * z, noise)


def geometric(growth: Field, sigma: Volatility, noise: NoiseKind = "diagonal") -> SDE:
    """dz = growth(t, z, *u) z dt + sigma(t, *u) z dW, without its structure  [1]"""
    return SDE(lambda t, z, *u: growth(t, z, *u) * z, lambda t, z, *u: sigma(t, *u) * z, noise)


_PLAIN: dict[type, Callable[..., SDE]] = {
    SDE: SDE,
    Langevin: langevin,
    LinearNoise: linear_noise,
    Geometric: geometric,
}


def plain(sde: Dynamics) -> SDE:
    """The same equation as drift and diffusion: plain(Langevin(...)) is langevin(...)."""
    return _PLAIN[type(sde)](*sde)


def controlled(field: Field, path: Callable[[Tensor], Tensor]) -> Field:
    """field(t, x, path(t), *u): the field sees a path, as an interpolation of observations.

    The path is read at every evaluation. Where a solver knows its steps beforehand, reading it once
    for all of them and passing the values as controls costs less.
    """
    return lambda t, x, *u: field(t, x, path(t), *u)


def with_kl(posterior: SDE, prior: SDE) -> SDE:
    """d kl = 1/2 |theta|² dt with g theta = f_posterior - f_prior, carried as coordinate D+1  [2]

    Started at zero, the last coordinate is each path's share of KL(posterior || prior), in nats; its
    mean over paths is the divergence. Both must have the posterior's diffusion g and kind of noise.

    Diagonal noise: theta_i = (f_posterior - f_prior)_i / g_i. Scalar noise: one theta for all
    coordinates, the length of the difference along g: theta = <g, difference> / |g|²; a posterior
    that leaves the prior in another direction has an infinite divergence, and the share along g is
    reported. Where g = 0 no noise can explain a difference: equal drifts add nothing, different
    drifts add infinity, and no gradient flows.
    """
    theta2 = {"diagonal": _theta2_diagonal, "scalar": _theta2_scalar}[posterior.noise]

    def drift(t: Tensor, x: Tensor, *u: Any) -> Tensor:
        x = x[:, :-1]
        f = posterior.drift(t, x, *u)
        g = posterior.diffusion(t, x, *u)
        return torch.cat([f, 0.5 * theta2(f - prior.drift(t, x, *u), g)], -1)

    def diffusion(t: Tensor, x: Tensor, *u: Any) -> Tensor:
        g = posterior.diffusion(t, x[:, :-1], *u)
        return torch.cat([g, g.new_zeros(len(g), 1)], -1)

    return SDE(drift, diffusion, posterior.noise)


def _theta2_diagonal(difference: Tensor, g: Tensor) -> Tensor:
    """sum_i (difference_i / g_i)²: (B, D), (B, D) -> (B, 1)."""
    still = g == 0
    theta = difference.where(~still, 0.0) / g.where(~still, 1.0)
    impossible = still & (difference != 0)
    return theta.square().where(~impossible, torch.inf).sum(-1, keepdim=True)


def _theta2_scalar(difference: Tensor, g: Tensor) -> Tensor:
    """(<g, difference> / |g|²)²: (B, D), (B, D) -> (B, 1)."""
    still = (g == 0).all(-1, keepdim=True)
    along = (g * difference).sum(-1, keepdim=True)
    theta = along / g.square().sum(-1, keepdim=True).where(~still, 1.0)
    impossible = still & (difference != 0).any(-1, keepdim=True)
    return theta.square().where(~impossible, torch.inf)

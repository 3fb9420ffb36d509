"""Steps of numerical schemes for SDEs. A scheme is a function: it makes a `Step` from an equation.

A step is cut in two. `prepare` sees all N steps at once, before the first: whatever does not need
the state (decay factors, sigma(t) times the noise) is computed there in one call. `advance` is what
remains for the loop: a drift, perhaps a diffusion, and fused multiply-adds.

Within one step the hoisted values `*u` are those of its start.

[1] Kloeden & Platen. Numerical solution of stochastic differential equations. Springer 1992.
[2] Rößler. Runge-Kutta methods for the strong approximation of solutions of stochastic
    differential equations. SIAM Journal on Numerical Analysis 48 (2010).
[3] Foster, Lyons & Oberhauser. An optimal polynomial approximation of Brownian motion. SIAM
    Journal on Numerical Analysis 58 (2020): the space-time Lévy area.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .sde import Dynamics, Geometric, Langevin, LinearNoise, plain

LARGEST_EXPONENT = 30.0  # of one geometric step: e^30 = 1e13 lets gradients survive in float32


class Noise(NamedTuple):
    """Brownian motion, step by step.

    area is the space-time Lévy area (1/h) ∫ (W_s - s/h W_h) ds of each step [3]: normal,
    independent of dw, of variance h/12.
    """

    dw: Tensor  # (N, B, m)  of variance h; m is 1 for scalar noise, else D
    area: Tensor | None = None  # (N, B, m)


class Step(NamedTuple):
    """x(t + h) from x(t).

    prepare(t, h, noise, *controls) -> tensors of leading axis N; t and h are (N, 1, 1) for a clock
    shared by all series or (N, B, 1). advance(t, x, u, *prepared) -> (B, D) gets one step's row of
    each: t (B, 1), x (B, D), u the tuple of hoisted values.
    """

    prepare: Callable[..., tuple[Tensor, ...]]
    advance: Callable[..., Tensor]
    needs: Literal["nothing", "increments", "area"] = "increments"


Scheme = Callable[[Any], Step]


def _drawn(t: Tensor, h: Tensor, noise: Noise, *controls: Tensor) -> tuple[Tensor, ...]:
    return h, noise.dw


def euler(sde: Dynamics) -> Step:
    """x + f h + g dW: strong order 1/2, or 1 where g does not depend on x  [1, section 10.2]"""
    f, g, _ = plain(sde)

    def advance(t: Tensor, x: Tensor, u: tuple[Tensor, ...], h: Tensor, dw: Tensor) -> Tensor:
        return torch.addcmul(torch.addcmul(x, f(t, x, *u), h), g(t, x, *u), dw)

    return Step(_drawn, advance)


def heun(sde: Dynamics) -> Step:
    """x + (f + f') h/2 + (g + g') dW/2 with f', g' at the Euler guess: solves dx = f dt + g ∘ dW.

    The equation is read as Stratonovich's, where the other schemes read it as Itô's; the two agree
    where g does not depend on x. Strong order 1 for diagonal and scalar noise; two evaluations.
    """
    f, g, _ = plain(sde)

    def advance(t: Tensor, x: Tensor, u: tuple[Tensor, ...], h: Tensor, dw: Tensor) -> Tensor:
        f0, g0 = f(t, x, *u), g(t, x, *u)
        guess = torch.addcmul(torch.addcmul(x, f0, h), g0, dw)
        end = t + h
        x = torch.addcmul(x, f0 + f(end, guess, *u), h, value=0.5)
        return torch.addcmul(x, g0 + g(end, guess, *u), dw, value=0.5)

    return Step(_drawn, advance)


def milstein(sde: Dynamics) -> Step:
    """x + f h + g dW + 1/2 (dg/dx g)(dW² - h): strong order 1  [1, section 10.3]

    For diagonal noise g_i may depend on x_i only; for scalar noise on all of x. The derivative along
    g comes from forward-mode differentiation.
    """
    f, g, _ = plain(sde)

    def prepare(t: Tensor, h: Tensor, noise: Noise, *u: Tensor) -> tuple[Tensor, ...]:
        return h, noise.dw, noise.dw.square() - h

    def advance(
        t: Tensor, x: Tensor, u: tuple[Tensor, ...], h: Tensor, dw: Tensor, excess: Tensor
    ) -> Tensor:
        g0 = g(t, x, *u)
        bend = torch.func.jvp(lambda x: g(t, x, *u), (x,), (g0,))[1]
        x = torch.addcmul(torch.addcmul(x, f(t, x, *u), h), g0, dw)
        return torch.addcmul(x, bend, excess, value=0.5)

    return Step(prepare, advance)


def srk(sde: Dynamics) -> Step:
    """x + (f + 2 f') h/3 + g(t+h)(dW - I) + g(t) I with I = dW/2 + area, and f' at
    (t + 3h/4, x + 3/4 f h + 3/2 g(t+h) I): strong order 3/2 for additive noise, scheme SRA1 of [2]

    g must not depend on x. Two evaluations of f and of g; needs the area of each step.
    """
    f, g, _ = plain(sde)

    def prepare(t: Tensor, h: Tensor, noise: Noise, *u: Tensor) -> tuple[Tensor, ...]:
        assert noise.area is not None  # `solve` has asked for it
        middle = torch.add(noise.area, noise.dw, alpha=0.5)
        return h, noise.dw - middle, middle

    def advance(
        t: Tensor, x: Tensor, u: tuple[Tensor, ...], h: Tensor, late: Tensor, middle: Tensor
    ) -> Tensor:
        f0, g1 = f(t, x, *u), g(t + h, x, *u)
        guess = torch.addcmul(torch.addcmul(x, f0, h, value=0.75), g1, middle, value=1.5)
        f1 = f(torch.add(t, h, alpha=0.75), guess, *u)
        x = torch.addcmul(x, torch.add(f0, f1, alpha=2), h, value=1 / 3)
        return torch.addcmul(torch.addcmul(x, g1, late), g(t, x, *u), middle)

    return Step(prepare, advance, needs="area")


def exponential_euler(sde: Langevin) -> Step:
    """z e^{-kappa h} + r (1 - e^{-kappa h}) / kappa + sigma dW ((1 - e^{-2 kappa h}) / 2 kappa h)^{1/2}

    Exact in law for every h where the residual is constant; strong order 1; one evaluation, and no
    bound on kappa h.
    """
    kappa, residual, sigma, _ = sde

    def prepare(t: Tensor, h: Tensor, noise: Noise, *u: Tensor) -> tuple[Tensor, ...]:
        a = kappa * h
        return torch.exp(-a), h * _phi(a), sigma(t, *u) * _phi(2 * a).sqrt() * noise.dw

    def advance(
        t: Tensor, z: Tensor, u: tuple[Tensor, ...], decay: Tensor, h: Tensor, dw: Tensor
    ) -> Tensor:
        return torch.addcmul(torch.addcmul(dw, z, decay), residual(t, z, *u), h)

    return Step(prepare, advance)


def _phi(a: Tensor) -> Tensor:
    """(1 - e^{-a}) / a, and 1 at a = 0."""
    still = a == 0
    return torch.where(still, 1 - a / 2, -torch.expm1(-a) / a.where(~still, 1.0))


def lie(sde: LinearNoise, kappa: Tensor | None = None) -> Step:
    """(z + f h) exp(sigma dW - sigma² h/2): drift by Euler, then the noise exactly.

    With kappa (H,) the drift is f - kappa z, its linear part solved exactly: z + f h becomes
    z e^{-kappa h} + f (1 - e^{-kappa h}) / kappa, with no bound on kappa h. Strong order 1 for diagonal
    and scalar noise; one evaluation.
    """
    drift, sigma, _ = sde

    def prepare(t: Tensor, h: Tensor, noise: Noise, *u: Tensor) -> tuple[Tensor, ...]:
        factor = _log_noise(sigma(t, *u), h, noise.dw).exp()
        if kappa is None:
            return h, factor
        a = kappa * h
        return h * _phi(a), factor, torch.exp(-a)

    def advance(
        t: Tensor, z: Tensor, u: tuple[Tensor, ...], h: Tensor, factor: Tensor, *decay: Tensor
    ) -> Tensor:
        f = drift(t, z, *u)
        return torch.addcmul(z * decay[0] if decay else z, f, h) * factor

    return Step(prepare, advance)


def logarithmic(sde: Geometric, kappa: Tensor | None = None) -> Step:
    """z exp((growth - sigma²/2) h + sigma dW): Euler for log|z|, where the noise is additive.

    Keeps the sign of z, and zero; exact for constant growth and sigma, else strong order 1; one
    evaluation. The exponent of one step is held within ±30. With kappa (H,) the growth is that of
    `sde` less kappa log|z|, and log|z| takes a step of `exponential_euler`, with no bound on kappa h.
    """
    growth, sigma, _ = sde

    def prepare(t: Tensor, h: Tensor, noise: Noise, *u: Tensor) -> tuple[Tensor, ...]:
        s = sigma(t, *u)
        if kappa is None:
            return h, _log_noise(s, h, noise.dw)
        a = kappa * h
        held = h * _phi(a)
        return held, _log_noise(s, held, noise.dw * _phi(2 * a).sqrt()), torch.expm1(-a)

    def advance(
        t: Tensor, z: Tensor, u: tuple[Tensor, ...], h: Tensor, noise: Tensor, *decay: Tensor
    ) -> Tensor:
        exponent = torch.addcmul(noise, growth(t, z, *u), h)
        if decay:
            level = z.abs().clamp(min=torch.finfo(z.dtype).tiny).log()
            exponent = torch.addcmul(exponent, level, decay[0])
        return z * exponent.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT).exp()

    return Step(prepare, advance)


def _log_noise(sigma: Tensor, h: Tensor, dw: Tensor) -> Tensor:
    """sigma dW - sigma² h/2"""
    return torch.addcmul(sigma * dw, sigma.square(), h, value=-0.5)

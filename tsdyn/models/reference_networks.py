"""Landscapes of a network, and the drift of cells that slide down them."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ModelError
from .reference_base import Reference, moments, require

BATCH = 1024


class _Layers(NamedTuple):
    """tanh layers, and the weights of their last output: everything that is learned."""

    weights: list[Tensor]  # (H, D) and then (H, H)
    biases: list[Tensor]  # (H,)
    last: Tensor  # (H,)


class GradientMLP(Reference):
    """f = -∇ψ,  ψ(x) = c · w · tanh(W_L ... tanh(W_1 z + b_1) ...),  z = (x - middle) / spread: a network's landscape

    Middle and spread are the mean and the deviation of the places of the first fit, and c is the size of its
    velocities in the same units. Each fit goes on from the weights of the last.

    Args:
        dims: D.
        width, depth: hidden units, and layers of them.
        steps: of AdamW in a fit, on batches of 1024 places.
        learning_rate: of its first step; it falls to zero as a cosine.
        weight_decay: of AdamW.
    """

    last: Tensor
    middle: Tensor
    spread: Tensor
    scale: Tensor

    def __init__(
        self,
        dims: int,
        width: int = 64,
        depth: int = 2,
        steps: int = 500,
        learning_rate: float = 1e-2,
        weight_decay: float = 1e-2,
    ):
        super().__init__(dims)
        for name, value in (("width", width), ("depth", depth), ("steps", steps)):
            require(value >= 1, "GradientMLP", f"{name}={value}", "one or more")
        require(learning_rate > 0, "GradientMLP", f"learning_rate={learning_rate}", "above zero")
        self.depth, self.steps = depth, steps
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        for k in range(depth):
            size = dims if k == 0 else width
            weight = torch.randn(width, size, dtype=torch.float64) / math.sqrt(size)
            self.register_buffer(f"weight{k}", weight)
            self.register_buffer(f"bias{k}", 2 * torch.rand(width, dtype=torch.float64) - 1)
        self.register_buffer("last", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("middle", torch.zeros(dims, dtype=torch.float64))
        self.register_buffer("spread", torch.ones(dims, dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    def potential(self, x: Tensor) -> Tensor:
        """ψ at x (..., D): (...)."""
        layers, h = self._layers(), self._standard(x)
        for weight, bias in zip(layers.weights, layers.biases, strict=True):
            h = torch.tanh(h @ weight.mT.to(x) + bias.to(x))
        return self.scale.to(x) * (h @ layers.last.to(x))

    def drift(self, x: Tensor) -> Tensor:
        slope = _slope(self._layers(), self._standard(x.double()))
        return (-self.scale / self.spread * slope).to(x)

    def jacobian(self, x: Tensor) -> Tensor:
        bend = _bend(self._layers(), self._standard(x.double()))
        return (-self.scale / self.spread[:, None] / self.spread * bend).to(x)

    def parameters_by_name(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.named_buffers()}

    def parameter_names(self) -> tuple[str, ...]:
        raise _unidentifiable()

    def hessian(self, x: Tensor, weights: Tensor) -> Tensor:
        raise _unidentifiable()

    def _fit(self, x: Tensor, velocity: Tensor, share: Tensor) -> None:
        if not bool(self.last.any()):
            for own, found in zip((self.middle, self.spread), moments(x, share), strict=True):
                own.copy_(found)
            size = (share @ (velocity * self.spread).square()).mean().sqrt()
            self.scale.copy_(size.where(size > 0, 1.0))
        z, target = self._standard(x), -velocity * self.spread / self.scale
        heavy = (share * len(x))[:, None] / self.spread.square() * self.spread.square().mean()
        layers = self._layers()
        learned = [
            p.clone().requires_grad_() for p in (*layers.weights, *layers.biases, layers.last)
        ]
        moving = _Layers(learned[: self.depth], learned[self.depth : -1], learned[-1])
        adam = torch.optim.AdamW(learned, self.learning_rate, weight_decay=self.weight_decay)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, self.steps)
        every = torch.arange(len(x), device=x.device)
        with torch.enable_grad():
            for _ in range(self.steps):
                few = len(x) <= BATCH
                rows = every if few else torch.randint(len(x), (BATCH,), device=x.device)
                error = (heavy[rows] * (_slope(moving, z[rows]) - target[rows]).square()).mean()
                adam.zero_grad()
                error.backward()  # type: ignore[no-untyped-call]
                adam.step()
                cosine.step()
        for own, found in zip((*layers.weights, *layers.biases, layers.last), learned, strict=True):
            own.copy_(found.detach())

    def _standard(self, x: Tensor) -> Tensor:
        self.require_dims(x)
        return (x - self.middle.to(x)) / self.spread.to(x)

    def _layers(self) -> _Layers:
        held = dict(self.named_buffers())
        each = range(self.depth)
        return _Layers(
            [held[f"weight{k}"] for k in each], [held[f"bias{k}"] for k in each], self.last
        )


def _slope(layers: _Layers, z: Tensor) -> Tensor:
    """∂ψ/∂z (..., D), by back-propagation written out: what is fitted, without a second graph."""
    outputs, h = [], z
    for weight, bias in zip(layers.weights, layers.biases, strict=True):
        h = torch.tanh(h @ weight.mT + bias)
        outputs.append(h)
    pull = layers.last.expand_as(h)
    for weight, h in zip(reversed(layers.weights), reversed(outputs), strict=True):
        pull = (pull * (1 - h.square())) @ weight
    return pull


def _bend(layers: _Layers, z: Tensor) -> Tensor:
    """∂²ψ/∂z² at z (P, D): Σ over all units of ∂ψ/∂h · tanh'' · (∂a/∂z)(∂a/∂z)ᵀ, a what goes into a unit."""
    inputs, outputs, h = [], [], z  # ∂a/∂z (P, H, D) and h (P, H) of each layer
    moved: Tensor | None = None
    for weight, bias in zip(layers.weights, layers.biases, strict=True):
        h = torch.tanh(h @ weight.mT + bias)
        inputs.append(weight.expand(len(z), -1, -1) if moved is None else weight @ moved)
        outputs.append(h)
        moved = (1 - h.square())[..., None] * inputs[-1]
    found, pull = z.new_zeros(*z.shape, z.shape[-1]), layers.last.expand_as(h)
    for weight, entered, h in zip(
        reversed(layers.weights), reversed(inputs), reversed(outputs), strict=True
    ):
        slope = 1 - h.square()
        found = found + entered.mT @ ((-2 * pull * h * slope)[..., None] * entered)
        pull = (pull * slope) @ weight
    return found


def _unidentifiable() -> ModelError:
    return ModelError(
        "M05",
        "the weights of GradientMLP mean nothing one by one",
        "a family with parameters to tell apart",
        "Compare the drifts of several fits, or use GradientRFF or Polynomial",
    )

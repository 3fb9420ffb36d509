"""Drifts without a form of their own: gradients of random features and of networks, and what a user writes."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .. import nets
from .references import LinearInParameters, Reference, require_dims


class GradientRFF(LinearInParameters):
    """f = ∇ψ,  ψ(x) = √(2 / F) Σ_k θ_k cos(ω_k · x / l + φ_k): a Gaussian process potential  [1]

    Cells slide down a landscape, -ψ, and cannot run in circles.

    Args:
        dims: D.
        features: F.
        length: l, in units of x; None is the median distance between places of the first fit.
        ridge: as a share of the diagonal; small samples want more.
        seed: of ω and φ.

    [1] Rahimi & Recht. Random features for large-scale kernel machines. NeurIPS 2007.
    """

    waves: Tensor
    phases: Tensor
    length: Tensor

    def __init__(
        self,
        dims: int,
        features: int = 256,
        length: float | None = None,
        ridge: float = 1e-2,
        seed: int = 0,
    ):
        super().__init__(tuple(f"theta{k}" for k in range(features)), ridge)
        g = torch.Generator().manual_seed(seed)
        waves = torch.randn(features, dims, generator=g, dtype=torch.float64)
        self.register_buffer("waves", waves)
        phases = 2 * math.pi * torch.rand(features, generator=g, dtype=torch.float64)
        self.register_buffer("phases", phases)
        known = math.nan if length is None else length
        self.register_buffer("length", torch.tensor(known, dtype=torch.float64))

    def features(self, x: Tensor) -> Tensor:
        require_dims(x, self.waves.shape[1], "GradientRFF")
        waves = (self.waves / self._scale()).to(x)
        size = math.sqrt(2 / len(waves))
        slope = -size * torch.sin(x @ waves.mT + self.phases.to(x))  # (..., F)
        return slope[..., None, :] * waves.mT

    def drift(self, x: Tensor) -> Tensor:
        waves = (self.waves / self._scale()).to(x)
        slope = torch.sin(x @ waves.mT + self.phases.to(x)) * self.theta.to(x)
        return -math.sqrt(2 / len(waves)) * slope @ waves

    def jacobian(self, x: Tensor) -> Tensor:
        waves = (self.waves / self._scale()).to(x)
        bend = torch.cos(x @ waves.mT + self.phases.to(x)) * self.theta.to(x)
        return -math.sqrt(2 / len(waves)) * torch.einsum("pk,ki,kj->pij", bend, waves, waves)

    def refit(self, x: Tensor, drift: Tensor, weights: Tensor) -> None:
        if bool(self.length.isnan()):
            some = x[:: max(1, len(x) // 1000)]
            self.length.copy_(torch.pdist(some).median())
        super().refit(x, drift, weights)

    def _scale(self) -> Tensor:
        return self.length.nan_to_num(1.0)


class GradientMLP(Reference):
    """f = ∇ψ with ψ a network, fitted by Adam from where the last fit ended.

    Args:
        dims: D.
        width, depth: hidden units and layers of ψ.
        steps: of Adam per fit, on batches of 1024 places.
        rate: its step size.
    """

    def __init__(
        self, dims: int, width: int = 64, depth: int = 2, steps: int = 300, rate: float = 1e-2
    ):
        super().__init__()
        self.dims, self.steps, self.rate = dims, steps, rate
        self.net = nets.mlp(dims, width, 1, depth).double()
        last = [m for m in self.net.modules() if isinstance(m, nn.Linear)][-1]
        nn.init.zeros_(last.weight)
        self.requires_grad_(False)

    def drift(self, x: Tensor) -> Tensor:
        require_dims(x, self.dims, "GradientMLP")
        return self._slope(x.double()).to(x)

    def jacobian(self, x: Tensor) -> Tensor:
        found: Tensor = torch.func.vmap(torch.func.hessian(self._potential))(x.double())
        return found.to(x)

    def refit(self, x: Tensor, drift: Tensor, weights: Tensor) -> None:
        parameters = list(self.net.parameters())
        for p in parameters:
            p.requires_grad_(True)
        optimizer = torch.optim.Adam(parameters, self.rate)
        share = (weights / weights.mean())[:, None]
        with torch.enable_grad():
            for _ in range(self.steps):
                rows = torch.randint(len(x), (min(1024, len(x)),), device=x.device)
                error = (share[rows] * (self._slope(x[rows]) - drift[rows]) ** 2).mean()
                optimizer.zero_grad()
                error.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        for p in parameters:
            p.requires_grad_(False)

    def parameters_by_name(self) -> dict[str, Tensor]:
        return dict(self.net.named_parameters())

    def _potential(self, x: Tensor) -> Tensor:
        found: Tensor = self.net(x)[..., 0]
        return found

    def _slope(self, x: Tensor) -> Tensor:
        found: Tensor = torch.func.grad(lambda z: self._potential(z).sum())(x)
        return found


class Custom(Reference):
    """f(x, θ) as the user writes it, fitted by Levenberg and Marquardt from where the last fit ended.

    A checkpoint names classes and holds numbers; it cannot hold a function. To save a model, make the
    function a class of its own, derived from `Reference`.

    Args:
        function: (x (P, D), θ (F,)) -> (P, D), in torch.
        theta: θ to start from; the first round uses it as it is.
        steps: most steps of a fit.
    """

    theta: Tensor

    def __init__(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        theta: tuple[float, ...],
        steps: int = 50,
    ):
        super().__init__()
        self.function, self.steps = function, steps
        self.register_buffer("theta", torch.tensor(theta, dtype=torch.float64))

    def drift(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        return self.function(flat, self.theta.to(x)).view_as(x)

    def jacobian(self, x: Tensor) -> Tensor:
        one = torch.func.jacrev(lambda z: self.function(z[None], self.theta.to(x))[0])
        found: Tensor = torch.func.vmap(one)(x)
        return found

    def refit(self, x: Tensor, drift: Tensor, weights: Tensor) -> None:
        root = (weights / weights.sum()).sqrt()[:, None]

        def residual(theta: Tensor) -> Tensor:
            return (root * (self.function(x, theta) - drift)).flatten()

        theta, damping = self.theta.clone(), 1e-3
        off = residual(theta)
        for _ in range(self.steps):
            slope: Tensor = torch.func.jacfwd(residual)(theta)
            gram = slope.mT @ slope
            level = damping * gram.diagonal() + 1e-12
            step = torch.linalg.solve(gram + torch.diag(level), slope.mT @ off)
            moved = residual(theta - step)
            better = bool(moved.square().sum() < off.square().sum())
            damping = damping / 5 if better else damping * 5
            if better:
                theta, off = theta - step, moved
            if float(step.abs().max()) <= 1e-9 * (1 + float(theta.abs().max())):
                break
        self.theta.copy_(theta)

    def parameters_by_name(self) -> dict[str, Tensor]:
        return {f"theta{k}": value for k, value in enumerate(self.theta)}

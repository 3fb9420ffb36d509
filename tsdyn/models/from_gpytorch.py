"""Kernels of gpytorch as kernels with a state: the same parameters, in time that is linear in the data.

A gpytorch kernel of one input keeps its parameters, constraints and priors; only the way to compute
with it changes. What it is made of must have a state space form.
"""

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..maths import matern, periodic, squared_exponential, trend
from ..maths.kernels import Kernel, add, coregionalize, multiply, scale
from .kernels import LearnedKernel

if TYPE_CHECKING:
    import gpytorch

Maker = Callable[[Any], Kernel]


class FromGPyTorch(LearnedKernel):
    """The gpytorch kernel `source`, whose parameters it shares; read at every call of `kernel()`.

    Args:
        source: see `from_gpytorch`.
        order: of the approximation of RBF kernels, 2 to 8.
    """

    def __init__(self, source: "gpytorch.kernels.Kernel", order: int = 6):
        super().__init__()
        self.source, self.order = source, order
        self.kernel()  # refuses at once what has no state

    def kernel(self) -> Kernel:
        return convert(self.source, self.order)


def from_gpytorch(kernel: "gpytorch.kernels.Kernel", order: int = 6) -> FromGPyTorch:
    """The same covariance function with a state, sharing the parameters of `kernel`.

    Taken: Matern, Periodic, Cosine, Linear, Constant and, approximately, RBF and SpectralMixture; Scale,
    sums and products of these; Multitask and LCM kernels of these, whose O outputs stand in its H.
    Kernels may have a batch shape: then it stands for that many kernels side by side.

    Args:
        kernel: of one input dimension.
        order: of the approximation of RBF kernels, 2 to 8.

    Raises:
        ConfigError: X01 for other kernels, for more than one input dimension, and for `active_dims`.
    """
    return FromGPyTorch(kernel, order)


def convert(kernel: Any, order: int) -> Kernel:
    """The kernel at its current values."""
    makers = _makers(order)
    if type(kernel) not in makers:
        known = ", ".join(sorted(k.__name__ for k in makers))
        raise _refused(kernel, "it has no finite state that is known here", f"one of {known}")
    if (kernel.ard_num_dims or 1) > 1:
        raise _refused(kernel, f"it has {kernel.ard_num_dims} input dimensions", "one, the time")
    if kernel.active_dims is not None and kernel.active_dims.tolist() != [0]:
        raise _refused(kernel, f"it reads inputs {kernel.active_dims.tolist()}", "input 0 alone")
    return makers[type(kernel)](kernel)


@functools.cache
def _makers(order: int) -> dict[type, Maker]:
    """How each class of kernels is made. Subclasses are not taken: they may compute something else."""
    from gpytorch import kernels  # takes seconds

    again = functools.partial(convert, order=order)
    return {
        kernels.MaternKernel: lambda k: matern.matern(k.nu, _one(k.lengthscale)),
        kernels.RBFKernel: lambda k: _smooth(k, order),
        # its lengthscale is the square of ours
        kernels.PeriodicKernel: lambda k: periodic.periodic(
            _one(k.lengthscale).sqrt(), _one(k.period_length)
        ),
        kernels.CosineKernel: lambda k: periodic.cosine(math.pi / _one(k.period_length)),
        kernels.LinearKernel: lambda k: trend.linear(_one(k.variance)),
        kernels.ConstantKernel: lambda k: trend.constant(k.constant[..., 0]),
        kernels.SpectralMixtureKernel: lambda k: _spectral_mixture(k, order),
        kernels.ScaleKernel: lambda k: scale(again(k.base_kernel), k.outputscale),
        kernels.AdditiveKernel: lambda k: add(*map(again, k.kernels)),
        kernels.ProductKernel: lambda k: functools.reduce(multiply, map(again, k.kernels)),
        kernels.MultitaskKernel: lambda k: _multitask([k], again),
        kernels.LCMKernel: lambda k: _multitask(k.covar_module_list, again),
    }


def _smooth(kernel: Any, order: int) -> Kernel:
    return squared_exponential.squared_exponential(_one(kernel.lengthscale), 1.0, order)


def _spectral_mixture(kernel: Any, order: int) -> Kernel:
    """sum_q weight_q exp(-2 pi^2 r^2 scale_q^2) cos(2 pi r mean_q)"""
    parts = zip(
        kernel.mixture_weights.unbind(-1),
        kernel.mixture_means[..., 0, 0].unbind(-1),
        kernel.mixture_scales[..., 0, 0].unbind(-1),
    )

    def part(weight: Tensor, mean: Tensor, width: Tensor) -> Kernel:
        envelope = squared_exponential.squared_exponential(1 / (2 * math.pi * width), weight, order)
        return multiply(periodic.cosine(2 * math.pi * mean), envelope)

    return add(*(part(*each) for each in parts))


def _multitask(kernels: Any, convert_one: Maker) -> Kernel:
    """sum_i (W_i W_i' + diag(v_i)) k_i: independent processes for every column of W_i and every output."""
    columns, processes = [], []
    for kernel in kernels:
        task = kernel.task_covar_module
        columns += [task.covar_factor, torch.diag_embed(task.var.sqrt())]
        process = convert_one(kernel.data_covar_module)
        processes += [process] * (task.covar_factor.shape[-1] + task.var.shape[-1])
    return coregionalize(processes, torch.cat(columns, -1))


def _one(parameter: Tensor) -> Tensor:
    """(..., 1, 1) -> (...)"""
    return parameter[..., 0, 0]


def _refused(kernel: Any, why: str, wanted: str) -> ConfigError:
    name = type(kernel).__name__
    return ConfigError(
        "X01",
        f"{name} of gpytorch: {why}",
        wanted,
        "Use another kernel, or gpytorch's own dense Gaussian process",
    )

"""Oracle: the kernel itself, as gpytorch computes it."""

import gpytorch
import pytest
import torch
from gpytorch.kernels import (
    ConstantKernel,
    CosineKernel,
    LCMKernel,
    LinearKernel,
    MaternKernel,
    MultitaskKernel,
    PeriodicKernel,
    PiecewisePolynomialKernel,
    PolynomialKernel,
    RBFKernel,
    RQKernel,
    ScaleKernel,
    SpectralMixtureKernel,
)

from tsdyn.errors import ConfigError
from tsdyn.maths.kernels import gram
from tsdyn.models.from_gpytorch import from_gpytorch


@pytest.fixture(autouse=True)
def doubles():
    """gpytorch rounds the numbers given to it to the default precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def spectral_mixture():
    kernel = SpectralMixtureKernel(num_mixtures=2)
    kernel.mixture_weights = torch.tensor([0.4, 0.8])
    kernel.mixture_means = torch.tensor([0.3, 1.1]).view(2, 1, 1)
    kernel.mixture_scales = torch.tensor([0.2, 0.5]).view(2, 1, 1)
    return kernel


EXACT = {
    "Matérn 1/2": lambda: MaternKernel(nu=0.5),
    "Matérn 3/2": lambda: MaternKernel(nu=1.5),
    "Matérn 5/2": lambda: MaternKernel(nu=2.5),
    "periodic": PeriodicKernel,
    "cosine": CosineKernel,
    "linear": LinearKernel,
    "constant": ConstantKernel,
    "scaled": lambda: ScaleKernel(MaternKernel(nu=1.5)),
    "sum": lambda: ScaleKernel(MaternKernel(nu=2.5)) + ScaleKernel(PeriodicKernel()),
    "product": lambda: ScaleKernel(MaternKernel(nu=1.5) * PeriodicKernel()),
    "nested": lambda: (LinearKernel() + MaternKernel(nu=0.5)) * CosineKernel() + ConstantKernel(),
    "active": lambda: MaternKernel(nu=0.5, active_dims=[0], ard_num_dims=1),
}
APPROXIMATE = {
    "RBF": (lambda: ScaleKernel(RBFKernel()), 6.1e-4),
    "spectral mixture": (spectral_mixture, 1.3e-3),
}


def shaken(kernel):
    """Every parameter moved from where all kernels begin."""
    with torch.no_grad():
        for parameter in kernel.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return kernel


def both(kernel, converted, n=25, m=18):
    t, u = torch.rand(n) * 3, torch.rand(m) * 3
    theirs = kernel(t[:, None], u[:, None]).to_dense()
    return gram(converted.kernel(), t, u)[..., 0, 0], theirs


@pytest.mark.parametrize("name", EXACT)
def test_the_covariance_is_the_same(name):
    kernel = shaken(EXACT[name]())
    ours, theirs = both(kernel, from_gpytorch(kernel))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
    assert not from_gpytorch(kernel).kernel().approximate


@pytest.mark.parametrize("name", APPROXIMATE)
def test_the_covariance_is_nearly_the_same(name):
    make, bound = APPROXIMATE[name]
    kernel = make()
    converted = from_gpytorch(kernel, order=8)
    ours, theirs = both(kernel, converted)
    scale = float(theirs.detach().max())
    assert 0 < float((ours - theirs).detach().abs().max()) < bound * max(scale, 1.0)
    assert converted.kernel().approximate


@pytest.mark.parametrize("name", EXACT)
def test_parameters_are_shared(name):
    """The same objects: an optimizer of one trains the other; gradients agree."""
    kernel = shaken(EXACT[name]())
    converted = from_gpytorch(kernel)
    assert {id(p) for p in converted.parameters()} == {id(p) for p in kernel.parameters()}
    shaken(kernel)  # after the conversion
    torch.manual_seed(1)
    ours, theirs = both(kernel, converted)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
    weights = torch.randn_like(ours)
    parameters = list(kernel.parameters())
    grads = [torch.autograd.grad((k * weights).sum(), parameters) for k in (ours, theirs)]
    for ours, theirs in zip(*grads):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("rank", [1, 2])
def test_kernels_of_several_outputs(rank):
    t, u = torch.rand(7), torch.rand(5)
    for kernel in (
        MultitaskKernel(MaternKernel(nu=1.5), num_tasks=3, rank=rank),
        LCMKernel([MaternKernel(nu=0.5), PeriodicKernel()], num_tasks=3, rank=rank),
    ):
        theirs = shaken(kernel)(t[:, None], u[:, None]).to_dense()  # (7 3, 5 3)
        ours = gram(from_gpytorch(kernel).kernel(), t, u).transpose(1, 2).reshape(21, 15)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_a_batch_of_kernels():
    batch = torch.Size([3])
    kernel = ScaleKernel(MaternKernel(nu=2.5, batch_shape=batch), batch_shape=batch)
    shaken(kernel)
    t = torch.rand(3, 9)
    theirs = kernel(t[..., None]).to_dense()
    ours = gram(from_gpytorch(kernel).kernel(), t, t)[..., 0, 0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


class Squared(MaternKernel):
    """A user's own, which computes something else."""

    def forward(self, x1, x2, **kwargs):
        return super().forward(x1, x2, **kwargs).square()


@pytest.mark.parametrize(
    "make, reason",
    [
        (RQKernel, "no finite state"),
        (lambda: PolynomialKernel(power=2), "no finite state"),
        (PiecewisePolynomialKernel, "no finite state"),
        (lambda: ScaleKernel(RQKernel() + MaternKernel(nu=0.5)), "RQKernel"),
        (Squared, "Squared of gpytorch"),
        (lambda: MaternKernel(nu=1.5, ard_num_dims=2), "2 input dimensions"),
        (lambda: ScaleKernel(RBFKernel(ard_num_dims=3)), "3 input dimensions"),
        (lambda: MaternKernel(nu=1.5, active_dims=[1]), r"reads inputs \[1\]"),
        (lambda: MaternKernel(nu=1.5, active_dims=[0, 1]), r"reads inputs \[0, 1\]"),
    ],
)
def test_what_has_no_state_is_refused_with_the_reason(make, reason):
    with pytest.raises(ConfigError, match=f"TSD-X01.*{reason}"):
        from_gpytorch(make())


def test_constraints_and_priors_stay():
    kernel = MaternKernel(
        nu=1.5,
        lengthscale_constraint=gpytorch.constraints.Interval(0.1, 2.0),
        lengthscale_prior=gpytorch.priors.GammaPrior(2.0, 1.0),
    )
    converted = from_gpytorch(kernel)
    with torch.no_grad():
        kernel.raw_lengthscale.fill_(1e3)
    assert converted.source is kernel and len(list(kernel.named_priors())) == 1
    ours, theirs = both(kernel, converted)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)

"""Coefficients are those of least squares, and the process varies about what they make."""

import math

import torch

from tsdyn.batch import Paths
from tsdyn.models.gp import StateSpaceGP
from tsdyn.models.kernels import Constant, Linear, Matern, Sum
from tsdyn.models.likelihoods import GaussianNoise
from tsdyn.models.mean_functions import MeanFunction


def test_a_function_of_its_kind_is_found_again():
    """Two channels with holes of their own; a line and two harmonics of a season."""
    t = (20 * torch.rand(3, 50).double()).sort(1).values
    wave = 2 * math.pi * t / 3
    x = torch.stack([1 + 0.2 * t + torch.cos(wave), -2 + torch.sin(2 * wave)], -1)
    mask = torch.rand(3, 50, 2) > 0.4
    mean = MeanFunction(2, 1, (3.0,))
    mean.start(Paths(t, x.where(mask, torch.nan), mask))
    torch.testing.assert_close(mean(t), x, rtol=0, atol=1e-7)


def test_a_constant_is_the_mean_of_what_was_observed():
    t, x = torch.arange(6.0).view(2, 3), torch.randn(2, 3, 1)
    mask = torch.tensor([[1, 1, 0], [1, 0, 1]]).bool()[..., None]
    mean = MeanFunction(1)
    mean.start(Paths(t, x.where(mask, torch.nan), mask))
    torch.testing.assert_close(mean(t[0])[0, 0], x[mask].double().mean(), rtol=1e-9, atol=0)


def test_a_channel_never_seen_keeps_zero():
    t, x = torch.arange(3.0)[None], torch.ones(1, 3, 2)
    mask = torch.tensor([True, False]).expand(1, 3, 2)
    mean = MeanFunction(2)
    mean.start(Paths(t, x, mask))
    torch.testing.assert_close(mean(t)[0, 0], torch.tensor([1.0, 0.0]).double())


def test_coefficients_of_unknown_size_are_kernels():
    """With large variances of level and slope the posterior is that about the generalised least-squares
    line; the difference between both is of the order of one over the variance."""
    t = (3 * torch.rand(1, 15).double()).sort(1).values
    x = (1.0 + 2 * t + 0.3 * torch.randn(1, 15).double())[..., None]
    paths = Paths(t, x, torch.ones_like(x, dtype=torch.bool))
    noise, smooth = GaussianNoise(1, 0.3, fixed=True), Matern(0.5, 0.6, fixed=["lengthscale"])
    smooth.log_variance.requires_grad_(False)
    plugged = StateSpaceGP(1, smooth, noise, MeanFunction(1, 1)).fit(paths, 500)
    broad = StateSpaceGP(1, Sum([smooth, Constant(1e6), Linear(1e6)]), noise, "zero")
    at = torch.linspace(0, 3, 9).double()[None]
    a, b = plugged.posterior(paths, at), broad.posterior(paths, at)
    torch.testing.assert_close(a.mean, b.mean, rtol=0, atol=1e-3)
    assert (b.var > a.var).all()

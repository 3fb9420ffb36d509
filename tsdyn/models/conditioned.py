"""A Gaussian process given what is observed, asked for means, variances and covariances at any times."""

import functools
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from ..batch import Gaussian, Paths, merge, query
from ..errors import ModelError
from ..maths.chain_rows import at_rows, joint_covariance
from ..maths.interpolation import interpolate
from ..maths.kalman import LinearGaussian, Messages, messages, posterior
from .process import Process, require_times, to_channels

if TYPE_CHECKING:
    from .gp import StateSpaceGP

JITTER = 1e-10  # of the largest variance, for factors of covariances


class Conditioned:
    """p(x | given) of a `StateSpaceGP`; what is given is worked through once.

    Args:
        model: with the parameters of the moment.
        given: what is observed.
    """

    def __init__(self, model: "StateSpaceGP", given: Paths):
        self.model, self.given = model, given

    def __call__(self, times: Tensor, latent: bool = False) -> "Answer":
        """The law of x at times (T,) or (B, T), in any order; of m + f, without noise, if latent."""
        at = times.expand(len(self.given.t), -1)
        require_times(at, ordered=False)
        return Answer(self, at, latent)

    def law(self, at: Tensor) -> Gaussian:
        """Mean and variance of m + f at times (B, T), in any order, for O(1) each."""
        process, known = self._known
        kernel, H = process.kernel, process.kernel.H

        def before(t: Tensor) -> tuple[Tensor, Tensor]:
            return t.new_zeros(H.shape[-1]), kernel.covariance(t)

        start = None if kernel.stationary else before
        found = interpolate(known, process.t, at[:, None], kernel.transition, start)
        mean = found.mean @ H.mT  # (B, C, T, O)
        var = _carried(H[..., None, :, :], found.cov).diagonal(dim1=-2, dim2=-1)
        return Gaussian(to_channels(mean) + self.model.level(at), to_channels(var))

    def chain(self, at: Tensor) -> tuple[LinearGaussian, Tensor]:
        """The states at times (B, T), put in order, as a chain (B, C, T); and where each went: (B, T)."""
        require_times(at, ordered=False)
        ordered, order = at.to(self.given.t.dtype).sort(dim=1, stable=True)
        both, rows = merge(self.given, query(ordered, self.given))
        process = self.model.process(both)
        kept = at_rows(posterior(process.chain, process.sites), rows[:, None])
        return kept, order.argsort(dim=1)

    def covariance(self, at: Tensor) -> Tensor:
        """Cov of m + f between all times (B, T) and channels: (B, T, D, T, D)."""
        kept, place = self.chain(at)
        (B, T), H = at.shape, self.model.kernel.kernel().H
        outputs, size = H.shape[-2:]
        C = self.model.dim // outputs
        states = joint_covariance(kept)  # (..., T S, T S)
        states = states.reshape(*states.shape[:-2], T, size, T, size).transpose(-2, -3)
        states = states.expand(B, C, T, T, size, size)
        own = _carried(H[..., None, None, :, :], states)  # (B, C, T, T, O, O)
        own = own.take_along_dim(place[:, None, :, None, None, None], 2)
        own = own.take_along_dim(place[:, None, None, :, None, None], 3)
        whole = torch.diag_embed(own.movedim(1, -1))  # (B, T, T, O, O, C, C)
        return whole.permute(0, 1, 5, 3, 2, 6, 4).reshape(B, T, C * outputs, T, C * outputs)

    @functools.cached_property
    def _known(self) -> tuple[Process, Messages]:
        process = self.model.process(self.given)
        return process, messages(process.chain, process.sites)


class Answer:
    """The law of x, or without noise of m + f, at times (B, T), in double precision.

    Args:
        source: what is known.
        at: (B, T).
        latent: without noise.
    """

    def __init__(self, source: Conditioned, at: Tensor, latent: bool):
        self.source, self.at, self.latent = source, at, latent

    @property
    def mean(self) -> Tensor:
        """(B, T, D)"""
        return self._law.mean

    @property
    def variance(self) -> Tensor:
        """(B, T, D)"""
        return self._law.var

    @functools.cached_property
    def covariance(self) -> Tensor:
        """Between all times and channels: (B, T D, T D), channels of a time side by side; for few times.

        Raises:
            ModelError: M05 where noise does not add to f: then only f has a covariance here.
        """
        whole = self.source.covariance(self.at).flatten(3).flatten(1, 2)
        if self.latent:
            return whole
        if not self.source.model.likelihood.additive:
            raise ModelError(
                "M05",
                "the covariance of values whose law given f is not Gaussian",
                "`latent=True`, the covariance of f",
                "Or draw values with `model.sample`",
            )
        noise = self.variance - self.source.law(self.at).var
        return whole + torch.diag_embed(noise.flatten(1))

    @functools.cached_property
    def distribution(self) -> MultivariateNormal:
        """All values at once, events of T D numbers; the variances are a ten-billionth larger."""
        whole = self.covariance
        largest = whole.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True)
        jitter = (JITTER * largest).expand(whole.shape[:-1])
        return MultivariateNormal(self.mean.flatten(1), whole + torch.diag_embed(jitter))

    @functools.cached_property
    def _law(self) -> Gaussian:
        f = self.source.law(self.at)
        return f if self.latent else self.source.model.likelihood.values(f)


def _carried(H: Tensor, P: Tensor) -> Tensor:
    """H P H'"""
    return H @ P @ H.mT

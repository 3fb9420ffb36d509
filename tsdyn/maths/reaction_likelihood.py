"""How likely noisy observations of a reaction network are, by the linear noise approximation.

    x(t_1) ~ start,   y_k = G x(t_k) + e_k,   e_k ~ N(0, R)

Between observations x is Gaussian with the mean and covariance of `linear_noise`; at each a Kalman update is
made, and the rate equations start anew from the mean it finds  [1]. So they follow the data, and not one
path of their own that leaves them as time goes on  [2]. Mean and covariance of every step are exact for linear
networks. Numbers of molecules should be tens at least, where a Gaussian law stands for counts; where a mean
falls below zero, the rate equations start from zero.

[1] Fearnhead, Giagos & Sherlock. Inference for reaction networks using the linear noise approximation.
    Biometrics 70, 2014.
[2] Komorowski, Finkenstädt, Harper & Rand. Bayesian inference of biochemical kinetic parameters using the
    linear noise approximation. BMC Bioinformatics 10, 2009: without starting anew.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DataError, ModelError
from .reactions import ReactionNetwork, linear_noise

LOG_2_PI = math.log(2 * math.pi)


class Gaussian(NamedTuple):
    """The law of x at the first row of each series, before anything is seen."""

    mean: Tensor  # (S,) or (B, S)
    cov: Tensor  # (S, S) or (B, S, S); zero where the start is known


class Reading(NamedTuple):
    """y = G x + e, e ~ N(0, R): what is measured of the species."""

    G: Tensor  # (D, S)
    R: Tensor  # (D, D)


class Filtered(NamedTuple):
    """What is known at every row from the rows up to it."""

    mean: Tensor  # (B, T, S)
    cov: Tensor  # (B, T, S, S)
    log_scale: Tensor  # (B, T)  log density of what is seen there, given all before

    @property
    def log_likelihood(self) -> Tensor:
        """(B,)"""
        return self.log_scale.sum(-1)


def log_likelihood(
    network: ReactionNetwork,
    start: Gaussian,
    reading: Reading,
    t: Tensor,
    y: Tensor,
    mask: Tensor,
    rtol: float = 1e-6,
) -> Tensor:
    """log p(y_1, ..., y_T) of each series: (B,), differentiable in rates, start and reading.

    Args (of both):
        network: rates (R,), or (B, R) for each series its own.
        t: (B, T) that do not decrease; padding repeats the last time.
        y, mask: (B, T, D), True where it was observed; single channels may be missing.
        rtol: of the steps in time.

    Raises:
        DataError: D14 for shapes that do not fit, D17 for times that decrease.
        ModelError: M04 where a covariance of what is seen is not positive, M03 where the rate equations run away.
    """
    return filtered(network, start, reading, t, y, mask, rtol).log_likelihood


def filtered(
    network: ReactionNetwork,
    start: Gaussian,
    reading: Reading,
    t: Tensor,
    y: Tensor,
    mask: Tensor,
    rtol: float = 1e-6,
) -> Filtered:
    """The law of x at each row given all that is seen up to it  [1]"""
    _require_shapes(network, start, reading, t, y, mask)
    B, S = len(t), network.change.shape[1]
    t, y = t.double(), y.double().where(mask, 0.0)
    reading = Reading(reading.G.double(), reading.R.double())
    mean, cov = start.mean.double().expand(B, S), start.cov.double().expand(B, S, S)
    found = []
    for k in range(t.shape[1]):
        if k:
            # below zero propensities would be negative, and the variances that they add up to
            ahead = linear_noise(network, mean.clamp(min=0), t[:, k - 1 : k + 1], cov, rtol)
            mean, cov = ahead.mean[:, -1], ahead.cov[:, -1]
        mean, cov, log_scale = _updated(mean, cov, reading, y[:, k], mask[:, k], k)
        found.append((mean, cov, log_scale))
    return Filtered(*(torch.stack(f, 1) for f in zip(*found)))


def _updated(
    mean: Tensor, cov: Tensor, reading: Reading, y: Tensor, mask: Tensor, row: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The law (B, S), (B, S, S) once y (B, D) is seen, and log p(y): (B,)

    A channel that is missing reads nothing, with noise of variance one: zero, as y is there.
    """
    G = reading.G * mask[..., None]  # (B, D, S)
    both = mask[:, :, None] & mask[:, None]
    R = torch.where(both, reading.R, torch.diag_embed((~mask).double()))
    apart = y - (G @ mean[..., None])[..., 0]
    factor, failed = torch.linalg.cholesky_ex(G @ cov @ G.mT + R)
    _require_positive(failed, row)
    white = torch.linalg.solve_triangular(factor, apart[..., None], upper=False)[..., 0]
    size = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_density = -white.square().sum(-1) / 2 - size - mask.sum(-1) * LOG_2_PI / 2
    gain = torch.cholesky_solve(G @ cov, factor).mT  # (B, S, D)
    rest = torch.eye(cov.shape[-1]).to(cov) - gain @ G
    # a sum of squares: no variance comes out negative
    new = rest @ cov @ rest.mT + gain @ R @ gain.mT
    return mean + (gain @ apart[..., None])[..., 0], new, log_density


def _require_positive(failed: Tensor, row: int) -> None:
    if bool(failed.any()):
        series = int(failed.nonzero()[0])
        raise ModelError(
            "M04",
            f"the covariance of what is seen in row {row} of series {series} is not positive",
            "noise R of positive variance, and a covariance of the start without negative eigenvalues",
            "Allow for noise, if little, in what is read",
        )


def _require_shapes(
    network: ReactionNetwork, start: Gaussian, reading: Reading, t: Tensor, y: Tensor, mask: Tensor
) -> None:
    D, S = y.shape[-1], network.change.shape[1]
    fits = (
        t.ndim == 2
        and y.shape == mask.shape == (*t.shape, D)
        and reading.G.shape == (D, S)
        and reading.R.shape == (D, D)
        and start.mean.shape[-1] == S
        and start.cov.shape[-2:] == (S, S)
    )
    if not fits:
        raise DataError(
            "D14",
            f"t {tuple(t.shape)}, y {tuple(y.shape)}, mask {tuple(mask.shape)}, G {tuple(reading.G.shape)}, "
            f"R {tuple(reading.R.shape)}, mean {tuple(start.mean.shape)}, cov {tuple(start.cov.shape)}",
            f"(B, T), (B, T, D), (B, T, D), (D, {S}), (D, D), ({S},) and ({S}, {S}) for {S} species",
            "Give each observed channel a row of G",
        )

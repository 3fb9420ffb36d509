"""Draws from Gaussian processes that are known by their covariance, exact in law.

    circulant   stationary, even steps      O(N log N)
    hosking     stationary, even steps      O(N²), value after value, so that a past may be given
    factored    any covariance and times    O(N³)

[1] Davies & Harte. Tests for Hurst effect. Biometrika 74, 1987: circulant embedding.
[2] Perrin, Harba, Jennane & Iribarren. Fast and exact synthesis for 1-D fractional Brownian motion and
    fractional Gaussian noises. IEEE Signal Processing Letters 9, 2002: the circulant matrix of fractional
    noise has no negative eigenvalue.
[3] Hosking. Modeling persistence in hydrological time series using fractional differencing. Water Resources
    Research 20, 1984.
[4] Durbin. The fitting of time-series models. Review of the International Statistical Institute 28, 1960;
    Brockwell & Davis. Time series: theory and methods. Springer 1991, section 5.2.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..errors import ModelError
from .blocks import doubles
from .fractional_exact import fractional_noise


def fractional_noise_paths(
    hurst: Tensor | float, n: int, step: float = 1.0, size: tuple[int, ...] = ()
) -> Tensor:
    """Increments over n steps of fractional Brownian motion of Var B(1) = 1: (*size, ..., n)  [1, 2]

    Args:
        hurst: (...), in (0, 1).
        n: increments.
        step: their duration, in the units in which Var B(1) = 1.
        size: independent draws of each.
    """
    (h,) = doubles(hurst)
    lags = torch.arange(n, dtype=torch.float64, device=h.device)
    unit = circulant(fractional_noise(h[..., None])(torch.zeros_like(lags), lags), size)
    return unit * step ** h[..., None]


def fractional_brownian_paths(
    hurst: Tensor | float, n: int, step: float = 1.0, size: tuple[int, ...] = ()
) -> Tensor:
    """B(0) = 0, B(step), ..., B(n step): (*size, ..., n + 1); arguments as of `fractional_noise_paths`."""
    noise = fractional_noise_paths(hurst, n, step, size)
    return torch.nn.functional.pad(noise.cumsum(-1), (1, 0))


def circulant(autocovariance: Tensor, size: tuple[int, ...] = ()) -> Tensor:
    """N(0, C), C_ij = r(|i - j|), as a stretch of a process on a circle of 2 n - 2 steps: (*size, ..., n)  [1]

    Args:
        autocovariance: (..., n), r(0), ..., r(n - 1).
        size: independent draws of each.

    Raises:
        ModelError: M04 where that process does not exist, though the stretch may: `hosking` draws it.
    """
    (r,) = doubles(autocovariance)
    n = r.shape[-1]
    around = torch.cat([r, r[..., 1:-1].flip(-1)], -1)
    power = torch.fft.rfft(around).real  # (..., n)
    least = (power.amin(-1) / power.amax(-1)).min()
    if least < -1e-12:
        raise ModelError(
            "M04",
            f"the circulant matrix of {n} autocovariances has an eigenvalue of {least:.1e} times its largest",
            "no negative eigenvalue",
            "Draw with `hosking` or `factored`, or from autocovariances at more lags",
        )
    length = around.shape[-1]
    parts = torch.randn(*size, *power.shape, 2, dtype=r.dtype, device=r.device)
    # the mean and the alternating part are real, the others complex of variance 1
    real = torch.ones(n, dtype=torch.bool, device=r.device)
    real[1:-1] = False
    spectrum = torch.complex(
        parts[..., 0] * real.where(real, 0.5**0.5), parts[..., 1] * (~real).where(real, 0.5**0.5)
    )
    spectrum = spectrum * (power.clamp(min=0) * length).sqrt()
    drawn: Tensor = torch.fft.irfft(spectrum, n=length)
    return drawn[..., :n]


def hosking(
    autocovariance: Tensor, size: tuple[int, ...] = (), given: Tensor | None = None
) -> Tensor:
    """x_k = sum_j phi_kj x_{k-j} + sqrt(v_k) z_k, each value from all before it: (*size, ..., n)  [3]

    Args:
        autocovariance: (..., n), r(0), ..., r(n - 1).
        size: independent draws of each.
        given: (..., m), the first m values, m <= n; they come back in front. The rest is drawn from its law
            given them.

    Raises:
        ModelError: M04 if these are the autocovariances of no process.
    """
    (r,) = doubles(autocovariance)
    known = r.new_zeros(*r.shape[:-1], 0) if given is None else given.to(r)
    shape = (r[..., 0] + known.sum(-1)).shape
    z = torch.randn(*size, *shape, r.shape[-1], dtype=r.dtype, device=r.device)
    x = torch.zeros_like(z)
    past = known.shape[-1]
    x[..., :past] = known
    for k, (phi, variance) in enumerate(durbin_levinson(r)):
        if k >= past:
            expected = (phi * x[..., :k].flip(-1)).sum(-1)
            x[..., k] = expected + variance.sqrt() * z[..., k]
    return x


def durbin_levinson(autocovariance: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """For k = 0, ..., n - 1 the best linear prediction of x_k, sum_j phi_j x_{k-j}, and its error  [4]

    Args:
        autocovariance: (..., n), r(0), ..., r(n - 1).

    Yields:
        phi (..., k), of the last value first, and the variance (...) of what is not predicted.

    Raises:
        ModelError: M04 if a variance is not positive.
    """
    r = autocovariance
    phi, variance = r[..., :0], r[..., 0]
    for k in range(r.shape[-1]):
        if k:
            partial = (r[..., k] - (phi * r[..., 1:k].flip(-1)).sum(-1)) / variance
            phi = torch.cat([phi - partial[..., None] * phi.flip(-1), partial[..., None]], -1)
            variance = variance * (1 - partial**2)
        if not bool((variance > 0).all()):
            raise ModelError(
                "M04",
                f"given {k} values the variance of the next is {variance.min():.1e}",
                "a positive variance",
                "Check that the autocovariances belong to a process; use fewer lags",
            )
        yield phi, variance


def factored(covariance: Tensor, size: tuple[int, ...] = ()) -> Tensor:
    """L z with L L' = covariance (..., N, N), for any times: (*size, ..., N)

    Values of variance zero, such as that at time 0, are zero.

    Raises:
        ModelError: M04 if what remains is not positive definite.
    """
    (C,) = doubles(covariance)
    still = C.diagonal(dim1=-2, dim2=-1) == 0
    L, failed = torch.linalg.cholesky_ex(C + torch.diag_embed(still.to(C.dtype)))
    if bool(failed.any()):
        raise ModelError(
            "M04",
            f"the covariance of {C.shape[-1]} values has no Cholesky factor",
            "a positive definite matrix",
            "Leave out times that are equal or too close to each other",
        )
    z = torch.randn(*size, *C.shape[:-1], dtype=C.dtype, device=C.device)
    drawn: Tensor = (L @ z[..., None])[..., 0]
    return drawn.where(~still, 0.0)

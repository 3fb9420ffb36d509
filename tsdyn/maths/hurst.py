"""The Hurst index H of evenly sampled series, each estimate with its standard error.

    variogram            Var(X(t + a) - X(t)) ~ a^2H, small lags a                               [1]
    haar                 Var(X(t + 2 a) - 2 X(t + a) + X(t)) ~ a^2H, dyadic a                    [2]
    dfa                  detrended fluctuation: residuals of lines through windows of a steps ~ a^H  [3]
    rescaled_range       R/S, divided by what it is for independent values                       [4, 5]
    whittle              least distance of the periodogram from the spectrum of fractional noise [6]
    maximum_likelihood   of fractional noise of unknown scale and mean, exact                    [7]

The last two are efficient if the increments are fractional noise; whittle costs O(N log N), the likelihood
O(N²). The first four ask only how variability grows with the span; of these, the variogram takes a drift
for persistence. The standard errors of all six are those under fractional noise.

[1] Constantine & Hall. Characterizing surface smoothness via estimation of effective fractal dimension.
    Journal of the Royal Statistical Society B 56, 1994.
[2] Abry & Veitch. Wavelet analysis of long-range-dependent traffic. IEEE Transactions on Information
    Theory 44, 1998; Percival & Walden. Wavelet methods for time series analysis. Cambridge 2000.
[3] Peng et al. Mosaic organization of DNA nucleotides. Physical Review E 49, 1994.
[4] Hurst. Long-term storage capacity of reservoirs. Transactions of the ASCE 116, 1951.
[5] Anis & Lloyd. The expected value of the adjusted rescaled Hurst range of independent normal summands.
    Biometrika 63, 1976.
[6] Fox & Taqqu. Large-sample properties of parameter estimates for strongly dependent stationary Gaussian
    time series. Annals of Statistics 14, 1986.
[7] Dahlhaus. Efficient parameter estimation for self-similar processes. Annals of Statistics 17, 1989;
    Harville. Bayesian inference for variance components using only error contrasts. Biometrika 61, 1974:
    the mean integrated out.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError, DataError, did_you_mean
from .fractional_exact import fractional_noise, noise_spectrum
from .gaussian_paths import durbin_levinson, fractional_noise_paths

FEWEST = 64


class HurstEstimate(NamedTuple):
    """One estimate for each series (...); H has no unit."""

    value: Tensor  # (...)  may leave (0, 1) where it is the slope of a line
    standard_error: Tensor  # (...)  says nothing of a peak at an end of (0, 1)
    bias: Tensor  # (...)  of the method at this value and length, not taken off; zero where it vanishes as N grows


def hurst(
    x: Tensor, method: str = "whittle", levels: bool = True, replicates: int = 200
) -> HurstEstimate:
    """H of every series by one method; see the list above.

    Args:
        x: (..., N), evenly sampled and without holes.
        method: a name of `METHODS`.
        levels: True if x is a path, whose increments are noise; False if x is the noise itself.
        replicates: draws of fractional noise of the estimated index, for each series, from which the
            methods that are lines through logarithms take their standard error and bias.

    Raises:
        ConfigError: X01 for an unknown method.
        DataError: D05 for values that are not finite, D10 for fewer than 64 increments, D12 for a constant
            series.
    """
    if method not in METHODS:
        raise ConfigError(
            "X01",
            f"Hurst estimator `{method}`",
            f"one of {', '.join(METHODS)}",
            did_you_mean(method, METHODS),
        )
    return METHODS[method](_noise(x, levels), replicates)


def hurst_table(x: Tensor, levels: bool = True, replicates: int = 200) -> dict[str, HurstEstimate]:
    """Every method of `METHODS` on the same series; arguments as of `hurst`."""
    return {name: hurst(x, name, levels, replicates) for name in METHODS}


def _noise(x: Tensor, levels: bool) -> Tensor:
    noise = x.double().diff() if levels else x.double()
    if not bool(noise.isfinite().all()):
        raise DataError(
            "D05",
            f"{int((~x.isfinite()).sum())} of {x.numel()} values are not finite",
            "evenly sampled series without holes",
            "Cut the series at its holes, or fit H to what was observed by `log_evidence`",
        )
    if noise.shape[-1] < FEWEST:
        raise DataError(
            "D10",
            f"{noise.shape[-1]} increments",
            f"{FEWEST} or more",
            "Give a longer series, or fit H by `log_evidence`",
        )
    if not bool((noise.std(-1) > 0).all()):
        raise DataError(
            "D12", "a series whose increments are all equal", "one that varies", "Drop it"
        )
    return noise


def variogram(noise: Tensor) -> Tensor:
    """Half the slope of log mean (X(t + a) - X(t))² over log a, a = 1, 2, 4: (..., n) -> (...)  [1]"""
    path = _path(noise)
    lags = [1, 2, 4]
    squares = [(path[..., a:] - path[..., :-a]).square().mean(-1) for a in lags]
    return _slope(lags, squares, [1.0, 1.0, 1.0]) / 2


def haar(noise: Tensor) -> Tensor:
    """Half the slope of log mean (X(t + 2 a) - 2 X(t + a) + X(t))² over log a, a = 1, 2, 4, ...  [2]

    All t count, and a scale weighs as many pieces of 2 a steps as the series has; at least 8.
    """
    path = _path(noise)
    n = noise.shape[-1]
    scales = [2**j for j in range(int(math.log2(n / 16)) + 1)]
    squares = [
        (path[..., 2 * a :] - 2 * path[..., a:-a] + path[..., : -2 * a]).square().mean(-1)
        for a in scales
    ]
    return _slope(scales, squares, [1 / a for a in scales]) / 2


def dfa(noise: Tensor) -> Tensor:
    """The slope of log F(a) over log a, F² the mean square of X about the best line in each window of a steps  [3]"""
    path = _path(noise - noise.mean(-1, keepdim=True))[..., 1:]
    windows = _windows(noise.shape[-1])
    fluctuation = []
    for a in windows:
        pieces = _pieces(path, a)
        line = torch.stack([torch.ones(a), torch.arange(a)], -1).to(pieces)
        basis = torch.linalg.qr(line).Q  # (a, 2)
        residual = pieces - pieces @ basis @ basis.T
        fluctuation.append(residual.square().mean((-2, -1)).sqrt())
    return _slope(windows, fluctuation, [1.0] * len(windows))


def rescaled_range(noise: Tensor) -> Tensor:
    """1/2 + the slope of log (R/S)(a) / E(R/S)(a) over log a, E for independent normal values  [4, 5]

    R is the range of the sums of deviations from the mean of a window of a steps, S their standard deviation.
    Exact on average for independent values only; else it draws towards 1/2, from 0.9 to 0.79 and from 0.3 to
    0.34 over 1000 steps, of which the estimated bias tells a half to three quarters.
    """
    windows = _windows(noise.shape[-1])
    ratios = []
    for a in windows:
        pieces = _pieces(noise, a)
        sums = _path(pieces - pieces.mean(-1, keepdim=True))
        spread = sums.amax(-1) - sums.amin(-1)
        ratios.append((spread / pieces.std(-1, correction=0)).mean(-1) / _independent_range(a))
    return 0.5 + _slope(windows, ratios, [1.0] * len(windows))


def _independent_range(a: int) -> float:
    """Gamma((a - 1) / 2) / (sqrt(pi) Gamma(a / 2)) sum_i sqrt((a - i) / i): E R/S of a normal values  [5]"""
    factor = math.exp(math.lgamma((a - 1) / 2) - math.lgamma(a / 2)) / math.sqrt(math.pi)
    return factor * sum(math.sqrt((a - i) / i) for i in range(1, a))


def _path(noise: Tensor) -> Tensor:
    """(..., n + 1), from 0 on."""
    return torch.nn.functional.pad(noise.cumsum(-1), (1, 0))


def _windows(n: int) -> list[int]:
    """About 12 lengths from 16 to a quarter of the series, evenly spaced in their logarithm."""
    logs = torch.linspace(math.log(16), math.log(n / 4), 12, dtype=torch.float64)
    return sorted({int(w) for w in logs.exp().round()})


def _pieces(x: Tensor, a: int) -> Tensor:
    """Windows of a values side by side, those left over at the end dropped: (..., n // a, a)."""
    count = x.shape[-1] // a
    return x[..., : count * a].reshape(*x.shape[:-1], count, a)


def _slope(scales: list[int], y: list[Tensor], weights: list[float]) -> Tensor:
    """Of the weighted least squares line through log y over log scale: (...)."""
    levels = torch.stack(y, -1).log()
    logs = levels.new_tensor(scales).log()
    w = levels.new_tensor(weights)
    centred = w * (logs - (w * logs).sum() / w.sum())
    return (levels * centred).sum(-1) / (centred * logs).sum()


def _simulated(
    statistic: Callable[[Tensor], Tensor],
) -> Callable[[Tensor, int], HurstEstimate]:
    """The statistic, with its spread and bias over draws of fractional noise of the index it found."""

    def estimate(noise: Tensor, replicates: int) -> HurstEstimate:
        value = statistic(noise)
        n = noise.shape[-1]
        at_once = max(1, 2**22 // n)
        error, bias = value.new_empty(2, value.numel())
        for i, found in enumerate(value.flatten()):
            h = found.clamp(0.01, 0.99)
            drawn = torch.cat(
                [
                    statistic(fractional_noise_paths(h, n, size=(min(at_once, replicates - done),)))
                    for done in range(0, replicates, at_once)
                ]
            )
            error[i], bias[i] = drawn.std(), drawn.mean() - h
        return HurstEstimate(value, error.view(value.shape), bias.view(value.shape))

    return estimate


def whittle(noise: Tensor, replicates: int = 0) -> HurstEstimate:
    """max over H of -sum_j log (scale f(w_j)) + I(w_j) / (scale f(w_j)), scale at its best  [6]

    I is the periodogram at the frequencies w_j = 2 pi j / n in (0, pi), so that a mean does not matter, and f the
    whole spectrum, aliases included. No draws are made.
    """
    n = noise.shape[-1]
    count = (n - 1) // 2
    w = 2 * math.pi / n * torch.arange(1, count + 1, dtype=noise.dtype, device=noise.device)
    power = torch.fft.rfft(noise)[..., 1 : count + 1].abs() ** 2  # (..., count)

    def log_likelihood(h: Tensor) -> Tensor:
        f = noise_spectrum(w, h[..., None])
        fit: Tensor = (power / f).mean(-1).log() + f.log().mean(-1)
        return -count * fit

    grid = torch.linspace(0.02, 0.98, 25, dtype=noise.dtype, device=noise.device)
    of_grid = log_likelihood(grid.view(-1, *[1] * (noise.ndim - 1)))
    return _peak(log_likelihood, grid[of_grid.argmax(0)])


def maximum_likelihood(noise: Tensor, replicates: int = 0) -> HurstEstimate:
    """max over H of the density of what the noise says beside its mean, scale at its best  [7]

    By the errors of predicting each value from those before it, which are independent; from Whittle's
    estimate on. No draws are made.
    """
    n = noise.shape[-1]
    lags = torch.arange(n, dtype=noise.dtype, device=noise.device)

    def log_likelihood(h: Tensor) -> Tensor:
        r = fractional_noise(h[..., None])(torch.zeros_like(lags), lags)
        one_one = one_x = x_x = logs = torch.zeros_like(h)
        for k, (phi, variance) in enumerate(durbin_levinson(r)):
            e = noise[..., k] - (phi * noise[..., :k].flip(-1)).sum(-1)
            u = 1 - phi.sum(-1)  # the same of a series of ones
            one_one, one_x = one_one + u**2 / variance, one_x + u * e / variance
            x_x, logs = x_x + e**2 / variance, logs + variance.log()
        rest = x_x - one_x**2 / one_one
        return -((n - 1) * rest.log() + logs + one_one.log()) / 2

    return _peak(log_likelihood, whittle(noise).value)


def _peak(log_likelihood: Callable[[Tensor], Tensor], start: Tensor) -> HurstEstimate:
    """The maximum over H in (0, 1), by parabolas through three points, and 1 / sqrt(-curvature) there.

    Args:
        log_likelihood: H (3, ...) -> (3, ...), of every series (...).
        start: (...), within about 0.1 of the maximum.
    """
    value, error = start, torch.full_like(start, torch.nan)
    for width in (0.04, 0.04, 0.01, 0.01, 0.002, 0.0004):
        value = value.clamp(width + 0.001, 1 - width - 0.001)
        below, here, above = log_likelihood(torch.stack([value - width, value, value + width]))
        bend = 2 * here - below - above
        if width == 0.01:
            error = width / bend.clamp(min=0).sqrt()
        move = width / 2 * (above - below) / bend.where(bend > 0, torch.inf)
        value = value + move.clamp(-width, width)
    return HurstEstimate(value, error, torch.zeros_like(value))


METHODS: dict[str, Callable[[Tensor, int], HurstEstimate]] = {
    "variogram": _simulated(variogram),
    "haar": _simulated(haar),
    "dfa": _simulated(dfa),
    "rescaled_range": _simulated(rescaled_range),
    "whittle": whittle,
    "maximum_likelihood": maximum_likelihood,
}

"""Oracles: definitions written out series by series, dense densities, invariances, fractional noise of known index."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

from tsdyn.errors import ConfigError, DataError
from tsdyn.maths.fractional_exact import fractional_noise, matrix, noise_spectrum
from tsdyn.maths.gaussian_paths import fractional_noise_paths
from tsdyn.maths.hurst import (
    METHODS,
    dfa,
    haar,
    hurst,
    hurst_table,
    maximum_likelihood,
    rescaled_range,
    variogram,
    whittle,
)

LINES = [variogram, haar, dfa, rescaled_range]
PEAKS = [whittle, maximum_likelihood]
WINDOWS = sorted({round(w) for w in np.geomspace(16, 75, 12)})  # of 300 values


def line(scales, values) -> float:
    return float(np.polyfit(np.log(scales), np.log(values), 1)[0])


def noise(hurst: float, n: int = 300) -> torch.Tensor:
    return fractional_noise_paths(hurst, n)


def value(method, x: torch.Tensor) -> torch.Tensor:
    """Of a line or of a peak."""
    return method(x) if method in LINES else method(x).value


@pytest.mark.parametrize("index", [0.3, 0.8])
def test_the_variogram_by_definition(index):
    x = noise(index)
    path = np.concatenate([[0], np.cumsum(x.numpy())])
    squares = [np.mean([(path[i + a] - path[i]) ** 2 for i in range(301 - a)]) for a in (1, 2, 4)]
    assert_close(variogram(x).item(), line([1, 2, 4], squares) / 2)


@pytest.mark.parametrize("index", [0.3, 0.8])
def test_haar_by_definition(index):
    x = noise(index).numpy()
    scales, squares = [1, 2, 4, 8, 16], []
    for a in scales:
        halves = [x[i + a : i + 2 * a].sum() - x[i : i + a].sum() for i in range(301 - 2 * a)]
        squares.append(np.mean(np.square(halves)))
    slope = np.polyfit(np.log(scales), np.log(squares), 1, w=np.array(scales) ** -0.5)[0]
    assert_close(haar(torch.tensor(x)).item(), slope / 2)


@pytest.mark.parametrize("index", [0.3, 0.8])
def test_detrended_fluctuations_by_definition(index):
    x = noise(index).numpy()
    path = np.cumsum(x - x.mean())
    fluctuation = []
    for a in WINDOWS:
        residuals = []
        for start in range(0, 300 - a + 1, a):
            y = path[start : start + a]
            residuals.append(y - np.polyval(np.polyfit(np.arange(a), y, 1), np.arange(a)))
        fluctuation.append(np.sqrt(np.mean(np.square(residuals))))
    assert_close(dfa(torch.tensor(x)).item(), line(WINDOWS, fluctuation))


@pytest.mark.parametrize("index", [0.3, 0.8])
def test_rescaled_ranges_by_definition(index):
    x = noise(index).numpy()
    ratios = []
    for a in WINDOWS:
        found = []
        for start in range(0, 300 - a + 1, a):
            y = x[start : start + a]
            sums = np.cumsum(y - y.mean())
            found.append((max(sums.max(), 0) - min(sums.min(), 0)) / y.std())
        independent = math.gamma((a - 1) / 2) / math.gamma(a / 2) / math.sqrt(math.pi)
        independent *= sum(math.sqrt((a - i) / i) for i in range(1, a))
        ratios.append(np.mean(found) / independent)
    assert_close(rescaled_range(torch.tensor(x)).item(), 0.5 + line(WINDOWS, ratios))


@pytest.mark.parametrize("index", [0.05, 0.3, 0.5, 0.95])
def test_whittle_by_definition(index):
    """The spectrum summed over aliases one by one, its rest as an integral."""
    x = noise(index).numpy()
    w = 2 * np.pi * np.arange(1, 150) / 300
    power = np.abs(np.fft.fft(x)[1:150]) ** 2
    j = np.arange(-300, 301)[:, None]

    def objective(h: float) -> float:
        p = 2 * h + 1
        rest = 2 * (2 * np.pi * 300.5) ** (1 - p) / (p - 1) / (2 * np.pi)
        f = (1 - np.cos(w)) * ((np.abs(w + 2 * np.pi * j) ** -p).sum(0) + rest)
        return np.log(np.mean(power / f)) + np.mean(np.log(f))

    best = minimize_scalar(
        objective, bounds=(0.001, 0.999), method="bounded", options={"xatol": 1e-9}
    )
    assert_close(whittle(torch.tensor(x)).value.item(), best.x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("index", [0.2, 0.5, 0.75])
def test_the_likelihood_by_definition(index):
    """The density of 69 contrasts of 70 values, none of which sees the mean, by dense algebra."""
    x = noise(index, 70)
    contrasts = torch.linalg.qr(torch.cat([torch.ones(70, 1), torch.randn(70, 69)], 1).double()).Q[
        :, 1:
    ]

    def objective(h: float) -> float:
        C = contrasts.T @ matrix(fractional_noise(h), torch.arange(70)) @ contrasts
        y = contrasts.T @ x
        scale = y @ torch.linalg.solve(C, y) / 69
        return -MultivariateNormal(torch.zeros(69).double(), scale * C).log_prob(y).item()

    best = minimize_scalar(
        objective, bounds=(0.002, 0.998), method="bounded", options={"xatol": 1e-9}
    )
    found = maximum_likelihood(x)
    assert_close(found.value.item(), best.x, rtol=0, atol=1e-5)
    width = 0.01
    around = objective(best.x - width) + objective(best.x + width) - 2 * best.fun
    assert_close(found.standard_error.item(), width / math.sqrt(around), rtol=1e-2, atol=0)


def test_the_standard_error_of_whittle_is_that_of_theory():
    """n Var = 4 pi / int (d log f / dH - its mean)² dw over (-pi, pi), by quadrature."""
    n = 20000
    w = (torch.arange(1, 4001, dtype=torch.float64) - 0.5) * math.pi / 4000
    for index in (0.3, 0.7):
        slope = (
            noise_spectrum(w, index + 1e-4).log() - noise_spectrum(w, index - 1e-4).log()
        ) / 2e-4
        expected = (2 / n / slope.var()).sqrt().item()
        found = whittle(noise(index, n)).standard_error.item()
        assert_close(found, expected, rtol=0.05, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_scale_does_not_matter_and_levels_are_sums(method):
    x = noise(0.7)
    path = 5.0 + torch.nn.functional.pad(x.cumsum(-1), (1, 0))
    found = []
    for series, levels in ((x, False), (path, True), (1e-6 * path, True)):
        torch.manual_seed(1)
        found.append(hurst(series, method, levels, replicates=20))
    for other in found[1:]:
        for one, same in zip(found[0], other):
            assert_close(one, same, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", [*LINES, *PEAKS])
def test_a_drift_matters_to_the_variogram_alone(method):
    """Which takes it for persistence."""
    x = noise(0.3)
    still, drifting = value(method, x), value(method, x + 3.0)
    if method is variogram:
        assert drifting > still + 0.2
    else:
        assert_close(drifting, still, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", [*LINES, *PEAKS])
def test_several_series_are_one_after_the_other(method, device):
    x = fractional_noise_paths(torch.tensor([[0.2, 0.6, 0.9]]), 100, size=(2,)).to(device)
    together = value(method, x)
    assert together.shape == (2, 1, 3)
    for one, index in zip(x.view(6, 100), together.view(6)):
        assert_close(value(method, one), index, rtol=0, atol=1e-7)


@pytest.mark.parametrize("method", [variogram, haar, dfa, whittle])
@pytest.mark.parametrize("index", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_the_mean_over_paths_is_the_index(method, index):
    """60 paths of 1024 values: within 0.02 for Whittle, 0.03 for the others, and the error of this mean."""
    x = fractional_noise_paths(index, 1024, size=(60,))
    values = value(method, x)
    room = (0.02 if method is whittle else 0.03) + 3 * (values.std() / 60**0.5).item()
    assert abs(values.mean().item() - index) < room
    assert values.std() < 0.08


@pytest.mark.parametrize("index", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_the_mean_of_the_likelihood_is_the_index(index):
    found = maximum_likelihood(fractional_noise_paths(index, 128, size=(60,)))
    error = found.value.std().item() / 60**0.5
    assert abs(found.value.mean().item() - index) < 0.01 + 3 * error
    assert_close(found.standard_error.mean().item(), found.value.std().item(), rtol=0.4, atol=0)


@pytest.mark.parametrize("index", [0.3, 0.7])
def test_the_bias_of_rescaled_ranges_is_told(index):
    """R/S draws towards 1/2; its estimated bias has the sign and, within 0.03, half to all the size of the true one."""
    x = fractional_noise_paths(index, 512, size=(40,))
    found = hurst(x, "rescaled_range", levels=False, replicates=50)
    true = rescaled_range(fractional_noise_paths(index, 512, size=(1000,))).mean() - index
    share = (found.bias.mean() / true).item()
    assert true * (0.5 - index) > 0 and 0.3 < share < 1.2


def test_a_table_holds_every_method():
    table = hurst_table(noise(0.6).cumsum(-1), replicates=10)
    assert list(table) == list(METHODS)
    for name, found in table.items():
        assert 0.2 < found.value < 1.0, name
        assert 0 < found.standard_error < 0.3, name


@pytest.mark.parametrize("wild", [-0.9, 0.95])
def test_noise_beyond_fractional_noise_stops_at_the_end(wild):
    """Differences of white noise, and nearly a random walk, ask for H outside of (0, 1)."""
    x = torch.randn(3, 400, dtype=torch.float64)
    x = x.diff() if wild < 0 else x.cumsum(-1)
    for method in PEAKS:
        found = method(x).value
        assert ((found < 0.05) if wild < 0 else (found > 0.95)).all()


def test_what_cannot_be_used():
    x = torch.randn(100)
    with pytest.raises(ConfigError, match=r"X01.*Did you mean `whittle`"):
        hurst(x, "whitle")
    with pytest.raises(DataError, match="D10"):
        hurst(x[:64])
    with pytest.raises(DataError, match="D05"):
        hurst(x.where(x < 1, torch.nan))
    with pytest.raises(DataError, match="D12"):
        hurst(torch.zeros(100))


@pytest.mark.slow
@pytest.mark.parametrize("index", [0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("method", ["variogram", "haar", "dfa", "whittle", "maximum_likelihood"])
def test_two_standard_errors_cover_the_index(method, index):
    """In 0.954 of 300 series, less the bias, within 4 standard errors of that share and 0.01."""
    n = 128 if method == "maximum_likelihood" else 512
    found = hurst(fractional_noise_paths(index, n, size=(300,)), method, False, 100)
    inside = (found.value - found.bias - index).abs() < 2 * found.standard_error
    share = inside.double().mean().item()
    assert abs(share - 0.954) < 4 * math.sqrt(0.954 * 0.046 / 300) + 0.01

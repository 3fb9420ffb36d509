"""Oracles: the covariances and evidences of `tsdyn.maths`, finite differences, the exact likelihood of fractional noise."""

import itertools

import gpytorch
import pytest
import torch
from gpytorch.kernels import AdditiveKernel, MaternKernel, ScaleKernel
from torch.testing import assert_close

from tsdyn.errors import ConfigError, DataError
from tsdyn.maths.fractional import (
    covariance,
    geometric_speeds,
    mandelbrot_van_ness,
    riemann_liouville,
    speeds_for,
    stationary,
)
from tsdyn.maths.fractional_exact import (
    fractional_brownian,
    matrix,
    riemann_liouville as exact_riemann_liouville,
    riemann_liouville_variance,
)
from tsdyn.maths.fractional_mean_reversion import mean_reverting
from tsdyn.maths.gaussian_evidence import condition, log_evidence
from tsdyn.maths.gaussian_paths import fractional_brownian_paths
from tsdyn.maths.hurst import maximum_likelihood
from tsdyn.models.gpytorch_kernels import (
    FractionalBrownianKernel,
    MarkovApproximationKernel,
    RiemannLiouvilleKernel,
)

FIVE = geometric_speeds(1 / 20, 20.0, 5)
SEVEN = speeds_for(2.0, 0.05)
MAKES = {"riemann_liouville": riemann_liouville, "mandelbrot_van_ness": mandelbrot_van_ness, "stationary": stationary}  # fmt: skip


@pytest.fixture(autouse=True)
def doubles():
    """gpytorch keeps parameters in the default precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def approximate(make, speeds=FIVE):
    def kernel(**how):
        return MarkovApproximationKernel(speeds, 2.0, make, **how)

    def law(hurst):
        found = make(hurst, speeds, 2.0)
        return lambda s, t: covariance(found, s, found, t)

    return kernel, law


def unit_riemann_liouville(hurst):
    exact = exact_riemann_liouville(hurst)
    return lambda s, t: exact(s, t) / riemann_liouville_variance(hurst)


# the kernel, and Cov(B(s), B(t)) for a Hurst index
CASES = {
    "fractional Brownian": (FractionalBrownianKernel, fractional_brownian),
    "Riemann-Liouville": (RiemannLiouvilleKernel, unit_riemann_liouville),
} | {name: approximate(make) for name, make in MAKES.items()}


def scattered(*size):
    return (2 * torch.rand(*size)).sort(-1).values


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("hurst", [0.15, 0.5, 0.8])
def test_matrices(name, hurst):
    """Of one set of times, of two, and the diagonal."""
    kernel, law = CASES[name]
    made = kernel(hurst=hurst, variance=1.7)
    t, u = scattered(9), scattered(4)
    t[0] = 0.0
    expected = 1.7 * matrix(law(hurst), t)
    assert_close(made(t).to_dense(), expected, rtol=0, atol=1e-10)
    assert_close(made(t, u).to_dense(), 1.7 * matrix(law(hurst), t, u), rtol=0, atol=1e-10)
    assert_close(made(t, diag=True), expected.diagonal(), rtol=0, atol=1e-10)
    assert_close(made(t).diagonal(), expected.diagonal(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_batches(name):
    """Kernels side by side, of shared times and of their own; each alone by its index."""
    kernel, law = CASES[name]
    hurst, variance = torch.tensor([[0.2], [0.5], [0.8]]), torch.tensor([[1.0], [0.3], [2.0]])
    made = kernel(hurst=hurst, variance=variance, batch_shape=torch.Size([3, 1]))
    assert made.hurst.shape == (3, 1, 1, 1)
    shared, own = scattered(5), scattered(3, 2, 5)
    for t in (shared, own):
        full = made(t[..., None]).to_dense()
        flat = made(t[..., None], diag=True)
        assert full.shape == ((3, 1, 5, 5) if t is shared else (3, 2, 5, 5))
        for i, j in itertools.product(range(3), range(full.shape[1])):
            at = t if t is shared else t[i, j]
            expected = variance[i, 0] * matrix(law(hurst[i, 0]), at)
            assert_close(full[i, j], expected, rtol=0, atol=1e-8)
            assert_close(flat[i, j], expected.diagonal(), rtol=0, atol=1e-8)
    alone = made[1, 0](shared).to_dense()
    assert_close(alone, 0.3 * matrix(law(0.5), shared), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("hurst", [0.3, 0.5, 0.8])
def test_gradients(name, hurst):
    """In the raw index and variance, by differences; both of them learn, and nothing else."""
    kernel = CASES[name][0]
    made = (
        MarkovApproximationKernel(geometric_speeds(0.5, 20.0, 3), 2.0, MAKES[name])
        if name in MAKES
        else kernel()
    )
    made.hurst = hurst
    t, u = torch.tensor([0.0, 0.3, 1.1]), torch.tensor([0.3, 2.0])
    names = ["raw_hurst", "raw_variance"]
    raw = [made.get_parameter(n).detach().clone().requires_grad_() for n in names]

    def read(*values):
        with gpytorch.settings.lazily_evaluate_kernels(False):
            found = torch.func.functional_call(made, dict(zip(names, values)), (t, u))
        return found.to_dense()

    assert torch.autograd.gradcheck(read, raw)
    assert [n for n, p in made.named_parameters() if p.requires_grad] == names


class Process(gpytorch.models.ExactGP):
    def __init__(self, t, y, kernel, noise):
        likelihood = gpytorch.likelihoods.FixedNoiseGaussianLikelihood(torch.full_like(y, noise))
        super().__init__(t, y, likelihood)
        self.mean, self.kernel = gpytorch.means.ZeroMean(), kernel

    def forward(self, t):
        return gpytorch.distributions.MultivariateNormal(self.mean(t), self.kernel(t))

    def log_likelihood(self):
        """gpytorch's is a mean over the observations."""
        density = gpytorch.mlls.ExactMarginalLogLikelihood(self.likelihood, self)
        t, y = self.train_inputs[0], self.train_targets
        return density(self(t), y) * y.shape[-1]


@pytest.mark.parametrize("name", CASES)
def test_an_exact_process(name):
    """Its marginal likelihood and its predictions are those of `gaussian_evidence`."""
    kernel, law = CASES[name]
    t, y = scattered(12), torch.randn(12)
    at = torch.tensor([0.05, 0.7, 2.0])
    for hurst in (0.2, 0.7):
        model = Process(t, y, kernel(hurst=hurst), 0.09)
        model.train()
        assert_close(model.log_likelihood(), log_evidence(law(hurst), t, y, 0.09))
        model.eval()
        with torch.no_grad():
            found = model(at)
            mean, C = condition(law(hurst), t, y, 0.09, at)
        assert_close(found.mean, mean, rtol=1e-6, atol=1e-8)
        assert_close(found.covariance_matrix, C, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("hurst", [0.25, 0.7])
def test_the_index_of_a_path_is_found(hurst):
    """From H = 1/2, within one standard error of the exact likelihood of its noise, and that within three of the truth.

    They differ by the mean of the noise, which is zero here and integrated out there.
    """
    n = 150
    path = fractional_brownian_paths(hurst, n, 1 / n)
    t = torch.arange(1, n + 1) / n
    exact = maximum_likelihood(path.diff())
    speeds = speeds_for(1.0, 1 / n)
    kernels = [
        FractionalBrownianKernel(),
        MarkovApproximationKernel(speeds, 1.0, mandelbrot_van_ness),
    ]
    for kernel in kernels:
        model = Process(t, path[1:], kernel, 1e-6)
        model.train()
        found = fitted(model)
        assert abs(found - exact.value) < exact.standard_error
        assert abs(found - hurst) < 3 * exact.standard_error


def fitted(model):
    optimiser = torch.optim.LBFGS(
        model.kernel.parameters(), max_iter=15, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        loss = -model.log_likelihood()
        loss.backward()
        return loss

    optimiser.step(closure)
    return model.kernel.hurst.item()


@pytest.mark.parametrize(
    "hurst, rate", [(0.3, 0), (0.5, 0), (0.7, 0), (0.9, 0), (0.6, 1), (0.8, 1), (0.8, 2)]
)
def test_the_approximation_hardly_changes_the_evidence(hurst, rate):
    """One value 0 ± 0.1 at time 2 of dx = -rate x dt + dB: by 0.002 at most, for five speeds and for the usual ones."""
    exact = mean_reverting(RiemannLiouvilleKernel(hurst=hurst).law(torch.tensor(hurst)), rate)
    t, y = torch.tensor([2.0]), torch.zeros(1)
    for speeds in (FIVE, SEVEN):
        kernel = MarkovApproximationKernel(speeds, 2.0, hurst=hurst)
        near = mean_reverting(kernel.law(torch.tensor(hurst)), rate)
        apart = log_evidence(near, t, y, 0.01) - log_evidence(exact, t, y, 0.01)
        assert abs(apart) < 0.002


def test_kernels_add_and_scale():
    t = scattered(6)
    whole = AdditiveKernel(ScaleKernel(FractionalBrownianKernel(hurst=0.3)), MaternKernel(nu=0.5))
    whole.kernels[0].outputscale = 2.5
    expected = 2.5 * matrix(fractional_brownian(0.3), t) + whole.kernels[1](t).to_dense()
    assert_close(whole(t).to_dense(), expected, rtol=0, atol=1e-10)
    chosen = RiemannLiouvilleKernel(hurst=0.3, active_dims=[1])
    both = torch.stack([torch.randn(6), t], -1)
    assert_close(
        chosen(both).to_dense(), matrix(unit_riemann_liouville(0.3), t), rtol=0, atol=1e-10
    )


def test_the_precision_is_that_of_the_times(device):
    t = scattered(5).to(device)
    for kernel, _ in CASES.values():
        made = kernel(hurst=0.7).to(device)
        double, single = made(t).to_dense(), made.float()(t.float()).to_dense()
        assert single.dtype == torch.float32 and single.device.type == device
        assert_close(single.double(), double, rtol=1e-5, atol=1e-5)


def test_values_and_states():
    """What is set is read, constraints bind, and a state goes from one kernel to another."""
    made = FractionalBrownianKernel(hurst=0.9, variance=0.4)
    assert_close(made.hurst, torch.tensor([[0.9]]))
    assert_close(made.variance, torch.tensor([[0.4]]))
    other = FractionalBrownianKernel()
    assert_close(other.hurst, torch.tensor([[0.5]]))
    other.load_state_dict(made.state_dict())
    assert_close(other.hurst, made.hurst)
    made.raw_hurst.data.fill_(1e4)
    assert 0.98 < made.hurst < 1
    narrow = FractionalBrownianKernel(0.3, hurst_constraint=gpytorch.constraints.Interval(0.1, 0.5))
    with pytest.raises(ConfigError, match=r"index of 0\.7.*between 0\.1 and 0\.5"):
        narrow.hurst = 0.7


def test_bad_input():
    kernel = FractionalBrownianKernel()
    with pytest.raises(ConfigError, match=r"TSD-X01.*2 input dimensions"):
        kernel(torch.rand(4, 2)).to_dense()
    for made in (kernel, RiemannLiouvilleKernel()):
        with pytest.raises(DataError, match="TSD-D17"):
            made(torch.tensor([-1.0, 1.0])).to_dense()
    for wrong in (0.0, 1.0, float("nan")):
        with pytest.raises(ConfigError, match="Hurst index"):
            FractionalBrownianKernel(wrong)
    with pytest.raises(ConfigError, match="variance of -1"):
        RiemannLiouvilleKernel(variance=-1.0)

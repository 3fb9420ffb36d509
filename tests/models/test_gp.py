"""Against dense Gaussians, gpytorch, scipy's splines and closed forms; then invariances and errors."""

import math

import gpytorch
import pytest
import torch
from scipy.interpolate import make_smoothing_spline

from tsdyn.batch import Paths, hide, query, split_after, stack, take
from tsdyn.data.synthetic import OrnsteinUhlenbeck
from tsdyn.data.tasks import Forecasting
from tsdyn.errors import ConfigError, DataError, ModelError
from tsdyn.io import load, save
from tsdyn.lit.fit import fit
from tsdyn.maths.kernels import gram
from tsdyn.models.from_gpytorch import from_gpytorch
from tsdyn.models.gp import StateSpaceGP
from tsdyn.models.kernels import (
    Coregionalized,
    IntegratedWiener,
    LearnedKernel,
    Linear,
    Matern,
    Periodic,
    Product,
    QuasiPeriodic,
    Sum,
)
from tsdyn.models.likelihoods import GaussianNoise
from tsdyn.models.mean_functions import MeanFunction


@pytest.fixture
def doubles():
    """gpytorch passes numbers through the default precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def observed(t, x, mask=None) -> Paths:
    """Paths in double precision, with NaN where nothing was observed."""
    t, x = (torch.as_tensor(f, dtype=torch.float64) for f in (t, x))
    mask = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
    return Paths(t, x.where(mask, torch.nan), mask)


def ragged(B: int, T: int, D: int) -> Paths:
    """Irregular times, some of them shared by two rows; holes; padding at the end of some series."""
    t = 8 * torch.rand(B, T).double()
    t[:, 1] = t[:, 0]
    t = t.sort(1).values
    mask = torch.rand(B, T, D) > 0.3
    length = torch.linspace(T, T - 3, B).long()
    pad = torch.arange(T) >= length[:, None]
    t = torch.where(pad, t.gather(1, length[:, None] - 1), t)
    return observed(t, torch.randn(B, T, D), mask & ~pad[..., None])


def model(kernel: LearnedKernel, dim: int = 1, noise=0.4, mean="zero") -> StateSpaceGP:
    return StateSpaceGP(dim, kernel, GaussianNoise(dim, noise), mean)


def dense(gp: StateSpaceGP, t, u, noise: bool) -> torch.Tensor:
    """Cov of values at (t, u) of one series, over times and channels: (T D, U D)."""
    K = gram(gp.kernel.kernel(), t, u)  # (..., T, U, O, O)
    if K.shape[-1] == gp.dim:
        K = K.transpose(-3, -2).flatten(-2).flatten(-3, -2)
    else:
        own = K[..., 0, 0].expand(gp.dim, -1, -1)
        K = torch.diag_embed(own.movedim(0, -1)).transpose(-3, -2).flatten(-2).flatten(-3, -2)
    if noise:
        K = K + torch.diag(gp.likelihood.variance.repeat(len(t)))
    return K


def dense_log_density(gp: StateSpaceGP, seen: Paths, b: int) -> torch.Tensor:
    here = seen.mask[b].flatten()
    K = dense(gp, seen.t[b], seen.t[b], True)[here][:, here]
    y = (seen.x[b] - gp.level(seen.t)[b]).flatten()[here]
    zero = torch.zeros_like(y)
    return torch.distributions.MultivariateNormal(zero, K).log_prob(y) if len(y) else y.sum()


MIXED = {
    "shared": lambda: model(Matern(1.5, 0.7, 1.3), 2),
    "own": lambda: model(Matern(2.5, [0.7, 2.0], [1.3, 0.4]), 2, [0.4, 0.1]),
    "sum": lambda: model(Sum([Matern(0.5, 0.5), Periodic(1.0, 3.0)]), 2),
    "product": lambda: model(Product([Matern(1.5, 4.0), Periodic(1.0, 3.0, harmonics=4)]), 2),
    "line": lambda: model(Sum([Linear(0.3), Matern(1.5, 0.7)]), 2),
    "mixed": lambda: model(Coregionalized([Matern(0.5, 2.0), Matern(1.5, 0.7)], 2), 2, [0.4, 0.2]),
}


@pytest.mark.parametrize("case", MIXED)
def test_loss_is_the_conditional_density_of_dense_gaussians(case):
    gp, paths = MIXED[case](), ragged(3, 12, 2)
    given, want = hide(paths, torch.rand(3, 12, 2) > 0.5)
    whole = sum(dense_log_density(gp, paths, b) for b in range(3))
    known = sum(dense_log_density(gp, given, b) for b in range(3))
    loss = -(whole - known) / want.mask.sum()
    torch.testing.assert_close(gp.loss(given, want), loss, rtol=1e-9, atol=1e-9)
    learned = [p for p in gp.parameters() if p.requires_grad]
    ours = torch.autograd.grad(gp.loss(given, want), learned)
    exact = torch.autograd.grad(loss, learned)
    torch.testing.assert_close(ours, exact, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("case", MIXED)
def test_covariances_are_those_of_dense_gaussians(case):
    gp, paths = MIXED[case](), ragged(2, 10, 2)
    at = torch.tensor([4.0, -1.0, 9.5, 2.0, 4.0]).double()
    answer = gp.at(paths)(at, latent=True)
    for b in range(2):
        here = paths.mask[b].flatten()
        t, y = paths.t[b], paths.x[b].flatten()[here]
        within = dense(gp, t, t, True)[here][:, here]
        gain = torch.linalg.solve(within, dense(gp, t, at, False)[here]).mT
        mean = gain @ y
        cov = dense(gp, at, at, False) - gain @ dense(gp, t, at, False)[here]
        torch.testing.assert_close(answer.mean[b].flatten(), mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(answer.covariance[b], cov, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(
            answer.variance[b].flatten(), cov.diagonal(), rtol=1e-9, atol=1e-9
        )
    noisy = gp.at(paths)(at)
    extra = gp.likelihood.variance.repeat(len(at))
    torch.testing.assert_close(noisy.covariance, answer.covariance + torch.diag(extra))
    torch.testing.assert_close(noisy.variance, answer.variance + gp.likelihood.variance)


def kernels_of_gpytorch():
    k = gpytorch.kernels

    def periodic():
        made = k.PeriodicKernel()
        made.lengthscale, made.period_length = 1.2, 1.7
        return made

    def matern(nu, lengthscale):
        made = k.MaternKernel(nu)
        made.lengthscale = lengthscale
        return made

    return {
        "Matern-1/2": lambda: matern(0.5, 0.9),
        "Matern-3/2": lambda: matern(1.5, 0.9),
        "Matern-5/2": lambda: matern(2.5, 0.9),
        "sum": lambda: matern(1.5, 0.9) + periodic(),
        "product": lambda: matern(1.5, 6.0) * periodic(),
        "product of Materns": lambda: matern(0.5, 3.0) * matern(2.5, 0.9),
    }


class Exact(gpytorch.models.ExactGP):
    def __init__(self, t, y, likelihood, kernel):
        super().__init__(t, y, likelihood)
        self.mean_module, self.covar_module = gpytorch.means.ZeroMean(), kernel

    def forward(self, t):
        return gpytorch.distributions.MultivariateNormal(self.mean_module(t), self.covar_module(t))


@pytest.mark.parametrize("name", kernels_of_gpytorch())
def test_posterior_is_that_of_gpytorch(name, doubles):
    """400 irregular times, 150 asked, some of them before the first and behind the last."""
    kernel = gpytorch.kernels.ScaleKernel(kernels_of_gpytorch()[name]())
    kernel.outputscale = 1.3
    t = (10 * torch.rand(400)).sort().values
    y = torch.sin(3 * t) + 0.3 * torch.randn(400)
    at = torch.linspace(-2, 12, 150)
    likelihood = gpytorch.likelihoods.GaussianLikelihood()
    likelihood.noise = 0.09
    theirs = Exact(t, y, likelihood, kernel).eval()
    with torch.no_grad(), gpytorch.settings.fast_computations(False, False, False):
        expected = theirs(at)
        mean, var = expected.mean, expected.variance
    ours = model(from_gpytorch(kernel), noise=0.3)
    with torch.no_grad():
        found = ours.at(observed(t[None], y[None, :, None]))(at, latent=True)
    torch.testing.assert_close(found.mean[0, :, 0], mean, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.variance[0, :, 0], var, rtol=0, atol=1e-8)


def test_draws_have_the_covariance_of_the_posterior():
    """Of n normal draws an entry of the covariance errs by sqrt((v_i v_j + c_ij^2) / n), a mean by sqrt(v / n)."""
    gp, paths, n = MIXED["mixed"](), ragged(2, 8, 2), 20_000
    at = torch.tensor([[3.0, 1.0, 9.0], [0.5, 7.0, 6.0]]).double()  # in no order
    with torch.no_grad():
        answer, draws = gp.at(paths)(at), gp.sample(paths, at, n)
        torch.manual_seed(1)
        latent = gp.sample(paths, at, n, latent=True)
        for exact, x in ((answer, draws), (gp.at(paths)(at, latent=True), latent)):
            for b in range(2):
                rows, cov = x[:, b].flatten(1), exact.covariance[b]
                var = cov.diagonal()
                error = ((var[:, None] * var + cov**2) / n).sqrt()
                assert ((rows.mT.cov() - cov).abs() < 5 * error).all()
                miss = (rows.mean(0) - exact.mean[b].flatten()).abs()
                assert (miss < 5 * (var / n).sqrt()).all()


def test_draws_between_dense_observations_are_pinned_to_them():
    gp = model(Matern(2.5, 1.0), noise=1e-4)
    t = torch.linspace(0, 6, 61).double()[None]
    paths = observed(t, torch.sin(t)[..., None])
    at = t[:, :-1] + 0.05
    draws, law = gp.sample(paths, at, 10), gp.posterior(paths, at)
    assert law.var.max().sqrt() < 5e-3  # of a process of variance one
    assert ((draws - torch.sin(at)[..., None]).abs() < 6 * law.var.sqrt()).all()


@pytest.mark.parametrize("case", MIXED)
def test_series_do_not_know_of_each_other(case):
    gp, paths = MIXED[case](), ragged(3, 10, 2)
    at = torch.linspace(-1, 9, 6).double().expand(3, -1)
    together = gp.posterior(paths, at)
    evidence = gp.evidence(paths)
    for b in range(3):
        one = take(paths, [b])
        alone = gp.posterior(one, at[b : b + 1])
        torch.testing.assert_close(together.mean[b], alone.mean[0], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(together.var[b], alone.var[0], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(evidence[b], gp.evidence(one)[0], rtol=1e-10, atol=1e-10)


def test_two_looks_at_one_time_are_one_of_half_the_variance():
    gp = model(Matern(1.5, 0.7), noise=[0.4])
    twice = observed([[0.0, 1.0, 1.0]], [[[0.3], [1.0], [2.0]]])
    once = observed([[0.0, 1.0]], [[[0.3], [1.5]]])
    at = torch.tensor([[0.5, 1.0, 3.0]]).double()
    with torch.no_grad():
        found = gp.posterior(twice, at, latent=True)
        K = gram(gp.kernel.kernel(), once.t[0], once.t[0])[..., 0, 0]
        K = K + torch.diag(torch.tensor([0.16, 0.08], dtype=torch.float64))
        cross = gram(gp.kernel.kernel(), at[0], once.t[0])[..., 0, 0]
        mean = cross @ torch.linalg.solve(K, once.x[0])
    torch.testing.assert_close(found.mean[0], mean, rtol=1e-10, atol=1e-10)


def test_variance_half_way_between_exact_values_of_an_ornstein_uhlenbeck_process():
    """s2 (1 - e^-d) / (1 + e^-d), d the gap in lengthscales."""
    gap, lengthscale, variance = 0.9, 0.6, 1.7
    gp = model(Matern(0.5, lengthscale, variance), noise=1e-9)
    paths = observed([[0.0, gap]], [[[0.2], [-0.4]]])
    found = gp.posterior(paths, torch.tensor([[gap / 2]], dtype=torch.float64), latent=True)
    e = math.exp(-gap / lengthscale)
    assert abs(found.var.item() - variance * (1 - e) / (1 + e)) < 1e-10


def test_integrated_wiener_means_are_smoothing_splines():
    """Noise variance over diffusion is the penalty on the square of the second derivative."""
    t = (10 * torch.rand(40)).double().sort().values
    y = torch.sin(t) + 0.1 * torch.randn(40).double()
    penalty, noise = 0.05, 0.3
    kernel = IntegratedWiener(noise**2 / penalty, level=1e9, slope=1e9, origin=float(t[0]))
    gp = model(kernel, noise=noise)
    at = torch.cat([torch.linspace(float(t[0]), float(t[-1]), 77).double(), t])
    found = gp.posterior(observed(t[None], y[None, :, None]), at[None])
    spline = make_smoothing_spline(t.numpy(), y.numpy(), lam=penalty)
    expected = torch.as_tensor(spline(at.numpy()))
    torch.testing.assert_close(found.mean[0, :, 0].detach(), expected, rtol=0, atol=1e-8)


def test_behind_the_last_value_it_forgets():
    gp = model(Matern(1.5, 0.5, 1.3))
    paths = observed([[0.0, 1.0]], [[[3.0], [5.0]]])
    far = gp.posterior(paths, torch.tensor([[-40.0, 40.0]]).double(), latent=True)
    torch.testing.assert_close(far.mean, torch.zeros(1, 2, 1).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        far.var, torch.full((1, 2, 1), 1.3, dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_nothing_given_is_the_prior():
    gp = model(Matern(1.5, 0.5, 1.3), 2)
    blank = query(torch.zeros(1, 1).double(), observed(torch.zeros(1, 1), torch.zeros(1, 1, 2)))
    law = gp.posterior(blank, torch.tensor([[0.0, 2.0]]).double(), latent=True)
    torch.testing.assert_close(law.var, torch.full((1, 2, 2), 1.3, dtype=torch.float64))
    assert not law.mean.any() and gp.evidence(blank).item() == 0


def test_the_mixture_of_one_process_moves_channels_together():
    """Rank one: x_1 = 2 x_0 but for noise, so that one channel tells the other."""
    kernel = Coregionalized([Matern(1.5, 1.0)], 2)
    kernel.mixing.data = torch.tensor([[1.0], [2.0]]).double()
    gp = model(kernel, 2, noise=1e-4)
    t = torch.linspace(0, 5, 30).double()[None]
    x = torch.stack([torch.sin(t), torch.zeros_like(t)], -1)
    mask = torch.tensor([True, False]).expand(1, 30, 2)
    found = gp.posterior(observed(t, x, mask), t)
    torch.testing.assert_close(found.mean[..., 1], 2 * torch.sin(t), rtol=0, atol=1e-3)


def test_blocks_of_outputs_are_independent():
    """Four channels of a kernel with two outputs: the first two know nothing of the last two."""
    gp, paths = model(MIXED["mixed"]().kernel, 4), ragged(1, 10, 4)
    halves = [
        model(gp.kernel, 2).evidence(paths._replace(x=paths.x[..., d], mask=paths.mask[..., d]))
        for d in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(gp.evidence(paths), halves[0] + halves[1], rtol=1e-10, atol=1e-10)
    answer = gp.at(paths)(torch.tensor([1.0, 5.0]).double(), latent=True)
    cov = answer.covariance.reshape(2, 4, 2, 4)
    assert not cov[:, :2, :, 2:].any() and cov[:, :2, :, :2].all()
    torch.testing.assert_close(cov.flatten(2).flatten(0, 1).diagonal(), answer.variance.flatten())


def test_the_distribution_is_torchs():
    gp, paths = model(Matern(1.5, 0.7)), ragged(1, 10, 1)
    answer = gp.at(paths)(torch.tensor([1.0, 2.0, 9.0]).double())
    other = gp.loss(paths, observed(torch.tensor([[1.0, 2.0, 9.0]]), torch.ones(1, 3, 1)))
    log_prob = answer.distribution.log_prob(torch.ones(1, 3).double())
    torch.testing.assert_close(-log_prob.sum() / 3, other, rtol=0, atol=1e-8)


def test_fit_finds_the_largest_marginal_likelihood():
    """No gradient is left, and the evidence is above that of the law that made the data."""
    truth = OrnsteinUhlenbeck(n=5, length=80, rate=0.7, sigma=0.5, level=2.0, noise=0.1)
    paths = truth()
    gp = StateSpaceGP(1, Matern(0.5)).fit(paths)
    gp.zero_grad()
    loss = -gp.evidence(paths).sum() / paths.mask.sum()
    loss.backward()
    assert all(p.grad.abs().max() < 1e-4 for p in gp.parameters())
    exact = model(Matern(0.5, 1 / 0.7, 0.25 / 1.4), noise=0.1, mean=MeanFunction(1))
    exact.on_epoch(0, (paths, paths))
    exact.mean.coefficients.data.fill_(2.0)
    assert gp.evidence(paths).sum() >= exact.evidence(paths).sum()
    assert gp.channels == paths.names.channels


def test_fit_keeps_lengthscales_between_their_bounds():
    """White noise wants none, a constant an endless one; the span is 10."""
    t = torch.linspace(0, 10, 200).double()[None]
    for x, low, high in ((torch.randn(1, 200, 1), 1e-2, 3e-2), (torch.ones(1, 200, 1), 1e3, 1e3)):
        kernel = Matern(0.5, 1.0, fixed=["variance"])
        noise = GaussianNoise(1, 1e-2, fixed=True)
        gp = StateSpaceGP(1, kernel, noise, "zero").fit(observed(t, x))
        found = gp.kernel.value("lengthscale").item()
        assert low * (1 - 1e-9) <= found <= high * (1 + 1e-9)


def test_training_puts_stray_lengthscales_back():
    paths = ragged(2, 12, 1)
    kernel = Sum([Matern(0.5, 1e9), QuasiPeriodic(0.8, 2.0, 1e-9, harmonics=2)])
    gp = StateSpaceGP(1, kernel)
    gp.on_epoch(0, (paths, paths))
    span = float(gp.span)
    assert kernel.kernels[0].value("lengthscale").item() == pytest.approx(100 * span)
    assert kernel.kernels[1].value("decay").item() == pytest.approx(1e-3 * span)
    assert kernel.kernels[1].value("lengthscale").item() == pytest.approx(0.8)  # without units


def test_training_by_gradient_raises_the_marginal_likelihood():
    paths = OrnsteinUhlenbeck(n=8, length=30)()
    gp = StateSpaceGP(1)
    gp.on_epoch(0, (paths, paths))
    before = gp.evidence(paths).sum().detach()
    fit(gp, paths, Forecasting(fraction=0.0), epochs=20, lr=0.05)
    assert gp.evidence(paths).sum() > before + 1.0


def test_nothing_given_makes_the_loss_the_marginal_likelihood():
    gp, paths = MIXED["own"](), ragged(2, 9, 2)
    given, want = Forecasting(fraction=0.0)(paths)
    assert not given.mask.any()
    loss = -gp.evidence(paths).sum() / paths.mask.sum()
    torch.testing.assert_close(gp.loss(given, want), loss, rtol=1e-12, atol=1e-12)


def test_forecasts_of_an_ornstein_uhlenbeck_process_are_its_law():
    system = OrnsteinUhlenbeck(n=4, length=30, rate=0.7, sigma=0.5, level=2.0, noise=0.1)
    given, want = Forecasting(steps=5)(system())
    gp = model(Matern(0.5, 1 / 0.7, 0.25 / 1.4), noise=0.1, mean=MeanFunction(1))
    gp.on_epoch(0, (given, want))
    gp.mean.coefficients.data.fill_(2.0)
    law, found = system.law(given, want.t), gp.posterior(given, want.t)
    torch.testing.assert_close(found.mean.double(), law.mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.var.double(), law.var, rtol=0, atol=1e-5)


def test_it_answers_in_the_precision_of_the_data_and_works_in_double():
    """Of 1000 close values in single precision, the evidence is that of the same values in double."""
    t = (torch.arange(1000.0) * 1e-3)[None]
    x = torch.randn(1, 1000, 1)
    gp = model(Matern(2.5, 0.5), noise=0.1)
    single = Paths(t, x, torch.ones_like(x, dtype=torch.bool))
    twice = single._replace(t=t.double(), x=x.double())
    torch.testing.assert_close(gp.evidence(single), gp.evidence(twice), rtol=0, atol=0)
    assert gp.posterior(single, t).mean.dtype == gp.sample(single, t[:, :3], 2).dtype == x.dtype


def test_it_comes_back_with_its_kernel(tmp_path):
    paths = ragged(2, 12, 2)
    kernel = Sum([Matern(0.5, [0.5, 0.6]), QuasiPeriodic(1.0, 2.0, harmonics=2)])
    gp = StateSpaceGP(2, kernel, mean=MeanFunction(2, 1, (2.0,))).fit(paths, 5)
    save(gp, tmp_path / "gp.pt")
    back = load(tmp_path / "gp.pt", "cpu")
    at = torch.linspace(0, 9, 5).double().expand(2, -1)
    torch.testing.assert_close(back.posterior(paths, at), gp.posterior(paths, at), rtol=0, atol=0)


def test_padding_of_a_shorter_series_is_not_seen():
    long, short = ragged(1, 12, 1), ragged(1, 5, 1)
    both = stack([long, short])
    gp = model(Matern(1.5, 0.7))
    for b, one in enumerate((long, short)):
        torch.testing.assert_close(gp.evidence(both)[b], gp.evidence(one)[0])


def test_a_forecast_of_trend_and_season_beats_their_absence():
    t = torch.arange(0, 40, 0.1).double()[None]
    x = (0.3 * t + torch.sin(2 * math.pi * t) + 0.1 * torch.randn(1, 400).double())[..., None]
    paths = observed(t, x)
    given, want = split_after(paths, torch.tensor([35.0]))
    loss = {}
    for name, mean in (("flat", "constant"), ("rich", MeanFunction(1, 1, (1.0,), 1))):
        gp = StateSpaceGP(1, mean=mean).fit(given)
        loss[name] = float(gp.loss(given, want))
    exact = 0.5 * math.log(2 * math.pi * math.e * 0.01)  # entropy of the noise
    assert loss["rich"] < exact + 0.2 < loss["flat"]


def test_what_is_left_open_wants_data():
    paths = ragged(1, 5, 1)
    for gp in (StateSpaceGP(1), StateSpaceGP(1, Matern(), mean="zero")):
        with pytest.raises(ModelError) as raised:
            gp.posterior(paths, paths.t)
        assert raised.value.code == "TSD-M01"


@pytest.mark.parametrize(
    "bad, code",
    [
        ([0.0, torch.nan, 2.0], "TSD-D04"),
        ([0.0, torch.inf, 2.0], "TSD-D04"),
        ([0.0, 2.0, 1.0], "TSD-D07"),
    ],
)
def test_times_are_finite_and_in_order(bad, code):
    gp = model(Matern())
    paths = observed(torch.tensor([bad]), torch.zeros(1, 3, 1))
    with pytest.raises(DataError) as raised:
        gp.posterior(paths, torch.zeros(1, 1).double())
    assert raised.value.code == code


def test_asked_times_are_finite():
    gp, paths = model(Matern()), ragged(1, 5, 1)
    for ask in (gp.posterior, lambda given, at: gp.sample(given, at, 2)):
        with pytest.raises(DataError) as raised:
            ask(paths, torch.tensor([[0.0, torch.nan]]).double())
        assert raised.value.code == "TSD-D04"


def test_it_says_when_memory_would_not_do():
    gp = StateSpaceGP(1, Matern(2.5), GaussianNoise(1, 0.1), "zero", memory=0.001)
    small, large = (
        observed(torch.arange(n)[None].double(), torch.zeros(1, n, 1)) for n in (50, 5000)
    )
    assert gp.evidence(small).isfinite().all()
    with pytest.raises(ModelError) as raised:
        gp.evidence(large)
    assert raised.value.code == "TSD-M05" and "0.001 GB" in str(raised.value)


@pytest.mark.parametrize("noise", [0.0, -1.0, torch.inf, [0.1, 0.0]])
def test_noise_is_positive(noise):
    with pytest.raises(ConfigError) as raised:
        GaussianNoise(2, noise)
    assert raised.value.code == "TSD-X01"


def test_a_variance_that_vanishes_is_refused():
    gp = model(Matern())
    gp.likelihood.log_noise.data.fill_(-1e4)
    with pytest.raises(ModelError) as raised:
        gp.evidence(ragged(1, 5, 1))
    assert raised.value.code == "TSD-M04"


def test_outputs_of_the_kernel_fit_the_channels():
    with pytest.raises(ConfigError) as raised:
        StateSpaceGP(3, Coregionalized([Matern()], 2))
    assert raised.value.code == "TSD-X01"

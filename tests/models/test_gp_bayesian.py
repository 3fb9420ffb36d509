"""BayesianGP against quadrature over its one parameter, and its answers against mixtures made by hand."""

import pytest
import torch
from pyro.ops.stats import effective_sample_size
from torch import Tensor

from tsdyn.batch import Paths, query
from tsdyn.chance import seed
from tsdyn.errors import ConfigError, ModelError
from tsdyn.io import load, save
from tsdyn.models.gp import StateSpaceGP
from tsdyn.models.gp_bayesian import BayesianGP
from tsdyn.models.kernels import Matern
from tsdyn.models.likelihoods import GaussianNoise

double = torch.float64


def wave(B: int = 1, N: int = 40) -> Paths:
    t = (8 * torch.rand(B, N, dtype=double)).sort(1).values
    x = torch.sin(t)[..., None] + 0.3 * torch.randn(B, N, 1, dtype=double)
    return Paths(t, x, torch.ones_like(x, dtype=torch.bool))


def one_unknown(draws: int, spread: float = 1.0) -> BayesianGP:
    """Only the lengthscale is uncertain."""
    kernel = Matern(1.5, 1.0, 1.0, fixed=["variance"])
    noise = GaussianNoise(1, 0.3, fixed=True)
    return BayesianGP(1, kernel, noise, "zero", draws, spread=spread)


def evidence(p: Paths, lengthscale: float) -> Tensor:
    kernel, noise = Matern(1.5, lengthscale, 1.0), GaussianNoise(1, 0.3)
    with torch.no_grad():
        return StateSpaceGP(1, kernel, noise, "zero").evidence(p)


def by_quadrature(p: Paths, spread: float) -> tuple[Tensor, Tensor]:
    """A grid of log lengthscales and the posterior weights of its points."""
    grid = torch.linspace(-3.5, 3.5, 141, dtype=double)
    fit = torch.stack([evidence(p, float(g.exp())).sum() for g in grid])
    return grid, (fit - grid**2 / (2 * spread**2)).softmax(0)


def test_draws_are_from_the_posterior():
    """Mean, variance and both tails of one parameter against quadrature, within 4.5 standard errors."""
    p = wave(N=25)
    model = one_unknown(300, 0.7).fit(p)
    grid, weight = by_quadrature(p, 0.7)
    drawn = model.values()["kernel.lengthscale"].log()
    mean = weight @ grid
    var = weight @ (grid - mean) ** 2
    low, high = mean - var.sqrt(), mean + var.sqrt()
    for f in (lambda u: u, lambda u: (u - mean) ** 2, lambda u: u < low, lambda u: u > high):
        values = f(drawn).double()
        size = float(effective_sample_size(values[None], 0, 1))
        exact = weight @ f(grid).double()
        assert size > 25  # else its own estimate means nothing
        assert (values.mean() - exact).abs() < 4.5 * values.std() / size**0.5 + 1e-3


def test_without_data_the_draws_are_from_the_prior():
    p = wave(N=5)
    p = p._replace(mask=torch.zeros_like(p.mask))
    model = BayesianGP(1, Matern(1.5, 2.0, 0.5), GaussianNoise(1, 0.1), "zero", 150, spread=0.5)
    model.fit(p)
    for name, median in (("lengthscale", 2.0), ("variance", 0.5)):
        z = (model.values()[f"kernel.{name}"] / median).log() / 0.5
        size = float(effective_sample_size(z[None], 0, 1))
        assert z.mean().abs() < 4.5 / size**0.5
        assert (z.var() - 1).abs() < 4.5 * (2 / size) ** 0.5


def test_answers_are_mixtures_over_the_draws():
    """Each draw by itself with StateSpaceGP; the loss averages densities of whole series."""
    p = wave(2, 30)
    head = Paths(p.t[:, :20], p.x[:, :20], p.mask[:, :20])
    tail = Paths(p.t[:, 20:], p.x[:, 20:], p.mask[:, 20:])
    model = one_unknown(5).fit(p)
    at = torch.tensor([[1.0, 9.0], [3.0, -1.0]], dtype=double)
    gains, means, variances = [], [], []
    for value in model.values()["kernel.lengthscale"].tolist():
        single = StateSpaceGP(1, Matern(1.5, value, 1.0), GaussianNoise(1, 0.3), "zero")
        law = single.requires_grad_(False).posterior(head, at)
        gains.append(evidence(p, value) - evidence(head, value))
        means.append(law.mean)
        variances.append(law.var)
    mixture = torch.stack(gains).exp().mean(0).log()
    torch.testing.assert_close(model.loss(head, tail), -mixture.sum() / 20)
    mean = torch.stack(means).mean(0)
    second = (torch.stack(variances) + torch.stack(means) ** 2).mean(0)
    law = model.posterior(head, at)
    torch.testing.assert_close(law.mean, mean)
    torch.testing.assert_close(law.var, second - mean**2)
    n = 4000
    draws = model.sample(head, at, n)
    assert ((draws.mean(0) - law.mean).abs() < 5 * (law.var / n).sqrt()).all()
    fourth = (draws - law.mean).pow(4).mean(0)
    assert ((draws.var(0) - law.var).abs() < 5 * ((fourth - law.var**2) / n).sqrt()).all()


def test_the_seed_decides():
    p = wave()
    runs = []
    for n in (0, 0, 1):
        with seed(n):
            runs.append(one_unknown(10).fit(p).draws)
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_it_comes_back_from_disk(tmp_path):
    p = wave()
    model = one_unknown(5).fit(p)
    save(model, tmp_path / "model.pt")
    back = load(tmp_path / "model.pt")
    assert torch.equal(back.draws, model.draws)
    torch.testing.assert_close(back.posterior(p, p.t + 0.1), model.posterior(p, p.t + 0.1))


def test_only_the_first_epoch_samples_and_answers_leave_no_trace():
    p = wave()
    model = one_unknown(5)
    nothing = query(p.t[:, :0], p)
    model.on_epoch(0, (nothing, p))
    draws, kept = model.draws.clone(), model.gp.kernel.log_lengthscale.clone()
    model.on_epoch(1, (nothing, p))
    model.sample(p, p.t, 3)
    assert torch.equal(model.draws, draws)
    assert torch.equal(model.gp.kernel.log_lengthscale, kept)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_it_answers_in_inference_mode():
    p = wave()
    model = one_unknown(5).fit(p)
    with torch.inference_mode():
        inside = model.posterior(p, p.t + 0.1)
        assert model.sample(p, p.t, 2).isfinite().all()
    torch.testing.assert_close(inside, model.posterior(p, p.t + 0.1))


def test_what_cannot_be():
    with pytest.raises(ConfigError, match="TSD-X01: BayesianGP of 0 uncertain parameters"):
        kernel = Matern(1.5, fixed=["lengthscale", "variance"])
        BayesianGP(1, kernel, GaussianNoise(1, 0.1, fixed=True), "zero")
    with pytest.raises(ConfigError, match="draws=0"):
        one_unknown(0)
    p = wave()
    with pytest.raises(ModelError, match="TSD-M01: BayesianGP was asked"):
        one_unknown(5).sample(p, p.t, 1)

"""ApproximateGP against the functions that it is made of, and against parameters that are known."""

import math

import pytest
import torch
from torch import Tensor

from tsdyn.batch import Paths, query
from tsdyn.chance import seed
from tsdyn.data.counts import LogGaussianCounts
from tsdyn.errors import ConfigError, DataError
from tsdyn.io import load, save
from tsdyn.maths import likelihoods
from tsdyn.maths.approximate import Observed, marginals, propagated, variational
from tsdyn.maths.kernels import chain
from tsdyn.models.gp import StateSpaceGP
from tsdyn.models.gp_approximate import (
    ApproximateGP,
    BinaryLabels,
    NegativeBinomialCounts,
    PoissonCounts,
    StudentNoise,
)
from tsdyn.models.kernels import Coregionalized, Matern

double = torch.float64


def paths(B: int, N: int, D: int, kind: str = "counts", missing: float = 0.2) -> Paths:
    """Values about a wave, in double precision, with holes that hold NaN."""
    t = (6 * torch.rand(B, N, dtype=double)).sort(1).values
    f = torch.sin(t[..., None] + 6 * torch.rand(B, 1, D, dtype=double)) + 0.5
    x = {
        "counts": torch.poisson(f.exp()),
        "labels": torch.bernoulli(torch.special.ndtr(f)),
        "values": f + 0.2 * torch.randn_like(f),
    }[kind]
    mask = torch.rand(B, N, D) >= missing
    return Paths(t, x.where(mask, torch.nan), mask)


def whole(likelihood, dim: int = 1) -> ApproximateGP:
    """With nothing left open."""
    kernel = Matern(1.5, [0.8] * dim, [1.2] * dim)
    return ApproximateGP(dim, likelihood, kernel, mean="zero")


def cut(p: Paths, n: int) -> tuple[Paths, Paths]:
    """The first n rows and the others."""
    head = Paths(p.t[:, :n], p.x[:, :n], p.mask[:, :n])
    return head, Paths(p.t[:, n:], p.x[:, n:], p.mask[:, n:])


CASES = {
    "poisson": (lambda d: PoissonCounts(), "counts", lambda d: likelihoods.Poisson()),
    "poisson propagated": (
        lambda d: PoissonCounts(method="propagation"),
        "counts",
        lambda d: likelihoods.Poisson(),
    ),
    "negative binomial": (
        lambda d: NegativeBinomialCounts(d, 3.0),
        "counts",
        lambda d: likelihoods.NegativeBinomial(3.0),
    ),
    "student": (
        lambda d: StudentNoise(d, 4.0, 0.3),
        "values",
        lambda d: likelihoods.StudentT(4.0, 0.3),
    ),
    "probit": (lambda d: BinaryLabels(), "labels", lambda d: likelihoods.Probit()),
    "logit": (
        lambda d: BinaryLabels("logit", "variational"),
        "labels",
        lambda d: likelihoods.Logit(),
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    make, kind, law = CASES[request.param]
    return make, paths(2, 25, 2, kind), law


def by_hand(model: ApproximateGP, law, p: Paths, b: int, d: int):
    """Series b, channel d, with the functions of `maths.approximate`."""
    kernel = Matern(1.5, 0.8, 1.2).kernel()
    infer = variational if model.likelihood.method == "variational" else propagated
    seen = Observed(law(1), p.x[b, :, d, None], p.mask[b, :, d, None])
    return infer(chain(kernel, p.t[b]), kernel.H, seen)


def test_loss_is_the_difference_of_evidences_per_value(case):
    make, p, law = case
    model = ApproximateGP(2, make(2), Matern(1.5, 0.8, 1.2), mean="zero").requires_grad_(False)
    head, tail = cut(p, 15)
    every = [(b, d) for b in range(2) for d in range(2)]
    gain = sum(
        by_hand(model, law, p, *i).bound - by_hand(model, law, head, *i).bound for i in every
    )
    torch.testing.assert_close(
        model.loss(head, tail), -gain / tail.mask.sum(), rtol=1e-7, atol=1e-7
    )


def test_posterior_at_the_rows_is_that_of_the_functions(case):
    make, p, law = case
    model = ApproximateGP(2, make(2), Matern(1.5, 0.8, 1.2), mean="zero").requires_grad_(False)
    latent, seen = model.posterior(p, p.t, latent=True), model.posterior(p, p.t)
    for b in range(2):
        for d in range(2):
            mean, var = marginals(model.gp.kernel.kernel().H, by_hand(model, law, p, b, d).moments)
            torch.testing.assert_close(latent.mean[b, :, d], mean[:, 0], rtol=0, atol=1e-6)
            torch.testing.assert_close(latent.var[b, :, d], var[:, 0], rtol=0, atol=1e-6)
            y = law(1).predicted(mean[:, 0], var[:, 0])
            torch.testing.assert_close(seen.mean[b, :, d], y[0], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(seen.var[b, :, d], y[1], rtol=1e-5, atol=1e-5)


def test_draws_have_the_moments_of_the_posterior(case):
    make, p, _ = case
    model = whole(make(2), 2)
    at = torch.tensor([[7.0, 0.5, 3.0], [-1.0, 2.0, 2.0]], dtype=double)  # in any order
    n = 4000
    draws = model.sample(p, at, n).detach()
    law = model.posterior(p, at)
    assert draws.shape == (n, 2, 3, 2)
    assert ((draws.mean(0) - law.mean).abs() < 5 * (law.var / n).sqrt()).all()
    spread = draws.var(0)
    fourth = (draws - draws.mean(0)).pow(4).mean(0)
    # the last term: of labels with p near 1/2 the variance changes with the square of the error of p
    error = ((fourth - spread**2).clamp(min=0.0) / n).sqrt()
    assert ((spread - law.var).abs() < 6 * error + 36 * law.var / n).all()


@pytest.mark.parametrize("method", ["variational", "propagation"])
def test_parameters_of_counts_are_found(method):
    """From the model itself: within what 40 series leave uncertain, and better than the start."""
    source = LogGaussianCounts(n=40, length=60, level=1.5, deviation=0.8, lengthscale=2.0, seed=3)
    p = source()
    model = ApproximateGP(1, PoissonCounts(method), Matern(0.5)).fit(p, steps=30)
    kernel, level = model.gp.kernel, model.gp.level(torch.zeros(1, 1))
    assert abs(float(level.detach()) - 1.5) < 0.2
    assert abs(float(kernel.value("variance").detach().sqrt()) - 0.8) < 0.12
    assert abs(math.log(float(kernel.value("lengthscale").detach()) / 2.0)) < 0.4
    with torch.no_grad():
        truth = ApproximateGP(1, PoissonCounts(method), Matern(0.5, 2.0, 0.64))
        truth.on_epoch(0, (query(p.t[:, :0], p), p))
        truth.gp.mean.coefficients.fill_(1.5)
        none = query(p.t[:, :1], p)
        assert model.loss(none, p) < truth.loss(none, p)  # the maximum is higher than any point


def test_an_outlier_is_ignored_by_heavy_tails():
    p = paths(1, 60, 1, "values", 0.0)
    wrong = p._replace(x=p.x.clone())
    wrong.x[0, 30] = 20.0
    heavy = whole(StudentNoise(1, 3.0, 0.2))
    at = p.t[:, 30:31]
    clean, dirty = (heavy.posterior(q, at, latent=True) for q in (p, wrong))
    assert (clean.mean - dirty.mean).abs() < clean.var.sqrt()
    gaussian = StateSpaceGP(1, Matern(1.5, 0.8, 1.2), mean="zero").fit(p)
    moved = gaussian.posterior(p, at).mean - gaussian.posterior(wrong, at).mean
    assert moved.abs() > 5 * clean.var.sqrt()


def test_outputs_that_are_mixed_share_what_is_seen():
    """Counts of the first channel say something of the second where they are mixed from one process."""
    p = paths(1, 30, 2, missing=0.0)
    mask = p.mask.clone()
    mask[..., 1] = False
    with seed(0):
        kernel = Coregionalized([Matern(1.5, 1.0, 1.0)], outputs=2)
    model = ApproximateGP(2, PoissonCounts(), kernel, mean="zero")
    law = model.posterior(p._replace(mask=mask), p.t, latent=True)
    ratio = (kernel.mixing[1] / kernel.mixing[0]).detach()
    torch.testing.assert_close(law.mean[..., 1], law.mean[..., 0] * ratio, rtol=1e-8, atol=1e-8)


def test_every_parameter_learns(case):
    make, p, _ = case
    model = ApproximateGP(2, make(2))
    model.on_epoch(0, cut(p, 15))
    model.loss(*cut(p, 15)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_it_comes_back_from_disk(case, tmp_path):
    make, p, _ = case
    model = ApproximateGP(2, make(2))
    model.on_epoch(0, cut(p, 15))
    save(model, tmp_path / "model.pt")
    back = load(tmp_path / "model.pt")
    draws = []
    for m in (model, back):
        with seed(1):
            draws.append(m.sample(p, p.t, 2))
    assert torch.equal(*draws)


def test_it_answers_in_inference_mode(case):
    """In which no graph can be made, though derivatives are needed inside."""
    make, p, _ = case
    model = whole(make(2), 2)
    with torch.inference_mode():
        copy = p._replace(t=p.t + 0.0, x=p.x + 0.0)
        inside = model.posterior(copy, copy.t)
        assert model.sample(copy, copy.t, 2).isfinite().all()
        loss = model.loss(*cut(copy, 15))
    outside = model.posterior(p, p.t)
    torch.testing.assert_close(inside.mean, outside.mean.detach())
    torch.testing.assert_close(inside.var, outside.var.detach())
    torch.testing.assert_close(loss, model.loss(*cut(p, 15)).detach())


def test_what_has_not_come_to_rest_is_told():
    """Counts of ones under a mean of exp(2000)."""
    p = paths(1, 5, 1, missing=0.0)
    model = ApproximateGP(1, PoissonCounts(), Matern(1.5, 0.8, 1.2))
    model.on_epoch(0, (p, p))
    with torch.no_grad():
        model.gp.mean.coefficients.fill_(2000.0)
    with pytest.warns(UserWarning, match="still changing.*Try more `steps`"):
        model.posterior(p, p.t)


def test_wrong_values_and_wrong_options():
    p = paths(1, 5, 1, "values", 0.0)
    model = whole(PoissonCounts())
    with pytest.raises(DataError, match="TSD-D14"):
        model.posterior(p, p.t)
    with pytest.raises(DataError, match="is not a label"):
        whole(BinaryLabels()).posterior(p._replace(x=p.x + 5), p.t)
    for wrong in (
        lambda: PoissonCounts("laplace"),
        lambda: BinaryLabels("cloglog"),
        lambda: StudentNoise(1, df=0.0),
        lambda: NegativeBinomialCounts(2, [1.0, -1.0]),
    ):
        with pytest.raises(ConfigError, match="TSD-X01"):
            wrong()


def test_start_comes_from_the_logarithm_of_counts():
    p = paths(1, 200, 1, missing=0.0)
    big = p._replace(x=p.x + 1000.0)
    model = ApproximateGP(1, PoissonCounts())
    model.on_epoch(0, cut(big, 100))
    level: Tensor = model.gp.level(torch.zeros(1, 1))
    assert abs(float(level.detach()) - math.log(1002)) < 0.01

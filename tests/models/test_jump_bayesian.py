"""Both samplers against quadrature, and against each other where no quadrature reaches."""

import pytest
import torch
from torch import Tensor

from tsdyn.batch import Paths
from tsdyn.errors import ConfigError, ModelError
from tsdyn.maths.jump_gibbs import BetaError, DirichletTable, effective_size
from tsdyn.maths.jump_simulation import skeleton
from tsdyn.maths.rate_matrix import from_rates, stationary
from tsdyn.models.jump import MarkovJump
from tsdyn.models.jump_bayesian import JumpSamples, belief, derived, errors, posterior

double = torch.float64
TRUTH = from_rates(torch.tensor([[0.0, 0.3], [0.7, 0.0]], dtype=double))


def seeded(n: int) -> torch.Generator:
    return torch.Generator().manual_seed(n)


def drawn_paths(Q: Tensor, B: int, T: int, span: float, n: int = 0, error: float = 0.0) -> Paths:
    g = seeded(n)
    t = (span * torch.rand(B, T, dtype=double, generator=g)).sort(1).values
    state = skeleton(Q, stationary(Q), t, g)
    wrong = torch.rand(state.shape, generator=g) < error
    other = torch.randint(1, len(Q), state.shape, generator=g)
    x = torch.where(wrong, (state + other) % len(Q), state).double()[..., None]
    return Paths(t, x, torch.ones_like(x, dtype=torch.bool))


def by_quadrature(paths: Paths, shape: float, time: float) -> tuple[Tensor, Tensor]:
    """Means and deviations of both rates of two states, by a sum over a grid of rates."""
    q = torch.linspace(0.02, 3.0, 120, dtype=double)
    a, b = torch.meshgrid(q, q, indexing="ij")
    y, gap = paths.x[..., 0, None, None], paths.t.diff()[..., None, None]
    moved = (1 - (-(a + b) * gap).exp()) / (a + b)
    leave = torch.where(y[:, :-1] == 0, a, b) * moved
    log = torch.where(y[:, :-1] == y[:, 1:], 1 - leave, leave).log().sum((0, 1))
    log = log + (shape - 1) * (a.log() + b.log()) - time * (a + b)
    p = (log - log.max()).exp()
    p = p / p.sum()
    both = torch.stack([a, b])
    mean = (p * both).sum((1, 2))
    return mean, (p * (both - mean[:, None, None]).square()).sum((1, 2)).sqrt()


def rates(found: JumpSamples) -> Tensor:
    return torch.stack([found.Q[:, 0, 1], found.Q[:, 1, 0]], 1)


@pytest.mark.parametrize(("method", "draws"), [("gibbs", 2000), ("nuts", 200)])
def test_two_states_against_quadrature(method, draws):
    paths = drawn_paths(TRUTH, 50, 10, 6.0, 1)
    model = MarkovJump(2, prior=(2.0, 2.0)).fit(paths)
    found = posterior(model, paths, method, draws=draws, warmup=100, seed=0)
    mean, deviation = by_quadrature(paths, 2.0, 2.0)
    q = rates(found)
    size = effective_size(q)
    error = q.std(0) / size.sqrt()
    assert ((q.mean(0) - mean).abs() < 4 * error).all()
    assert ((q.mean(0) / mean - 1).abs() < 0.02).all()
    assert ((q.std(0) / deviation - 1).abs() < 4 * (0.5 / size).sqrt() + 0.02).all()
    # the first states are seen: Dirichlet(1 + counts), and those of later rows say nothing about them
    seen = 1 + paths.x[:, 0, 0].long().bincount(minlength=2)
    score = (found.first[:, 0].mean() - seen[0] / 52) / found.first[:, 0].std()
    assert abs(float(score)) < 4 / float(effective_size(found.first[:, 0])) ** 0.5
    torch.testing.assert_close(found.size[0, 1], size[0])
    assert found.size.diagonal().isnan().all()


def require_alike(a: Tensor, b: Tensor):
    """Means of draws (S, ...) agree within 4.5 standard errors, and deviations too."""
    one, two = (f.var(0) / effective_size(f) for f in (a, b))
    assert ((a.mean(0) - b.mean(0)).abs() < 4.5 * (one + two).sqrt()).all()
    spread = (0.5 / effective_size(a) + 0.5 / effective_size(b)).sqrt()
    assert ((a.std(0) / b.std(0)).log().abs() < 4.5 * spread + 0.05).all()


def test_both_ways_agree_on_misread_states_with_links():
    Q = from_rates(torch.tensor([[0.0, 1.0, 0.0], [0.3, 0.0, 0.9], [0.8, 0.0, 0.0]], dtype=double))
    paths = drawn_paths(Q, 40, 12, 5.0, 2, error=0.1)
    model = MarkovJump(3, "misread", links=(Q > 0).double().tolist()).fit(paths)
    how = {"prior": (1.5, 1.0), "emission": BetaError(2.0, 10.0)}
    gibbs = posterior(model, paths, draws=800, warmup=50, seed=1, **how)
    nuts = posterior(model, paths, "nuts", draws=100, warmup=40, seed=1, **how)
    for found in (gibbs, nuts):
        assert torch.equal(found.links, Q > 0)
        assert (found.Q[:, ~found.links & ~torch.eye(3, dtype=torch.bool)] == 0).all()
        error = errors(found)
        assert abs(float(error.mean()) - 0.1) < 4 * float(error.std()) < 0.1
        score = (found.Q.mean(0) - Q) / found.Q.std(0)
        assert score[found.links].abs().max() < 4
    require_alike(gibbs.Q[:, Q > 0], nuts.Q[:, Q > 0])
    require_alike(errors(gibbs), errors(nuts))
    require_alike(gibbs.first[:, :2], nuts.first[:, :2])


def test_both_ways_agree_on_tables_of_symbols():
    paths = drawn_paths(TRUTH, 25, 8, 6.0, 3, error=0.15)
    model = MarkovJump(2, "symbols", symbols=2)
    model.Q.copy_(TRUTH)
    model.table.copy_(torch.tensor([[0.8, 0.2], [0.1, 0.9]]))
    model.fitted.fill_(True)
    # beliefs that tell the names of the states
    how = {"prior": (3.0, 6.0), "emission": DirichletTable(torch.eye(2, dtype=double) * 16 + 2)}
    gibbs = posterior(model, paths, draws=1000, warmup=50, seed=2, **how)
    nuts = posterior(model, paths, "nuts", draws=120, warmup=40, seed=2, **how)
    tables = [torch.stack([e.probability for e in f.emission]) for f in (gibbs, nuts)]
    require_alike(*(f[:, :, 0] for f in tables))
    require_alike(rates(gibbs), rates(nuts))


def test_gaussian_states():
    g = seeded(4)
    paths = drawn_paths(TRUTH, 40, 20, 20.0, 4)
    noise = 0.6 * torch.randn(paths.x.shape, dtype=double, generator=g)
    seen = paths._replace(x=3 * paths.x + noise)
    model = MarkovJump(2, "gaussian", starts=1).fit(seen)
    found = posterior(model, seen, draws=300, warmup=50, prior=(1.0, 1.0), seed=3)
    mean = torch.stack([e.mean[:, 0] for e in found.emission])
    variance = torch.stack([e.covariance[:, 0, 0] for e in found.emission])
    order = mean.mean(0).argsort()
    for values, truth in ((mean, torch.tensor([0.0, 3.0])), (variance, torch.tensor([0.36, 0.36]))):
        score = (values.mean(0)[order] - truth) / values.std(0)[order]
        assert score.abs().max() < 4
    # 800 readings: the mean of each state is known to its deviation over the root of its share
    share = stationary(TRUTH) * 800
    assert (mean.std(0)[order] * share.sqrt() / 0.6 - 1).abs().max() < 0.3


def test_beliefs_and_intervals_are_those_of_the_draws():
    paths = drawn_paths(TRUTH, 30, 8, 5.0, 5)
    model = MarkovJump(2, prior=(1.0, 1.0)).fit(paths)
    found = posterior(model, paths, draws=400, warmup=20, seed=4)
    known = belief(found)
    assert (known.mean.diagonal() == 0).all() and (known.deviation.diagonal() == 0).all()
    torch.testing.assert_close(known.mean[0, 1], found.Q[:, 0, 1].mean())
    torch.testing.assert_close(known.deviation[1, 0], found.Q[:, 1, 0].std())
    torch.testing.assert_close(known.link, 1 - torch.eye(2, dtype=double))
    torch.testing.assert_close(known.initial.sum(), torch.ones((), dtype=double))
    law = derived(found, stationary, level=0.8)
    each = found.Q[:, 1, 0] / (found.Q[:, 0, 1] + found.Q[:, 1, 0])
    torch.testing.assert_close(law.mean[0], each.mean())
    inside = (each >= law.low[0]) & (each <= law.high[0])
    assert int(inside.sum()) == 320
    # the stretch that leaves a tenth on either side
    assert int((each < law.low[0]).sum()) == 40


def test_rates_that_nothing_is_known_of_have_their_prior():
    """State 2 is never seen, and of states 0 and 1 only what is seen once: rates of 2 are Gamma(1.5, 2)."""
    t = torch.tensor([[0.0, 1e-9]], dtype=double).repeat(3, 1)
    x = torch.tensor([[0.0], [1.0], [0.0]])[..., None].repeat(1, 2, 1)
    paths = Paths(t, x, torch.ones_like(x, dtype=torch.bool))
    model = MarkovJump(3, prior=(1.5, 2.0)).fit(paths)
    off = ~torch.eye(3, dtype=torch.bool)
    for method, draws in (("gibbs", 800), ("nuts", 150)):
        q = posterior(model, paths, method, draws=draws, warmup=50, seed=5).Q[:, off]
        error = q.std(0) / effective_size(q).sqrt()
        assert ((q.mean(0) - 0.75).abs() < 4.5 * error).all()


@pytest.mark.parametrize("method", ["gibbs", "nuts"])
def test_the_seed_decides(method):
    paths = drawn_paths(TRUTH, 5, 4, 3.0)
    model = MarkovJump(2, prior=(1.0, 1.0)).fit(paths)
    before = torch.get_rng_state()
    runs = [posterior(model, paths, method, draws=5, warmup=5, seed=n).Q for n in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    assert torch.equal(torch.get_rng_state(), before)
    kept = model.Q.clone()
    posterior(model, paths, method, draws=2, warmup=2)
    assert torch.equal(model.Q, kept) and not torch.equal(torch.get_rng_state(), before)


def test_what_cannot_be():
    paths = drawn_paths(TRUTH, 5, 4, 3.0)
    with pytest.raises(ModelError, match="TSD-M01"):
        posterior(MarkovJump(2), paths, prior=(1.0, 1.0))
    model = MarkovJump(2).fit(drawn_paths(TRUTH, 20, 4, 3.0))
    with pytest.raises(ConfigError, match=r"TSD-X01.*prior None"):
        posterior(model, paths)
    with pytest.raises(ConfigError, match=r"TSD-X01.*prior \(1.0, 0.0\)"):
        posterior(model, paths, prior=(1.0, 0.0))
    with pytest.raises(ConfigError, match=r"TSD-X01.*method='hmc'"):
        posterior(model, paths, "hmc", prior=(1.0, 1.0))
    with pytest.raises(ConfigError, match=r"TSD-X01.*draws=0"):
        posterior(model, paths, draws=0, prior=(1.0, 1.0))
    with pytest.raises(ConfigError, match=r"TSD-X01.*BetaError about states.*'exactly'"):
        posterior(model, paths, prior=(1.0, 1.0), emission=BetaError(1.0, 1.0))
    one = drawn_paths(TRUTH, 30, 20, 20.0)
    gaussian = MarkovJump(2, "gaussian", starts=1, steps=2).fit(
        one._replace(x=one.x + one.t[..., None] / 50)
    )
    with pytest.raises(ModelError, match=r'TSD-M05.*method="nuts"'):
        posterior(gaussian, one, "nuts", prior=(1.0, 1.0))
    found = posterior(gaussian, one, draws=2, warmup=1, prior=(1.0, 1.0))
    with pytest.raises(ModelError, match=r"TSD-M05.*misread"):
        errors(found)

"""Oracles: exact expectations given what is seen, quadrature, conjugate laws, and priors that must come back."""

import math
from functools import partial

import pytest
import torch
from pyro.ops.stats import effective_sample_size
from torch import Tensor

from tests.maths.jump_processes import cycle, random, two_states
from tsdyn.errors import ConfigError, DataError, ModelError
from tsdyn.maths.emissions import Categorical, Gaussian, Misread, log_densities
from tsdyn.maths.hidden_jump import clock, smoothed
from tsdyn.maths.jump_em import Hidden
from tsdyn.maths.jump_exposure import exposure
from tsdyn.maths.jump_gibbs import (
    BetaError,
    DirichletTable,
    JumpDraws,
    NormalInverseWishart,
    Prior,
    effective_size,
    first_paths,
    gibbs,
    redrawn_chain,
    redrawn_paths,
)
from tsdyn.maths.jump_likelihood import GammaRates, draw
from tsdyn.maths.jump_simulation import gillespie, skeleton, states_at
from tsdyn.maths.jump_statistics import summed
from tsdyn.maths.rate_matrix import from_rates, stationary

double = torch.float64


def seeded(n: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(n)


def even(n: int) -> Tensor:
    return torch.full((n,), 1 / n, dtype=double)


def exact(n: int) -> Misread:
    return Misread(torch.zeros((), dtype=double), n)


def gamma(n: int, shape: float = 1.0, time: float = 1.0) -> GammaRates:
    return GammaRates(torch.full((n, n), shape, dtype=double), torch.full((n,), time, dtype=double))


def times(B: int, T: int, span: float, g: torch.Generator) -> Tensor:
    t = (span * torch.rand(B, T, dtype=double, generator=g)).sort(1).values
    t[:, 0] = 0.0
    return t


def require_mean(values: Tensor, exact: Tensor | float, errors: float = 4.5):
    """The mean of dependent draws (S, ...) lies within so many standard errors of what it should be."""
    error = values.std(0) / effective_size(values).sqrt()
    score = (values.mean(0) - exact) / error
    assert score.abs().max() < errors, score


def hidden_problem(B: int, g: torch.Generator):
    """The same four rows in B series: irregular, one without observation, and padded."""
    Q = cycle(1.3, 0.4)
    t = torch.tensor([0.0, 0.4, 1.5, 2.1, 2.1], dtype=double).repeat(B, 1)
    y = torch.tensor([0, 2, 1, 1, 0]).repeat(B, 1)
    mask = torch.tensor([True, True, False, True, False]).repeat(B, 1)
    chain = Hidden(Q, torch.tensor([0.5, 0.2, 0.3], dtype=double), Misread(even(5)[0], 3))
    return chain, t, log_densities(chain.emission, y, mask)


@pytest.mark.parametrize("sweeps", [0, 25])
def test_paths_have_the_expected_jumps_and_times(sweeps):
    """First paths at once, and those of the sampler after they began under other rates; against integrals."""
    B, g = 6000, seeded(sweeps)
    chain, t, log_density = hidden_problem(B, g)
    begin = chain if sweeps == 0 else chain._replace(Q=random(n=3) * 3)
    paths = first_paths(begin, t, log_density, g)
    for _ in range(sweeps):
        paths = redrawn_paths(chain, paths, t, log_density, g)
    rows = clock(t)
    found = smoothed(chain.Q, chain.first, rows, log_density)
    G = summed(chain.Q, rows.gaps, found.W) / B
    each = [exposure(type(paths)(*(f[b : b + 100] for f in paths)), 3) for b in range(0, B, 100)]
    N, R = (torch.stack(part) / 100 for part in zip(*each))
    off = ~torch.eye(3, dtype=torch.bool)
    for values, want in ((R, G.diagonal()), (N[:, off], (chain.Q * G)[off])):
        score = (values.mean(0) - want) / (values.std(0) / len(values) ** 0.5)
        assert score.abs().max() < 4, score
    share = torch.nn.functional.one_hot(states_at(paths, t), 3).double().mean(0)
    law = found.law[0]
    assert ((share - law).abs() < 4.5 * (law * (1 - law) / B).sqrt() + 1e-12).all()
    assert (paths.t.diff() >= 0).all() and torch.equal(paths.end, t[:, -1])
    place = torch.arange(paths.state.shape[1] - 1)
    moves = paths.state.diff() != 0
    assert torch.equal(moves, place < paths.jumps[:, None])


def grid_posterior(t: Tensor, y: Tensor, shape: float, time: float) -> Tensor:
    """Means of both rates of two states that are seen exactly, by a sum over 120 x 120 rates."""
    q = torch.linspace(0.02, 3.0, 120, dtype=double)
    a, b = torch.meshgrid(q, q, indexing="ij")
    gap, start, end = t.diff()[..., None, None], y[:, :-1, None, None], y[:, 1:, None, None]
    total = a + b
    moved = (1 - (-total * gap).exp()) / total
    leave = torch.where(start == 0, a, b) * moved  # P of being elsewhere, in closed form
    log = torch.where(start == end, 1 - leave, leave).log().sum((0, 1))
    log = log + (shape - 1) * (a.log() + b.log()) - time * total
    p = (log - log.max()).exp()
    p = p / p.sum()
    return torch.stack([(p * a).sum(), (p * b).sum()])


def test_two_states_against_quadrature():
    g = seeded(1)
    t = times(50, 10, 6.0, g)
    y = skeleton(two_states(), stationary(two_states()), t, g)
    mask = torch.ones_like(y, dtype=torch.bool)
    prior = Prior(gamma(2, 2.0, 2.0), torch.ones(2, dtype=double))
    start = Hidden(two_states(1.0, 1.0), even(2), exact(2))
    found = gibbs(start, t, y, mask, prior, 1500, 100, g)
    rates = torch.stack([found.Q[:, 0, 1], found.Q[:, 1, 0]], 1)
    want = grid_posterior(t, y, 2.0, 2.0)
    assert ((rates.mean(0) / want - 1).abs() < 0.02).all()
    require_mean(rates, want)
    # the first state is seen in every series: a Dirichlet law, and independent draws
    seen = 1 + y[:, 0].bincount(minlength=2)
    require_mean(found.first[:, 0], float(seen[0] / seen.sum()))


def test_when_gaps_vanish_the_posterior_is_the_conjugate_one():
    g = seeded(2)
    Q = cycle(1.0, 0.5)
    whole = gillespie(Q, even(3), 8, 4.0, g)
    t = torch.linspace(0, 4, 2001, dtype=double).repeat(8, 1)
    y = states_at(whole, t)
    prior = Prior(gamma(3, 1.5, 0.7), torch.ones(3, dtype=double))
    start = Hidden(Q, even(3), exact(3))
    found = gibbs(start, t, y, torch.ones_like(y, dtype=torch.bool), prior, 500, 10, g)
    N, R = exposure(whole, 3)
    shape, time = 1.5 + N, (0.7 + R)[:, None]
    off = ~torch.eye(3, dtype=torch.bool)
    # a gap of 0.002 hides about N * 0.002 * 1.5 jumps
    require_mean((found.Q * time)[:, off], shape[off], 5)
    centred = ((found.Q * time - shape).square() / shape)[:, off]
    require_mean(centred, 1.0, 5)
    # a jump is known to half a gap
    assert (found.time.mean(0) - R).abs().max() < 4 * 0.002 * float(N.sum()) ** 0.5


def observed(emission, states: Tensor, g: torch.Generator) -> Tensor:
    """A draw of what is seen in these states."""
    u = torch.rand(states.shape, dtype=double, generator=g)
    if isinstance(emission, Misread):
        return torch.where(u < emission.error, 1 - states, states)
    if isinstance(emission, Categorical):
        return (emission.probability.cumsum(-1)[states] < u[..., None]).sum(-1).clamp(max=2)
    z = torch.randn(*states.shape, 2, 1, dtype=double, generator=g)
    root = torch.linalg.cholesky(emission.covariance)[states]
    return emission.mean[states] + (root @ z)[..., 0]


def wishart() -> NormalInverseWishart:
    scale = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=double)
    return NormalInverseWishart(torch.tensor([1.0, -1.0], dtype=double), 0.5, scale, 7.0)


def of_misread(e: Misread) -> Tensor:
    return torch.stack([e.error, e.error**2])


def of_table(e: Categorical) -> Tensor:
    return torch.cat([e.probability.flatten(), e.probability[:, 0] ** 2])


def of_gaussian(e: Gaussian) -> Tensor:
    return torch.cat([e.mean.flatten(), e.covariance.flatten(), e.mean[:, 0] ** 2])


TABLE = torch.tensor([[1.0, 2.0, 3.0], [2.0, 2.0, 1.0]], dtype=double)
SHARE = TABLE / TABLE.sum(1, keepdim=True)
# E[p²] of Beta(a, b) is a (a + 1) / ((a + b) (a + b + 1))
KINDS = {
    "misread": (BetaError(2.0, 6.0), of_misread, torch.tensor([0.25, 2 * 3 / 72]).double()),
    "table": (
        DirichletTable(TABLE),
        of_table,
        torch.cat([SHARE.flatten(), torch.tensor([2 / 42, 6 / 30]).double()]),
    ),
    # E[covariance] = scale / (degrees - D - 1);  E[mean²] = 1 + E[covariance_00] / weight
    "gaussian": (
        wishart(),
        of_gaussian,
        torch.cat(
            [
                wishart().mean.repeat(2),
                (wishart().scale / 4).flatten().repeat(2),
                torch.tensor([2.0, 2.0]).double(),
            ]
        ),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_prior_comes_back_from_data_that_are_drawn_anew(kind):
    """Geweke: where data are drawn given parameters and paths in between, parameters have their prior law."""
    law, moments, want = KINDS[kind]
    g = seeded(3)
    prior = Prior(gamma(2, 2.0, 2.0), torch.tensor([1.0, 2.0], dtype=double), law)
    B, T, S = 3, 4, 1500
    t, mask = times(B, T, 1.5, g), torch.ones(B, T, dtype=torch.bool)
    mask[0, 1] = mask[1, 3] = False
    nothing = torch.zeros(B, T, 2, dtype=double)
    blank = torch.zeros(B, T, 2, dtype=double) if kind == "gaussian" else torch.zeros(B, T).long()
    chain = Hidden(draw(prior.rates, 1, g)[0], even(2), law.drawn(blank, nothing, g))
    paths = first_paths(chain, t, nothing, g)
    rates, first, rest = [], [], []
    for _ in range(S):
        y = observed(chain.emission, states_at(paths, t), g)
        log_density = log_densities(chain.emission, y, mask)
        paths = redrawn_paths(chain, paths, t, log_density, g)
        chain = redrawn_chain(chain, paths, t, y, mask, prior, g)
        rates.append(torch.stack([chain.Q[0, 1], chain.Q[1, 0]]))
        first.append(chain.first[0])
        rest.append(moments(chain.emission))
    rates = torch.stack(rates)
    require_mean(rates, 1.0)
    require_mean(rates.square(), 1.5)  # 1 + shape / time²
    require_mean(torch.stack(first), 1 / 3)
    require_mean(torch.stack(rest), want)


def test_draws_of_emissions_are_their_posterior():
    """Against formulas of the conjugate laws, from a thousand draws at once."""
    g = seeded(4)
    y = torch.randn(5, 8, 2, dtype=double, generator=g)
    state = torch.randint(2, (5, 8), generator=g)
    weight = torch.nn.functional.one_hot(state, 2).double()
    weight[0] = 0.0
    law = wishart()
    drawn = [law.drawn(y, weight, g) for _ in range(1500)]
    mean = torch.stack([d.mean for d in drawn])
    covariance = torch.stack([d.covariance for d in drawn])
    for i in range(2):
        seen = y[1:][state[1:] == i]
        N, centre = len(seen), seen.mean(0)
        want = (law.weight * law.mean + N * centre) / (law.weight + N)
        shift = centre - law.mean
        scale = law.scale + (seen - centre).mT @ (seen - centre)
        scale = scale + law.weight * N / (law.weight + N) * shift[:, None] * shift
        require_mean(mean[:, i], want)
        require_mean(covariance[:, i], scale / (law.degrees + N - 3))
        spread = (mean[:, i] - want)[..., None] * (mean[:, i] - want)[:, None]
        require_mean(spread, scale / (law.degrees + N - 3) / (law.weight + N))


def misread_problem(g: torch.Generator, error: float = 0.1, B: int = 80):
    t = times(B, 25, 8.0, g)
    states = skeleton(cycle(0.8, 0.3), even(3), t, g)
    wrong = torch.rand(states.shape, generator=g) < error
    other = torch.randint(1, 3, states.shape, generator=g)
    y = torch.where(wrong, (states + other) % 3, states)
    return t, y, torch.ones_like(wrong)


def test_misread_labels_links_and_laws_of_states():
    """The truth within 4 deviations, as far as one draw of data can say; links stay zero; and laws of states."""
    g = seeded(5)
    t, y, mask = misread_problem(g)
    shape = gamma(3).shape.clone()
    shape[0, 2] = 0.0
    prior = Prior(GammaRates(shape, torch.ones(3, dtype=double)), even(3), BetaError(1.0, 9.0))
    start = Hidden(cycle(0.5, 0.5), even(3), Misread(torch.tensor(0.2, dtype=double), 3))
    found = gibbs(start, t, y, mask, prior, 400, 100, g)
    assert (found.Q[:, 0, 2] == 0).all() and (found.jumps[:, 0, 2] == 0).all()
    free = shape.clone().fill_diagonal_(0.0) > 0
    assert (found.Q[:, free] > 0).all()
    error = torch.stack([e.error for e in found.emission])
    assert abs(float(error.mean()) - 0.1) < 4 * float(error.std()) < 0.1
    torch.testing.assert_close(found.time.sum(1), t[:, -1].sum().expand(400))
    torch.testing.assert_close(found.law.sum(-1), torch.ones_like(t))
    # a row of the law: near that of the chain at the mean of the draws
    middle = Hidden(found.Q.mean(0), found.first.mean(0), Misread(error.mean(), 3))
    seen = log_densities(middle.emission, y, mask)
    law = smoothed(middle.Q, middle.first, clock(t), seen).law
    assert (found.law - law).abs().mean() < 0.02


def test_the_truth_is_covered_as_often_as_it_says():
    """Data from the prior, many times: ranks of the truth among draws are uniform."""
    g = seeded(6)
    prior = Prior(gamma(2, 3.0, 3.0), torch.ones(2, dtype=double), BetaError(2.0, 18.0))
    sets, sweeps = 40, 150
    ranks = []
    for _ in range(sets):
        Q = draw(prior.rates, 1, g)[0]
        error = prior.emission.drawn(torch.zeros(1, 1), torch.zeros(1, 1, 2, dtype=double), g).error
        t = times(8, 6, 2.0, g)
        first = torch.rand(1, dtype=double, generator=g)
        states = skeleton(Q, torch.cat([first, 1 - first]), t, g)
        y = observed(Misread(error, 2), states, g)
        start = Hidden(two_states(1.0, 1.0), even(2), Misread(even(5)[0], 2))
        mask = torch.ones_like(y, dtype=torch.bool)
        found = gibbs(start, t, y, mask, prior, sweeps, 15, g)
        drawn = torch.stack(
            [found.Q[:, 0, 1], found.Q[:, 1, 0], torch.stack([e.error for e in found.emission])], 1
        )
        truth = torch.stack([Q[0, 1], Q[1, 0], error])
        ranks.append((drawn < truth).double().mean(0))
    rank = torch.stack(ranks)  # (sets, 3)
    # uniform ranks: mean 1/2, variance 1/12, and 90 % of them between 0.05 and 0.95
    assert ((rank.mean(0) - 0.5).abs() < 4 * (1 / 12 / sets) ** 0.5).all()
    inside = ((rank > 0.05) & (rank < 0.95)).double().mean(0)
    assert ((inside - 0.9).abs() < 4 * (0.09 / sets) ** 0.5).all()
    assert ((rank.var(0) * 12 - 1).abs() < 4 * (0.8 / sets) ** 0.5).all()


def test_without_observations_the_draws_are_the_prior():
    g = seeded(7)
    t = times(4, 3, 1.0, g)
    y, mask = torch.zeros(4, 3).long(), torch.zeros(4, 3, dtype=torch.bool)
    prior = Prior(gamma(3, 1.5, 2.0), torch.tensor([1.0, 2.0, 3.0]).double(), BetaError(1.0, 3.0))
    start = Hidden(cycle(1.0, 1.0), even(3), Misread(even(4)[0], 3))
    found = gibbs(start, t, y, mask, prior, 1000, 10, g)
    off = ~torch.eye(3, dtype=torch.bool)
    require_mean(found.Q[:, off], 0.75)
    require_mean(found.first, prior.first / 6)
    require_mean(torch.stack([e.error for e in found.emission]), 0.25)


def test_the_log_joint_is_that_of_paths_and_data():
    """Of one path that cannot jump: its first state, and two readings of it."""
    t = torch.tensor([[0.0, 2.0]], dtype=double)
    y, mask = torch.tensor([[0, 0]]), torch.ones(1, 2, dtype=torch.bool)
    start = Hidden(two_states(0.0, 0.0), even(2), Misread(even(4)[0], 2))
    held = GammaRates(torch.zeros(2, 2, dtype=double), torch.ones(2, dtype=double))
    found = gibbs(start, t, y, mask, Prior(held, torch.ones(2).double()), 50, 0, seeded(8))
    assert (found.Q == 0).all() and (found.jumps == 0).all()
    state = found.time.argmax(1)
    seen = torch.where(state == 0, 2 * math.log(0.75), 2 * math.log(0.25)).double()
    want = found.first.log().gather(1, state[:, None])[:, 0] + seen
    torch.testing.assert_close(found.log_joint, want)


@pytest.mark.parametrize("r", [0.0, 0.7, -0.5])
def test_effective_size_of_an_autoregression(r):
    """S (1 - r) / (1 + r); and another library."""
    S, K = 2000, 100
    x = torch.randn(S, K, dtype=double, generator=seeded(9))
    for k in range(1, S):
        x[k] = r * x[k - 1] + (1 - r * r) ** 0.5 * x[k]
    found = effective_size(x)
    ratio = found / (S * (1 - r) / (1 + r))
    # sums of noise are cut where they turn negative, which costs a few percent
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / K**0.5 + 0.05
    torch.testing.assert_close(found, effective_sample_size(x[None], 0, 1), rtol=0.05, atol=0)
    torch.testing.assert_close(effective_size(x[:, 0]), found[0])
    assert effective_size(torch.ones(10)).isnan()


def test_a_generator_decides():
    t, y, mask = misread_problem(seeded(10), B=5)
    prior = Prior(gamma(3), torch.ones(3, dtype=double), BetaError(1.0, 9.0))
    start = Hidden(cycle(0.5, 0.5), even(3), Misread(even(5)[0], 3))
    run = partial(gibbs, start, t, y, mask, prior, 5, 0)
    runs: list[JumpDraws] = [run(generator=seeded(n)) for n in (0, 0, 1)]
    assert torch.equal(runs[0].Q, runs[1].Q) and not torch.equal(runs[0].Q, runs[2].Q)
    torch.manual_seed(0)
    run(generator=seeded(0))
    before = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(before, torch.rand(1))  # torch's own generator is left alone


def test_what_cannot_be():
    t = torch.tensor([[0.0, 1.0]], dtype=double)
    y, mask = torch.tensor([[0, 1]]), torch.ones(1, 2, dtype=torch.bool)
    start = Hidden(two_states(), even(2), exact(2))
    ones = torch.ones(2, dtype=double)
    with pytest.raises(ConfigError, match=r"TSD-X01.*rate 0 "):
        gibbs(start, t, y, mask, Prior(gamma(2, 1.0, 0.0), ones))
    with pytest.raises(ConfigError, match=r"TSD-X01.*shape -1"):
        gibbs(start, t, y, mask, Prior(gamma(2, -1.0), ones))
    with pytest.raises(ConfigError, match=r"TSD-X01.*0 sweeps"):
        gibbs(start, t, y, mask, Prior(gamma(2), ones), 0)
    with pytest.raises(DataError, match="TSD-D10"):
        gibbs(start, t[:, :1], y[:, :1], mask[:, :1], Prior(gamma(2), ones))
    with pytest.raises(DataError, match="TSD-D07"):
        gibbs(start, t.flip(1), y, mask, Prior(gamma(2), ones))
    stuck = GammaRates(torch.zeros(2, 2, dtype=double), ones)
    with pytest.raises(ModelError, match=r"TSD-M02.*path 0 is impossible"):
        gibbs(start, t, y, mask, Prior(stuck, ones))


def test_states_at_rows_where_rates_are_far_apart():
    """Two states that look alike and change quickly, one that is rarely left: shares against smoothing."""
    Q = from_rates(torch.tensor([[0.0, 30.0, 0.0], [20.0, 0.0, 0.1], [0.0, 0.2, 0.0]]).double())
    t = torch.tensor([0.0, 0.01, 3.0, 3.0], dtype=double).repeat(3000, 1)
    mean = torch.tensor([[0.0], [0.0], [3.0]], dtype=double)  # two states look alike
    emission = Gaussian(mean, torch.ones(3, 1, 1, dtype=double))
    y = torch.tensor([0.2, -0.3, 2.4, 1.0], dtype=double).repeat(3000, 1)[..., None]
    chain = Hidden(Q, even(3), emission)
    log_density = log_densities(emission, y, torch.ones(3000, 4, dtype=torch.bool))
    g = seeded(11)
    paths = first_paths(chain, t, log_density, g)
    for _ in range(3):
        paths = redrawn_paths(chain, paths, t, log_density, g)
    share = torch.nn.functional.one_hot(states_at(paths, t), 3).double().mean(0)
    law = smoothed(Q, even(3), clock(t), log_density).law[0]
    assert ((share - law).abs() < 4.5 * (law * (1 - law) / 3000).sqrt() + 1e-9).all()

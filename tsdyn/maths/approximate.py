"""A Gaussian Markov chain seen through values that are not Gaussian: y_ko ~ p(y | f_ko), f_k = H x_k + offset.

The posterior is approximated by the chain times Gaussian sites exp(h' x - x' J x / 2), one at each row,
so that every step is a smoothing in linear time. Two ways to choose the sites:

variational   the law q that maximises the bound  E_q log p(y | f) - KL(q, chain), by natural gradients
              J = -E_q (log p)'',  h = E_q (log p)' + J E_q f                                      [1]
propagation   each site, put in the place of its factor, leaves mean and variance as they are      [2]

Both are repeated, damped where needed, until sites no longer change. No site takes away precision: J >= 0
always, so that every step has a proper law. Of likelihoods that are log-concave none would; of others
(Student's t) a J that comes out negative is set to 0 with h kept, which leaves the pull on the mean.

[1] Khan & Lin. Conjugate-computation variational inference. AISTATS 2017; for chains: Chang, Wilkinson,
    Khan & Solin. Fast variational learning in state-space Gaussian process models. MLSP 2020.
[2] Minka. Expectation propagation for approximate Bayesian inference. UAI 2001; with powers: Wilkinson,
    Chang, Andersen & Solin. State space expectation propagation. ICML 2020.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import ModelError
from .kalman import LinearGaussian, Moments, Sites, common, log_z, smoothed
from .likelihoods import Likelihood, expected, log_slopes, tilted

STEPS = 200
TOLERANCE = 1e-9  # of sites, in standard deviations of the posterior
SMALLEST_RATE = 1e-6  # a step that does not raise the bound even so is not taken
SLOWEST = 0.05  # of propagation, which has no bound that would say when it is slow enough
SLACK = 1e-11  # rounding of a bound
QUIET = 1e-6  # standard deviations: what changes less is not worth a complaint
LEAST_CAVITY = 1e-8  # of the precision of the posterior: less is no law to tilt


class Observed(NamedTuple):
    """O values per row, y ~ p(y | f + offset) where the mask is True."""

    likelihood: Likelihood
    y: Tensor  # (..., N, O)  not read where the mask is False
    mask: Tensor  # (..., N, O)
    offset: Tensor | float = 0.0  # broadcasts to y


class Natural(NamedTuple):
    """exp(h f - precision f^2 / 2), f = H x without offset, of each value."""

    h: Tensor  # (..., N, O)
    precision: Tensor  # (..., N, O)


class Look(NamedTuple):
    """What the values say at some law of the states."""

    value: Tensor  # (...)  expected log p(y | f) of all
    target: Sites  # the sites that a full natural gradient step leads to


class Approximation(NamedTuple):
    """The posterior law of the states, and the log evidence of the values as far as it is known.

    `log_z(chain, sites)` is the bound: the sites hold what does not depend on the states, too. Its gradient
    with h and J held fixed is, at convergence, that of the bound as a whole, because there it does not
    change with them. So the sites can stand in for the values wherever those of Gaussian values would.
    """

    sites: Sites
    moments: Moments  # without graph
    bound: Tensor  # (...)  a lower bound (variational), or an approximation (propagation)
    steps: int
    change: Tensor  # (...)  what the next step would still change, in standard deviations


def variational(
    chain: LinearGaussian,
    H: Tensor,
    seen: Observed,
    rate: float = 1.0,
    tolerance: float = TOLERANCE,
    steps: int = STEPS,
) -> Approximation:
    """The Gaussian law nearest to the posterior in KL(q, p), and the bound on log p(y).

    The bound never falls: a step that would lower it is halved, for each chain by itself. For a Gaussian
    likelihood the first step is exact.

    Args:
        H: (..., O, S), the same at all rows.
        rate: of the first steps, in (0, 1].
        tolerance: where to stop, in standard deviations of the posterior.
        steps: at most; `complaint` of what comes back tells when they do not suffice.

    Raises:
        DataError: D14 for values that the likelihood does not give.
        ModelError: M02 if the bound is not a number from the start.
    """
    fixed, start = prepared(chain, H, seen)
    look = looking(H.detach(), seen)
    found = climb(fixed, to_sites(H.detach(), start), look, rate, tolerance, steps)
    value = expected_log_prob(seen, *marginals(H, found.moments)).sum(-1)
    sites = found.sites._replace(s=value - paired(found.sites, found.moments))
    return found._replace(sites=sites, bound=log_z(chain, sites))


def propagated(
    chain: LinearGaussian,
    H: Tensor,
    seen: Observed,
    power: float = 1.0,
    rate: float = 1.0,
    tolerance: float = TOLERANCE,
    steps: int = STEPS,
) -> Approximation:
    """Expectation propagation with all sites updated at once, and its approximation of log p(y).

    A chain whose sites change more than before is damped (the rate is halved). Where the rest leaves no
    proper law without a site, that site waits.

    Args:
        H, tolerance, steps: as in `variational`.
        power: in (0, 1], the part of a site that is taken out at a time; towards 0 it becomes the
            variational law.
        rate: of the first steps, in (0, 1].
    """
    fixed, site = prepared(chain, H, seen)
    view = H.detach()
    before = site.h.new_full(site.h.shape[:-2], torch.inf)
    damping = torch.full_like(before, rate)
    taken = 0
    while True:
        moments = smoothed(fixed, to_sites(view, site))
        mean, var = marginals(view, moments)
        target = matched(seen, site, mean, var, power)
        change = difference(site, target, mean, var)
        if taken == steps or bool((change <= tolerance).all()):
            break
        slower = (damping / 2).clamp(min=min(SLOWEST, rate))
        damping = torch.where(change > before, slower, damping)
        site = Natural(*(blend(*pair, damping) for pair in zip(site, target)))
        before, taken = change, taken + 1
    sites = to_sites(H, site)._replace(s=evidence(seen, site, mean, var, power))
    return Approximation(sites, moments, log_z(chain, sites), taken, change)


def climb(
    chain: LinearGaussian,
    start: Sites,
    look: Callable[[Moments], Look],
    rate: float = 1.0,
    tolerance: float = TOLERANCE,
    steps: int = STEPS,
) -> Approximation:
    """Natural gradient steps from some sites until they no longer change, the bound without graph."""
    sites, moments = start, smoothed(chain, start)
    seen = look(moments)
    bound = free_energy(seen.value, sites, moments)
    if not bool(bound.isfinite().all()):
        raise ModelError(
            "M02",
            f"the bound of chain {tuple((~bound.isfinite()).nonzero()[0].tolist())} is not finite",
            "values that the prior of f can explain",
            "Look at the variance of the kernel and at the offset",
        )
    rates, taken = torch.full_like(bound, rate), 0
    while True:
        change = distance(sites, seen.target, moments)
        moving = (change > tolerance) & (rates >= SMALLEST_RATE)
        if taken == steps or not bool(moving.any()):
            break
        step = torch.where(moving, rates, 0.0)
        h, J = (blend(*pair, step) for pair in zip(sites[:2], seen.target[:2]))
        proposal = Sites(h, J)
        there = smoothed(chain, proposal)
        said = look(there)
        height = free_energy(said.value, proposal, there)
        good = height >= bound - SLACK * (1 + bound.abs())
        sites, moments, seen = (
            choose(good, new, old)
            for new, old in ((proposal, sites), (there, moments), (said, seen))
        )
        bound = torch.where(good, height, bound)
        rates = torch.where(good, torch.where(moving, 2 * rates, rates).clamp(max=rate), rates / 2)
        taken += 1
    return Approximation(sites, moments, bound, taken, change)


def prepared(chain: LinearGaussian, H: Tensor, seen: Observed) -> tuple[LinearGaussian, Natural]:
    """The chain without graph, and sites to start from, for as many chains as there are."""
    seen.likelihood.require(seen.y, seen.mask)
    start = () if chain.m0 is None else chain.m0.shape[:-1]
    steps = () if chain.b is None else chain.b.shape[:-2]
    matrices = (chain.A.shape[:-3], chain.Q.shape[:-3], chain.P0.shape[:-2], H.shape[:-2])
    site = guessed(seen)
    lead = common(*matrices, torch.Size(start), torch.Size(steps), site.h.shape[:-2])
    return without_graph(chain), Natural(*(f.expand(*lead, *f.shape[-2:]) for f in site))


def guessed(seen: Observed) -> Natural:
    """What the values say next to a likely f."""
    likelihood, y, mask, offset = seen
    y = filled(y, mask)
    near = likelihood.guess(y)
    slope, curvature = log_slopes(likelihood, y, near)
    precision = (-curvature).clamp(min=0.0)
    h = slope + precision * (near - torch.as_tensor(offset).detach())
    return Natural(h.where(mask, 0.0), precision.expand(h.shape).where(mask, 0.0))


def without_graph(chain: LinearGaussian) -> LinearGaussian:
    """The same chain, through which no gradient flows."""
    m0, b = (f if f is None else f.detach() for f in (chain.m0, chain.b))
    return LinearGaussian(chain.A.detach(), chain.Q.detach(), chain.P0.detach(), m0, b)


def looking(H: Tensor, seen: Observed) -> Callable[[Moments], Look]:
    """What the values say of f = H x at each row."""

    def look(moments: Moments) -> Look:
        mean, var = marginals(H, moments)
        value, site = pulled(seen, mean, var)
        return Look(value, to_sites(H, site))

    return look


def pulled(seen: Observed, mean: Tensor, var: Tensor) -> tuple[Tensor, Natural]:
    """E log p(y | f) of each chain, and the natural gradient site of each value, at f ~ N(mean, var)."""
    likelihood, y, mask, offset = seen
    got = expected(likelihood, filled(y, mask), mean + offset, var)
    precision = (-2 * got.by_var).clamp(min=0.0)
    h = got.by_mean + precision * mean
    site = Natural(h.where(mask, 0.0), precision.where(mask, 0.0))
    return got.value.where(mask, 0.0).sum((-2, -1)), site


def expected_log_prob(seen: Observed, mean: Tensor, var: Tensor) -> Tensor:
    """E log p(y | f) of each value at f ~ N(mean, var) + offset: (..., N, O), zero where none is."""
    value = seen.likelihood.expected(filled(seen.y, seen.mask), mean + seen.offset, var)
    return value.where(seen.mask, 0.0)


def matched(seen: Observed, site: Natural, mean: Tensor, var: Tensor, power: float) -> Natural:
    """The sites that keep mean and variance of the tilted laws  [2]; those that have none stay."""
    likelihood, y, mask, offset = seen
    centre, width, proper = cavity(site, mean, var, power)
    got = tilted(likelihood, filled(y, mask), centre + offset, width, power)
    # a tilted law wider than the cavity would want precision taken away
    curvature = got.curvature.clamp(max=0.0)
    share = power * (1 + width * curvature)
    precision, h = -curvature / share, (got.slope - centre * curvature) / share
    good = mask & proper & h.isfinite() & precision.isfinite()
    return Natural(h.where(good, site.h), precision.where(good, site.precision))


def evidence(seen: Observed, site: Natural, mean: Tensor, var: Tensor, power: float) -> Tensor:
    """log ∫ p^a dN / a - log ∫ site^a dN / a of each row, N the law without a part a of the site: (..., N)"""
    likelihood, y, mask, offset = seen
    centre, width, _ = cavity(site, mean, var, power)
    true = likelihood.tilted(filled(y, mask), centre + offset, width, power)
    h, precision = power * site.h, power * site.precision
    spread = 1 + precision * width
    square = 2 * h * centre + h**2 * width - precision * centre**2
    gaussian = (square / spread - spread.log()) / 2
    return ((true - gaussian) / power).where(mask, 0.0).sum(-1)


def cavity(site: Natural, mean: Tensor, var: Tensor, power: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of f without a part of its own site, and where that is a law."""
    rest = 1 / var - power * site.precision
    proper = rest > LEAST_CAVITY / var
    width = 1 / rest.where(proper, 1 / var)
    centre = width * (mean / var - power * site.h)
    return centre.where(proper, mean), width, proper


def marginals(H: Tensor, moments: Moments) -> tuple[Tensor, Tensor]:
    """Mean and variance of H x_k: (..., N, O)"""
    rows = H[..., None, :, :]
    mean = (rows @ moments.mean[..., None])[..., 0]
    return mean, ((rows @ moments.cov) * rows).sum(-1)


def to_sites(H: Tensor, site: Natural) -> Sites:
    """Sites of values of H x as sites of x."""
    rows = H[..., None, :, :]  # (..., 1, O, S)
    h = (site.h[..., None, :] @ rows)[..., 0, :]
    return Sites(h, rows.mT @ (site.precision[..., None] * rows))


def free_energy(value: Tensor, sites: Sites, moments: Moments) -> Tensor:
    """E log p(y | f) - KL(q, chain), q being the chain seen through the sites."""
    return value + moments.log_z - paired(sites, moments).sum(-1)


def paired(sites: Sites, moments: Moments) -> Tensor:
    """E_q log site of each row, but for s: (..., N)"""
    m = moments.mean
    second = moments.cov + m[..., :, None] * m[..., None, :]
    return (sites.h * m).sum(-1) - (sites.J * second).sum((-2, -1)) / 2


def distance(a: Sites, b: Sites, moments: Moments) -> Tensor:
    """The largest difference of sites in units of the law: (...), about how far it would move."""
    deviation = moments.cov.diagonal(dim1=-2, dim2=-1).clamp(min=0.0).sqrt()  # (..., N, S)
    J = b.J - a.J
    pull = b.h - a.h - (J @ moments.mean[..., None])[..., 0]
    turn = deviation[..., :, None] * J * deviation[..., None, :]
    return torch.maximum((pull * deviation).abs().amax((-2, -1)), turn.abs().amax((-3, -2, -1)))


def difference(a: Natural, b: Natural, mean: Tensor, var: Tensor) -> Tensor:
    """`distance` for the sites of single values."""
    precision = b.precision - a.precision
    pull = (b.h - a.h - precision * mean) * var.sqrt()
    return torch.maximum(pull.abs(), (precision * var).abs()).amax((-2, -1))


def blend(a: Tensor, b: Tensor, rate: Tensor) -> Tensor:
    """(1 - rate) a + rate b, with a rate (...) for each chain."""
    return torch.lerp(a, b, rate.reshape(rate.shape + (1,) * (a.ndim - rate.ndim)))


def choose(good: Tensor, new: Any, old: Any) -> Any:
    """The new tensors of the chains that are good, the old ones of the others; in nested tuples."""
    if bool(good.all()):
        return new
    if isinstance(new, Tensor):
        return torch.where(good.reshape(good.shape + (1,) * (new.ndim - good.ndim)), new, old)
    if new is None:
        return None
    return type(new)(*(choose(good, a, b) for a, b in zip(new, old)))


def filled(y: Tensor, mask: Tensor) -> Tensor:
    """In double precision, with a value that every likelihood gives where none was observed."""
    return y.where(mask, 0.0).double()


def complaint(found: Approximation) -> str:
    """What to tell and to do where some chain has not come to rest; empty where all have."""
    late = ~(found.change <= QUIET)
    if not bool(late.any()):
        return ""
    most = float(found.change.nan_to_num(torch.inf).max())
    return (
        f"approximate inference stopped after {found.steps} steps with {int(late.sum())} of "
        f"{late.numel()} chains still changing, by up to {most:.1e} standard deviations. Try more "
        "`steps` (variational), or a smaller `rate` or `power` (propagation), and look for values far "
        "from all that the kernel allows"
    )

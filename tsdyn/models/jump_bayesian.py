"""What is believed of the rates of a Markov jump process, by draws from their posterior given all paths.

    q_ij ~ Gamma(shape, time),   p(Q, first, emission | paths) ∝ p(Q, first, emission) Π p(path | Q, first, emission)

Two ways to the same law: "gibbs" draws whole paths and then rates, in turn  [1]; "nuts" moves along the
gradient of the likelihood, in which paths are summed over, with logarithms of rates as coordinates  [2].
Gibbs costs no exponential of a matrix and its draws are cheap and dependent: more so the less is seen of
the paths. Draws of "nuts" are dear and nearly independent.

[1] Rao & Teh. Fast MCMC sampling for Markov jump processes and extensions. JMLR 14, 2013.
[2] Hoffman & Gelman. The No-U-Turn sampler. Journal of Machine Learning Research 15, 2014.
[3] Cappé, Moulines & Rydén. Inference in hidden Markov models. Springer 2005: Fisher's identity (10.1.3).
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Beta, Dirichlet, Distribution, Gamma, biject_to

from .. import chance
from ..batch import Paths
from ..errors import ConfigError, ModelError
from ..maths.emissions import Categorical, Emission, Misread, log_densities
from ..maths.hidden_jump import Clock, clock, smoothed
from ..maths.jump_em import Hidden
from ..maths.jump_gibbs import (
    BetaError,
    DirichletTable,
    NormalInverseWishart,
    Prior,
    effective_size,
    gibbs,
)
from ..maths.jump_likelihood import GammaRates, mean, posterior as with_jumps
from ..maths.jump_statistics import summed
from ..maths.rate_matrix import from_rates
from .base import require_fitted
from .gp_bayesian import flat, laplace, no_u_turn
from .jump import MarkovJump
from .jump_posterior import Interval, JumpPosterior, interval

DEPTH = 8  # at most 2^8 gradients per draw
INSIDE = 1e-3  # a chance of zero, where a search begins
FLAT_MEAN = 0.01  # observations that the prior of a mean is worth

EmissionLaw = BetaError | DirichletTable | NormalInverseWishart


class JumpSamples(NamedTuple):
    """S draws from the posterior."""

    Q: Tensor  # (S, n, n)
    first: Tensor  # (S, n)  law of the state at the first row
    emission: tuple[Emission, ...]  # S of them
    links: Tensor  # (n, n)  True for the rates that are not held at zero

    @property
    def size(self) -> Tensor:
        """How many independent draws tell as much of the mean of each rate: (n, n)."""
        return effective_size(self.Q).where(self.links, torch.nan)


class _Seen(NamedTuple):
    """All paths, as the likelihood reads them."""

    t: Tensor  # (B, T)
    y: Tensor
    mask: Tensor
    rows: Clock


def posterior(
    model: MarkovJump,
    paths: Paths,
    method: Literal["gibbs", "nuts"] = "gibbs",
    *,
    draws: int = 1000,
    warmup: int = 200,
    prior: tuple[float, float] | None = None,
    emission: EmissionLaw | None = None,
    seed: int | None = None,
) -> JumpSamples:
    """Draws of the rates, of the law of the first state, and of what is seen in each state.

    A Gamma law has no zero: a link that is known to be absent belongs in the model's `links`, or what is
    believed of it is missing elsewhere. Laws of the first state are believed to be uniform. Draws begin at the fitted rates; where states
    are hidden and their names could be exchanged, they stay near these.

    Args:
        model: fitted, best to the same paths; says which links there are.
        draws: that are kept, after `warmup` that are not.
        prior: (shape, time) of a Gamma law of every rate, with mean shape / time; None is the model's.
        emission: what is believed of misread states (`BetaError`), of tables (`DirichletTable`), of
            means and covariances (`NormalInverseWishart`). None is Beta(1, 9); uniform; and covariances around
            the mean fitted one, as if two more observations than channels had been seen, with means
            nearly unknown.
        seed: of the draws; None goes on with torch's generator.

    Raises:
        ConfigError: X01 without a prior, for another method, or no draws.
        ModelError: M01 before the fit; M02 where it makes the paths impossible; M05 for "nuts" of
            Gaussian emissions.
    """
    require_fitted(model.fitted, "MarkovJump")
    shape, time = _sound(model, method, draws, warmup, prior)
    t, y, mask = model.rows(paths)
    seen = _Seen(t, y, mask, clock(t))
    links = _links(model)
    rates = GammaRates(links.double() * shape, torch.full_like(model.first, time))
    law = emission or _weak(model, y, mask)
    _require_kind(model, law)
    belief = Prior(rates, torch.ones_like(model.first), law)
    with nullcontext() if seed is None else chance.seed(seed):
        if method == "gibbs":
            start: Hidden[Any] = Hidden(model.Q, model.first, model.emission)
            found = gibbs(start, t, y, mask, belief, draws, warmup)
            return JumpSamples(found.Q, found.first, found.emission, links)
        return _by_nuts(model, seen, belief, draws, warmup)


def belief(samples: JumpSamples) -> JumpPosterior:
    """Means and deviations of the draws; a link that is allowed is there, as a Gamma law has no zero."""
    off = ~torch.eye(samples.Q.shape[-1], dtype=torch.bool)
    return JumpPosterior(
        samples.Q.mean(0).where(off, 0.0),
        samples.Q.std(0).where(off, 0.0),
        samples.links.double(),
        samples.first.mean(0),
    )


def derived(
    samples: JumpSamples, quantity: Callable[[Tensor], Tensor], *, level: float = 0.9
) -> Interval:
    """quantity(Q), for example `rate_matrix.stationary`, with its central interval over the draws themselves.

    Args:
        quantity: (S, n, n) -> (S, ...), of many rate matrices at once.
    """
    return interval(quantity(samples.Q), level)


def errors(samples: JumpSamples) -> Tensor:
    """Draws of the chance that a state is misread: (S,); zero where states are seen exactly.

    Raises:
        ModelError: M05 for other emissions.
    """
    found = [e.error for e in samples.emission if isinstance(e, Misread)]
    if not found:
        raise ModelError(
            "M05",
            "states are not read as such, so none is misread",
            'draws of a model with seen="misread"',
            "Read the draws of `emission`",
        )
    return torch.stack(found)


def _by_nuts(
    model: MarkovJump, seen: _Seen, belief: Prior[Any], draws: int, warmup: int
) -> JumpSamples:
    links = belief.rates.shape > 0
    laws = _laws(belief, links)
    ways = {name: biject_to(law.support) for name, law in laws.items()}
    parts = {name: ways[name].inv(value) for name, value in _start(model, seen, belief).items()}
    begin = flat(parts.values())
    sizes = [part.numel() for part in parts.values()]

    def placed(theta: Tensor) -> tuple[Hidden[Any], Tensor]:
        """The chain at unbounded coordinates, and the log density of the prior there."""
        total = theta.new_zeros(())
        values = {}
        for name, part in zip(parts, torch.split(theta, sizes)):
            u = part.view(parts[name].shape)
            values[name] = ways[name](u)
            stretch = ways[name].log_abs_det_jacobian(u, values[name])
            total = total + laws[name].log_prob(values[name]).sum() + stretch.sum()
        Q = from_rates(torch.zeros_like(model.Q).masked_scatter(links, values["rates"]))
        return Hidden(Q, values["first"], _emission(model, values)), total

    def energy(z: Tensor) -> Tensor:
        chain, density = placed(begin + z)
        return -(density + _evidence(chain, seen))

    mode, root = laplace(energy, len(begin))
    u = no_u_turn(lambda u: energy(mode + root @ u), mode, draws, warmup, DEPTH)
    with torch.no_grad():
        chains = [placed(theta)[0] for theta in begin + mode + u @ root.T]
    return JumpSamples(
        torch.stack([c.Q for c in chains]),
        torch.stack([c.first for c in chains]),
        tuple(c.emission for c in chains),
        links,
    )


def _evidence(chain: Hidden[Any], seen: _Seen) -> Tensor:
    """log p of all that is seen, whose slope is that of expected jumps, times and visits: ()

    Fisher's identity  [3]: no graph through the rows, and the exponentials of EM instead of their derivatives.
    """
    if not bool(chain.Q.isfinite().all()):
        return chain.Q.new_tensor(-torch.inf)  # a leap that went astray
    log_density = log_densities(chain.emission, seen.y, seen.mask)
    Q, first = chain.Q.detach(), chain.first.detach()
    found = smoothed(Q, first, seen.rows, log_density.detach())
    G = summed(Q, seen.rows.gaps, found.W)
    slope = (
        (G * chain.Q).sum()
        + (found.law * log_density.where(found.law > 0, 0.0)).sum()
        + (found.law[:, 0].sum(0) * chain.first.log()).sum()
    )
    return found.log_likelihood.sum() + (slope - slope.detach())


def _laws(belief: Prior[Any], links: Tensor) -> dict[str, Distribution]:
    """The priors of all that is uncertain, by name."""
    time = belief.rates.rate[:, None].expand_as(links)[links]
    laws: dict[str, Distribution] = {
        "rates": Gamma(belief.rates.shape[links], time, validate_args=False),
        "first": Dirichlet(belief.first, validate_args=False),
    }
    if isinstance(belief.emission, BetaError):
        counts = torch.tensor(belief.emission).to(belief.first)
        laws["error"] = Beta(counts[0], counts[1], validate_args=False)
    elif isinstance(belief.emission, DirichletTable):
        laws["table"] = Dirichlet(belief.emission.seen, validate_args=False)
    return laws


def _start(model: MarkovJump, seen: _Seen, belief: Prior[Any]) -> dict[str, Tensor]:
    """Where the search for the mode begins: the fit, moved inside of its bounds."""
    density = log_densities(model.emission, seen.y, seen.mask)
    found = smoothed(model.Q, model.first, seen.rows, density)
    G = summed(model.Q, seen.rows.gaps, found.W)
    rates = mean(with_jumps(belief.rates, model.Q * G, G.diagonal()))
    values = {"rates": rates[belief.rates.shape > 0], "first": _inside(model.first)}
    if isinstance(belief.emission, BetaError):
        values["error"] = model.error.clamp(INSIDE, 1 - INSIDE)
    elif isinstance(belief.emission, DirichletTable):
        values["table"] = _inside(model.table)
    return values


def _emission(model: MarkovJump, values: dict[str, Tensor]) -> Emission:
    if "error" in values:
        return Misread(values["error"], model.states)
    if "table" in values:
        return Categorical(values["table"])
    return model.emission


def _inside(law: Tensor) -> Tensor:
    law = law.clamp(min=INSIDE)
    return law / law.sum(-1, keepdim=True)


def _links(model: MarkovJump) -> Tensor:
    off = ~torch.eye(model.states, dtype=torch.bool)
    return off if model.links is None else off & model.links


def _weak(model: MarkovJump, y: Tensor, mask: Tensor) -> EmissionLaw | None:
    """What is believed of the emission if nothing else is said."""
    if model.seen == "misread":
        return BetaError(1.0, 9.0)
    if model.seen == "symbols":
        return DirichletTable(torch.ones_like(model.table))
    if model.seen == "gaussian":
        # degrees D + 2 and this scale: the mean of the law is the mean fitted covariance
        centre = y[mask].mean(0)
        return NormalInverseWishart(centre, FLAT_MEAN, model.covariance.mean(0), model.dim + 2)
    return None


def _sound(
    model: MarkovJump,
    method: str,
    draws: int,
    warmup: int,
    prior: tuple[float, float] | None,
) -> tuple[float, float]:
    """The prior to be used."""
    if method not in ("gibbs", "nuts") or draws < 1 or warmup < 1:
        raise ConfigError(
            "X01",
            f"a posterior by method={method!r}, draws={draws}, warmup={warmup}",
            '"gibbs" or "nuts", at least one draw and step of warmup',
            "",
        )
    if method == "nuts" and model.seen == "gaussian":
        raise ModelError(
            "M05",
            'covariances are not drawn by method="nuts"',
            "states that are seen exactly, misread or as symbols",
            'Use method="gibbs", which draws means and covariances',
        )
    chosen = model.prior if prior is None else prior
    if chosen is None or not (chosen[0] > 0 and chosen[1] > 0):
        raise ConfigError(
            "X01",
            f"a posterior under the prior {chosen}",
            "a shape and a time above zero, for rates around shape / time",
            "Say what is believed: (1, time) is worth no jump in a time of this length",
        )
    return chosen


def _require_kind(model: MarkovJump, law: EmissionLaw | None) -> None:
    wanted = {
        "exactly": type(None),
        "misread": BetaError,
        "symbols": DirichletTable,
        "gaussian": NormalInverseWishart,
    }[model.seen]
    if not isinstance(law, wanted):
        raise ConfigError(
            "X01",
            f"a belief of type {type(law).__name__} about states that are seen {model.seen!r}",
            f"a {wanted.__name__}",
            "",
        )

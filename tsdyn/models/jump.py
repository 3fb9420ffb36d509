"""Markov jump processes seen at irregular times: exactly, misread, as symbols, or through Gaussian noise.

    P(X_{t+dt} = j | X_t = i) = q_ij dt,   y_k | X_{t_k} = i ~ b_i

Rates are found by expectation maximisation with exact expected holding times and jumps  [1], the laws of states by
forward and backward recursions over the gaps  [2]. Nothing is discretised.

References:
    [1] Bladt & Sørensen. Statistical inference for discretely observed Markov jump processes. JRSS B 2005.
    [2] Liu et al. Efficient learning of continuous-time hidden Markov models for disease progression. NeurIPS
        2015.
"""

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..batch import Paths, merge, query
from ..errors import ConfigError, DataError
from ..maths import jump_em
from ..maths.emissions import Categorical, Emission, Gaussian, Misread, log_densities
from ..maths.hidden_jump import MostLikely, clock, filtered, log_likelihood, smoothed, viterbi
from ..maths.jump_counts import counts, departures, require_states
from ..maths.jump_em import Hidden
from ..maths.jump_information import hidden_information
from ..maths.jump_likelihood import GammaRates, standard_errors
from ..maths.rate_matrix import from_rates, transition
from .base import Model, require_fitted

Seen = Literal["exactly", "misread", "symbols", "gaussian"]
MOST_DEPARTURES = 3.0  # from a state between two observations
FEWEST = 1e-6  # of the largest rate: below it a rate is at its bound of zero


class MarkovJump(Model):
    """A chain of n states with rates Q, one for all series.

    The states of series seen exactly or misread are whole numbers 0 ... n - 1 in one channel. Others are hidden, and known
    up to their names.

    Args:
        states: n.
        seen: "exactly"; "misread", another state with one small probability; "symbols", a table of
            probabilities; "gaussian", a mean and covariance for each state.
        symbols: number of symbols, for "symbols".
        dim: channels, for "gaussian".
        links: (n, n) with zeros where a rate is known to be zero; None allows all.
        prior: (shape, time) of a Gamma law of every rate, shape at least one: the rates are then the most likely under
            it. It counts as shape - 1 jumps seen in that time. None is maximum likelihood.
        starts: random ones for hidden states, of which the best is kept.
        steps: most steps of the search.
    """

    Q: Tensor
    first: Tensor
    error: Tensor
    table: Tensor
    mean: Tensor
    covariance: Tensor
    fitted: Tensor

    def __init__(
        self,
        states: int,
        seen: Seen = "exactly",
        *,
        symbols: int | None = None,
        dim: int = 1,
        links: Sequence[Sequence[float]] | None = None,
        prior: tuple[float, float] | None = None,
        starts: int = 5,
        steps: int = 1000,
    ):
        super().__init__()
        if seen not in ("exactly", "misread", "symbols", "gaussian"):
            raise ConfigError(
                "X01",
                f"MarkovJump got seen={seen!r}",
                'one of "exactly", "misread", "symbols", "gaussian"',
                "",
            )
        if (
            states < 2
            or (seen == "symbols") != (symbols is not None)
            or (seen != "gaussian" and dim != 1)
        ):
            raise ConfigError(
                "X01",
                f"MarkovJump got states={states}, seen={seen!r}, symbols={symbols}, dim={dim}",
                'two states at least, symbols for "symbols" only, several channels for "gaussian" only',
                "",
            )
        if prior is not None and (prior[0] < 1 or prior[1] < 0):
            raise ConfigError(
                "X01",
                f"MarkovJump got prior={tuple(prior)}",
                "a shape of at least one and a time",
                "",
            )
        if links is not None and [len(row) for row in links] != [states] * states:
            raise ConfigError("X01", "links have another shape", f"{states} rows of {states}", "")
        self.states, self.seen, self.dim = states, seen, dim
        self.links = None if links is None else torch.tensor(links) != 0
        self.prior, self.starts, self.steps = prior, starts, steps
        n, K = states, symbols or 1
        for name, value in {
            "Q": torch.zeros(n, n),
            "first": torch.full((n,), 1 / n),
            "error": torch.zeros(()),
            "table": torch.full((n, K), 1 / K),
            "mean": torch.zeros(n, dim),
            "covariance": torch.eye(dim).repeat(n, 1, 1),
        }.items():
            self.register_buffer(name, value.double())
        self.register_buffer("fitted", torch.tensor(False))

    @property
    def emission(self) -> Emission:
        """b, the law of what is seen in each state."""
        if self.seen == "symbols":
            return Categorical(self.table)
        if self.seen == "gaussian":
            return Gaussian(self.mean, self.covariance)
        return Misread(self.error, self.states)

    def on_epoch(self, epoch: int, train: tuple[Paths, Paths]) -> None:
        """All of the search, in the first epoch."""
        if not bool(self.fitted):
            self.fit(merge(*train)[0])

    def fit(self, paths: Paths) -> "MarkovJump":
        """The most likely rates and laws of what is seen, from all that `paths` hold.

        Warns, with the number, where observations are so far apart that the rates hardly show in them.

        Raises:
            DataError: D14 for what is no state or symbol, D10 for a state that nothing follows, D06, D07 for times.
        """
        t, y, mask = self.rows(paths)
        if self.seen == "exactly":
            gaps, C = counts(t, y, mask, self.states)
            left = C.sum((0, 2)) > 0
            if self.prior is None and not bool(left.all()):
                raise DataError(
                    "D10",
                    f"state {int((~left).nonzero()[0])} is never seen before another observation",
                    "every state, seen at least once with something after it",
                    "Number the states that occur, or give a prior: nothing else says how they are left",
                )
            start = jump_em.started(gaps, C, self.links)
            Q = jump_em.em(gaps, C, start, self._gamma(), steps=self.steps).Q
            self._keep(Q, self._first_seen(y, mask), None)
        else:
            begun = [self._start(t, y, mask) for _ in range(self.starts if self._random else 1)]
            fits = [
                jump_em.hidden_em(chain, t, y, mask, self._gamma(), steps=self.steps)
                for chain in begun
            ]
            chain = jump_em.best(fits).chain
            even = (chain.first * len(t) + 1) / (len(t) + self.states)  # no start is impossible
            self._keep(chain.Q, even, chain.emission)
        self._warn_of_long_gaps(t, y, mask)
        if paths.names is not None:
            self.channels = paths.names.channels
        return self

    def loss(self, given: Paths, want: Paths) -> Tensor:
        """(log p(given) - log p(given and want)) / values of want."""
        require_fitted(self.fitted, "MarkovJump")
        whole, _ = merge(given, want)
        evidence = self.evidence(whole).sum() - self.evidence(given).sum()
        return -evidence.to(want.x.dtype) / self._values(want).clamp(min=1)

    def evidence(self, paths: Paths) -> Tensor:
        """log p of all that is seen of each series: (B,)"""
        t, y, mask = self.rows(paths)
        return log_likelihood(self.Q, self.first, clock(t), log_densities(self.emission, y, mask))

    def state_law(self, given: Paths, at: Tensor) -> Tensor:
        """P(X(at) = i | given), for at (B, T): (B, T, n). Smoothing between observations, forecasts after them."""
        require_fitted(self.fitted, "MarkovJump")
        rows, place = merge(given, query(at, given))
        t, y, mask = self.rows(rows)
        found = smoothed(self.Q, self.first, clock(t), log_densities(self.emission, y, mask))
        return found.law.take_along_dim(place[..., None], 1)

    def most_likely(self, given: Paths) -> MostLikely:
        """The states at the rows of every series that are most likely together (Viterbi)."""
        require_fitted(self.fitted, "MarkovJump")
        t, y, mask = self.rows(given)
        return viterbi(self.Q, self.first, clock(t), log_densities(self.emission, y, mask))

    def sample(self, given: Paths, at: Tensor, n: int, latent: bool = False) -> Tensor:
        """n joint draws of what is seen at times (B, T), or of the states where `latent`: (n, B, T, D)."""
        require_fitted(self.fitted, "MarkovJump")
        rows, place = merge(given, query(at, given))
        states = self._draw(rows, n).take_along_dim(place.expand(n, -1, -1), 2)
        return (states[..., None] if latent else self._seen_in(states)).to(given.x.dtype)

    def errors(self, paths: Paths) -> Tensor:
        """Standard errors of the rates by the observed information of their logarithms: (n, n).

        Not a number for rates at zero. The share of misread labels is unknown with the rates; other laws of what is seen are
        taken as they are.

        Raises:
            ModelError: M04 where the data do not tell rates apart.
        """
        off = ~torch.eye(self.states, dtype=torch.bool)
        free = off & (self.Q > FEWEST * self.Q.max())
        chain = Hidden(self.Q, self.first, self.emission)
        found = hidden_information(chain, *self.rows(paths), free)
        return standard_errors(self.Q, found)

    @property
    def _random(self) -> bool:
        return self.seen in ("symbols", "gaussian")

    def rows(self, paths: Paths) -> tuple[Tensor, Tensor, Tensor]:
        """Times (B, T), what is seen (B, T) or (B, T, D), and where something is (B, T)."""
        mask = paths.mask.all(-1) if self.seen == "gaussian" else paths.mask[..., 0]
        if self.seen == "gaussian":
            return paths.t.double(), paths.x.double(), mask
        y = paths.x[..., 0].where(mask, 0.0)
        require_states(y, mask, self.table.shape[1] if self.seen == "symbols" else self.states)
        return paths.t.double(), y.long(), mask

    def _values(self, want: Paths) -> Tensor:
        _, _, mask = self.rows(want)
        return mask.sum() * self.dim

    def _gamma(self) -> GammaRates | None:
        if self.prior is None:
            return None
        shape, time = self.prior
        return GammaRates(torch.full_like(self.Q, shape), torch.full_like(self.first, time))

    def _warn_of_long_gaps(self, t: Tensor, y: Tensor, mask: Tensor) -> None:
        left = departures(self.Q, t, y, mask)
        if float(left.max()) > MOST_DEPARTURES:
            warnings.warn(
                f"State {int(left.argmax())} is left about {float(left.max()):.1f} times between two observations even where "
                f"they are close (above {MOST_DEPARTURES:g}): its rates hardly show in the data. Observe more often, "
                "give a prior or links, or read only the stationary law.",
                stacklevel=3,
            )

    def _first_seen(self, state: Tensor, mask: Tensor) -> Tensor:
        """Shares of the states that series begin in, each counted once more than it was seen."""
        begun = mask.any(1)
        row = mask.to(torch.int8).argmax(1, keepdim=True)
        found = state.gather(1, row)[begun, 0].bincount(minlength=self.states) + 1
        return found / found.sum()

    def _start(self, t: Tensor, y: Tensor, mask: Tensor) -> Hidden[Any]:
        if self.seen == "gaussian":
            chain: Hidden[Any] = jump_em.gaussian_start(t, y, mask, self.states)
        elif self.seen == "misread":
            chain = jump_em.misread_start(t, y, mask, self.states)
        else:
            n, K = self.table.shape
            table = torch.rand(n, K, dtype=torch.float64) + 0.5
            gap = t.diff()[mask[:, 1:]].mean().clamp(min=1e-12)
            rates = torch.rand(n, n, dtype=torch.float64) / (10 * gap)
            chain = Hidden(
                from_rates(rates), self.first, Categorical(table / table.sum(1, keepdim=True))
            )
        return chain if self.links is None else chain._replace(Q=from_rates(chain.Q * self.links))

    def _keep(self, Q: Tensor, first: Tensor, emission: Emission | None) -> None:
        self.Q.copy_(Q)
        self.first.copy_(first)
        if isinstance(emission, Misread):
            self.error.copy_(emission.error)
        elif isinstance(emission, Categorical):
            self.table.copy_(emission.probability)
        elif isinstance(emission, Gaussian):
            self.mean.copy_(emission.mean)
            self.covariance.copy_(emission.covariance)
        self.fitted.fill_(True)

    def _draw(self, rows: Paths, n: int) -> Tensor:
        """States at all rows, drawn backwards from the filtered laws: (n, B, T)."""
        t, y, mask = self.rows(rows)
        times = clock(t)
        law = filtered(self.Q, self.first, times, log_densities(self.emission, y, mask)).law
        P = transition(self.Q, times.gaps)
        state = _drawn(law[:, -1].expand(n, -1, -1))
        found = [state]
        for k in reversed(range(law.shape[1] - 1)):
            ahead = P[times.group[:, k]].mT.expand(n, -1, -1, -1)  # (n, B, to, from)
            into = ahead.take_along_dim(state[..., None, None], 2)[:, :, 0]
            state = _drawn(law[:, k] * into)
            found.append(state)
        return torch.stack(found[::-1], -1)

    def _seen_in(self, states: Tensor) -> Tensor:
        """Draws of what is seen in these states (n, B, T): (n, B, T, D)."""
        if self.seen == "gaussian":
            root = torch.linalg.cholesky(self.covariance)[states]
            z = torch.randn((*states.shape, self.dim, 1), dtype=root.dtype, device=root.device)
            drawn: Tensor = self.mean[states] + (root @ z)[..., 0]
            return drawn
        if self.seen == "symbols":
            return _drawn(self.table[states])[..., None]
        wrong = torch.rand(states.shape, dtype=torch.float64, device=states.device) < self.error
        other = torch.randint(1, self.states, states.shape, device=states.device)
        return torch.where(wrong, (states + other) % self.states, states)[..., None]


def _drawn(weights: Tensor) -> Tensor:
    """A number drawn by weights (..., n): (...)."""
    reached = weights.cumsum(-1)
    u = torch.rand(weights.shape[:-1], dtype=weights.dtype, device=weights.device)
    level = (u * reached[..., -1])[..., None]
    found: Tensor = (reached <= level).sum(-1)
    return found.clamp(max=weights.shape[-1] - 1)

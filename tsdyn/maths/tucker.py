"""Tensors whose modes are functions: z(i_1, ..., i_M) = vec(W)' (u_1(i_1) (x) ... (x) u_M(i_M)).

    y_n ~ N(z_n, 1 / tau),   u_k: R_k independent Gaussian processes,   tau ~ Gamma(a0, b0)
    W ~ N(0, I) (Tucker), or W_r...r = 1 and else 0 (CP);   q = q(tau) q(W) prod_k q(u_k)

Under the mean-field q, what the entries say about one mode is a Gaussian site exp(h'u - u'Ju/2) at each
of its indices: J = E tau sum_n w_n E[v_n v_n'], h = E tau sum_n w_n y_n E[v_n], where v_n is what z_n multiplies
u_k by. Sums over entries are made once, before the core enters: their columns are products of packed
second moments, (R (R + 1) / 2)^(M - 1) of them, and are never held for all entries at a time.

[1] Fang et al. Functional Bayesian Tucker decomposition for continuous-indexed tensor data. ICLR 2024.
[2] Winn & Bishop. Variational message passing. Journal of Machine Learning Research 6, 2005.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .blocks import doubles, per_row
from .kalman import LinearGaussian, Sites, smoothed
from .kernels import Kernel, constantly, coregionalize, reversible

HELD = 1 << 21  # doubles of products held at a time: 16 MB


class Seen(NamedTuple):
    """N entries of a tensor of M modes; entries of one index are one, of as much weight."""

    rows: Tensor  # (N, M)  which of the indices of each mode
    weight: Tensor  # (N,)
    total: Tensor  # (N,)  weight times value
    square: float  # sum of weight times value squared, of all that came

    @property
    def size(self) -> float:
        """How many entries came, each as often as it weighs."""
        return float(self.weight.sum())


class Factor(NamedTuple):
    """u(i) ~ N(mean, cov) at each of n indices of a mode."""

    mean: Tensor  # (n, R)
    cov: Tensor  # (n, R, R)

    @property
    def second(self) -> Tensor:
        """E u u': (n, R, R)"""
        return self.cov + self.mean[:, :, None] * self.mean[:, None, :]


class Sums(NamedTuple):
    """For each index of one mode, sums over the entries there of products of the other modes' moments."""

    first: Tensor  # (n, .)  of total times products of E u
    second: Tensor  # (n, .)  of weight times products of packed E u u'


class Terms(NamedTuple):
    """sum_n (w_n y_n E z_n) and sum_n (w_n E z_n^2), as quadratic forms in what is left open."""

    h: Tensor
    J: Tensor


class Superdiagonal(NamedTuple):
    """z = sum_r prod_k u_kr: CP, whose core is known."""

    rank: int

    def products(self, parts: Sequence[Tensor]) -> Tensor:
        """(n, R) each -> (n, R)"""
        return functools.reduce(torch.mul, parts)

    def terms(self, sums: Sums, k: int) -> Terms:
        """What the entries say about mode k: h (n, R), J (n, R, R)."""
        return Terms(sums.first, unpacked(sums.second, self.rank))

    def moments(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """E z and E z^2 (n,) from products over all modes."""
        off = 2.0 - torch.eye(self.rank, dtype=second.dtype, device=second.device)
        return first.sum(-1), second @ packed(off)

    def about_core(self, sums: Sums, last: Factor) -> Terms:
        """sum w y z and sum w z^2 are numbers: the core is known."""
        h, J = self.terms(sums, 0)
        return Terms((h * last.mean).sum(), (J * last.second).sum())

    def agreement(self, terms: Terms) -> tuple[Tensor, Tensor]:
        """sum w y E z and sum w E z^2."""
        return terms.h, terms.J

    def divergence(self) -> float:
        """KL(q(W) || p(W))."""
        return 0.0


class Full(NamedTuple):
    """vec W ~ N(vec mean, cov): Tucker."""

    mean: Tensor  # (R_1, ..., R_M)
    cov: Tensor  # (P, P), P = R_1 ... R_M

    @property
    def second(self) -> Tensor:
        """E vec W vec W': (R_1, ..., R_M, R_1, ..., R_M)"""
        w = self.mean.flatten()
        return (self.cov + w[:, None] * w).reshape(*self.mean.shape, *self.mean.shape)

    def products(self, parts: Sequence[Tensor]) -> Tensor:
        """Kronecker products of rows: (n, C_k) each -> (n, prod C_k)"""
        return functools.reduce(lambda a, b: (a[:, :, None] * b[:, None, :]).flatten(1), parts)

    def terms(self, sums: Sums, k: int) -> Terms:
        """What the entries say about mode k: h (n, R_k), J (n, R_k, R_k)."""
        R = self.mean.shape[k]
        weights = self.mean.movedim(k, 0).flatten(1)  # (R_k, prod of the others)
        pairs = self.folded(k).flatten(1)  # (R_k^2, prod of packed pairs)
        return Terms(sums.first @ weights.T, (sums.second @ pairs.T).reshape(-1, R, R))

    def folded(self, k: int | None = None) -> Tensor:
        """E W W' with the two axes of each mode but k as one of packed pairs; those of mode k come first."""
        M = self.mean.ndim
        axes = [axis for j in range(M) for axis in (j, M + j)]
        folded = self.second.permute(axes)
        for j in range(M):  # each pass turns the two axes at 2 j - (folds done) into one
            at = j if k is None or j < k else j + 1
            if j != k:
                folded = folded.flatten(at, at + 1)
                number = numbers(self.mean.shape[j]).to(folded.device).flatten()
                size = (*folded.shape[:at], int(number.max()) + 1, *folded.shape[at + 1 :])
                folded = folded.new_zeros(size).index_add(at, number, folded)
        return folded if k is None else folded.movedim((k, k + 1), (0, 1)).flatten(0, 1)

    def moments(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """E z and E z^2 (n,) from products over all modes."""
        return first @ self.mean.flatten(), second @ self.folded().flatten()

    def about_core(self, sums: Sums, last: Factor) -> Terms:
        """sum w y z and sum w z^2 as forms in vec W, from sums over the last mode's indices: (P,), (P, P)."""
        M, P = self.mean.ndim, self.mean.numel()
        h = (sums.first.T @ last.mean).flatten()
        J = sums.second.T @ packed(last.second)
        shape = self.mean.shape
        J = J.reshape([R * (R + 1) // 2 for R in shape])
        for j, R in enumerate(shape):
            J = J.index_select(2 * j, numbers(R).to(J.device).flatten())
            J = J.reshape(*J.shape[: 2 * j], R, R, *J.shape[2 * j + 1 :])
        axes = [*range(0, 2 * M, 2), *range(1, 2 * M, 2)]
        return Terms(h, J.permute(axes).reshape(P, P))

    def agreement(self, terms: Terms) -> tuple[Tensor, Tensor]:
        """sum w y E z and sum w E z^2."""
        second = self.second.reshape(terms.J.shape)
        return terms.h @ self.mean.flatten(), (terms.J * second).sum()

    def divergence(self) -> float:
        """KL(q(W) || N(0, I))."""
        trace = self.cov.trace() + self.mean.square().sum() - self.mean.numel()
        return float((trace - torch.linalg.slogdet(self.cov).logabsdet) / 2)


Core = Superdiagonal | Full


class Noise(NamedTuple):
    """tau ~ Gamma(a, b), the precision of the noise."""

    a: float
    b: float

    @property
    def precision(self) -> float:
        """E tau"""
        return self.a / self.b

    @property
    def variance(self) -> float:
        """E 1 / tau, where it is finite."""
        return self.b / (self.a - 1) if self.a > 1 else self.b / self.a

    @property
    def log_precision(self) -> float:
        """E log tau"""
        return float(torch.special.digamma(torch.tensor(self.a).double())) - math.log(self.b)

    def divergence(self, prior: "Noise") -> float:
        """KL(self || prior)."""
        digamma = self.log_precision + math.log(self.b)
        return (
            (self.a - prior.a) * digamma
            - math.lgamma(self.a)
            + math.lgamma(prior.a)
            + prior.a * math.log(self.b / prior.b)
            + self.precision * (prior.b - self.b)
        )


def levels(variance: Tensor | float = 1.0) -> Kernel:
    """Cov(f(t), f(t')) = variance if t = t', else 0: every index has a value of its own.

    Args:
        variance: (...), of f.
    """
    (variance,) = doubles(variance)

    def step(gap: Tensor) -> tuple[Tensor, Tensor]:
        moved = (gap != 0).to(variance)
        A = (1 - moved)[..., None, None]
        return A, (per_row(variance, gap) * moved)[..., None, None]

    whole = constantly(variance[..., None, None])
    return reversible("levels", step, whole, torch.ones_like(variance)[..., None], [1.0])


def side_by_side(kernel: Kernel, rank: int) -> Kernel:
    """rank independent processes of one law, as one of rank outputs."""
    return coregionalize([kernel] * rank, torch.eye(rank, dtype=torch.float64))


def group(rows: Tensor, y: Tensor, weight: Tensor) -> Seen:
    """Entries at rows (N, M) of the indices, those of one index put together."""
    distinct, of = rows.unique(dim=0, return_inverse=True)  # type: ignore[no-untyped-call]
    zeros = y.new_zeros(len(distinct))
    total, weights = (zeros.index_add(0, of, f) for f in (weight * y, weight))
    return Seen(distinct, weights, total, float((weight * y * y).sum()))


def gather(core: Core, factors: Sequence[Factor], seen: Seen, k: int) -> Sums:
    """The sums over entries for every index of mode k, from the moments of the other modes."""
    others = [j for j in range(len(factors)) if j != k]
    means, pairs = moments_of([factors[j] for j in others])
    size = len(factors[k].mean)
    sums: list[Tensor] = []
    for at in parts(core, pairs, len(seen.rows)):
        rows = seen.rows[at]
        found = [
            weight[at, None] * core.products([f[rows[:, j]] for f, j in zip(fs, others)])
            for fs, weight in ((means, seen.total), (pairs, seen.weight))
        ]
        sums = sums or [f.new_zeros(size, f.shape[1]) for f in found]
        for total, part in zip(sums, found):
            total.index_add_(0, rows[:, k], part)
    return Sums(*sums)


def contract(core: Core, factors: Sequence[Factor], rows: Tensor) -> tuple[Tensor, Tensor]:
    """E z and Var z (N,) at rows (N, M) of the factors."""
    means, pairs = moments_of(factors)
    found = []
    for at in parts(core, pairs, len(rows)):
        first, second = (
            core.products([f[rows[at, j]] for j, f in enumerate(fs)]) for fs in (means, pairs)
        )
        found.append(torch.stack(core.moments(first, second)))
    mean, second = torch.cat(found, 1) if found else rows.new_zeros(2, 0).double()
    return mean, (second - mean * mean).clamp(min=0.0)


def moments_of(factors: Sequence[Factor]) -> tuple[list[Tensor], list[Tensor]]:
    """E u and packed E u u' of each."""
    return [f.mean for f in factors], [packed(f.second) for f in factors]


def parts(core: Core, pairs: Sequence[Tensor], count: int) -> Iterator[slice]:
    """Stretches of entries whose products are held together."""
    widths = [f.shape[1] for f in pairs]
    wide = max(widths) if isinstance(core, Superdiagonal) else math.prod(widths)
    step = max(HELD // wide, 1)
    return (slice(start, start + step) for start in range(0, count, step))


def smooth(chain: LinearGaussian, H: Tensor, sites: Terms) -> tuple[Factor, float]:
    """q(u) of a mode: u = H x of the states x of a chain, seen through sites; and log of their normaliser.

    Args:
        H: (R, S).
        sites: h (n, R), J (n, R, R).
    """
    law = smoothed(chain, state_sites(H, sites))
    return Factor(law.mean @ H.T, H @ law.cov @ H.T), float(law.log_z)


def state_sites(H: Tensor, sites: Terms) -> Sites:
    """Sites of u = H x as sites of x."""
    return Sites(sites.h @ H, H.T @ sites.J @ H)


def factor_divergence(factor: Factor, sites: Terms, log_z: float) -> float:
    """KL(q(u) || p(u)) where q is p seen through the sites."""
    seen = (sites.h * factor.mean).sum() - (sites.J * factor.second).sum() / 2
    return float(seen) - log_z


def update_core(terms: Terms, shape: Sequence[int], prior_precision: float) -> Full:
    """q(W) from what is seen of vec W as natural parameters h (P,), J (P, P), and N(0, I / prior_precision)."""
    eye = torch.eye(len(terms.h), dtype=terms.h.dtype, device=terms.h.device)
    L = torch.linalg.cholesky(terms.J + prior_precision * eye)
    cov = torch.cholesky_inverse(L)
    return Full((cov @ terms.h).reshape(*shape), cov)


def expected_square(seen: Seen, core: Core, terms: Terms) -> float:
    """sum_n w_n E (y_n - z_n)^2, from what is seen of the core."""
    agree, size = core.agreement(terms)
    return max(seen.square - 2 * float(agree) + float(size), 0.0)


def expected_log_density(seen: Seen, noise: Noise, error: float) -> float:
    """E log p(y | z, tau), where error is the expected square of all errors."""
    each = noise.log_precision - math.log(2 * math.pi)
    return seen.size / 2 * each - noise.precision / 2 * error


def draw(core: Full, n: int) -> Tensor:
    """n draws of the core: (n, R_1, ..., R_M)"""
    L: Tensor = torch.linalg.cholesky(core.cov)
    noise = torch.randn(n, len(L), dtype=L.dtype, device=L.device)
    return core.mean + (noise @ L.T).reshape(n, *core.mean.shape)


def tensor(core: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """z (N,) of a core (R_1, ..., R_M) and rows (N, R_k) of each mode."""
    first, *rest = factors
    found: Tensor = (first @ core.flatten(1)).reshape(-1, *core.shape[1:])
    for u in rest:
        found = (u.reshape(*u.shape, *(1,) * (found.ndim - 2)) * found).sum(1)
    return found


@functools.cache
def numbers(rank: int) -> Tensor:
    """The place of the pair (r, s) among the pairs r <= s: (rank, rank), symmetric."""
    with torch.inference_mode(False), torch.device("cpu"):
        i, j = torch.triu_indices(rank, rank)
        number = torch.zeros(rank, rank, dtype=torch.long)
        number[i, j] = number[j, i] = torch.arange(len(i))
        return number


def packed(S: Tensor) -> Tensor:
    """Symmetric (..., R, R) -> (..., R (R + 1) / 2), row by row of the upper triangle."""
    i, j = torch.triu_indices(*S.shape[-2:], device=S.device)
    return S[..., i, j]


def unpacked(pairs: Tensor, rank: int) -> Tensor:
    """(..., R (R + 1) / 2) -> symmetric (..., R, R)"""
    return pairs[..., numbers(rank).to(pairs.device)]

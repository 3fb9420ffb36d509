"""How far apart are two clouds of weighted points, x (N, D) with a (N,) and y (M, D) with b (M,)?

Weights of None are equal; others are divided by their sum. All pairs are visited a few rows at a time.
Zero, in every case, only for equal laws; a finite cloud is at a positive distance from another one of
the same law, so that the distance between two halves of a cloud is the floor to compare with.

References:
    [1] Peyré & Cuturi. Computational optimal transport. Foundations and Trends in Machine Learning 2019.
    [2] Bonneel, Rabin, Peyré & Pfister. Sliced and Radon Wasserstein barycenters of measures. Journal
        of Mathematical Imaging and Vision 2015.
    [3] Gretton, Borgwardt, Rasch, Schölkopf & Smola. A kernel two-sample test. JMLR 2012.
    [4] Székely & Rizzo. Energy statistics: a class of statistics based on distances. Journal of
        Statistical Planning and Inference 2013.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .assignment import exact
from .cost import ENTRIES

Weights = Tensor | None


def energy_distance(x: Tensor, y: Tensor, a: Weights = None, b: Weights = None) -> Tensor:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'|, over all pairs, each point also with itself  [4]"""
    return _between(x, y, a, b, lambda distance: -distance)


def mmd(
    x: Tensor, y: Tensor, a: Weights = None, b: Weights = None, width: float | None = None
) -> Tensor:
    """sqrt(E k(X, X') + E k(Y, Y') - 2 E k(X, Y)), k = exp(-|x - y|² / 2 width²), over all pairs  [3]

    Args:
        width: in the units of x; None is the median distance of two different points of both clouds
            together. To compare several clouds with one, give all of them the same.
    """
    own = median_distance(torch.cat([x, y])) if width is None else width
    square = _between(x, y, a, b, lambda distance: torch.exp(-0.5 * (distance / own).square()))
    return square.clamp(min=0).sqrt()


def median_distance(x: Tensor, most: int = 2000) -> Tensor:
    """Median of |x_i - x_j| over i < j: of `most` points spread evenly over the rows where there are more."""
    if len(x) > most:
        x = x[torch.linspace(0, len(x) - 1, most, device=x.device).round().long()]
    distances: Tensor = torch.nn.functional.pdist(x)
    n = len(distances)
    low, high = (distances.kthvalue(k).values for k in ((n + 1) // 2, n // 2 + 1))
    middle: Tensor = (low + high) / 2
    return middle


def wasserstein(
    x: Tensor, y: Tensor, a: Weights = None, b: Weights = None, order: float = 1.0
) -> Tensor:
    """(min_P Σ P_ij |x_i - y_j|^order)^(1 / order), exact: W1, or W2 with order 2, in the units of x  [1]

    In one dimension for any number of points; in more for up to a few thousand (M05 beyond them).
    """
    if x.shape[-1] == 1:
        return _on_a_line(x.mT, y.mT, a, b, order)[0]
    own = None if a is None else _shares(x, a.double())
    other = None if b is None else _shares(y, b.double())
    plan = exact(_distance(x.detach(), y.detach()) ** order, own, other)
    gap = (x[plan.i] - y[plan.j]).norm(dim=-1)
    mean: Tensor = (plan.mass.to(gap) * gap**order).sum() / plan.mass.sum().to(gap)
    return mean ** (1 / order)


def sliced_wasserstein(
    x: Tensor,
    y: Tensor,
    a: Weights = None,
    b: Weights = None,
    order: float = 2.0,
    directions: int = 1000,
    generator: torch.Generator | None = None,
) -> Tensor:
    """(mean over unit vectors θ of W_order(θ·X, θ·Y)^order)^(1 / order), for any number of points  [2]

    Its square for laws that differ by a shift s is |s|² / D (order 2).

    Args:
        directions: how many, uniform on the sphere; the relative error falls as 1 / sqrt(directions).
    """
    shape = (directions, x.shape[-1])
    theta = torch.randn(shape, generator=generator, dtype=x.dtype, device=x.device)
    theta = theta / theta.norm(dim=-1, keepdim=True)
    at_once = max(1, ENTRIES // (len(x) + len(y)))
    parts = [
        _on_a_line(t @ x.mT, t @ y.mT, a, b, order) ** order for t in torch.split(theta, at_once)
    ]
    return torch.cat(parts).mean() ** (1 / order)


def _on_a_line(x: Tensor, y: Tensor, a: Weights, b: Weights, order: float) -> Tensor:
    """(∫ |F⁻¹(u) - G⁻¹(u)|^order du)^(1 / order) of clouds x (S, N) and y (S, M): (S,)."""
    (xs, left), (ys, right) = _quantiles(x, a), _quantiles(y, b)
    ends = torch.cat([left, right], -1).sort(-1).values  # both are constant between these
    width = ends.diff(dim=-1, prepend=torch.zeros_like(ends[:, :1]))
    middle = ends - width / 2
    first, second = (
        points.gather(-1, torch.searchsorted(reached, middle).clamp(max=points.shape[-1] - 1))
        for points, reached in ((xs, left), (ys, right))
    )
    return ((first - second).abs() ** order * width).sum(-1) ** (1 / order)


def _quantiles(x: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """Points in order, and the distribution function at each: (S, N) both."""
    points, order = x.sort(-1)
    reached = _shares(x[0], weights)[order].cumsum(-1)
    return points, reached / reached[:, -1:]


def _shares(points: Tensor, weights: Weights) -> Tensor:
    """Weights that sum to one: (N,)."""
    if weights is None:
        return points.new_full(points.shape[:1], 1 / len(points))
    own = weights.to(points)
    return own / own.sum()


def _between(
    x: Tensor, y: Tensor, a: Weights, b: Weights, kernel: Callable[[Tensor], Tensor]
) -> Tensor:
    """E k(X, X') + E k(Y, Y') - 2 E k(X, Y) for a kernel of the distance."""
    a, b = _shares(x, a), _shares(y, b)
    return _mean(x, x, a, a, kernel) + _mean(y, y, b, b, kernel) - 2 * _mean(x, y, a, b, kernel)


def _mean(x: Tensor, y: Tensor, a: Tensor, b: Tensor, kernel: Callable[[Tensor], Tensor]) -> Tensor:
    """Σ_ij a_i b_j k(|x_i - y_j|), a few rows at a time."""
    step = max(1, ENTRIES // len(y))
    parts = [
        part @ (kernel(_distance(rows, y)) @ b)
        for rows, part in zip(torch.split(x, step), torch.split(a, step), strict=True)
    ]
    return torch.stack(parts).sum()


def _distance(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j| from the differences themselves: products would lose what is close by."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")

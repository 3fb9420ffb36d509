"""Scores of draws against what happened. Draws lead: (S, ...) against (...).

Scores are returned value by value, so that the caller averages where something was observed.

References:
    [1] Gneiting & Raftery. Strictly proper scoring rules, prediction, and estimation. JASA 2007.
    [2] Zamo & Naveau. Estimation of the CRPS with limited information. Mathematical Geosciences 2018.
    [3] Gneiting, Balabdaoui & Raftery. Probabilistic forecasts, calibration and sharpness. JRSS B 2007.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """sum of x where mask / number of True in mask; zero where nothing is observed."""
    return x.where(mask, 0.0).sum() / mask.sum().clamp(min=1)


def crps(samples: Tensor, x: Tensor) -> Tensor:
    """E|X - x| - 1/2 E|X - X'|, fair: unbiased for any number of draws S >= 2.

    The second term comes from the order statistics, so the cost is a sort, not all pairs:
    sum_{i<j} (s_j - s_i) = sum_i (2 i - S + 1) s_(i), i = 0 .. S-1  ([2], eq. PWM).

    Args:
        samples: (S, ...) draws.
        x: (...) what happened, in the same units.
    """
    s = samples.sort(0).values
    n = len(s)
    rank = torch.arange(n, dtype=s.dtype, device=s.device).view(-1, *[1] * x.ndim)
    spread = (s * (2 * rank - n + 1)).sum(0) / (n * (n - 1))
    return (s - x).abs().mean(0) - spread


def gaussian_crps(mean: Tensor, std: Tensor, x: Tensor) -> Tensor:
    """CRPS of N(mean, std^2): std [u (2 Phi(u) - 1) + 2 phi(u) - 1/sqrt(pi)], u = (x - mean)/std  [1]."""
    u = (x - mean) / std
    density = torch.exp(-0.5 * u.square()) / math.sqrt(2 * math.pi)
    return std * (u * torch.erf(u / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))


def energy_score(samples: Tensor, x: Tensor, mask: Tensor, rows: int = 512) -> Tensor:
    """E|X - x| - 1/2 E|X - X'| with the Euclidean norm over the last axis, fair  [1, section 4.2].

    Unobserved coordinates are left out of the norm. Costs S^2 D per row; `rows` bounds the memory.

    Args:
        samples: (S, ..., D); x, mask: (..., D).

    Returns:
        (...), zero where no coordinate is observed.
    """
    n, shape = len(samples), x.shape[:-1]
    draws = samples.where(mask, 0.0).flatten(1, -2).transpose(0, 1)  # (R, S, D)
    truth = x.where(mask, 0.0).reshape(-1, 1, x.shape[-1])  # (R, 1, D)
    parts = []
    for d, y in zip(torch.split(draws, rows), torch.split(truth, rows), strict=True):
        spread = torch.cdist(d, d, compute_mode="donot_use_mm_for_euclid_dist").sum((1, 2))
        parts.append((d - y).norm(dim=-1).mean(1) - 0.5 * spread / (n * (n - 1)))
    return torch.cat(parts).view(shape)


def quantile(samples: Tensor, q: float | Sequence[float]) -> Tensor:
    """The q-quantile over the first axis by linear interpolation of the order statistics.

    As `torch.quantile`, without its limit of 16 million elements. A list of levels leads: (Q, ...).
    """
    s = samples.sort(0).values
    if isinstance(q, float | int):
        return _between(s, float(q))
    return torch.stack([_between(s, level) for level in q])


def _between(ordered: Tensor, q: float) -> Tensor:
    place = q * (len(ordered) - 1)
    low = min(int(place), len(ordered) - 1)
    high = min(low + 1, len(ordered) - 1)
    return torch.lerp(ordered[low], ordered[high], place - low)


def interval(samples: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """The central interval that the next draw of the same law falls into with probability `level`.

    Its ends are the order statistics of rank q (S + 1), q = (1 -+ level) / 2, interpolated: between
    ranks i < j lies a new draw with probability (j - i) / (S + 1), for any law. The quantiles of S
    draws lie closer together, and would make a calibrated forecast look too narrow; with fewer than
    2 / (1 - level) - 1 draws the ends are the smallest and the largest, and cover less.

    Args:
        samples: (S, ...).

    Returns:
        The two ends, each (...).
    """
    n = len(samples)
    ordered = samples.sort(0).values
    low = min(max((0.5 - level / 2) * (n + 1) - 1, 0.0) / max(n - 1, 1), 0.5)
    return _between(ordered, low), _between(ordered, 1 - low)


def quantile_loss(prediction: Tensor, x: Tensor, q: float) -> Tensor:
    """2 (x - prediction) (q - 1{x < prediction}): twice the pinball loss, as weighted quantile losses use it."""
    return 2 * (x - prediction) * (q - (x < prediction).to(x.dtype))


def weighted_quantile_loss(
    samples: Tensor,
    x: Tensor,
    mask: Tensor,
    levels: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
) -> Tensor:
    """mean over levels of sum of quantile losses / sum |x|: the wQL (or "mean weighted quantile loss")
    of forecasting competitions; a scalar without units."""
    losses = [
        quantile_loss(p, x, q).where(mask, 0.0).sum()
        for q, p in zip(levels, quantile(samples, levels), strict=True)
    ]
    return torch.stack(losses).mean() / x.where(mask, 0.0).abs().sum().clamp(min=1e-12)


def pit(samples: Tensor, x: Tensor) -> Tensor:
    """(rank of x among the draws + 1/2) / (S + 1), uniform on (0, 1) when calibrated  [3]."""
    below = (samples < x).sum(0) + 0.5 * (samples == x).sum(0)
    return (below + 0.5) / (len(samples) + 1)


def area_under_roc(score: Tensor, positive: Tensor) -> Tensor:
    """P(score of a positive > score of a negative) + 1/2 P(they are equal): from (N,) and (N,) bool.

    By the ranks of the scores (Mann & Whitney 1947); NaN where there is no positive or no negative.
    """
    score = score.double().contiguous()
    order = score.sort().values
    low = torch.searchsorted(order, score, side="left")
    high = torch.searchsorted(order, score, side="right")
    rank = (low + high + 1).double() / 2  # of ties the mean rank
    n = positive.sum().double()
    return (rank[positive].sum() - n * (n + 1) / 2) / (n * (len(score) - n))

"""Small matrices, many at a time: (..., S, S), leading axes broadcast against each other."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def doubles(*values: Tensor | float) -> list[Tensor]:
    """Numbers and tensors in double precision on one device, differentiable where they were.

    Numbers go where the tensors are: to the device of the first that is not on the CPU.
    """
    found = [torch.as_tensor(v, dtype=torch.float64) for v in values]
    away = [f.device for f in found if f.device.type != "cpu"]
    return [f.to(away[0]) for f in found] if away else found


def per_row(value: Tensor, t: Tensor) -> Tensor:
    """A parameter (...) against times (..., N): (..., 1), on their device."""
    return value[..., None].to(t.device)


def carry(A: Tensor, P: Tensor) -> Tensor:
    """A P A': the covariance of A x, x of covariance P."""
    return A @ P @ A.mT


def kron(a: Tensor, b: Tensor) -> Tensor:
    """Kronecker products of (..., n, n) and (..., m, m): (..., n m, n m)."""
    return (a[..., :, None, :, None] * b[..., None, :, None, :]).flatten(-2).flatten(-3, -2)


def block_diagonal(blocks: Sequence[Tensor]) -> Tensor:
    """Blocks (..., S_i, S_i) on the diagonal of one matrix of their summed size, zero elsewhere."""
    lead = torch.broadcast_shapes(*(b.shape[:-2] for b in blocks))  # type: ignore[no-untyped-call]
    size = sum(b.shape[-1] for b in blocks)
    whole = blocks[0].new_zeros(*lead, size, size)
    end = 0
    for block in blocks:
        start, end = end, end + block.shape[-1]
        whole[..., start:end, start:end] = block
    return whole


def beside(parts: Sequence[Tensor]) -> Tensor:
    """(..., S_i) joined along the last axis on one device, the others broadcast."""
    lead = torch.broadcast_shapes(*(p.shape[:-1] for p in parts))  # type: ignore[no-untyped-call]
    return torch.cat([p.expand(*lead, -1) for p in doubles(*parts)], -1)


def no_noise(A: Tensor) -> Tensor:
    """Zeros in the shape of A (..., S, S), which take no memory."""
    return A.new_zeros(A.shape[-2:]).expand_as(A)


def square(entries: Tensor) -> Tensor:
    """Matrices from their rows, one after another: (..., S S) -> (..., S, S)."""
    size = math.isqrt(entries.shape[-1])
    return entries.reshape(*entries.shape[:-1], size, size)


def contract(features: Tensor, pattern: Tensor) -> Tensor:
    """sum_k features_k pattern_k: (..., N, K) and (..., K, S, S) -> (..., N, S, S)."""
    return square(features @ pattern.flatten(-2))


def given_later(P: Tensor, A: Tensor, Q: Tensor) -> tuple[Tensor, Tensor]:
    """G, V of x | y ~ N(G y, V), where y = A x + e, x ~ N(0, P), e ~ N(0, Q).

    V is a sum of positive terms. A coordinate of y that is surely zero tells nothing.
    """
    C = carry(A, P) + Q
    variance = C.diagonal(dim1=-2, dim2=-1)
    sure = variance <= 0
    size = variance.where(~sure, 1.0).sqrt()  # coordinates may be of any units
    correlation = C / (size[..., :, None] * size[..., None, :]) + torch.diag_embed(sure.to(C))
    scaled = torch.linalg.solve(correlation, (A @ P) / size[..., :, None])
    G = scaled.mT / size[..., None, :]
    rest = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device) - G @ A
    return G, carry(rest, P) + carry(G, Q)

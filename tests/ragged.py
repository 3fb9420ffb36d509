"""Ragged series for tests: hypothesis draws their shape, torch their numbers."""

import torch
from hypothesis import settings, strategies as st

from tsdyn.batch import Names, Paths

settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("repeatable")


def make(
    mask: list[list[list[bool]]], seed: int, covariates: bool = False, dtype=torch.float64
) -> Paths:
    """Series with these observations at times 0.25 apart on average; unobserved values are NaN."""
    seen = torch.tensor(mask)
    B, T, D = seen.shape
    generator = torch.Generator().manual_seed(seed)
    # quarters are exact in binary, and some of the rows share their time
    t = torch.randint(0, 2 * T, (B, T), generator=generator).sort(1).values.to(dtype) / 4
    x = torch.randn(B, T, D, generator=generator)
    names = Names(tuple(f"s{b}" for b in range(B)), tuple(f"c{d}" for d in range(D)))
    return Paths(
        t,
        x.where(seen, torch.nan),
        seen,
        covariates=torch.randn(B, T, 2, generator=generator) if covariates else None,
        static=torch.randn(B, 1, generator=generator),
        labels=torch.arange(B),
        names=names,
    )


@st.composite
def ragged(draw, covariates: bool = False, most: int = 4) -> Paths:
    """One to `most` series of up to seven rows and three channels, with any holes."""
    B, T, D = (draw(st.integers(1, n)) for n in (most, 7, 3))
    bits = draw(st.lists(st.booleans(), min_size=B * T * D, max_size=B * T * D))
    mask = torch.tensor(bits).view(B, T, D).tolist()
    return make(mask, draw(st.integers(0, 99)), covariates)


def values(paths: Paths, b: int) -> list[tuple[float, int, float]]:
    """Every observation of series b as (time, channel, value), in the order of the rows."""
    T, D = paths.x.shape[1:]
    return [
        (float(paths.t[b, i]), d, float(paths.x[b, i, d]))
        for i in range(T)
        for d in range(D)
        if paths.mask[b, i, d]
    ]

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from tsdyn.errors import ConfigError
from tsdyn.maths.jump_prior import RatePrior, strongly_connected

PUBLISHED = RatePrior(scale=(1.0, 1.0), decades=0.0, flat=0.0)


def seeded(n: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(n)


def test_rows_sum_to_zero_and_every_state_leads_to_every_other() -> None:
    Q, initial = RatePrior().sample(500, 5, seeded())
    assert Q.sum(-1).abs().max() < 1e-12
    off = Q - torch.diag_embed(Q.diagonal(dim1=1, dim2=2))
    assert (off >= 0).all() and strongly_connected((off > 0).double()).all()
    torch.testing.assert_close(initial.sum(-1), torch.ones(500).double())
    assert (initial >= 0).all()


def test_connectedness_against_all_paths() -> None:
    g = seeded(3)
    graphs = (torch.rand(200, 4, 4, generator=g) < 0.3).double() * (1 - torch.eye(4))
    whole = sum(torch.linalg.matrix_power(graphs, k) for k in range(1, 5)) + torch.eye(4)
    want = (whole > 0).flatten(1).all(1)
    assert 5 < int(want.sum()) < 195
    assert torch.equal(strongly_connected(graphs), want)


def test_the_law_that_was_published() -> None:
    """Mean rate .3145, edge share .77 for six states, half of the graphs complete; all within 4 standard errors."""
    n, count = 6, 4000
    Q, _ = PUBLISHED.sample(count, n, seeded(1))
    off = ~torch.eye(n, dtype=torch.bool)
    rates = Q[:, off]
    edge = (rates > 0).double()
    assert abs(float(edge.mean()) - 0.77) < 0.01
    assert abs(float(rates[rates > 0].mean()) - 0.3145) < 0.005
    assert abs(float(rates[rates > 0].var()) - 0.0683) < 0.003
    share = float((edge.mean(1) == 1).double().mean())
    assert abs(share - 0.5) < 4 * math.sqrt(0.25 / count)
    folder = os.environ.get("TSDYN_DATA")
    if folder and (file := Path(folder) / "jump" / "fim_prior_samples.npz").exists():
        with np.load(file) as arrays:
            names = ("six_rand_rate_matrix", "four_reg_rate_matrix")
            known = np.concatenate([arrays[name].ravel() for name in names])
        positive = known[known > 0]
        distance = kstest(positive, rates[rates > 0].numpy()).statistic
        assert distance < 0.02


def test_initial_laws() -> None:
    prior = RatePrior(stationary=1.0)
    Q, initial = prior.sample(50, 4, seeded())
    assert (initial[:, None] @ Q).abs().max() < 1e-10
    _, even = RatePrior(stationary=0.0, flat=0.0).sample(4000, 4, seeded())
    # Dirichlet(50, ..., 50): variance p (1 - p) / 201
    want = 0.25 * 0.75 / 201
    assert abs(float(even.var(0).mean()) / want - 1) < 4 * math.sqrt(2 / 16000)
    _, flat = RatePrior(stationary=0.0, flat=1.0).sample(4000, 4, seeded())
    assert abs(float(flat.var(0).mean()) / (0.25 * 0.75 / 5) - 1) < 0.05


def test_same_seed_same_chains_and_wrong_options() -> None:
    a, b = (RatePrior().sample(10, 3, seeded(5)) for _ in range(2))
    assert torch.equal(a.rates, b.rates) and torch.equal(a.initial, b.initial)
    with pytest.raises(ConfigError, match="TSD-X01"):
        RatePrior(scale=(2.0, 1.0))

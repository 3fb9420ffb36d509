import math

import pytest
import torch

from tsdyn.data.jump_systems import flashing_ratchet
from tsdyn.errors import DataError
from tsdyn.maths.rate_matrix import entropy_production, stationary
from tsdyn.models.jump_posterior import (
    JumpPosterior,
    combined,
    derived,
    draws,
    hellinger,
    histogram_distance,
    rate_matrix,
)


def belief(deviation: float = 0.05, shift: float = 0.0) -> JumpPosterior:
    Q = flashing_ratchet()
    rates = (Q - torch.diag(Q.diagonal())) * (1 + shift)
    off = 1 - torch.eye(6, dtype=torch.float64)
    return JumpPosterior(rates, deviation * off, (rates > 0).double(), stationary(Q))


def test_draws_have_mean_and_deviation_and_no_negative_rate() -> None:
    found = belief()
    g = torch.Generator().manual_seed(0)
    Q = draws(found, 20_000, g)
    rate = Q[:, 0, 3]  # one, twenty deviations above zero
    assert abs(float(rate.mean()) - 1) < 4 * 0.05 / math.sqrt(20_000)
    assert abs(float(rate.std()) / 0.05 - 1) < 4 / math.sqrt(40_000)
    off = ~torch.eye(6, dtype=torch.bool)
    assert (Q[:, off] >= 0).all() and Q.sum(-1).abs().max() < 1e-12
    torch.testing.assert_close(rate_matrix(found), flashing_ratchet())


def test_what_follows_from_the_rates_has_an_interval_around_the_truth() -> None:
    found = belief(0.02)
    g = torch.Generator().manual_seed(1)
    law = derived(found, stationary, generator=g)
    truth = stationary(flashing_ratchet())
    assert ((law.low < truth) & (truth < law.high)).all()
    wide = derived(belief(0.1), stationary, generator=g)
    assert ((wide.high - wide.low) > 2 * (law.high - law.low)).all()
    entropy = derived(belief(1e-6), entropy_production, generator=g)
    assert abs(float(entropy.mean) - 0.179194) < 0.01


def test_beliefs_are_combined_by_their_precision() -> None:
    a, b = belief(0.1), belief(0.1, shift=0.02)
    both = combined([a, b])
    torch.testing.assert_close(both.mean, (a.mean + b.mean) / 2)
    assert abs(float(both.deviation[0, 3]) - 0.1 / math.sqrt(2)) < 1e-12
    sure = combined([belief(0.01), belief(1.0, shift=0.5)])
    assert (sure.mean[0, 3] - 1).abs() < 1e-3
    apart = combined([belief(0.01), belief(0.01, shift=0.5)])
    # two beliefs of 1 and 1.5, each sure to .01: half their distance, over root two and root two
    assert abs(float(apart.deviation[0, 3]) - 0.25) < 1e-3
    alone = combined([a])
    torch.testing.assert_close(alone.deviation, a.deviation)
    with pytest.raises(DataError, match="TSD-D01"):
        combined([])


def test_distances_of_laws() -> None:
    p = torch.tensor([0.5, 0.5, 0.0]).double()
    assert hellinger(p, p) == 0 and hellinger(p, torch.tensor([0.0, 0.0, 1.0]).double()) == 1
    state = torch.tensor([[0, 1], [1, 1], [0, 2], [1, 2]])
    mask = torch.ones(4, 2, dtype=torch.bool)
    mask[2:, 1] = False
    law = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]]).double()
    want = math.sqrt(1 - math.sqrt(0.25)) / 2
    assert math.isclose(float(histogram_distance(state, mask, law)), want, rel_tol=1e-9)

"""Oracles: the law of the radius by quadrature against walks, and walks of another program where they are at hand.

Walks are independent of each other; tolerances are standard errors over walks.
"""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from tsdyn.data.protein_folding import ProteinFolding, force, potential, radial_chain
from tsdyn.errors import ConfigError
from tsdyn.maths.markov_state_model import implied_time_scales, time_scales
from tsdyn.models.jump import MarkovJump


def mean_and_error(x: torch.Tensor) -> tuple[float, float]:
    """Over walks (n,)."""
    return float(x.mean()), float(x.std()) / math.sqrt(len(x))


def test_the_force_is_the_slope_of_the_potential():
    r = torch.linspace(0.01, 8, 200, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(potential(r).sum(), r)
    torch.testing.assert_close(force(r.detach()), -slope)
    assert potential(torch.tensor(3.0)) == 0


@pytest.mark.parametrize("step", [0.02, 0.1, 0.15])
def test_the_law_of_the_radius_is_stationary(step: float):
    chain = radial_chain(step)
    torch.testing.assert_close(chain.law @ chain.T, chain.law, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(chain.T.sum(1), torch.ones(len(chain.r)).double())


def test_one_step_of_the_radius():
    """Mean square: E r'² = m² + 2 h D with D = 5."""
    chain = radial_chain(0.1)
    inner = chain.r < 8
    m = chain.r + 0.1 * force(chain.r)
    torch.testing.assert_close((chain.T @ chain.r**2)[inner], (m**2 + 1.0)[inner])


def test_shares_and_time_scales_that_were_published():
    """Folded .73 and, of a single run, .735; time scale of labels 20 to 40 steps apart 13.7 +- 1.5."""
    source = ProteinFolding()
    truth = source.truth()
    assert abs(1 - truth.unfolded - 0.73) < 0.02
    for lag in (20, 40):
        scale = float(time_scales(source.label_transitions(lag), lag * source.step)[0])
        assert abs(scale - 13.7) < 1.5
        assert scale < truth.relaxation
    # of the diffusion itself, which the walk with a short step is near
    assert radial_chain(0.02).law[radial_chain(0.02).r > 2.5].sum() < 0.02


def test_walks_have_the_law_from_the_first_row_on():
    source = ProteinFolding(n=4000, rows=21, every=2, seen="radius", seed=3)
    r = source.radii()
    chain = source.chain()
    unfolded = source.truth().unfolded
    for row in (0, 20):
        share, error = mean_and_error((r[:, row] > 2.5).double())
        assert abs(share - unfolded) < 4 * error
    before = source.label_transitions(20)
    began = r[:, 0] > 2.5
    for i in (0, 1):
        share, error = mean_and_error((r[began == i, 20] > 2.5).double())
        assert abs(share - float(before[i, 1])) < 4 * error
    # the whole law of radii at one row, below the threshold and above
    order = chain.r.argsort()
    reached = (chain.law.cumsum(0) - chain.law / 2)[order].numpy()
    found = np.interp(r[:, 7].numpy(), chain.r[order].numpy(), reached)
    assert kstest(found, "uniform").pvalue > 1e-3


def test_a_markov_state_model_of_labels_finds_the_exact_time_scales():
    """Mean of 20 sets of walks; the spread of the sets gives the error, and 2% is left for their bias."""
    lags = (1, 5, 20, 40)
    source = ProteinFolding(n=2000, rows=200)
    state = source().x[..., 0].long().view(20, 100, 200)
    mask = torch.ones_like(state, dtype=torch.bool)
    found = torch.stack(
        [implied_time_scales(s, m, 2, lags)[:, 0] * source.step for s, m in zip(state, mask)]
    )
    error = found.std(0) / math.sqrt(20)
    exact = torch.tensor(
        [float(time_scales(source.label_transitions(lag), lag * source.step)[0]) for lag in lags]
    )
    assert ((found.mean(0) - exact).abs() < 4 * error + 0.02 * exact).all()
    assert (found.mean(0)[2:] - 13.7).abs().max() < 1.5 + 4 * float(error.max())


def test_walks_of_another_program(real_data):
    with np.load(real_data / "jump" / "pfold_euler.npz") as arrays:
        theirs = torch.from_numpy(arrays["radius"]).double()
    ours = ProteinFolding(n=len(theirs), rows=theirs.shape[1], seen="radius", seed=5).radii()
    for c in (1.0, 2.5, 4.5):
        a, da = mean_and_error((theirs > c).double().mean(1))
        b, db = mean_and_error((ours > c).double().mean(1))
        assert abs(a - b) < 4 * math.hypot(da, db)
    # crossings of the threshold in a step
    a, da = mean_and_error(((theirs > 2.5).diff(dim=1) != 0).double().mean(1))
    b, db = mean_and_error(((ours > 2.5).diff(dim=1) != 0).double().mean(1))
    assert abs(a - b) < 4 * math.hypot(da, db)


def test_labels_and_radii_are_of_the_same_walks():
    label = ProteinFolding(n=5, rows=7, every=3, seed=2)()
    radius = ProteinFolding(n=5, rows=7, every=3, seen="radius", seed=2)()
    assert torch.equal(label.x, (radius.x > 2.5).float()) and label.mask.all()
    torch.testing.assert_close(label.t[4], 0.3 * torch.arange(7, dtype=torch.float64))
    assert label.x.shape == (5, 7, 1) and label.names.channels == ("label",)
    other = ProteinFolding(n=5, rows=7, every=3, seen="radius", seed=3)()
    assert not torch.equal(radius.x, other.x)


def test_a_hidden_chain_is_nearer_the_truth_than_labels_taken_at_their_word():
    source = ProteinFolding(n=300, rows=100, every=5, seed=1)
    truth = source.truth()
    exactly = MarkovJump(2).fit(source())
    hidden = MarkovJump(2, "misread").fit(source())
    scales = [1 / float(-m.Q.diagonal().sum()) for m in (exactly, hidden)]
    assert scales[0] < 0.7 * truth.relaxation < scales[1] < truth.relaxation


@pytest.mark.parametrize(
    "wrong", [{"n": 0}, {"every": 0}, {"step": 0.3}, {"threshold": -1.0}, {"seen": "angle"}]
)
def test_what_is_refused(wrong: dict):
    with pytest.raises(ConfigError, match="TSD-X01"):
        ProteinFolding(**wrong)

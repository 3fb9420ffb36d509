"""The chain as a model: against closed forms, brute force over all paths, and systems that are known."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from tsdyn.batch import Paths, split_after
from tsdyn.data.jump_systems import FlashingRatchet, IonChannel, flashing_ratchet
from tsdyn.errors import ConfigError, DataError, ModelError
from tsdyn.maths.rate_matrix import from_rates, transition
from tsdyn.models.jump import MarkovJump

OFF = ~torch.eye(6, dtype=torch.bool)


def known(seen: str = "exactly", **options: object) -> MarkovJump:
    """Two states with rates .3 and .7, as if they had been fitted."""
    model = MarkovJump(2, seen, **options)  # type: ignore[arg-type]
    model.Q.copy_(from_rates(torch.tensor([[0.0, 0.3], [0.7, 0.0]])))
    model.first.copy_(torch.tensor([0.6, 0.4]))
    model.fitted.fill_(True)
    return model


def paths(t: list[float], x: list[float], seen: list[bool] | None = None) -> Paths:
    mask = (
        torch.ones(1, len(t), 1, dtype=torch.bool)
        if seen is None
        else torch.tensor(seen).view(1, -1, 1)
    )
    return Paths(torch.tensor([t]).double(), torch.tensor(x).view(1, -1, 1), mask)


def test_two_states_in_closed_form() -> None:
    model = known()
    given, want = paths([0.0], [0.0]), paths([2.0], [1.0])
    p = 0.3 * (1 - math.exp(-2.0))
    assert math.isclose(float(model.loss(given, want)), -math.log(p), rel_tol=1e-6)
    law = model.state_law(given, torch.tensor([[0.0, 2.0, 1e3]]))[0]
    torch.testing.assert_close(
        law[:, 1], torch.tensor([0.0, p, 0.3]).double(), rtol=1e-6, atol=1e-7
    )
    both = paths([0.0, 2.0], [0.0, 1.0])
    middle = model.state_law(both, torch.tensor([[1.0]]))[0, 0, 1]
    a, b = 0.3 * (1 - math.exp(-1)), 0.3 + 0.7 * math.exp(-1)  # 0 -> 1 and 1 -> 1 in one unit
    stay = 1 - a
    assert math.isclose(float(middle), a * b / (a * b + stay * a), rel_tol=1e-6)


def test_draws_have_the_joint_law_of_all_paths() -> None:
    """Against every path of three rows between two observations, misread with probability .1."""
    model = known("misread")
    model.error.fill_(0.1)
    given = paths([0.0, 3.0], [0.0, 1.0])
    at = torch.tensor([[0.5, 1.0, 2.5]]).double()
    n = 20_000
    torch.manual_seed(0)
    drawn = model.sample(given, at, n, latent=True)[:, 0, :, 0].long()
    times = [0.0, 0.5, 1.0, 2.5, 3.0]
    P = [transition(model.Q, torch.tensor(b - a)) for a, b in itertools.pairwise(times)]
    weights = {}
    for path in itertools.product((0, 1), repeat=5):
        w = (
            float(model.first[path[0]])
            * (0.9 if path[0] == 0 else 0.1)
            * (0.9 if path[4] == 1 else 0.1)
        )
        for k in range(4):
            w *= float(P[k][path[k], path[k + 1]])
        weights[path[1:4]] = weights.get(path[1:4], 0.0) + w
    total = sum(weights.values())
    for path, w in weights.items():
        p = w / total
        found = float((drawn == torch.tensor(path)).all(1).double().mean())
        assert abs(found - p) < 4 * math.sqrt(p * (1 - p) / n)
    law = model.state_law(given, at)[0, :, 1]
    assert ((drawn.double().mean(0) - law).abs() < 4 * (law * (1 - law) / n).sqrt()).all()
    seen = model.sample(given, at, n)[:, 0, :, 0]
    want = law * 0.9 + (1 - law) * 0.1
    assert ((seen.double().mean(0) - want).abs() < 4 * (want * (1 - want) / n).sqrt()).all()


def error_of(model: MarkovJump, n: int = 6) -> float:
    return float((model.Q - flashing_ratchet())[OFF].square().mean().sqrt())


def test_the_flashing_ratchet_is_found() -> None:
    data = FlashingRatchet(n=2000, seed=1)()
    model = MarkovJump(6).fit(data)
    assert error_of(model) < 0.05
    z = ((model.Q - flashing_ratchet()) / model.errors(data))[OFF & (flashing_ratchet() > 0)]
    assert z.square().mean() < 2  # eighteen of them: standard deviation 1 / 3


def test_labels_that_are_misread_need_a_hidden_chain() -> None:
    data = FlashingRatchet(n=500, rows=50, noise=0.1, seed=2)()
    hidden = MarkovJump(6, "misread", steps=60).fit(data)
    naive = MarkovJump(6, steps=100).fit(data)
    assert error_of(hidden) < 0.15
    assert error_of(naive) > 0.5
    assert abs(float(hidden.error) - 0.1 * 5 / 6) < 0.01


def test_two_closed_states_are_told_apart_by_their_time() -> None:
    torch.manual_seed(0)
    data = IonChannel(n=200, rows=60, span=0.15, seed=3)()
    links = [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    model = MarkovJump(3, "gaussian", links=links, starts=2, steps=60).fit(data)
    open_ = int(model.mean[:, 0].argmax())
    assert abs(float(model.mean[open_, 0]) - 5) < 0.1
    assert abs(float(model.covariance[open_, 0, 0]) ** 0.5 - 0.8) < 0.05
    leave = -model.Q[open_, open_]
    assert abs(float(leave) / 80 - 1) < 0.25


def test_symbols_are_a_table() -> None:
    torch.manual_seed(0)
    truth = known()
    g = torch.Generator().manual_seed(0)
    t = (0.2 * torch.arange(30, dtype=torch.float64)).repeat(400, 1)
    blank = Paths(t, torch.zeros(400, 30, 1), torch.zeros(400, 30, 1, dtype=torch.bool))
    state = truth.sample(blank, t, 1, latent=True)[0, ..., 0]
    symbol = torch.where(torch.rand(state.shape, generator=g) < 0.9, state, 2 - state)  # 0, 1 or 2
    data = blank._replace(x=symbol[..., None], mask=~blank.mask)
    model = MarkovJump(2, "symbols", symbols=3, starts=2, steps=100).fit(data)
    order = model.table[:, 1].argsort()
    assert (model.table[order, [0, 1]] > 0.85).all()
    rates = model.Q[order][:, order]
    assert abs(float(rates[0, 1]) / 0.3 - 1) < 0.15 and abs(float(rates[1, 0]) / 0.7 - 1) < 0.15


def test_links_and_priors() -> None:
    data = FlashingRatchet(n=50, seed=4)()
    links = (flashing_ratchet() > 0).double().tolist()
    model = MarkovJump(6, links=links).fit(data)
    assert (model.Q[OFF & ~(flashing_ratchet() > 0)] == 0).all()
    tight = MarkovJump(6, prior=(1e6 + 1, 1e6)).fit(data)
    torch.testing.assert_close(tight.Q[OFF], torch.ones(30).double(), rtol=1e-2, atol=0)


def test_forecasts_beat_the_last_state() -> None:
    past, future = split_after(FlashingRatchet(n=600, rows=40, seed=5)(), torch.full((600,), 1.5))
    model = MarkovJump(6).fit(past)
    law = model.state_law(past, future.t)
    hit = law.argmax(-1) == future.x[..., 0]
    loss = float(model.loss(past, future))
    assert loss < 0.85 * math.log(6)
    assert hit.double().mean() > 1 / 6 + 0.1
    assert torch.isfinite(model.loss(past, future))


def test_wrong_data_and_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="TSD-X01"):
        MarkovJump(1)
    with pytest.raises(ConfigError, match="TSD-X01"):
        MarkovJump(3, "symbols")
    with pytest.raises(ConfigError, match=r"TSD-X01.*prior"):
        MarkovJump(3, prior=(0.5, 1.0))
    with pytest.raises(ConfigError, match="TSD-X01"):
        MarkovJump(3, links=[[1.0]])
    with pytest.raises(ConfigError, match=r"TSD-X01.*seen='exact'"):
        MarkovJump(2, "exact")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"TSD-D10.*State 1 is never seen"):
        MarkovJump(3).fit(paths([0.0, 1.0], [0.0, 0.0]))
    with pytest.raises(DataError, match="TSD-D14"):
        MarkovJump(2).fit(paths([0.0, 1.0], [0.0, 2.0]))
    with pytest.raises(ModelError, match="TSD-M01"):
        MarkovJump(2).loss(paths([0.0], [0.0]), paths([1.0], [0.0]))


def test_gaps_that_are_too_long_are_warned_of(recwarn: pytest.WarningsRecorder) -> None:
    """Not a word for the ratchet; labels without memory look as if left many times between two of them."""
    close = FlashingRatchet(n=50, V=0.0, seed=1)()
    MarkovJump(6, steps=30).fit(close)
    assert not recwarn.list
    generator = torch.Generator().manual_seed(0)
    state = (torch.rand(40, 30, 1, generator=generator) < 0.4).double()
    t = 2.0 * torch.arange(30.0).double().expand(40, -1)
    with pytest.warns(UserWarning, match=r"left about \d+\.\d times"):
        MarkovJump(2).fit(Paths(t, state, torch.ones_like(state) > 0))


def test_an_absorbing_state_has_no_way_out() -> None:
    """It is seen, and seen again, and never left: its rates are zero, and the process ends there."""
    t = torch.tensor([[0.0, 1.0, 2.0, 3.0]]).double().expand(20, -1)
    state = (torch.arange(4) > torch.arange(20)[:, None] % 4).double()[..., None]
    model = MarkovJump(2).fit(Paths(t, state, torch.ones_like(state) > 0))
    assert float(model.Q[1, 0]) < 1e-6 * float(model.Q[0, 1])
    law = model.state_law(Paths(t, state, torch.ones_like(state) > 0), t[:, -1:] + 50)
    torch.testing.assert_close(law[:, 0, 1], torch.ones(20).double(), atol=1e-6, rtol=0)


def states(model: MarkovJump, data: Paths) -> Tensor:
    return model.most_likely(data).states


def test_most_likely_states() -> None:
    model = known("misread")
    model.error.fill_(0.05)
    data = paths([0.0, 0.01, 0.02], [0.0, 1.0, 0.0])
    assert states(model, data).tolist() == [[0, 0, 0]]  # one glance at 1 is more likely a mistake

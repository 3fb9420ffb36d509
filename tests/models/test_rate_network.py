import math

import pytest
import torch

from tsdyn.data.jump_data import JumpData, Problems
from tsdyn.data.jump_problems import JudgedByRatchets, Numbered, Simulated, ratchets
from tsdyn.errors import ConfigError
from tsdyn.maths.jump_simulation import skeleton
from tsdyn.models.rate_network import RateNetwork


def seeded(n: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(n)


def small() -> RateNetwork:
    torch.manual_seed(0)
    network = RateNetwork(width=16, hidden=32, layers=2)
    for p in network.parameters():
        p.data.add_(0.05 * torch.randn_like(p))  # what starts at zero would hide a mistake
    return network


def test_problems_are_simulated_and_stored_nowhere() -> None:
    task = Simulated()
    seen = set()
    for k in range(12):
        data, want = task(Numbered(64)(), seeded(k))
        assert data.state.shape == data.mask.shape == data.t.shape
        M, K, _ = data.state.shape
        assert M * K <= 12_000 and len(want.rates) == M and data.states == want.rates.shape[-1]
        assert ((data.state >= 0) & (data.state < data.states)).all()
        seen.add(data.states)
    assert len(seen) > 3
    again, _ = task(Numbered(64)(), seeded(11))
    assert torch.equal(again.state, data.state)
    parts = JudgedByRatchets(paths=5, problems=1)(Problems(torch.arange(3)), lambda x: (x, x))
    given, want = parts.val
    assert given.state.shape == (9, 5, 100) and want.rates.shape == (9, 6, 6)


def test_it_starts_from_the_crude_rates() -> None:
    data, want = ratchets(300, 2, 0)
    found = RateNetwork().posterior(data)
    off = ~torch.eye(6, dtype=torch.bool)
    first = slice(2, 4)  # potential one, at all times, without noise
    error = (found.mean - want.rates)[first][:, off].square().mean().sqrt()
    assert 0.05 < error < 0.2


def test_names_of_states_units_of_time_and_order_of_paths() -> None:
    network = small()
    data, _ = ratchets(20, 1, 0)
    a = network.posterior(data)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    named = network.posterior(data._replace(state=order[data.state]))
    for x, y in zip(a, named, strict=True):
        y = y[:, order][:, :, order] if y.ndim == 3 else y[:, order]
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
    slow = network.posterior(data._replace(t=60 * data.t))
    torch.testing.assert_close(a.mean, 60 * slow.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(a.deviation, 60 * slow.deviation, rtol=1e-4, atol=1e-5)
    turned = JumpData(*(u.flip(1) for u in data[:3]), data.states)
    torch.testing.assert_close(a.mean, network.posterior(turned).mean, rtol=1e-4, atol=1e-5)


def test_it_takes_any_number_of_states_and_paths() -> None:
    network = small()
    Q = torch.tensor([[-0.3, 0.3], [0.7, -0.7]]).double()
    t = torch.linspace(0, 5, 20).double().expand(1, 3, -1)
    data = JumpData(
        t,
        skeleton(Q[None], torch.tensor([[0.7, 0.3]]).double(), t, seeded()),
        torch.ones(1, 3, 20).bool(),
        2,
    )
    found = network.posterior(data)
    assert found.mean.shape == (1, 2, 2) and (found.mean.diagonal(dim1=1, dim2=2) == 0).all()
    assert (found.mean[:, ~torch.eye(2, dtype=torch.bool)] > 0).all()
    torch.testing.assert_close(found.initial.sum(-1), torch.ones(1))
    draws = network.sample(data, t, 2000)
    assert draws.shape == (2000, 1, 2, 2) and (draws >= 0).all()


def test_it_learns() -> None:
    """A few hundred problems of two states: nearer than the crude rates, which misread labels mislead."""
    torch.manual_seed(0)
    network = RateNetwork(width=32, hidden=64, layers=2)
    task = Simulated(states=(2, 2), noise=0.1, times=40)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    numbers, losses = Numbered(32)(), []
    for k in range(60):
        loss = network.loss(*task(numbers, seeded(k)))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-15:]) < sum(losses[:15]) - 15 * 0.3
    assert all(math.isfinite(v) for v in losses)


def test_wrong_options() -> None:
    with pytest.raises(ConfigError, match="TSD-X01"):
        Simulated(states=(1, 3))

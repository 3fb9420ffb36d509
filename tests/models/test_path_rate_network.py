import math

import pytest
import torch
from torch import Tensor

from tsdyn.batch import Paths
from tsdyn.data.jump_data import JumpData, JumpTargets
from tsdyn.data.jump_systems import FlashingRatchet
from tsdyn.errors import DataError
from tsdyn.maths.jump_prior import RatePrior
from tsdyn.maths.jump_simulation import gillespie_grid
from tsdyn.models.jump_network import RateLaw
from tsdyn.models.jump_posterior import JumpPosterior, combined
from tsdyn.models.path_rate_network import PathRateNetwork, published_loss
from tsdyn.models.rate_network import RatePosterior
from tsdyn.models.zero_shot import zero_shot

OFF = ~torch.eye(6, dtype=torch.bool)
SMALL = {"width": 16, "queries": 2, "key": 8}


def small(encoder: str = "lstm", published: bool = False) -> PathRateNetwork:
    torch.manual_seed(1)
    return PathRateNetwork(
        encoder,  # type: ignore[arg-type]
        **SMALL,
        heads=2,
        layers=1,
        hidden=32,
        project=encoder == "transformer",
        published=published,
    ).eval()


def problems(
    M: int = 3, n: int = 6, K: int = 10, L: int = 20, seed: int = 0
) -> tuple[JumpData, JumpTargets]:
    g = torch.Generator().manual_seed(seed)
    chains = RatePrior(scale=(1.0, 1.0)).sample(M, n, g)
    t = torch.linspace(0, 10, L, dtype=torch.float64)
    state = gillespie_grid(chains.rates, chains.initial, K, t, g).long()
    mask = torch.rand(state.shape, generator=g) < 0.7
    return JumpData(t.expand(state.shape), state, mask, n), JumpTargets(*chains)


def assert_same(a: RatePosterior, b: RatePosterior, tolerance: float = 1e-5) -> None:
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("encoder", ["lstm", "transformer"])
@pytest.mark.parametrize("published", [False, True])
def test_it_answers_for_the_states_that_there_are(encoder: str, published: bool, n: int) -> None:
    network, (data, want) = small(encoder, published), problems(n=n)
    found = network.posterior(data)
    assert found.mean.shape == found.deviation.shape == found.link.shape == (3, n, n)
    off = ~torch.eye(n, dtype=torch.bool)
    for part in found[:3]:
        assert (part.diagonal(dim1=1, dim2=2) == 0).all() and (part[:, off] > 0).all()
    torch.testing.assert_close(found.initial.sum(-1), torch.ones(3))
    assert network.loss(data, want).isfinite()
    assert (network.sample(data, want.initial, 4) >= 0).all()


def test_states_that_there_are_not_cost_nothing() -> None:
    """A fixed network's loss has no gradient to what it says of them."""
    network, (data, want) = small(), problems(n=2)
    network.loss(data, want).backward()
    last = network.network.rates[-1].weight.grad.view(3, 30, -1)
    moved = last.abs().sum((0, 2)) > 0
    assert moved.nonzero().flatten().tolist() == [0, 5]  # (0, 1) and (1, 0)
    starts = network.network.start[-1].weight.grad.abs().sum(1) > 0
    assert starts.tolist() == [True, True, False, False, False, False]
    network = small(published=True)
    network.loss(data, want).backward()
    last = network.network.rates[-1].weight.grad.view(2, 30, -1)
    assert (last.abs().sum((0, 2)) > 0).all()


def test_too_many_states() -> None:
    network, (data, want) = small(), problems(n=7)
    for ask in (network.posterior, lambda d: network.loss(d, want)):
        with pytest.raises(DataError, match="TSD-D14: 7 states"):
            ask(data)


def test_units_of_time_and_where_it_starts() -> None:
    network, (data, want) = small(), problems()
    a = network.posterior(data)
    slow = network.posterior(data._replace(t=60 * data.t))
    torch.testing.assert_close(a.mean, 60 * slow.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(a.deviation, 60 * slow.deviation, rtol=1e-4, atol=1e-5)
    assert_same(network.posterior(data._replace(t=data.t + 7)), a, 1e-4)
    scaled = network.loss(data._replace(t=60 * data.t), want._replace(rates=want.rates / 60))
    torch.testing.assert_close(scaled, network.loss(data, want), rtol=1e-4, atol=1e-5)
    quirky = small(published=True)  # counts from zero whatever the first time is
    moved = quirky.posterior(data._replace(t=data.t + 7)).mean - quirky.posterior(data).mean
    assert moved.abs().max() > 1e-3


@pytest.mark.parametrize("encoder", ["lstm", "transformer"])
@pytest.mark.parametrize("published", [False, True])
def test_padding_and_order_of_paths(encoder: str, published: bool) -> None:
    network, (data, _) = small(encoder, published), problems()
    a = network.posterior(data)
    order = torch.randperm(10)
    turned = JumpData(*(part[:, order] for part in data[:3]), data.states)
    assert_same(network.posterior(turned), a)
    t, state, mask = (torch.cat([part, part], 1) for part in data[:3])
    mask[:, 10:] = False
    assert_same(network.posterior(JumpData(t, state, mask, 6)), a, 1e-6)
    hidden = data._replace(
        t=data.t.where(data.mask, math.nan), state=data.state.where(data.mask, -5)
    )
    assert_same(network.posterior(hidden), a, 1e-6)


def test_many_paths_are_read_in_parts_that_are_combined() -> None:
    """None is left out: 601 paths are three parts of 201, 200 and 200."""
    network, (data, _) = small(), problems(M=2, K=601, L=6)
    data = data._replace(mask=torch.ones_like(data.mask))
    parts = [
        network.posterior(JumpData(*(p[:, a:b] for p in data[:3]), 6))
        for a, b in ((0, 201), (201, 401), (401, 601))
    ]
    found = network.posterior(data)
    for m in range(2):
        want = combined([JumpPosterior(*(x[m] for x in part)) for part in parts])
        assert_same(RatePosterior(*(x[m] for x in found)), RatePosterior(*want), 1e-6)
    seen = data.mask.clone()
    seen[:, :301] = False  # 300 that were seen are one part, wherever they are
    alone = network.posterior(JumpData(*(p[:, 301:] for p in data[:3]), 6))
    assert_same(network.posterior(data._replace(mask=seen)), alone, 1e-6)


def test_the_published_loss() -> None:
    """By hand, for two of six states with one link, in units of which τ is 4."""
    law = RateLaw(
        torch.full((1, 6, 6), 2.0),
        torch.full((1, 6, 6), 1.0),
        torch.zeros(1, 6, 6),
        torch.zeros(1, 6),
    )
    rates = torch.tensor([[[-0.7, 0.7], [0.0, 0.0]]], dtype=torch.float64)
    want = JumpTargets(rates, torch.tensor([[0.2, 0.8]]))
    m, s = 2 / 4, 1 / 4
    surprise = 0.5 * ((0.7 - m) / s) ** 2 + math.log(s) + 0.5 * math.log(2 * math.pi)
    known = surprise + math.log(6) + 4 * (m**2 + s**2)
    found = published_loss(law, torch.tensor([4.0]), want)
    torch.testing.assert_close(found, torch.tensor(known), rtol=1e-5, atol=1e-5)
    # only the likeliest first state counts, and links weigh the same whichever problem they are in
    start = law._replace(initial=torch.tensor([[0.0, 3.0, 0.0, 0.0, 0.0, 0.0]]))
    gain = math.log(6) - math.log(5 + math.e**3) + 3
    torch.testing.assert_close(
        published_loss(start, torch.tensor([4.0]), want),
        torch.tensor(known - gain),
        rtol=1e-5,
        atol=1e-5,
    )


def test_zero_shot_takes_it() -> None:
    paths: Paths = FlashingRatchet(n=20, rows=30)()
    found = zero_shot(paths, network=small())
    assert found.mean.shape == (6, 6) and (found.mean[OFF] > 0).all()
    refined = zero_shot(paths, network=small(), refine="em", steps=2)
    assert refined.mean.isfinite().all() and refined.deviation.isfinite().all()


def rate_error(network: PathRateNetwork, data: JumpData, want: JumpTargets) -> Tensor:
    with torch.no_grad():
        return (network.posterior(data).mean - want.rates)[:, OFF].square().mean().sqrt()


def learn_by_heart(
    network: PathRateNetwork, data: JumpData, want: JumpTargets, steps: int, rate: float
) -> None:
    optimizer = torch.optim.Adam(network.parameters(), rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        loss = network.loss(data, want)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(("encoder", "rate"), [("lstm", 1e-2), ("transformer", 3e-3)])
def test_it_learns_two_processes_by_heart(encoder: str, rate: float) -> None:
    data, want = problems(M=2, K=5, L=12)
    network = small(encoder)
    assert rate_error(network, data, want) > 0.1
    learn_by_heart(network, data, want, 300, rate)
    assert rate_error(network, data, want) < 0.02


@pytest.mark.slow
def test_it_learns_eight_processes_by_heart() -> None:
    data, want = problems(M=8, K=8)
    torch.manual_seed(0)
    network = PathRateNetwork(width=32, queries=4, key=32)
    learn_by_heart(network, data, want, 3000, 1e-2)
    assert rate_error(network, data, want) < 0.02

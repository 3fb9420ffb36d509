import torch
from torch import Tensor

from tsdyn.maths.jump_features import BINS, LONGEST, SHORTEST, Features, jump_features


def problem(seed: int = 0, K: int = 6, L: int = 9, n: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    t = torch.rand(2, K, L, generator=g, dtype=torch.float64).cumsum(-1)
    state = torch.randint(0, n, (2, K, L), generator=g)
    return t, state, torch.rand(2, K, L, generator=g) < 0.7


def test_counts_by_hand() -> None:
    """Two paths, read row by row: 0 -(1)-> 1 -(3)-> 0, and 1 -(2)-> 1 with a hole between."""
    t = torch.tensor([[[0.0, 1.0, 4.0], [0.0, 1.0, 2.0]]])
    state = torch.tensor([[[0, 1, 0], [1, 9, 1]]])
    mask = torch.tensor([[[True, True, True], [True, False, True]]])
    found = jump_features(t, state, mask, 2)
    unit = 6 / 2  # observed time 1 + 3 + 2, two changes
    torch.testing.assert_close(found.unit, torch.tensor([unit]).double())
    crude = torch.tensor([1.1, 1.1]).double()
    spent = torch.tensor([1.0, 5.0]).double() / unit
    found_rates = torch.stack([found.crude[0, 0, 1], found.crude[0, 1, 0]])
    torch.testing.assert_close(found_rates, crude / (spent + 0.1))
    torch.testing.assert_close(found.first[0], torch.tensor([0.5, 0.5]).double())
    back, stay, worth = found.pair[0, 0, 1, 2 * BINS : 2 * BINS + 3]
    assert back == 1 / 2 and stay == 0 and abs(worth - 1 / 11) < 1e-12  # 0 1 0: taken back
    gap = (torch.log2(torch.tensor(1 / unit)) - SHORTEST) / (LONGEST - SHORTEST) * (BINS - 1)
    low, share = int(gap), float(gap) - int(gap)
    p = found.pair[0, 0, 1, :BINS]
    one = torch.log(torch.tensor((1 - share + 0.3) / (1 - share + 0.6))) / 3
    assert abs(float(p[low]) - float(one)) < 1e-6
    assert abs(float(p[0]) - float(torch.log(torch.tensor(0.5)) / 3)) < 1e-6  # nothing seen


def parts(found: Features) -> list[Tensor]:
    return [*found]


def test_order_of_paths_origin_of_time_and_padding_do_not_matter() -> None:
    t, state, mask = problem()
    base = parts(jump_features(t, state, mask, 3))
    turned = jump_features(t.flip(1) + 7, state.flip(1), mask.flip(1), 3)
    wide = [torch.cat([u, u[..., -2:]], -1) for u in (t, state)]
    padded = jump_features(*wide, torch.cat([mask, torch.zeros_like(mask[..., :2])], -1), 3)
    hidden = jump_features(t, state.where(mask, 2), mask, 3)
    for other in (turned, padded, hidden):
        for a, b in zip(base, parts(other), strict=True):
            torch.testing.assert_close(a, b)


def test_seconds_are_hours() -> None:
    t, state, mask = problem()
    a, b = jump_features(t, state, mask, 3), jump_features(3600 * t, state, mask, 3)
    torch.testing.assert_close(3600 * a.unit, b.unit)
    for x, y in zip(parts(a)[:-1], parts(b)[:-1], strict=True):
        torch.testing.assert_close(x, y)


def test_names_of_states_turn_the_features() -> None:
    t, state, mask = problem()
    order = torch.tensor([2, 0, 1])  # state s is called order[s]
    a, b = jump_features(t, state, mask, 3), jump_features(t, order[state], mask, 3)
    torch.testing.assert_close(a.pair, b.pair[:, order][:, :, order])
    torch.testing.assert_close(a.crude, b.crude[:, order][:, :, order])
    torch.testing.assert_close(a.node, b.node[:, order])
    torch.testing.assert_close(a.whole, b.whole)


def test_more_of_the_same_says_the_same_but_surer() -> None:
    """Intensive features stay, those that say how much there is grow towards one."""
    t, state, mask = problem(K=40)
    twice = [torch.cat([u, u], 1) for u in (t, state, mask)]
    a, b = jump_features(t, state, mask, 3), jump_features(*twice, 3)
    torch.testing.assert_close(a.unit, b.unit)
    assert (b.pair[..., BINS : 2 * BINS] >= a.pair[..., BINS : 2 * BINS]).all()
    assert (a.crude.log() - b.crude.log()).abs().max() < 0.2
    empty = jump_features(t, state, torch.zeros_like(mask), 3)
    assert all(u.isfinite().all() for u in parts(empty))

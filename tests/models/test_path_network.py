import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tsdyn.errors import ConfigError
from tsdyn.models.jump_network import RateLaw
from tsdyn.models.path_encoders import Observed, PathLSTM, PathTransformer, observed
from tsdyn.models.path_network import PathNetwork, QueryAttention

PUBLISHED_TRANSFORMER = {"encoder": "transformer", "key": 256, "heads": 4, "project": True}
SMALL = {
    "lstm": {"encoder": "lstm", "width": 16, "queries": 3, "key": 8},
    "transformer": {
        "encoder": "transformer",
        "width": 16,
        "queries": 3,
        "key": 16,
        "heads": 2,
        "project": True,
        "layers": 2,
        "hidden": 32,
    },
}
KINDS = [(e, p) for e in SMALL for p in (False, True)]
Paths = tuple[Tensor, Tensor, Tensor]


def small(encoder: str, published: bool) -> PathNetwork:
    torch.manual_seed(1)
    return PathNetwork(**SMALL[encoder], published=published)  # type: ignore[arg-type]


def paths(M: int = 2, K: int = 5, L: int = 9, n: int = 6) -> Paths:
    """With holes anywhere, but never at the first two of each path."""
    t = torch.rand(M, K, L).sort(-1).values
    mask = torch.rand(M, K, L) < 0.6
    mask[..., :2] = True
    return t, torch.randint(0, n, (M, K, L)), mask


def assert_same(a: RateLaw, b: RateLaw, tolerance: float) -> None:
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


def differs(a: RateLaw, b: RateLaw) -> bool:
    return float((a.mean - b.mean).abs().max().detach()) > 1e-4


def test_sizes_of_the_published_networks() -> None:
    """The files of their weights hold 4.977 and 13.87 MB in single precision."""

    def count(network: PathNetwork) -> int:
        return sum(p.numel() for p in network.parameters())

    assert count(PathNetwork(published=True)) == 1_244_226
    assert count(PathNetwork(**PUBLISHED_TRANSFORMER, published=True)) == 3_467_830  # type: ignore[arg-type]


@pytest.mark.parametrize(("encoder", "published"), KINDS)
def test_shapes(encoder: str, published: bool) -> None:
    law = small(encoder, published)(*paths(), 6)
    assert law.mean.shape == law.deviation.shape == law.link.shape == (2, 6, 6)
    assert law.initial.shape == (2, 6)
    assert (law.mean > 0).all() and (law.deviation > 0).all()
    assert law.link.isposinf().all() == published


@pytest.mark.parametrize(("encoder", "published"), KINDS)
def test_padding_changes_nothing(encoder: str, published: bool) -> None:
    network, (t, state, mask) = small(encoder, published).eval(), paths()
    want = network(t, state, mask, 6)
    rows, more = (torch.full((2, 5, 4), torch.nan), torch.full((2, 5, 4), 99))
    nothing = torch.zeros_like(more, dtype=torch.bool)
    longer = [torch.cat(pair, -1) for pair in ((t, rows), (state, more), (mask, nothing))]
    assert_same(network(*longer, 6), want, 1e-6)
    wider = [torch.cat([part, part[:, :3]], 1) for part in (t, state, mask)]
    wider[2][:, 5:] = False
    assert_same(network(*wider, 6), want, 1e-6)
    poisoned = (t.where(mask, torch.nan), state.where(mask, -1), mask)
    assert_same(network(*poisoned, 6), want, 1e-6)


@pytest.mark.parametrize(("encoder", "published"), KINDS)
def test_the_order_of_paths_does_not_matter(encoder: str, published: bool) -> None:
    network, data = small(encoder, published).eval(), paths()
    order = torch.tensor([3, 0, 4, 1, 2])
    turned = network(*(part[:, order] for part in data), 6)
    assert_same(network(*data, 6), turned, 1e-5)


@pytest.mark.parametrize(("encoder", "published"), KINDS)
def test_a_problem_does_not_see_its_neighbours(encoder: str, published: bool) -> None:
    network, data = small(encoder, published).eval(), paths(M=3)
    data[2][1] = False  # and one of which nothing was seen gets an answer too
    together = network(*data, 6)
    assert together.mean.isfinite().all()
    for m in range(3):
        alone = network(*(part[m : m + 1] for part in data), 6)
        assert_same(RateLaw(*(part[m : m + 1] for part in together)), alone, 1e-5)


def test_inputs_are_left_as_they_are() -> None:
    data = paths()
    before = [part.clone() for part in data]
    small("transformer", True)(*data, 6)
    assert all(torch.equal(a, b) for a, b in zip(data, before, strict=True))


def test_only_the_fixed_network_knows_the_number_of_states() -> None:
    data = paths(n=2)
    for encoder in SMALL:
        fixed, published = small(encoder, False).eval(), small(encoder, True).eval()
        assert differs(fixed(*data, 2), fixed(*data, 5))
        assert_same(published(*data, 2), published(*data, 5), 0.0)


@pytest.mark.parametrize("published", [False, True])
def test_who_sees_the_first_observation(published: bool) -> None:
    """All but the published transformer: there, other first states change nothing at all."""
    t, state, mask = paths()
    other = state.clone()
    other[..., 0] = (state[..., 0] + 1) % 6
    network = small("transformer", published).eval()
    a, b = (network(t, s, mask, 6) for s in (state, other))
    assert differs(a, b) != published
    assert differs(
        small("lstm", published)(t, state, mask, 6), small("lstm", published)(t, other, mask, 6)
    )


def test_a_published_transformer_leaves_out_paths_seen_once() -> None:
    network, (t, state, mask) = small("transformer", True).eval(), paths()
    mask[:, 4] = False
    want = network(t, state, mask, 6)
    mask[:, 4, 3] = True
    assert_same(network(t, state, mask, 6), want, 1e-6)


@pytest.mark.parametrize("published", [False, True])
def test_the_lstm_is_torchs(published: bool) -> None:
    """One LSTM of both directions on packed sequences: its last states, or its output at the last observation."""
    torch.manual_seed(0)
    ours = PathLSTM(7, published)
    theirs = nn.LSTM(8, 7, batch_first=True, bidirectional=True)
    for name, weights in ours.onward.named_parameters():
        getattr(theirs, name).data.copy_(weights)
    for name, weights in ours.homeward.named_parameters():
        getattr(theirs, f"{name}_reverse").data.copy_(weights)
    t, state, mask = (part.flatten(0, 1) for part in paths())
    seen = observed(t, state, mask)
    gap = torch.cat([torch.zeros(len(t), 1), seen.t[:, 1:] - seen.t[:, :-1]], 1)
    x = torch.cat([seen.t[..., None], gap[..., None], nn.functional.one_hot(seen.state, 6)], -1)
    packed = pack_padded_sequence(x, seen.length, batch_first=True, enforce_sorted=False)
    c = torch.full((2, len(t), 7), float(published))
    out, (last, _) = theirs(packed, (torch.zeros_like(c), c))
    every, _ = pad_packed_sequence(out, batch_first=True)
    at_end = torch.stack([row[n - 1] for row, n in zip(every, seen.length.tolist(), strict=True)])
    want = at_end if published else torch.cat([last[0], last[1]], -1)
    torch.testing.assert_close(ours(seen), want, rtol=1e-6, atol=1e-6)


def test_observations_move_to_the_front() -> None:
    t = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]])
    state = torch.tensor([[1, 2, 3, 4], [5, 4, 3, 2]])
    mask = torch.tensor([[False, True, False, True], [True, False, False, False]])
    found = observed(t, state, mask)
    torch.testing.assert_close(found.t, torch.tensor([[0.2, 0.4], [0.5, 0.0]]))
    assert found.state.tolist() == [[2, 4], [5, 0]] and found.length.tolist() == [2, 1]
    assert found.mask.tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize("project", [False, True])
def test_attention_is_torchs(project: bool) -> None:
    attention = QueryAttention(10, 3, 2, 8, project, False)
    h, there = torch.randn(4, 6, 10), torch.rand(4, 6) < 0.7
    there[:, 0] = True
    h = h * there[..., None]
    k, v = (f(h).view(4, 6, 2, 4).transpose(1, 2) for f in (attention.key, attention.value))
    want = nn.functional.scaled_dot_product_attention(
        attention.query.expand(4, -1, -1, -1), k, v, attn_mask=there[:, None, None]
    )
    want = want.transpose(1, 2).reshape(4, 3, 8)
    want = attention.mix(want).reshape(4, -1)
    torch.testing.assert_close(attention(h, there), want, rtol=1e-5, atol=1e-6)
    assert want.shape[1] == attention.outputs
    none = attention(torch.zeros_like(h), torch.zeros_like(there))
    torch.testing.assert_close(none, torch.zeros_like(none))


def test_which_queries_count() -> None:
    """All of a fixed network; of a published one with a projection the last."""
    for encoder, published, count in (
        ("lstm", False, 3),
        ("lstm", True, 3),
        ("transformer", False, 3),
        ("transformer", True, 1),
    ):
        network = small(encoder, published)
        network(*paths(), 6).mean.log().sum().backward()
        moved = network.attention.query.grad.abs().sum((0, 2)) > 0
        assert int(moved.sum()) == count and bool(moved[-1])


def test_a_published_lstm_reads_one_observation_backwards() -> None:
    torch.manual_seed(0)
    lstm = PathLSTM(5, True)
    many = Observed(torch.tensor([[0.0, 0.3, 0.7]]), torch.tensor([[1, 0, 4]]), torch.tensor([3]))
    other = many._replace(state=torch.tensor([[2, 5, 4]]))
    a, b = lstm(many), lstm(other)
    torch.testing.assert_close(a[:, 5:], b[:, 5:])
    assert (a[:, :5] - b[:, :5]).abs().max() > 1e-3


def test_the_layers_of_a_transformer_start_differently() -> None:
    torch.manual_seed(0)
    transformer = PathTransformer(16, 2, 2, 32, 0.0, False)
    first, second = (layer.linear1.weight for layer in transformer.layers.layers)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("encoder", list(SMALL))
def test_every_weight_of_a_fixed_network_learns(encoder: str) -> None:
    network = small(encoder, False)
    law = network(*paths(), 6)
    loss = law.mean.log().sum() + law.deviation.sum() + law.link.square().sum()
    (loss + law.initial.square().sum()).backward()
    for name, p in network.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.any(), name


@pytest.mark.parametrize(
    "options",
    [{"key": 9, "heads": 2}, {"encoder": "transformer", "width": 9, "key": 8, "heads": 2}],
)
def test_wrong_options(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="TSD-X01"):
        PathNetwork(**options)  # type: ignore[arg-type]

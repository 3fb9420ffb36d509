"""Exact where the equation is linear; blind to holes, padding, empty rows and neighbours in a batch."""

import pytest
import torch
from torch import Tensor

from tsdyn.batch import Paths, stack
from tsdyn.data.synthetic import OrnsteinUhlenbeck
from tsdyn.data.tasks import Forecasting, Imputation
from tsdyn.io import load, save
from tsdyn.maths.spline import derivative, evaluate, linear, natural, rectilinear
from tsdyn.models.neural_cde import CDEEncoder, NeuralCDE, solve_cde
from tsdyn.models.scaled import Scaled

KINDS = ["linear", "rectilinear", "hermite", "natural"]


def small(kind: str = "linear", dim: int = 2, **options) -> NeuralCDE:
    return NeuralCDE(dim, hidden=6, width=8, path=kind, **options)


def question(n: int = 5, dim: int = 2, missing: float = 0.2) -> tuple[Paths, Paths]:
    paths = OrnsteinUhlenbeck(n=n, length=12, dim=dim, missing=missing)()
    return Imputation(0.4, "value")(paths, torch.Generator().manual_seed(0))


def ragged(dim: int = 1, dtype=torch.float64) -> list[tuple[Paths, Paths]]:
    """Questions about series of different lengths, one by one."""
    pairs = []
    for length in (3, 9, 20):
        paths = OrnsteinUhlenbeck(n=1, length=length, dim=dim, missing=0.3, seed=length)()
        paths = paths._replace(t=paths.t.to(dtype), x=paths.x.to(dtype))
        pairs.append(Forecasting(fraction=0.6)(paths))
    return pairs


def control() -> tuple[Tensor, Tensor, Tensor]:
    """Three clocks, one of them padded, and values with holes."""
    t = (0.5 + torch.rand(3, 7, dtype=torch.float64)).cumsum(1)
    t[1, 4:] = t[1, 3:4]
    x = torch.randn(3, 7, 2, dtype=torch.float64)
    mask = torch.rand(3, 7, 2) < 0.7
    mask[1, 4:] = False
    return t, x.where(mask, torch.nan), mask


def matrices(channels: int) -> Tensor:
    return 0.1 * torch.randn(channels, 4, 4, dtype=torch.float64)


def by_exponentials(a: Tensor, z0: Tensor, corners: Tensor) -> Tensor:
    """z at the corners (B, R, C) of a piecewise linear X: z <- exp(sum_j A_j dX_j) z."""
    z, states = z0, [z0]
    for dx in corners.diff(dim=1).unbind(1):
        z = (torch.linalg.matrix_exp(torch.einsum("bj,jhk->bhk", dx, a)) @ z[..., None])[..., 0]
        states.append(z)
    return torch.stack(states, 1)


def test_a_linear_equation_is_a_product_of_matrix_exponentials():
    t, x, mask = control()
    a, z0 = matrices(2), torch.randn(3, 4, dtype=torch.float64)
    path = linear(t, x, mask)
    z = solve_cde(
        lambda z: torch.einsum("jhk,bk->bhj", a, z),
        z0,
        lambda at, side: derivative(path, at, side),
        t,
        substeps=50,
    )
    torch.testing.assert_close(z, by_exponentials(a, z0, evaluate(path, t)), rtol=0, atol=1e-8)


def test_so_it_is_on_a_rectilinear_path():
    t, x, mask = control()
    a, z0 = matrices(3), torch.randn(3, 4, dtype=torch.float64)
    path = rectilinear(t, x, mask)
    moves = path.knots[:, 0]
    z = solve_cde(
        lambda z: torch.einsum("jhk,bk->bhj", a, z),
        z0,
        lambda at, side: derivative(path, at, side),
        moves,
        substeps=50,
    )
    expected = by_exponentials(a, z0, evaluate(path, moves))
    torch.testing.assert_close(z, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", [linear, natural])
def test_the_error_is_of_order_four(kind):
    """Also where the slope of the path jumps, because no step reaches over a knot."""
    t, x, mask = control()
    a, z0 = 4 * matrices(2), torch.randn(3, 4, dtype=torch.float64)
    path = kind(t, x, mask)

    def at_the_end(substeps: int) -> Tensor:
        return solve_cde(
            lambda z: torch.einsum("jhk,bk->bhj", a, z).tanh(),
            z0,
            lambda at, side: derivative(path, at, side),
            t,
            substeps,
        )[:, -1]

    exact = at_the_end(256)
    errors = torch.stack([(at_the_end(n) - exact).norm() for n in (8, 16, 32)])
    order = (errors[:-1] / errors[1:]).log2()
    assert ((order > 3.6) & (order < 4.6)).all(), order


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("counts", [True, False])
def test_the_gradient_reaches_every_parameter(kind, counts):
    model = small(kind, counts=counts)
    model.loss(*question()).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.any(), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_ragged_batch_is_its_series_one_by_one(kind):
    model, pairs = small(kind, 1, substeps=2).double(), ragged()
    given, want = (stack([pair[i] for pair in pairs]) for i in range(2))
    mean, var = model.posterior(given, want.t)
    last = model.encoder(given)
    for b, (g, w) in enumerate(pairs):
        alone = model.posterior(g, w.t)
        for together, single in zip((mean, var), alone):
            torch.testing.assert_close(together[b, : w.t.shape[1]], single[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(last[b], model.encoder(g)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_not_observed_is_never_read(kind):
    model, (given, want) = small(kind), question()
    results = []
    for filler in (torch.nan, 1e6):
        model.zero_grad()
        loss = model.loss(*(p._replace(x=p.x.where(p.mask, filler)) for p in (given, want)))
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_observation_say_nothing(kind):
    encoder, (given, want) = small(kind).encoder, question()
    holed = given._replace(mask=given.mask & (torch.arange(given.t.shape[1]) % 3 > 0)[:, None])
    kept = [i for i in range(given.t.shape[1]) if i % 3 > 0]
    without = Paths(given.t[:, kept], given.x[:, kept], given.mask[:, kept])
    torch.testing.assert_close(encoder.along(holed, want.t), encoder.along(without, want.t))


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_does_not_depend_on_what_else_is_asked(kind):
    """But for the error of a step, which more times make shorter."""
    encoder, given = small(kind, substeps=8).double().encoder, Paths(*control())
    at = torch.linspace(-1, 12, 15, dtype=torch.float64).expand(3, -1)
    order = torch.randperm(15)
    all_of_them = encoder.along(given, at)
    torch.testing.assert_close(encoder.along(given, at[:, order]), all_of_them[:, order])
    few = encoder.along(given, at[:, ::5])
    torch.testing.assert_close(few, all_of_them[:, ::5], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind, causal", [("rectilinear", True), ("natural", False)])
def test_only_the_rectilinear_path_never_looks_ahead(kind, causal):
    encoder, given = small(kind).encoder, OrnsteinUhlenbeck(n=4, length=12, dim=2)()
    other = given._replace(x=given.x.clone())
    other.x[:, 6:] += 1.0
    early = given.t[:, :6]
    same = torch.equal(encoder.along(given, early), encoder.along(other, early))
    assert same is causal


def test_the_state_knows_how_often_it_was_told():
    """The same line, seen at more rows: only the numbers of observations differ."""
    t = torch.arange(9.0)[None]
    x = t[..., None].clone()
    every, few = torch.ones_like(x, dtype=torch.bool), (t % 4 == 0)[..., None]
    for counts in (True, False):
        encoder = CDEEncoder(1, 4, 8, path="linear", counts=counts, substeps=16)
        a, b = (encoder(Paths(t, x, mask)) for mask in (every, few))
        assert torch.allclose(a, b, atol=1e-4) is not counts


@pytest.mark.parametrize("kind", KINDS)
def test_covariates_drive_the_state(kind):
    given, want = question()
    known = torch.randn(*given.t.shape, 3)
    model = small(kind, covariates=3)
    a, b = (model.posterior(given._replace(covariates=c), want.t).mean for c in (known, 2 * known))
    assert not torch.allclose(a, b)


def test_loss_and_draws_are_those_of_the_posterior():
    model, (given, want) = small(), question()
    mean, var = model.posterior(given, want.t)
    normal = torch.distributions.Normal(mean, var.sqrt())
    exact = -normal.log_prob(want.x.nan_to_num())[want.mask].mean()
    torch.testing.assert_close(model.loss(given, want), exact)
    n = 4000
    draws = model.sample(given, want.t, n).detach()
    assert ((draws.mean(0) - mean).abs() < 5 * (var / n).sqrt()).all()
    assert ((draws.var(0) / var - 1).abs() < 5 * (2 / n) ** 0.5).all()


def test_a_series_never_seen_has_a_law_all_the_same():
    model, (given, want) = small(), question()
    mask = given.mask.clone()
    mask[0] = False
    mean, var = model.posterior(given._replace(mask=mask), want.t)
    assert mean.isfinite().all() and var.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_one_observation_is_enough(kind):
    """There is no way to go from the first row to itself."""
    encoder = small(kind, 1).encoder
    t, x = torch.tensor([[3.0], [4.0]]), torch.tensor([[[1.0]], [[2.0]]])
    given = Paths(t, x, torch.ones_like(x, dtype=torch.bool))
    start = encoder.norm(encoder.start(torch.cat([x[:, 0], torch.ones(2, 1)], -1)))
    torch.testing.assert_close(encoder(given), start)
    later = encoder.along(given, torch.cat([t - 1.0, t, t + 5.0], 1))
    torch.testing.assert_close(later[:, :2], torch.stack([start, start], 1))
    assert not torch.allclose(later[:, 2], start)


def test_it_comes_back_from_disk(tmp_path):
    model, (given, want) = Scaled(small("natural"), 2), question()
    model.on_epoch(0, (given, want))
    save(model, tmp_path / "model.pt")
    back = load(tmp_path / "model.pt", "cpu")
    with torch.no_grad():
        torch.testing.assert_close(back.loss(given, want), model.loss(given, want), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["linear", "rectilinear"])
def test_it_remembers_what_its_last_values_do_not_tell(kind):
    """x starts at ±1, is zero eight times, then shows its first value again, with noise of spread 0.3.

    Who remembers scores log(0.3 sqrt(2 pi e)) = 0.21 nats; the best law for who does not, 1.46.
    """
    sign = torch.randint(2, (128,)) * 2.0 - 1
    x = torch.zeros(128, 10, 1)
    x[:, 0, 0], x[:, -1, 0] = sign, sign + 0.3 * torch.randn(128)
    paths = Paths(torch.arange(10.0).expand(128, -1), x, torch.ones_like(x, dtype=torch.bool))
    pair = Forecasting(steps=1)(paths)
    model = NeuralCDE(1, hidden=8, width=16, path=kind, neighbours=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(*pair).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert model.loss(*pair) < 0.4

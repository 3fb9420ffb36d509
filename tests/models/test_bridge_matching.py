"""Matching between Gaussian clouds and by known maps, where the answer is in closed form; and its clock."""

import math

import pytest
import torch
from torch import Tensor, nn

from tsdyn.batch import Snapshots
from tsdyn.data.tensors import All
from tsdyn.errors import ConfigError, DataError, ModelError
from tsdyn.evaluation import evaluate
from tsdyn.io import load, save
from tsdyn.lit.fit import fit
from tsdyn.maths import plan as plans
from tsdyn.maths.gaussian_bridge import Gaussian, gaussian_bridge
from tsdyn.maths.interpolants import Kind
from tsdyn.models.bridge import SnapshotBridge
from tsdyn.models.bridge_matching import BridgeMatching, Pairing, Pairs, aligned
from tsdyn.models.references import Zero
from tsdyn.predict import reproducible


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def populations(*x: Tensor, t: tuple[float, ...]) -> Snapshots:
    cells = torch.stack(x)
    return Snapshots(torch.tensor(t, dtype=torch.float64), cells, torch.ones(cells.shape[:2]) > 0)


def clouds(n: int = 60) -> Snapshots:
    return populations(*(normal(n, 2, seed=k) + k for k in range(3)), t=(0.0, 0.5, 2.0))


def ready(model: BridgeMatching, snapshots: Snapshots) -> BridgeMatching:
    """It knows the times, and is not trained."""
    model.on_epoch(0, (snapshots, snapshots))
    return model.eval()


def without_drift(model: BridgeMatching) -> BridgeMatching:
    for p in model.parameters():
        nn.init.zeros_(p)
    return model


def gaussian(x: Tensor) -> Gaussian:
    return Gaussian(x.double().mean(0), x.double().T.cov())


def test_the_schroedinger_bridge_between_gaussians_is_found_at_both_diffusions() -> None:
    """Means within .03 and covariances within 8 % of the closed form, besides 4 standard errors of 10,000 draws."""
    sigma, span, n = 0.8, 2.0, 10_000
    narrow = torch.tensor([[0.5, 0.0], [0.4, 0.3]])
    snapshots = populations(
        normal(1000, 2) - 1, normal(1000, 2, seed=1) @ narrow.T + 1, t=(3.0, 3.0 + span)
    )
    model = BridgeMatching(2, sigma, pairing="entropic")
    fit(model, snapshots, All(), epochs=100, batch_size=250, lr=5e-3, anneal=True)
    at = torch.tensor([0.25, 0.5, 0.9], dtype=torch.float64) * span
    none = torch.zeros(2, 2, dtype=torch.float64)
    ends = (gaussian(x) for x in snapshots.x)
    exact = gaussian_bridge(*ends, none, none[0], sigma, span, at)
    for diffusion in (sigma, 0.0):
        model.diffusion = diffusion
        with reproducible(model, 0):
            drawn = model.sample(snapshots, 3.0 + at, n)
        for k in range(3):
            found, cov = gaussian(drawn[:, k]), exact.cov[k]
            size = cov.diagonal()
            assert ((found.mean - exact.mean[k]).abs() < 0.03 + 4 * (size / n).sqrt()).all()
            error = 4 * ((size[:, None] * size + cov.square()) / n).sqrt()
            assert ((found.cov - cov).abs() < 0.08 * size.max() + error).all()


def test_columns_go_where_they_were_told() -> None:
    """A quarter turn, where the nearest partner of a cell is one that does not move."""
    x = normal(600, 2)
    turned = torch.stack([-x[:, 1], x[:, 0]], 1)
    snapshots = populations(x, turned, t=(0.0, 2.0))
    model = BridgeMatching(2, 0.02, "linear", "columns", diffusion=0.0, steps=40)
    fit(model, snapshots, All(), epochs=80, batch_size=200, lr=5e-3, anneal=True)
    with torch.no_grad():
        error = (model.walk(x, 0.0, 2.0) - turned).square().sum(1).mean().sqrt()
        middle = (model.walk(x, 0.0, 1.0) - (x + turned) / 2).square().sum(1).mean().sqrt()
    assert error < 0.15 and middle < 0.15  # cells are 2 from where they started, rms


@pytest.mark.parametrize(("kind", "rate"), [("brownian", 0.0), ("ornstein_uhlenbeck", 1.2)])
def test_entropic_pairs_have_the_covariance_of_the_bridge(kind: Kind, rate: float) -> None:
    """Of the process in question, on an interval of length 2; the plan of 600 cells is allowed .02."""
    sigma, n, times = 0.7, 600, 10
    start, end = normal(n, 2) * torch.tensor([1.0, 0.7]), normal(n, 2, seed=1)
    snapshots = populations(start, end, t=(0.0, 2.0))
    model = ready(BridgeMatching(2, sigma, kind, "entropic", rate=rate or 1.0), snapshots)
    A = -rate * torch.eye(2, dtype=torch.float64)
    at = torch.tensor([1.0], dtype=torch.float64)
    ends = gaussian(start), gaussian(end)
    exact = gaussian_bridge(*ends, A, A[0] * 0, sigma, 2.0, at).coupling
    drawn = [model.pairs(snapshots) for _ in range(times)]
    x, y = (torch.cat(part).double() for part in list(zip(*drawn, strict=True))[:2])
    found = (x - x.mean(0)).T @ (y - y.mean(0)) / (n * times)
    # x comes as often every time: what varies is y given x
    left = ends[1].cov - exact.T @ torch.linalg.solve(ends[0].cov, exact)
    error = 4 * (x.var(0)[:, None] * left.diagonal() / (n * times)).sqrt() + 0.02
    assert ((found - exact).abs() < error).all()
    other = gaussian_bridge(*ends, A - torch.eye(2), A[0] * 0, sigma, 2.0, at).coupling
    assert ((other - exact).abs().diagonal() > 2 * error.diagonal()).all()  # of another rate


def cost(pairs: Pairs) -> float:
    return float((pairs.x0 - pairs.x1).square().sum())


def test_exact_pairs_are_the_nearest_of_all() -> None:
    """In one dimension: the k-th cell of one snapshot with the k-th of the next."""
    snapshots = populations(normal(50, 1), normal(50, 1, seed=1), t=(0.0, 1.0))
    of = {
        name: ready(BridgeMatching(1, 0.1, pairing=name), snapshots).pairs(snapshots)
        for name in ("exact", "independent", "columns")
    }
    x, y = (cells.sort(0).values for cells in snapshots.x)
    assert cost(of["exact"]) == pytest.approx(float((x - y).square().sum()), rel=1e-5)
    assert cost(of["independent"]) > 2 * cost(of["exact"])
    for pairs in of.values():
        torch.testing.assert_close(pairs.x0.sort(0).values, x)
        torch.testing.assert_close(pairs.x1.sort(0).values, y)
    pair = {(float(a), float(b)) for a, b in zip(of["columns"].x0, of["columns"].x1)}
    assert pair == {(float(a), float(b)) for a, b in zip(*snapshots.x)}


@pytest.mark.parametrize("pairing", ["exact", "entropic", "independent", "columns"])
def test_pairs_follow_the_weights_and_never_padding(pairing: Pairing) -> None:
    x = torch.tensor([[[0.0], [1.0], [2.0]], [[5.0], [6.0], [torch.nan]]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    weights = torch.tensor([[3.0, 0.0, 0.0], [2.0, 1.0, 9.0]])
    snapshots = Snapshots(torch.tensor([0.0, 1.0]), x, mask, weights)
    pairs = ready(BridgeMatching(1, 3.0, pairing=pairing), snapshots).pairs(snapshots)
    assert pairs.x0[:, 0].tolist() == [0.0] * 3
    found = sorted(pairs.x1[:, 0].tolist())
    if pairing == "columns":
        assert found == [5.0] * 3
    elif pairing == "entropic":  # partners are drawn from those that were drawn by weight
        assert set(found) <= {5.0, 6.0}
    else:
        assert found == [5.0, 5.0, 6.0]


@pytest.mark.parametrize("kind", ["linear", "brownian", "ornstein_uhlenbeck", "encoding"])
def test_the_unit_of_time_does_not_matter(kind: Kind) -> None:
    """Times c t with σ / √c and r / c: the same loss and the same draws."""
    c, losses, draws = 7.0, [], []
    for by in (1.0, c):
        snapshots = clouds()
        snapshots = snapshots._replace(t=by * snapshots.t)
        torch.manual_seed(0)
        model = BridgeMatching(2, 0.5 / math.sqrt(by), kind, "entropic", rate=0.8 / by, steps=7)
        ready(model, snapshots)
        with torch.no_grad():
            losses.append(model.loss(snapshots, snapshots))
            draws.append(model.sample(snapshots, by * torch.tensor([0.3, 1.7, 1.1]), 20))
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*draws, rtol=1e-4, atol=1e-4)


def test_without_drift_cells_diffuse_from_the_last_given_snapshot() -> None:
    """Variance e² (t - t_k), on intervals of lengths .5 and 1.5, within 5 standard errors."""
    snapshots, e, n = clouds(), 0.3, 20_000
    still = snapshots._replace(x=torch.zeros_like(snapshots.x))
    model = BridgeMatching(2, 0.5, diffusion=e, steps=5)
    without_drift(ready(model, snapshots))
    more = Snapshots(torch.tensor([0.0, 1.25]), still.x[:2], still.mask[:2])
    at = torch.tensor([2.0, 0.25, 0.5, 1.0])
    for given, since in ((still, (0.0, 0.25, 0.0, 0.5)), (more, (0.75, 0.25, 0.5, 1.0))):
        with reproducible(model, 0):
            x = model.sample(given, at, n)
        var = e**2 * torch.tensor(since)
        assert ((x.var(0).mean(-1) - var).abs() <= 5 * var / math.sqrt(n)).all()


def test_paths_between_two_snapshots_are_the_same_cells() -> None:
    snapshots = clouds()
    model = without_drift(ready(BridgeMatching(2, 0.5, diffusion=0.0), snapshots))
    x = model.sample(snapshots, torch.tensor([1.9, 0.1, 0.5]), 40)
    assert torch.equal(x[:, 0], x[:, 2]) and not torch.equal(x[:, 1], x[:, 2])
    known = {tuple(row) for row in snapshots.x[1].tolist()}
    assert {tuple(row) for row in x[:, 2].tolist()} <= known


def test_noise_and_score_are_those_of_the_network() -> None:
    """drift(e) - drift(0) = e² / 2 score."""
    snapshots = clouds()
    model = ready(BridgeMatching(2, 0.5), snapshots)
    x, t = normal(9, 2), torch.linspace(0.1, 1.9, 9).double()[:, None]
    gap = model.drift(x, t, 0.7) - model.drift(x, t, 0.0)
    torch.testing.assert_close(gap, 0.7**2 / 2 * model.score(x, t), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model.drift(x[:1], 0.1), model.drift(x, t)[:1])


def test_columns_of_a_chain_are_drawn_from_its_plans() -> None:
    """How often each pair comes, within 5 standard errors of the mass that the plan gives it."""
    snapshots = clouds(6)
    bridge = SnapshotBridge(Zero(), 0.9).solve(snapshots)
    n = 20_000
    drawn = aligned(bridge, n, torch.Generator().manual_seed(0))
    assert drawn.x.shape == (3, n, 2) and bool(drawn.mask.all())
    torch.testing.assert_close(drawn.weights.sum(1), torch.ones(3).double())
    for k, step in enumerate(bridge.intervals):
        i, j = (torch.cdist(drawn.x[k + m], snapshots.x[k + m].double()).argmin(1) for m in (0, 1))
        count = (6 * i + j).bincount(minlength=36)
        p = plans.dense(step.coupling).flatten()
        assert ((count / n - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 1e-3 * p).all()


def test_the_seed_decides_the_draws_and_the_weights() -> None:
    snapshots, found = clouds(), []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        model = fit(BridgeMatching(2, 0.5, steps=5), snapshots, All(), epochs=2, seed=seed)
        with reproducible(model, seed):
            found.append(model.sample(snapshots, torch.tensor([0.2, 1.0]), 10))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_it_comes_back_from_disk_with_its_times(tmp_path) -> None:
    snapshots = clouds()
    model = fit(BridgeMatching(2, 0.5, steps=5), snapshots, All(), epochs=1)
    save(model, tmp_path / "model.pt")
    back = load(tmp_path / "model.pt", "cpu")
    draws = []
    for each in (model, back):
        with reproducible(each, 0):
            draws.append(each.sample(snapshots, torch.tensor([1.0]), 10))
    assert torch.equal(*draws)


def test_it_is_scored_beside_the_baselines() -> None:
    snapshots = clouds()
    given, want = (
        snapshots._replace(t=snapshots.t[k], x=snapshots.x[k], mask=snapshots.mask[k])
        for k in ([0, 2], [1])
    )
    model = fit(BridgeMatching(2, 0.5, steps=10), given, All(), epochs=5)
    report = evaluate(model, given, want)
    assert next(iter(report.rows)) == "BridgeMatching" and "copy previous" in report.rows
    assert all(math.isfinite(v) for v in report.rows["BridgeMatching"].values())
    assert model.loss(given, want).isfinite()


def test_wrong_arguments_are_refused() -> None:
    for name, options in {
        "sigma=0": {"sigma": 0.0},
        "dims=0": {"dims": 0},
        "steps=0": {"steps": 0},
        "diffusion=-1": {"diffusion": -1.0},
        "pairing='exakt'": {"pairing": "exakt"},
        "kind='brown'": {"kind": "brown"},
        "rate=0": {"kind": "ornstein_uhlenbeck", "rate": 0.0},
    }.items():
        with pytest.raises(ConfigError, match=f"X01.*{name}"):
            BridgeMatching(**{"dims": 2, "sigma": 0.1} | options)


def test_wrong_questions_are_refused() -> None:
    snapshots = clouds()
    model = BridgeMatching(2, 0.5)
    for ask in (
        lambda: model.loss(snapshots, snapshots),
        lambda: model.sample(snapshots, torch.tensor([1.0]), 2),
    ):
        with pytest.raises(ModelError, match="M01"):
            ask()
    ready(model, snapshots)
    for t in (-0.1, 2.1, math.nan):
        with pytest.raises(DataError, match=r"D17.*Cells are asked for at"):
            model.sample(snapshots, torch.tensor([t]), 2)
    late = snapshots._replace(t=snapshots.t + 1.0)
    with pytest.raises(DataError, match=r"D17.*given snapshots from 1 on"):
        model.sample(late, torch.tensor([0.5]), 2)
    with pytest.raises(DataError, match=r"D14.*2 coordinates came to BridgeMatching\(dims=3\)"):
        ready(BridgeMatching(3, 0.5), snapshots)
    with pytest.raises(DataError, match=r"D20.*1 snapshot"):
        one = Snapshots(snapshots.t[:1], snapshots.x[:1], snapshots.mask[:1])
        ready(BridgeMatching(2, 0.5), one)

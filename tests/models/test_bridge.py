"""The bridge through snapshots: against closed forms, against what must hold for any, and against known systems."""

import math

import anndata
import numpy as np
import pytest
import torch
from torch import Tensor

from tsdyn.batch import Snapshots, merge_snapshots, snapshots_of
from tsdyn.data.cells import from_anndata
from tsdyn.data.population_systems import POPULATION_SYSTEMS, simulate_population
from tsdyn.data.snapshots import from_arrays
from tsdyn.errors import ConfigError, DataError, ModelError
from tsdyn.maths import plan as plans
from tsdyn.maths.distances import wasserstein
from tsdyn.models.bridge import SnapshotBridge
from tsdyn.models.bridge_targets import affine_targets, drawn_targets
from tsdyn.models.reference_fields import GradientRFF
from tsdyn.models.reference_genes import Repressilator
from tsdyn.models.references import Affine, LotkaVolterra, Zero
from tsdyn.models.static_bridge import populations


def normal(*shape: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def clouds(sizes: tuple[int, ...] = (60, 40, 50), D: int = 2, seed: int = 0) -> Snapshots:
    x = torch.cat([normal(n, D, seed=seed + k) + k for k, n in enumerate(sizes)])
    time = torch.cat([torch.full((n,), 0.5 * k) for k, n in enumerate(sizes)])
    return from_arrays(x, time)


def trained(model: SnapshotBridge, snapshots: Snapshots, seed: int = 0) -> SnapshotBridge:
    torch.manual_seed(seed)
    model.on_epoch(0, (snapshots, snapshots))
    return model


def test_every_snapshot_is_a_marginal_of_the_chain() -> None:
    snapshots = clouds()
    bridge = SnapshotBridge(Zero(), 0.8).solve(snapshots)
    for step, size in zip(bridge.intervals, (60, 40), strict=True):
        rows = plans.row_mass(step.coupling)
        torch.testing.assert_close(rows, torch.full((size,), 1 / size).double(), rtol=1e-3, atol=0)
        columns = plans.row_mass(plans.transposed(step.coupling))
        assert (columns - 1 / len(columns)).abs().sum() < 1e-4
    n = 4000
    walks = bridge.sample_paths([0.0, 0.5, 1.0], n, generator=torch.Generator().manual_seed(0))
    for k in range(3):
        cells = snapshots.x[k][snapshots.mask[k]]
        drawn = walks.x[:, k]
        of = torch.cdist(drawn, cells).argmin(1)
        assert (drawn - cells[of]).abs().max() < 1e-9  # paths are at cells when cells are seen
        count = of.bincount(minlength=len(cells)).double()
        p = 1 / len(cells)
        assert (count - n * p).abs().max() < 5 * math.sqrt(n * p * (1 - p)) + n * 1e-4


def test_between_snapshots_paths_are_brownian_bridges() -> None:
    """Two cells and one: the variance at the middle is T σ² / 4, and that of the cells."""
    x = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, -1.0]])
    snapshots = from_arrays(x, torch.tensor([0.0, 0.0, 2.0]))
    bridge = SnapshotBridge(Zero(), 0.7).solve(snapshots)
    n = 20_000
    at = bridge.interpolate(0.5, n, generator=torch.Generator().manual_seed(1))
    var = 0.7**2 * 0.5 * 1.5 / 2
    assert (at.mean(0) - torch.tensor([0.25, -0.25])).abs().max() < 4 * math.sqrt(var / n)
    assert (at.var(0) - var).abs().max() < 4 * var * math.sqrt(2 / n)


def test_the_drift_carries_one_snapshot_to_the_next() -> None:
    """dX = b dt + σ dW from the first cells: in between and at the end they are as the bridge says."""
    snapshots = clouds((300, 300))
    bridge = SnapshotBridge(Affine(2), 0.8).solve(snapshots)
    x, steps, T = snapshots.x[0].repeat(4, 1), 100, 0.5
    g = torch.Generator().manual_seed(2)
    for k in range(steps):
        if k == steps // 2:
            middle = x
        kick = torch.randn(x.shape, generator=g, dtype=x.dtype)
        h = T / steps
        x = x + h * bridge.drift(x, k * h) + 0.8 * math.sqrt(h) * kick
    n = len(x)
    exact = bridge.interpolate(0.25, n, generator=g)
    for found, want in ((middle, exact), (x, snapshots.x[1])):
        error = 4 * (want.var(0) * (1 / n + 1 / 300)).sqrt()
        assert ((found.mean(0) - want.mean(0)).abs() < error).all()
        assert ((found.var(0) / want.var(0)).log().abs() < 4 * math.sqrt(2 / n + 2 / 300)).all()


def test_moments_of_all_pairs_are_the_limit_of_drawn_ones() -> None:
    snapshots = clouds((30, 20), seed=5)
    reference = Affine(2, ridge=0.0)
    reference.A.copy_(torch.tensor([[-0.3, 1.0], [-1.2, 0.1]]))
    bridge = SnapshotBridge(reference, 0.6, tolerance=1e-8).solve(snapshots)
    summed, drawn = Affine(2, ridge=0.0), Affine(2, ridge=0.0)
    summed.refit(*affine_targets(bridge, *reference.coefficients(2)))
    g = torch.Generator().manual_seed(0)
    fits = []
    for _ in range(12):
        drawn.refit(*drawn_targets(bridge, 2000, g))
        fits.append(torch.cat([drawn.A.flatten(), drawn.b]))
    found = torch.stack(fits)
    want = torch.cat([summed.A.flatten(), summed.b])
    assert ((found.mean(0) - want).abs() < 4 * found.std(0) / math.sqrt(12)).all()


def test_rounds_lower_the_divergence_from_the_reference() -> None:
    """The two projections never raise it, for a reference whose law is exact."""
    snapshots = simulate_population(
        POPULATION_SYSTEMS["ou2d"], cells=60, times=[0.0, 0.5, 1.0, 1.5]
    )
    model = trained(SnapshotBridge(Affine(2, ridge=0.0), 0.3, rounds=6, tolerance=1e-6), snapshots)
    assert (model.history.diff() < 1e-6 * model.history.abs().max()).all()
    assert model.history[-1] < 0.5 * model.history[0]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rotation_of_an_ornstein_uhlenbeck_process_is_found(seed: int) -> None:
    system = POPULATION_SYSTEMS["ou2d"]
    snapshots = simulate_population(system, 200, [0.5 * k for k in range(7)], seed)
    model = trained(SnapshotBridge(Affine(2), system.sigma, rounds=15), snapshots)
    want = torch.tensor(system.truth["A"], dtype=torch.float64)
    found = model.reference.parameters_by_name()["A"]
    assert torch.linalg.norm(found - want) / torch.linalg.norm(want) < 0.06


def held_out(train: Snapshots, kept: Snapshots, model: SnapshotBridge, system: str) -> Tensor:
    """w1 to each snapshot that was kept, of 250 cells of the bridge, and of 250 of the truth: (K, 2)."""
    bridge = model.solve(train)
    times = kept.t.tolist()
    again = simulate_population(POPULATION_SYSTEMS[system], 250, times, seed=101)
    g = torch.Generator().manual_seed(0)
    rows = [
        [
            float(wasserstein(bridge.interpolate(t, 250, generator=g), kept.x[k])),
            float(wasserstein(again.x[k], kept.x[k])),
        ]
        for k, t in enumerate(times)
    ]
    return torch.tensor(rows)


def every_other(snapshots: Snapshots) -> tuple[Snapshots, Snapshots]:
    even = torch.arange(len(snapshots.t)) % 2 == 0
    return snapshots_of(snapshots, even), snapshots_of(snapshots, ~even)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_predators_and_prey_are_found(seed: int) -> None:
    system = POPULATION_SYSTEMS["lotka_volterra"]
    train, kept = every_other(simulate_population(system, 50, seed=seed))
    model = trained(SnapshotBridge(LotkaVolterra(), system.sigma, rounds=8), train, seed)
    for name, value in model.reference.parameters_by_name().items():
        assert abs(float(value) / system.truth[name] - 1) < 0.05, name  # type: ignore[operator]
    scores = held_out(train, kept, model, "lotka_volterra")
    assert scores[:, 0].mean() < 1.35 * scores[:, 1].mean()


def test_repressilator_is_found() -> None:
    system = POPULATION_SYSTEMS["repressilator"]
    train, kept = every_other(simulate_population(system))
    model = trained(SnapshotBridge(Repressilator(), system.sigma, rounds=25), train)
    beta, n, k, gamma = model.reference.parameters_by_name().values()
    assert abs(gamma - 1) < 0.1 and abs(n / 3 - 1) < 0.1
    assert abs(beta * k**n / 10 - 1) < 0.25
    scores = held_out(train, kept, model, "repressilator")
    brownian = held_out(train, kept, SnapshotBridge(Zero(), system.sigma), "repressilator")
    assert (scores[:, 0] < 0.4 * brownian[:, 0]).all()


def test_held_out_cells_are_never_touched() -> None:
    snapshots = clouds()
    poisoned = snapshots._replace(x=snapshots.x.clone())
    poisoned.x[1] = torch.nan
    kept = torch.tensor([True, False, True])
    models = [
        trained(SnapshotBridge(GradientRFF(2, 16), 0.5, rounds=2), snapshots_of(s, kept))
        for s in (snapshots, poisoned)
    ]
    a, b = (m.state_dict() for m in models)
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_same_seed_same_paths() -> None:
    bridge = SnapshotBridge(Zero(), 0.8).solve(clouds())
    a, b = (
        bridge.sample_paths([0.1, 0.7, 1.4], 20, generator=torch.Generator().manual_seed(3)).x
        for _ in range(2)
    )
    assert torch.equal(a, b)


def test_mass_goes_to_descendants_and_comes_from_ancestors() -> None:
    snapshots = clouds()
    bridge = SnapshotBridge(Zero(), 0.8).solve(snapshots)
    start = torch.rand(60, generator=torch.Generator().manual_seed(0)).double()
    pushed = bridge.push(start, 0.0, 1.0)
    assert len(pushed) == 50
    torch.testing.assert_close(pushed.sum(), start.sum())
    P, Q = (plans.dense(step.coupling) for step in bridge.intervals)
    by_hand = start @ (P / P.sum(1, keepdim=True)) @ (Q / Q.sum(1, keepdim=True))
    torch.testing.assert_close(pushed, by_hand)
    pulled = bridge.pull(pushed, 1.0, 0.5)
    torch.testing.assert_close(pulled, (Q / Q.sum(0)) @ pushed)
    classes = torch.arange(50) % 3
    fates = bridge.fate(classes)
    torch.testing.assert_close(fates[0].sum(1), torch.ones(60).double())
    two = (Q / Q.sum(1, keepdim=True)) @ torch.nn.functional.one_hot(classes, 3).double()
    torch.testing.assert_close(fates[1], two)


def test_growth_is_found_where_cells_divide() -> None:
    """Two groups that stay where they are, one of which becomes four times as many in two units of time."""
    left, right = 0.1 * normal(50, 1), 10 + 0.1 * normal(50, 1, seed=1)
    later = torch.cat([0.1 * normal(20, 1, seed=2), 10 + 0.1 * normal(80, 1, seed=3)])
    x, time = torch.cat([left, right, later]), torch.tensor([0.0] * 100 + [2.0] * 100)
    snapshots = from_arrays(x, time)
    bridge = SnapshotBridge(Zero(), 0.5, tau=(0.5, 0.999), growth_rounds=6).solve(snapshots)
    grown = bridge.growth()[0]
    # relative to the mean: .4 and 1.6 in two units of time
    torch.testing.assert_close(
        grown[:50].mean(), torch.tensor(0.4).double().sqrt(), rtol=0.05, atol=0
    )
    torch.testing.assert_close(
        grown[50:].mean(), torch.tensor(1.6).double().sqrt(), rtol=0.05, atol=0
    )
    g = torch.Generator().manual_seed(0)
    walks = bridge.sample_paths([0.0, 1.0, 2.0], 4000, generator=g)
    share = (walks.weights * (walks.x[..., 0] > 5)).sum(0)
    # the growing half has 1/2, then √(.4 · 1.6)-wise between, then .8 of the mass
    want = torch.tensor([0.5, 1.6**0.5 / (1.6**0.5 + 0.4**0.5), 0.8]).double()
    assert (share - want).abs().max() < 4 * math.sqrt(0.25 / 4000) + 0.02
    even = populations(walks, g)[:, 2, 0]
    assert abs(float((even > 5).double().mean()) - 0.8) < 0.04


def test_likelihood_of_a_snapshot_given_others() -> None:
    """loss is the difference of two costs per value; a snapshot elsewhere is less likely."""
    snapshots = clouds()
    given, want = (snapshots_of(snapshots, torch.tensor(k)) for k in ([0, 2], [1]))
    model = SnapshotBridge(Zero(), 0.8)
    whole, rest = model.solve(merge_snapshots(given, want)).cost, model.solve(given).cost
    torch.testing.assert_close(model.loss(given, want), (whole - rest) / 2)
    assert model.loss(given, want._replace(x=want.x + 3)) > model.loss(given, want) + 1
    one_cell = SnapshotBridge(Zero(), 1.0).solve(
        from_arrays(torch.tensor([[0.0], [1.5]]), torch.tensor([0.0, 2.0]))
    )
    by_hand = 0.5 * math.log(2 * math.pi * 2) + 1.5**2 / 4
    assert math.isclose(float(one_cell.cost), by_hand, rel_tol=1e-9)


def test_half_bridges_give_the_same_first_round_whatever_comes_after() -> None:
    snapshots = clouds((25, 25))
    options = {"method": "sbirr", "step": 0.1, "half_bridges": 2}
    one = SnapshotBridge(Affine(2), 0.8, rounds=1, **options)  # type: ignore[arg-type]
    two = SnapshotBridge(Affine(2), 0.8, rounds=2, **options)  # type: ignore[arg-type]
    torch.manual_seed(0)
    vanilla = one.iterate(snapshots)
    torch.manual_seed(0)
    assert torch.equal(two.iterate(snapshots).x, vanilla.x)
    torch.manual_seed(0)
    one.on_epoch(0, (snapshots, snapshots))
    found = vanilla.sample_paths([0.0, 0.25, 0.5], 30)
    assert found.x.shape == (30, 3, 2)
    assert vanilla.x.shape == (50, 6, 2)  # the cells of both snapshots, at all times
    assert torch.equal(vanilla.x[:25, 0], snapshots.x[0]) and torch.equal(
        vanilla.x[25:, -1], snapshots.x[1]
    )


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        (lambda: SnapshotBridge(Zero(), 0.0), ConfigError, r"TSD-X01.*sigma=0"),
        (lambda: SnapshotBridge(Zero(), -1.0), ConfigError, r"TSD-X01.*sigma=-1"),
        (lambda: SnapshotBridge(Zero(), math.nan), ConfigError, r"TSD-X01.*sigma=nan"),
        (lambda: SnapshotBridge(Zero(), 1.0, method="sbirr"), ConfigError, r"TSD-X01.*step=None"),
        (lambda: SnapshotBridge(Zero(), 1.0, step=0.1), ConfigError, r"TSD-X01.*step=0.1"),
        (lambda: SnapshotBridge(Zero(), 1.0, method="x"), ConfigError, r"TSD-X01.*method='x'"),  # type: ignore[arg-type]
        (lambda: SnapshotBridge(Zero(), 1.0, tau=(0.0, 1.0)), ConfigError, r"TSD-X01.*tau"),
        (lambda: SnapshotBridge(Zero(), 1.0, tau=0.5), ConfigError, r"TSD-X01.*tau=0.5"),  # type: ignore[arg-type]
        (lambda: SnapshotBridge(Zero(), 1.0, growth_rounds=2), ConfigError, r"TSD-X01.*growth"),
        (lambda: SnapshotBridge(Zero(), 1.0, rounds=-1), ConfigError, r"TSD-X01.*rounds=-1"),
        (lambda: SnapshotBridge(Zero(), 1.0, nodes=0), ConfigError, r"TSD-X01.*nodes=0"),
        (lambda: SnapshotBridge(Zero(), 1.0, tolerance=0.0), ConfigError, r"TSD-X01.*tolerance"),
    ],
)
def test_wrong_options_are_refused(made: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        made()  # type: ignore[operator]


def test_wrong_snapshots_are_refused() -> None:
    model, good = SnapshotBridge(Zero(), 1.0), clouds()
    one = snapshots_of(good, torch.tensor([0]))
    with pytest.raises(DataError, match=r"TSD-D20.*1 snapshot came"):
        model.solve(one)
    with pytest.raises(DataError, match=r"TSD-D20.*Snapshot 1 at time 0.5 has no cells"):
        mask = good.mask.clone()
        mask[1] = False
        model.solve(good._replace(mask=mask))
    with pytest.raises(DataError, match=r"TSD-D20.*increase"):
        model.solve(good._replace(t=good.t.flip(0)))
    with pytest.raises(DataError, match=r"TSD-D14.*first nan at time 0.5, cell 3, column 1"):
        x = good.x.clone()
        x[1, 3, 1] = math.nan
        model.solve(good._replace(x=x))
    with pytest.raises(DataError, match=r"TSD-D14.*growth.*-1 at time 0, cell 0"):
        model.solve(good._replace(growth=-torch.ones_like(good.x[..., 0])))
    with pytest.raises(DataError, match=r"TSD-D14.*cells of 2 dimensions"):
        SnapshotBridge(Affine(3), 1.0).solve(good)
    bridge = model.solve(good)
    with pytest.raises(DataError, match=r"TSD-D17.*-1"):
        bridge.sample_paths([-1.0], 3)
    with pytest.raises(DataError, match=r"TSD-D17"):
        bridge.score(good.x[0], 0.5)
    with pytest.raises(DataError, match=r"TSD-D17.*No snapshot was seen at 0.3"):
        bridge.push(torch.ones(60), 0.3, 1.0)


def test_smooth_paths_meet_the_cells_and_keep_their_velocity() -> None:
    snapshots = clouds()
    bridge = SnapshotBridge(Zero(), 0.8).solve(snapshots)
    h = 1e-4
    at = [0.0, 0.2, 0.5 - h, 0.5, 0.5 + h, 1.0]
    walks = bridge.smooth_paths(at, 2000, generator=torch.Generator().manual_seed(0))
    for k, place in ((0, 0), (1, 3), (2, 5)):
        cells = snapshots.x[k][snapshots.mask[k]]
        assert torch.cdist(walks.x[:, place], cells).amin(1).max() < 1e-4
    turn = (walks.x[:, 4] - 2 * walks.x[:, 3] + walks.x[:, 2]) / h
    speed = (walks.x[:, 4] - walks.x[:, 3]) / h
    assert turn.abs().mean() < 0.1 * speed.abs().mean()
    jitter = bridge.sample_paths(at, 2000, generator=torch.Generator().manual_seed(0)).x
    rough = (jitter[:, 4] - 2 * jitter[:, 3] + jitter[:, 2]) / h
    assert rough.abs().mean() > 10 * turn.abs().mean()
    drawn = SnapshotBridge(Zero(), 0.8, smooth=True).sample(snapshots, torch.tensor([0.7, 0.2]), 50)
    assert drawn.shape == (50, 2, 2) and drawn.dtype == snapshots.x.dtype


def test_results_go_back_into_anndata_in_its_order() -> None:
    g = torch.Generator().manual_seed(0)
    order = torch.randperm(150, generator=g)
    time = torch.tensor([0.0] * 60 + [0.5] * 40 + [1.0] * 50)[order]
    x = normal(150, 2)
    table = anndata.AnnData(np.zeros((150, 3), np.float32))
    table.obsm["X_pca"], table.obs["day"] = x.numpy(), time.numpy()
    table.varm["PCs"] = normal(3, 2, seed=1).numpy()
    snapshots, origin = from_anndata(table, time_key="day", whiten_rep=True)
    kept = snapshots_of(snapshots, torch.tensor([0, 2]))
    bridge = SnapshotBridge(Zero(), 0.8).solve(kept)
    bridge.to_anndata(table, origin, rounds=0)
    first = (time == 0).numpy()
    drift = (bridge.cell_drift()[0] * origin.whitening.scale).numpy()  # type: ignore[union-attr]
    np.testing.assert_allclose(table.obsm["sb_drift"][first], drift)
    assert np.isnan(table.obsm["sb_drift"][(time == 0.5).numpy()]).all()
    np.testing.assert_allclose(table.obs["sb_mass"][first].sum(), 1, rtol=1e-3)
    assert table.uns["sb"]["sigma"] == 0.8 and table.uns["sb"]["rounds"] == 0
    trends = bridge.gene_trends(table, origin, ["0", "2"], [0.0, 0.4], 200, generator=g)
    cells = table.obsm["X_pca"][first] @ table.varm["PCs"][[0, 2]].T
    error = 5 * cells.std(0) / math.sqrt(200)
    assert (np.abs(trends.mean[0].numpy() - cells.mean(0)) < error).all()


def test_any_times_may_be_asked_for() -> None:
    """Also those of snapshots, first, last and alone, and later ones."""
    snapshots = clouds()
    bridge = SnapshotBridge(Affine(2), 0.8).solve(snapshots)
    for times in (
        [0.5],
        [0.0],
        [1.0],
        [0.0, 0.5],
        [0.2, 0.5, 0.5],
        [0.5, 1.0],
        [1.5],
        [0.3, 2.0, 3.0],
    ):
        walks = bridge.sample_paths(times, 7)
        assert walks.x.shape == (7, len(times), 2) and walks.weights.shape == (7, len(times))
    cells = snapshots.x[1][snapshots.mask[1]]
    assert torch.cdist(bridge.interpolate(0.5, 30), cells).amin(1).max() < 1e-6


def test_wrong_questions_to_a_bridge_are_refused() -> None:
    bridge = SnapshotBridge(Zero(), 1.0).solve(clouds())
    for ask, message in (
        (lambda: bridge.push(torch.ones(3), 0.0, 1.0), r"TSD-D14.*`mass`.*60 cells"),
        (lambda: bridge.pull(torch.ones(3), 1.0, 0.0), r"TSD-D14.*`mass`.*50 cells"),
        (lambda: bridge.push(torch.ones(50), 1.0, 0.0), r"TSD-D17.*from 1 to 0"),
        (lambda: bridge.fate(torch.zeros(3).long()), r"TSD-D14.*`classes`.*50 cells"),
        (lambda: bridge.drift(torch.zeros(3, 5), 0.2), r"TSD-D14.*places \(Q, 2\)"),
        (lambda: bridge.score(torch.zeros(3, 5), 0.2), r"TSD-D14.*places \(Q, 2\)"),
        (lambda: bridge.sample_paths([], 3), r"TSD-D17.*list of times"),
        (lambda: bridge.sample_paths([0.2], 0), r"TSD-D01.*0 paths"),
        (
            lambda: bridge.sample_paths([0.2], 2, start=torch.tensor([0, 99])),
            r"TSD-D14.*0 to 59",
        ),
    ):
        with pytest.raises(DataError, match=message):
            ask()
    halves = SnapshotBridge(Zero(), 1.0, method="sbirr", step=0.25, half_bridges=1)
    with pytest.raises(DataError, match=r"TSD-D17.*from -1 to 9.*0 to 1"):
        halves.iterate(clouds((8, 8, 8))).sample_paths([-1.0, 9.0], 3)
    grown = clouds()._replace(growth=torch.ones(3, 60))
    with pytest.raises(ModelError, match=r"TSD-M05.*no weights and no growth"):
        halves.iterate(grown)

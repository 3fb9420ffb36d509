"""AnnData in and out: every cell finds its way back to its row, and nothing is made dense unasked."""

import sys

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from torch.testing import assert_close

from tsdyn.batch import snapshots_of
from tsdyn.data.cell_results import (
    gene_trends,
    genes_of,
    in_order,
    in_units,
    labels_of,
    to_anndata,
    trajectories_to_anndata,
)
from tsdyn.data.cells import from_anndata, read_cells
from tsdyn.errors import ConfigError, DataError
from tsdyn.maths.plan import barycentric
from tsdyn.models.bridge import SnapshotBridge
from tsdyn.models.references import Zero

N, G, D = 60, 8, 4


@pytest.fixture
def table():
    """Counts, their principal components, and days in no order."""
    rng = np.random.default_rng(0)
    X = rng.poisson(2.0, (N, G)).astype(np.float32)
    loadings = np.linalg.svd(X - X.mean(0), full_matrices=False)[2].T
    found = anndata.AnnData(sparse.csr_matrix(X))
    found.obs_names = [f"cell{i}" for i in range(N)]
    found.var_names = [f"g{i}" for i in range(G)]
    found.obsm["X_pca"] = ((X - X.mean(0)) @ loadings).astype(np.float32)
    found.obsm["X_umap"] = rng.normal(size=(N, 2))
    found.varm["PCs"] = loadings
    found.obs["day"] = rng.permutation(np.repeat([0.0, 2.0, 5.0], [10, 20, 30]))
    found.obs["lab"] = np.where(rng.random(N) < 0.5, "x", "y")
    found.obs["g"] = rng.random(N) + 0.5
    return found


def snapshots(table, **options):
    return from_anndata(table, time_key="day", **options)


def numbered(origin):
    """For each snapshot, the rows of obs that its cells came from, as values."""
    return [r[r >= 0].double() for r in origin.row]


class TestIn:
    def test_snapshots_by_time_in_the_order_of_obs(self, table):
        found, origin = snapshots(table, weight_key="g", growth_key="g", dims=3)
        assert found.t.tolist() == [0, 2, 5] and found.mask.sum(1).tolist() == [10, 20, 30]
        assert found.x.shape == (3, 30, 3) and found.x.dtype == torch.float32
        for k, day in enumerate(found.t.tolist()):
            rows = np.flatnonzero(table.obs["day"] == day)
            cells = found.x[k][found.mask[k]]
            assert np.array_equal(cells.numpy(), table.obsm["X_pca"][rows, :3])
            assert np.array_equal(origin.row[k][found.mask[k]].numpy(), rows)
            for fact in (found.weights, found.growth):
                assert np.array_equal(fact[k][found.mask[k]].numpy(), table.obs["g"].iloc[rows])
        assert not found.x[~found.mask].any() and not found.growth[~found.mask].any()

    @pytest.mark.parametrize(
        "kind", [str, "category", lambda v: pd.Categorical([str(s) for s in v]), "float32"]
    )
    def test_times_as_text_or_categories(self, table, kind):
        day = table.obs["day"]
        table.obs["when"] = kind(day) if callable(kind) and kind is not str else day.astype(kind)
        same, _ = from_anndata(table, time_key="when")
        assert_close(same.t, snapshots(table)[0].t)
        assert_close(same.x, snapshots(table)[0].x)

    def test_labels_need_a_map(self, table):
        table.obs["stage"] = pd.Categorical(table.obs["day"].map({0: "early", 2: "mid", 5: "late"}))
        with pytest.raises(DataError) as caught:
            from_anndata(table, time_key="stage")
        assert str(caught.value) == (
            "TSD-D20: `stage` holds labels, early, late, mid, and not times. Wanted: numbers. "
            "Say what they mean: time_map={'early': 0.0, 'late': 1.0, 'mid': 2.0}."
        )
        known = {"early": 0.0, "mid": 2.0, "late": 5.0}
        same, _ = from_anndata(table, time_key="stage", time_map=known)
        assert_close(same.x, snapshots(table)[0].x)
        with pytest.raises(DataError, match=r"TSD-D20: time_map has no number for late, mid\."):
            from_anndata(table, time_key="stage", time_map={"early": 0.0})

    def test_one_batch(self, table):
        found, origin = snapshots(table, batch=("lab", "x"))
        rows = origin.row[found.mask].numpy()
        assert sorted(rows) == np.flatnonzero(table.obs["lab"] == "x").tolist()
        # times without a meaning in the other cells do no harm
        table.obs.loc[table.obs["lab"] == "y", "day"] = np.nan
        assert_close(snapshots(table, batch=("lab", "x"))[0].x, found.x)
        with pytest.raises(DataError, match=r"TSD-D14.*lab == 'z'. Wanted: one of "):
            snapshots(table, batch=("lab", "z"))

    def test_whitened(self, table):
        plain, _ = snapshots(table)
        found, origin = snapshots(table, whiten_rep=True)
        inside = found.x[found.mask].double()
        assert_close(inside.mean(0), torch.zeros(G).double(), rtol=0, atol=1e-6)
        assert_close(inside.std(0, correction=0), torch.ones(G).double(), rtol=0, atol=1e-6)
        back = in_units(origin, found.x)[found.mask]
        assert_close(back, plain.x[plain.mask], rtol=0, atol=1e-5)

    def test_representation_in_a_frame(self, table):
        table.obsm["scores"] = pd.DataFrame(table.obsm["X_umap"], index=table.obs_names)
        assert_close(snapshots(table, rep="scores")[0].x, snapshots(table, rep="X_umap")[0].x)

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"rep": "X_pac"}, "D02: Obsm has no `X_pac`.*Did you mean `X_pca`"),
            ({"dims": 9}, "D14: .X_pca. has 8 coordinates, not 9"),
            ({"growth_key": "grow"}, "D02: Obs has no column `grow`.*Known: day, g, lab, minus"),
            ({"growth_key": "lab"}, "D14: .lab. holds 'x', 'y'|D14: .lab. holds 'y', 'x'"),
            ({"weight_key": "minus"}, "D14: 60 weights cannot be used, first -1 at time 0"),
            ({"growth_key": "minus"}, "D14: 60 growths? cannot be used, first -1 at time 0"),
        ],
    )
    def test_refused(self, table, options, message):
        table.obs["minus"] = -1.0
        with pytest.raises(DataError, match=f"TSD-({message})"):
            snapshots(table, **options)

    def test_time_key_is_misspelt_or_missing(self, table):
        with pytest.raises(
            DataError, match=r"TSD-D02: Obs has no column `dya`.*Did you mean `day`"
        ):
            from_anndata(table, time_key="dya")
        table.obs.loc["cell7", "day"] = np.nan
        with pytest.raises(DataError, match="TSD-D04: 1 cells have no time in `day`, first cell7"):
            snapshots(table)

    def test_coordinates_with_holes(self, table):
        table.obsm["X_pca"][3, 1] = np.nan
        with pytest.raises(
            DataError, match=r"TSD-D14: 1 coordinate .*first nan at time .*column 1"
        ):
            snapshots(table)


class TestSparse:
    def test_refused_unless_that_is_said(self, table):
        with pytest.raises(
            DataError, match=r"TSD-D14: `X` is sparse, 60 cells x 8; .* 0 MB.*dense=True"
        ):
            snapshots(table, rep="X")
        found, _ = snapshots(table, rep="X", dense=True, dims=5)
        rows = np.flatnonzero(table.obs["day"] == 2.0)
        assert np.array_equal(found.x[1][found.mask[1]].numpy(), table.X.toarray()[rows, :5])
        table.obsm["topics"] = sparse.csr_matrix(table.obsm["X_umap"])
        with pytest.raises(DataError, match="TSD-D14: `topics` is sparse"):
            snapshots(table, rep="topics")

    def test_a_dense_one_is_taken(self, table):
        table.X = table.X.toarray()
        assert snapshots(table, rep="X")[0].x.shape == (3, 30, G)

    @pytest.mark.parametrize("dense", [False, True])
    def test_backed_file(self, table, tmp_path, dense):
        want, _ = snapshots(table)
        matrix = table.X.toarray()
        if dense:
            table.X = matrix
        table.write_h5ad(tmp_path / "cells.h5ad")
        backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
        found, origin = snapshots(backed)
        assert_close(found.x, want.x)
        genes = genes_of(backed, origin, found.x[found.mask], ["g3"])
        assert np.allclose(genes[:, 0], matrix[origin.row[found.mask].numpy(), 3], atol=1e-5)
        if not dense:
            with pytest.raises(DataError, match="TSD-D14: `X` is sparse"):
                snapshots(backed, rep="X")
        whole, origin = snapshots(backed, rep="X", dense=True)
        assert np.array_equal(whole.x[whole.mask].numpy(), matrix[origin.row[whole.mask].numpy()])
        backed.file.close()


class TestOut:
    def test_every_value_returns_to_its_row(self, table):
        _, origin = snapshots(table)
        assert in_order(origin, numbered(origin)).tolist() == list(range(N))

    def test_other_cells_have_none(self, table):
        _, origin = snapshots(table, batch=("lab", "x"))
        found = in_order(origin, numbered(origin))
        inside = (table.obs["lab"] == "x").to_numpy()
        assert np.array_equal(found[inside], np.flatnonzero(inside))
        assert np.isnan(found[~inside]).all()

    def test_values_of_some_snapshots_only(self, table):
        found, origin = snapshots(table)
        kept = snapshots_of(found, torch.tensor([True, False, True]))
        values = [numbered(origin)[k] for k in (0, 2)]
        rows = in_order(origin, values, kept.t)
        left_out = (table.obs["day"] == 2.0).to_numpy()
        assert np.isnan(rows[left_out]).all()
        assert np.array_equal(rows[~left_out], np.flatnonzero(~left_out))
        assert np.array_equal(in_order(origin, values[::-1], [5.0, 0.0]), rows, equal_nan=True)
        with pytest.raises(DataError, match=r"TSD-D14: Values came for 10, 30 cells"):
            in_order(origin, values)
        with pytest.raises(
            DataError, match=r"TSD-D17: No snapshot is at 3\. Wanted: one of 0, 2, 5"
        ):
            in_order(origin, values, [0.0, 3.0])

    def test_written(self, table, tmp_path):
        table.obsm["X_pca"] += 3.0  # a rate of change does not know where zero is
        found, origin = snapshots(table, whiten_rep=True, dims=D)
        clouds = [x[m].double() for x, m in zip(found.x, found.mask)]
        growth = numbered(origin)[:2]  # the last snapshot grows into nothing
        fate = [torch.stack([c[:, 0], 1 - c[:, 0]], 1) for c in clouds]
        to_anndata(
            table,
            origin,
            drift=[2 * c for c in clouds],
            growth=growth,
            mass=numbered(origin),
            fate=fate,
            classes=["stem", "blood"],
            velocity_layer=True,
            sigma=0.5,
            parameters={"alpha": torch.tensor(1.5), "A": torch.eye(2)},
            history=torch.arange(3.0),
            tau=(0.5, 1.0),
            nothing=None,
        )
        table.write_h5ad(tmp_path / "out.h5ad")
        out = anndata.read_h5ad(tmp_path / "out.h5ad")
        # z = (x - mean) / scale, so that a rate of 2 z is one of 2 (x - mean)
        pca = table.obsm["X_pca"][:, :D].astype(float)
        assert np.allclose(out.obsm["sb_drift"], 2 * (pca - pca.mean(0)), atol=1e-5)
        assert np.array_equal(out.obsm["velocity_pca"], out.obsm["sb_drift"])
        velocity = out.obsm["sb_drift"] @ table.varm["PCs"][:, :D].T
        assert np.allclose(out.layers["velocity"], velocity, atol=1e-5)
        last = (table.obs["day"] == 5.0).to_numpy()
        assert np.isnan(out.obs["sb_growth"][last]).all()
        assert np.array_equal(out.obs["sb_growth"][~last], np.flatnonzero(~last))
        assert out.obs["sb_mass"].tolist() == list(range(N))
        assert list(out.obsm["sb_fate"]) == ["stem", "blood"]
        assert np.allclose(out.obsm["sb_fate"].sum(1), 1.0)
        record = out.uns["sb"]
        assert record["sigma"] == 0.5 and record["times"].tolist() == [0, 2, 5]
        assert record["parameters"]["alpha"] == 1.5 and record["parameters"]["A"].shape == (2, 2)
        assert record["history"].tolist() == [0, 1, 2] and "nothing" not in record
        assert record["tau"].tolist() == [0.5, 1.0]

    def test_of_genes_themselves(self, table):
        found, origin = snapshots(table, rep="X", dense=True, whiten_rep=True)
        drift = [x[m] for x, m in zip(found.x, found.mask)]
        to_anndata(table, origin, drift=drift, velocity_layer=True)
        X = table.X.toarray()
        assert np.allclose(table.layers["velocity"], X - X.mean(0), atol=1e-5)

    def test_no_layer_unasked(self, table):
        found, origin = snapshots(table)
        to_anndata(table, origin, drift=[x[m] for x, m in zip(found.x, found.mask)])
        assert not table.layers

    def test_classes_are_counted(self, table):
        found, origin = snapshots(table)
        fate = [torch.zeros(int(n), 3) for n in found.mask.sum(1)]
        to_anndata(table, origin, fate=fate)
        assert list(table.obsm["sb_fate"]) == ["0", "1", "2"]
        with pytest.raises(DataError, match="TSD-D14: Fates are of 3 classes and 2 are named"):
            to_anndata(table, origin, fate=fate, classes=["a", "b"])

    def test_labels(self, table):
        table.obs["kind"] = table.obs["lab"].astype("category").cat.add_categories("unseen")
        table.obs.loc[table.obs["day"] == 5.0, "kind"] = "y"
        rows = np.flatnonzero(table.obs["day"] == 2.0)
        table.obs.iloc[rows[4], table.obs.columns.get_loc("kind")] = np.nan
        _, origin = snapshots(table)
        numbers, names = labels_of(table, origin, "kind", snapshot=1)
        assert names == ("x", "y") and numbers[4] == -1
        known = table.obs["kind"].iloc[rows]
        assert [names[c] for c in numbers if c >= 0] == known.dropna().tolist()
        assert labels_of(table, origin, "kind")[1] == ("y",)


def test_a_bridge_writes_what_it_found(table, tmp_path):
    found, origin = snapshots(table, dims=2, whiten_rep=True)
    kept = snapshots_of(found, torch.tensor([True, False, True]))  # the middle one is held out
    bridge = SnapshotBridge(Zero(), 1.0).solve(kept)
    classes, names = labels_of(table, origin, "lab")
    to_anndata(
        table,
        origin,
        times=kept.t,
        drift=bridge.cell_drift(),
        growth=bridge.growth(),
        fate=bridge.fate(classes, len(names)),
        classes=names,
        sigma=bridge.sigma,
    )
    first, middle, last = ((table.obs["day"] == day).to_numpy() for day in (0.0, 2.0, 5.0))
    fates = table.obsm["sb_fate"]
    assert np.allclose(fates[~middle].sum(1), 1.0) and fates[middle].isna().all(None)
    assert (fates[last].idxmax(axis=1) == table.obs["lab"][last]).all()
    assert np.allclose(table.obs["sb_growth"][first], 1.0, atol=1e-3), "nothing grows"
    assert table.obs["sb_growth"][~first].isna().all()
    # on the way to the last snapshot a cell drifts by the mean of what it is coupled to, in units of X_pca
    step = bridge.intervals[0]
    ahead = (barycentric(step.coupling, step.y) - step.x) / step.span * origin.whitening.scale
    assert np.allclose(table.obsm["velocity_pca"][first], ahead, atol=1e-3)
    assert table.uns["sb"]["times"].tolist() == [0.0, 5.0]
    table.write_h5ad(tmp_path / "bridge.h5ad")


class TestGenes:
    def test_all_components_give_the_counts_back(self, table):
        found, origin = snapshots(table, whiten_rep=True)
        genes = genes_of(table, origin, found.x[found.mask])
        rows = origin.row[found.mask].numpy()
        assert np.allclose(genes, table.X.toarray()[rows], atol=1e-4)
        some = genes_of(table, origin, found.x, ["g6", "g2"])
        assert some.shape == (3, 30, 2)
        assert_close(some[found.mask], genes[:, [6, 2]])

    def test_of_genes_themselves(self, table):
        found, origin = snapshots(table, rep="X", dense=True)
        assert_close(genes_of(table, origin, found.x, ["g5"])[..., 0], found.x[..., 5].double())

    @pytest.mark.parametrize(
        "rep, genes, message",
        [
            ("X_pca", ["g1", "g77"], "D02: No gene is called `g77`"),
            ("X_umap", ["g1"], "D14: Genes are asked for at coordinates of `X_umap`"),
        ],
    )
    def test_refused(self, table, rep, genes, message):
        found, origin = snapshots(table, rep=rep)
        with pytest.raises(DataError, match=f"TSD-{message}"):
            genes_of(table, origin, found.x, genes)

    def test_without_loadings(self, table):
        found, origin = snapshots(table)
        del table.varm["PCs"]
        with pytest.raises(DataError, match=r"TSD-D02: Genes are asked for, and varm has nothing"):
            genes_of(table, origin, found.x)

    def test_trends(self, table):
        _, origin = snapshots(table, dims=D)
        paths = torch.randn(50, 3, D, dtype=torch.float64)
        found = gene_trends(table, origin, [0.0, 1.0, 2.0], paths, ["g4", "g0"], (0.25, 0.5))
        loadings = table.varm["PCs"][[4, 0], :D]
        mean = table.X.toarray().astype(float).mean(0)[[4, 0]]
        genes = paths.numpy() @ loadings.T + mean
        assert found.genes == ("g4", "g0") and found.t.tolist() == [0, 1, 2]
        assert np.allclose(found.mean, genes.mean(0))
        assert np.allclose(found.quantiles, np.quantile(genes, [0.25, 0.5], axis=0))


class TestTrajectories:
    def test_a_row_per_particle_and_time(self, table, tmp_path):
        _, origin = snapshots(table, whiten_rep=True, dims=D)
        paths = torch.randn(5, 3, D)
        made = trajectories_to_anndata(table, origin, torch.tensor([0.0, 1.0, 4.0]), paths)
        made.write_h5ad(tmp_path / "paths.h5ad")
        out = anndata.read_h5ad(tmp_path / "paths.h5ad")
        assert out.shape == (15, G) and list(out.var_names) == list(table.var_names)
        one = out[(out.obs["particle"] == 3) & (out.obs["time"] == 4.0)]
        assert_close(torch.from_numpy(one.obsm["X_pca"][0]), in_units(origin, paths[3, 2]))
        assert np.allclose(one.X[0], genes_of(table, origin, paths[3, 2]), atol=1e-4)

    def test_some_genes_or_none(self, table):
        _, origin = snapshots(table)
        paths = torch.randn(5, 3, G)
        some = trajectories_to_anndata(table, origin, [0.0, 1.0, 4.0], paths, ["g7", "g1"])
        assert list(some.var_names) == ["g7", "g1"]
        _, plain = snapshots(table, rep="X_umap")
        none = trajectories_to_anndata(table, plain, [0.0, 1.0, 4.0], paths[..., :2])
        assert none.shape == (15, 0) and none.obsm["X_umap"].shape == (15, 2)
        with pytest.raises(DataError, match="TSD-D14: Genes are asked for at coordinates of"):
            trajectories_to_anndata(table, plain, [0.0, 1.0, 4.0], paths[..., :2], ["g7"])


def test_anndata_is_an_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(ConfigError, match=r"TSD-X03: .*anndata.*pip install 'tsdyn\[cells\]'"):
        read_cells(tmp_path / "cells.h5ad")

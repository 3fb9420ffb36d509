"""Populations: what loaders make of their files, the scripts behind them, and simulations against their law."""

import hashlib
import math

import numpy as np
import pytest
import torch
from data_files import ROOT, put, script, sha256
from torch.testing import assert_close

from tsdyn.data.cells import from_anndata
from tsdyn.data.files import (
    EMBRYOID_BODY,
    GAUSSIAN_GROWTH,
    HEMATOPOIESIS,
    REPROGRAMMING,
    SYNTHETIC_SNAPSHOTS,
    TOGGLE_SWITCH,
    adopt,
)
from tsdyn.data.load import load_dataset
from tsdyn.data.population_systems import POPULATION_SYSTEMS, STEP, simulate_population
from tsdyn.data.populations import convert
from tsdyn.errors import ConfigError, DataError

TABLES = {
    "mouse_hematopoiesis": (HEMATOPOIESIS, [1429, 3781, 5788], 2),
    "toggle_switch": (TOGGLE_SWITCH, [400, 442, 530, 690, 969], 2),
    "gaussian_growth": (GAUSSIAN_GROWTH, [500, 1400], 10),
}


def moments(x):
    """Mean (D,) and covariance (D, D) of cells (N, D)."""
    return x.mean(0), x.mT.cov()


class TestEmbryoidBody:
    def write(self, folder):
        """Ten cells at two times, with constants that are not their own mean and deviation."""
        rng = np.random.default_rng(0)
        pcs = rng.normal(5.0, 3.0, (10, 100)).astype(np.float32)
        mean, scale = rng.normal(size=5), rng.random(5) + 1
        path = put(folder, EMBRYOID_BODY.path, b"")
        time = np.repeat([0.0, 1.0], 5)
        np.savez(path, pcs=pcs, time=time, whiten_mean_pc1_5=mean, whiten_scale_pc1_5=scale)
        return pcs.astype(float), mean, scale

    def test_units(self, places):
        pcs, mean, scale = self.write(places[0])
        found = load_dataset("embryoid_body", dims=3)
        want = ((pcs[:, :3] - mean[:3]) / scale[:3]).reshape(2, 5, 3)
        assert_close(found.x, torch.from_numpy(want))
        raw = load_dataset("embryoid_body", dims=7, whiten=False)
        assert_close(raw.x, torch.from_numpy(pcs[:, :7].reshape(2, 5, 7)))
        many = load_dataset("embryoid_body", dims=50).x.flatten(0, 1)
        assert_close(many.mean(0), torch.zeros(50).double())
        # one divisor for all: proportions stay
        ratio = torch.from_numpy(pcs[:, :50].std(0)) / many.std(0, correction=0)
        assert_close(ratio, ratio[:1].expand(50))
        assert many[:, 0].std(correction=0).item() == pytest.approx(1.0)

    @pytest.mark.parametrize("dims", [0, 101])
    def test_there_are_a_hundred_components(self, dims):
        with pytest.raises(ConfigError, match=f"TSD-X01: embryoid_body got dims={dims}"):
            load_dataset("embryoid_body", dims=dims)

    @pytest.mark.data
    def test_published_coordinates(self, real_data):
        found = load_dataset("embryoid_body")
        assert found.x.shape == (5, 550, 5) and found.mask.all()
        other = real_data / "snapshots" / "eb_pc5_whitened_2750.npz"
        with np.load(other) as arrays:
            order = np.argsort(arrays["time"], kind="stable")
            want = torch.from_numpy(arrays["x"][order]).reshape(5, 550, 5)
        # the components are stored in single precision, these coordinates were made before that
        with np.load(real_data / EMBRYOID_BODY.path) as arrays:
            mean, scale = (torch.from_numpy(arrays[f"whiten_{k}_pc1_5"]) for k in ("mean", "scale"))
        rounding = 2**-24 * (want * scale + mean).abs() / scale
        assert ((found.x - want).abs() <= 1.01 * rounding + 1e-12).all()


class TestTables:
    def table(self, tmp_path):
        path = tmp_path / "public.csv"
        path.write_text("samples,x1,x2\n1.0,0.1,0.2\n0.0,0.3,0.4\n1.0,-0.5,1e-3\n")
        numbers = np.array([[1, 0.1, 0.2], [0, 0.3, 0.4], [1, -0.5, 1e-3]])
        return path, hashlib.sha256(numbers.astype("<f8").tobytes()).hexdigest()

    @pytest.mark.parametrize("name", TABLES)
    def test_converted_to_where_the_loader_looks(self, places, tmp_path, name):
        source, _, _ = TABLES[name]
        path, digest = self.table(tmp_path)
        made = convert(path, source, digest)
        assert made == places[1] / source.path
        found = load_dataset(name)
        assert found.t.tolist() == [0, 1] and found.x.dtype == torch.float64
        assert found.x[found.mask].tolist() == [[0.3, 0.4], [0.1, 0.2], [-0.5, 1e-3]]
        assert convert(path, source, digest, tmp_path / "own").parent == tmp_path / "own"

    @pytest.mark.parametrize("name", TABLES)
    def test_another_table(self, places, tmp_path, name):
        path, _ = self.table(tmp_path)
        with pytest.raises(DataError, match=r"TSD-D14: .*public\.csv holds 3 x 3 numbers"):
            convert(path, TABLES[name][0], script(name).SHA256)
        text = put(tmp_path, "text.csv", b"samples,x1\n0.0,many\n")
        with pytest.raises(DataError, match=r"TSD-D14: .*text\.csv: could not convert"):
            convert(text, TABLES[name][0], script(name).SHA256)
        with pytest.raises(DataError, match=f"TSD-D01.*datasets/{name}/prepare.py"):
            load_dataset(name)

    @pytest.mark.data
    @pytest.mark.parametrize("name", TABLES)
    def test_real(self, real_data, tmp_path, name):
        source, sizes, D = TABLES[name]
        found = load_dataset(name)
        assert found.mask.sum(1).tolist() == sizes and found.x.shape[-1] == D
        assert found.t.tolist() == list(range(len(sizes)))
        # the public table is written as Python prints numbers
        with np.load(real_data / source.path) as arrays:
            rows = np.column_stack([arrays["time"], arrays["x"]])
        head = ",".join(["samples", *(f"x{d + 1}" for d in range(D))])
        lines = [",".join(map(repr, row)) for row in rows.tolist()]
        (tmp_path / "public.csv").write_text("\n".join([head, *lines, ""]))
        made = convert(tmp_path / "public.csv", source, script(name).SHA256, tmp_path)
        with np.load(made) as arrays:
            assert np.array_equal(np.column_stack([arrays["time"], arrays["x"]]), rows)


class TestAdopted:
    @pytest.mark.parametrize("source", [EMBRYOID_BODY, REPROGRAMMING])
    def test_only_the_right_file(self, places, source):
        wrong = put(places[0], "wrong", b"something else")
        with pytest.raises(DataError, match=r"TSD-D14: .*wrong has the SHA256"):
            adopt(wrong, source)
        assert not (places[1] / source.path).exists()
        right = source._replace(sha256=sha256(b"something else"))
        assert adopt(wrong, right).read_bytes() == b"something else"

    @pytest.mark.data
    @pytest.mark.parametrize("source", [EMBRYOID_BODY, REPROGRAMMING])
    def test_real_files(self, real_data, source, tmp_path):
        assert adopt(real_data / source.path, source, tmp_path).is_file()

    @pytest.mark.data
    def test_reprogramming(self, real_data):
        cells = load_dataset("reprogramming")
        assert cells.shape == (250, 1479) and cells.uns["tmap_10_105"].shape == (85, 81)
        found, origin = from_anndata(cells, time_key="day", rep="X", dense=True, dims=20)
        assert found.t.tolist() == [10, 10.5, 11] and found.mask.sum(1).tolist() == [85, 81, 84]
        assert sorted(origin.row[found.mask].tolist()) == list(range(250))


class TestSystems:
    def test_the_seed_says_it_all(self):
        system = POPULATION_SYSTEMS["double_well"]
        one, same, other = (simulate_population(system, 20, [0.1, 0.2], s).x for s in (3, 3, 4))
        assert torch.equal(one, same) and not torch.isclose(one, other).any()
        assert one.shape == (2, 20, 2) and one.dtype == torch.float64

    def test_torch_is_left_alone(self):
        torch.manual_seed(1)
        want = torch.rand(1)
        torch.manual_seed(1)
        simulate_population(POPULATION_SYSTEMS["ou2d"], 2, [0.01])
        assert torch.equal(torch.rand(1), want)

    def test_rotating_process_against_its_law(self):
        """m' = A m + b and P' = A P + P A' + s^2 I, with A = -I / 2 + 1.5 J: P stays a multiple of I."""
        n, times = 4000, [0.0, 0.5, 1.37, 2.0]
        found = simulate_population(POPULATION_SYSTEMS["ou2d"], n, times, seed=1)
        A = torch.tensor(POPULATION_SYSTEMS["ou2d"].truth["A"], dtype=torch.float64)
        b = torch.tensor(POPULATION_SYSTEMS["ou2d"].truth["b"], dtype=torch.float64)
        still = torch.linalg.solve(A, -b)
        start = torch.tensor([2.0, 0.0], dtype=torch.float64)
        rate = float(torch.linalg.matrix_norm(A, 2))
        for t, x in zip(times, found.x):
            mean = still + torch.linalg.matrix_exp(A * t) @ (start - still)
            var = 0.09 * math.exp(-t) + 0.09 * (1 - math.exp(-t))
            m, P = moments(x)
            error = rate**2 * t * STEP / 2 * float((start - still).norm())  # of Euler steps
            assert (m - mean).abs().max() < 4 * math.sqrt(var / n) + error
            slack = 4 * var * math.sqrt(2 / n) + var * rate**2 * t * STEP
            assert (P - var * torch.eye(2)).abs().max() < slack

    def test_cells_are_seen_once(self):
        n = 2000
        found = simulate_population(POPULATION_SYSTEMS["ou2d"], n, [0.0, 0.01, 0.02], seed=2)
        for a, b in ((0, 1), (1, 2)):
            both = torch.cat([found.x[a], found.x[b]], 1)
            # the same cells 0.01 later would have a correlation of 0.99
            assert both.mT.corrcoef()[:2, 2:].abs().max() < 4 / math.sqrt(n)

    def test_without_noise_predators_keep_their_constant(self):
        """d x - c log x + b y - a log y does not change along an orbit; Euler steps lose it in proportion."""
        system = POPULATION_SYSTEMS["lotka_volterra"]._replace(sigma=0.0)
        found = simulate_population(system, 10, [0.0, 2.0, 8.0])
        u, v = found.x.unbind(-1)
        kept = 0.1 * u - 0.4 * u.log() + 0.4 * v - v.log()
        low = 0.1 * 5 - 0.4 * math.log(5) + 0.4 * 4 - math.log(4)
        high = 0.1 * 5.1 - 0.4 * math.log(5.1) + 0.4 * 4.1 - math.log(4.1)
        assert (kept >= low - 1e-12).all() and (kept <= high + 8 * STEP).all()

    def test_sums_of_the_repressilator(self):
        """With equal genes all stay equal: x' = 10 / (1 + x^3) - x, whose rest is at x + x^4 = 10."""
        system = POPULATION_SYSTEMS["repressilator"]._replace(
            sigma=0.0, start=lambda n, g: torch.full((n, 3), 1.7, dtype=torch.float64)
        )
        x = simulate_population(system, 1, [1.0]).x[0, 0]
        assert_close(x, x[:1].expand(3))
        root = np.roots([1, 0, 0, 1, -10]).real.max()
        assert_close(
            system.drift(torch.full((1, 3), float(root)).double()), torch.zeros(1, 3).double()
        )
        # one gene is repressed by the one before it
        only = system.drift(torch.tensor([[5.0, 0.0, 0.0]]).double())[0]
        assert_close(only, torch.tensor([10 - 5, 10 / 126, 10.0]).double())

    @pytest.mark.parametrize(
        "times", [[], [-0.5, 1.0], [0.0, 1.0, 1.0], [0.0, math.nan], [math.inf]]
    )
    def test_times_that_cannot_be(self, times):
        with pytest.raises(DataError, match="TSD-D17: A simulation is asked for at"):
            simulate_population(POPULATION_SYSTEMS["ou2d"], 2, times)

    @pytest.mark.parametrize("name", POPULATION_SYSTEMS)
    def test_the_script_writes_what_the_loader_reads(self, places, monkeypatch, name):
        few = {name: POPULATION_SYSTEMS[name]._replace(cells=4)}
        prepare = script("synthetic_snapshots")
        monkeypatch.setattr(prepare, "POPULATION_SYSTEMS", few)
        (made,) = prepare.prepare(places[1] / "snapshots", seed=5)
        assert made == places[1] / SYNTHETIC_SNAPSHOTS[name].path
        found, want = (
            load_dataset("synthetic_snapshots", system=name),
            simulate_population(few[name], seed=5),
        )
        assert_close(found.t, want.t)
        assert_close(found.x, want.x, rtol=0, atol=0)
        fewer = load_dataset("synthetic_snapshots", system=name, cells=3)
        assert_close(fewer.x, want.x[:, :3], rtol=0, atol=0)

    def test_unknown_system(self):
        with pytest.raises(ConfigError, match=r"TSD-X01: .*system='lorenz'. Wanted: one of ou2d"):
            load_dataset("synthetic_snapshots", system="lorenz")

    @pytest.mark.data
    @pytest.mark.parametrize("name", POPULATION_SYSTEMS)
    def test_the_shipped_cells_have_the_same_law(self, real_data, name):
        system = POPULATION_SYSTEMS[name]
        there = load_dataset("synthetic_snapshots", system=name)
        assert there.x.shape[:2] == (len(system.times), system.cells) and there.mask.all()
        assert_close(there.t, torch.tensor(system.times, dtype=torch.float64))
        here = simulate_population(system, 4 * system.cells, seed=11)
        for x, y in zip(there.x, here.x):
            (m, P), (k, Q) = moments(x), moments(y)
            assert ((m - k).abs() < 5 * (P.diag() / len(x) + Q.diag() / len(y)).sqrt()).all()
            # the logarithm of a variance has the variance (kurtosis - 1) / n
            kurtosis = ((y - k) ** 4).mean(0) / Q.diag() ** 2
            error = ((kurtosis - 1) * (1 / len(x) + 1 / len(y))).sqrt()
            assert ((P.diag() / Q.diag()).log().abs() < 5 * error).all()


def test_readmes_name_the_arrays_and_sources():
    for name, (source, _, _) in TABLES.items():
        readme = (ROOT / "datasets" / name / "README.md").read_text()
        assert source.path.rpartition("/")[2] in readme and "github.com/" in readme
        table = next(p for p in script(name).__doc__.split() if p.endswith(".csv"))
        assert table in readme

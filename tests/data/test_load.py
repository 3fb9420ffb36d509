"""Where files are looked for, what the loaders make of them, and the scripts that prepare them."""

import threading
from datetime import date
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from data_files import ROOT, put, script, sha256
from torch.testing import assert_close

from tsdyn.batch import Clock, take
from tsdyn.data.files import (
    EXCHANGE_RATE,
    HOPPER,
    M4_TEST,
    M4_TRAIN,
    Source,
    locate,
    obtain,
)
from tsdyn.data.load import DATASETS, Dataset, Table, load_dataset
from tsdyn.data.split import BySeries
from tsdyn.data.tasks import Forecasting
from tsdyn.errors import ConfigError, DataError


@pytest.fixture
def server(tmp_path):
    """The address of a folder with the file toy.bin."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "toy.bin").write_bytes(b"public")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/toy.bin"
        http.shutdown()


class TestLocate:
    def test_own_folder_first_then_cache_then_download(self, places, server):
        own, cache = places
        right = sha256(b"public")
        fetched = locate("toy", "toys/toy.bin", server, right)
        assert fetched == cache / "toys" / "toy.bin" and fetched.read_bytes() == b"public"
        assert locate("toy", "toys/toy.bin", None, right) == fetched
        mine = put(own, "toys/toy.bin", b"mine")
        assert locate("toy", "toys/toy.bin", server, right) == mine

    def test_the_tables_of_the_project_come_before_the_cache(self, places):
        _, cache = places
        put(cache, "co2/co2.csv", b"other")
        assert locate("co2", "co2/co2.csv", None, "") == ROOT / "datasets" / "co2" / "co2.csv"

    def test_a_damaged_file_in_the_cache_is_fetched_again(self, places, server):
        _, cache = places
        put(cache, "toys/toy.bin", b"damaged")
        assert locate("toy", "toys/toy.bin", server, sha256(b"public")).read_bytes() == b"public"

    def test_a_wrong_download_is_refused_and_not_kept(self, places, server):
        _, cache = places
        with pytest.raises(DataError, match="TSD-D01"):
            locate("toy", "toys/toy.bin", server, sha256(b"another"))
        assert not (cache / "toys" / "toy.bin").exists()

    @pytest.mark.parametrize("url", [None, "http://127.0.0.1:1/toy.bin"])
    def test_nowhere_names_all_three_places_and_the_way_out(self, places, url):
        own, cache = places
        with pytest.raises(DataError) as error:
            locate("toy", "toys/toy.bin", url, "0" * 64)
        message = str(error.value)
        assert error.value.code == "TSD-D01"
        for part in (
            f"TSDYN_DATA ({own})",
            f"cache ({cache / 'toys'})",
            "could not be downloaded",
            "python datasets/toy/prepare.py",
        ):
            assert part in message

    def test_a_file_made_on_this_machine_has_no_digest_to_fail(self, places, server):
        _, cache = places
        made = put(cache, "toys/made.npz", b"whatever")
        assert locate("toy", "toys/made.npz", None, None) == made
        assert locate("toy", "toys/toy.bin", server, None).read_bytes() == b"public"

    def test_a_copy_of_something_else_is_refused(self, tmp_path):
        copy = put(tmp_path, "a", b"a")
        with pytest.raises(DataError, match="TSD-D14"):
            obtain(Source("toys/toy.bin", sha256(b"b")), tmp_path / "out", copy)


class TestLoad:
    @pytest.mark.parametrize(
        "call, said",
        [
            (lambda: load_dataset("hoper"), "Did you mean `hopper`"),
            (lambda: load_dataset("hopper", mising=0.3), "Did you mean `missing`"),
            (lambda: load_dataset("co2", missing=0.3), "no option `missing`"),
            (lambda: Dataset("nothing of the kind")(), "Known: arrow_head, basic_motions, "),
        ],
    )
    def test_unknown_names_and_options(self, call, said):
        with pytest.raises(ConfigError, match=f"TSD-X01.*{said}"):
            call()

    def test_every_dataset_has_its_folder(self):
        for name in DATASETS:
            folder = ROOT / "datasets" / name
            assert (folder / "README.md").is_file() and (folder / "prepare.py").is_file()

    def test_readmes_quote_the_checksums(self):
        for source in (HOPPER, EXCHANGE_RATE, M4_TRAIN, M4_TEST):
            readmes = [p.read_text() for p in (ROOT / "datasets").glob("*/README.md")]
            assert any(source.sha256 in text for text in readmes)


def test_co2():
    paths = load_dataset("co2")
    assert paths.t.shape == (1, 2284) and int((~paths.mask).sum()) == 59
    assert paths.names.series == ("mauna_loa",) and paths.names.channels == ("co2",)
    assert paths.names.clock.kind == "date"
    assert (paths.t.diff(dim=1) == 7 * 86_400).all()
    assert paths.t[0, 0] == (date(1958, 3, 29) - date(1970, 1, 1)).total_seconds()
    assert_close(paths.x[0, :4, 0], torch.tensor([316.1, 317.3, 317.6, 317.5]))


def test_co2_is_what_statsmodels_carries(tmp_path):
    pytest.importorskip("statsmodels")
    prepare = script("co2")
    made = prepare.convert(prepare.source(), tmp_path)
    assert made.read_bytes() == (ROOT / "datasets" / "co2" / "co2.csv").read_bytes()
    assert sha256(made.read_bytes()) == prepare.SHA256
    assert "2284 weeks from 1958-03-29 to 2001-12-29, 59 without a value" in prepare.summary(made)


def small_hopper(folder, falls=3):
    states = np.random.default_rng(0).random((falls, 100, 14), dtype=np.float32)
    (folder / "hopper").mkdir()
    np.save(folder / HOPPER.path, states)
    return torch.from_numpy(states)


def test_hopper_windows(places):
    states = small_hopper(places[0])
    paths = load_dataset("hopper", missing=0.3)
    assert paths.x.shape == (120, 60, 14) and paths.x.dtype == torch.float32
    assert_close(paths.t[7], torch.arange(60).double())
    window = take(paths, [40 + 3])  # the fourth of the second fall
    assert window.names.series == ("001-03",) and window.names.clock == Clock("integer")
    assert_close(window.x[window.mask], states[1, 3:63][window.mask[0]])
    rows = paths.mask.any(-1)
    assert torch.equal(paths.mask.all(-1), rows)  # whole rows
    assert (rows[:, :50].sum(1) == 35).all() and rows[:, 50:].all()
    first = torch.randperm(50, generator=torch.Generator().manual_seed(56789))[:15]
    assert not rows[0, first].any()
    given, want = Forecasting(steps=10)(paths)
    assert (given.mask.any(-1).sum(1) == 35).all() and (want.t == torch.arange(50, 60)).all()


@pytest.mark.data
@pytest.mark.parametrize("missing, score", [(0.0, 158), (0.3, 184), (0.5, 203), (0.7, 259)])
def test_hopper_last_value_carried_forward(real_data, missing, score):
    """The published windows and drops, told by the score of the simplest forecast on the test part."""
    parts = BySeries(shuffle=False)(load_dataset("hopper", missing=missing), Forecasting(steps=10))
    given, want = parts.test
    assert len(parts.train.t) == 2800 and len(want.t) == 600
    seen = given.mask.any(-1)
    last = (seen * torch.arange(1, seen.shape[1] + 1)).argmax(1)
    carried = given.x[torch.arange(len(last)), last]
    error = (want.x - carried[:, None]).square().mean()
    assert_close(float(error), score * 1e-5, rtol=0.01, atol=0.0)


@pytest.mark.parametrize("header", ["", "0,1,2,3,4,5,6,7\n"])
def test_exchange_rate(places, header):
    rows = "0.7855,1.611,0.861698,0.634196,0.211242,0.006838,0.593,0.525486\n" * 3
    put(places[0], EXCHANGE_RATE.path, (header + rows).encode())
    paths = load_dataset("exchange_rate")
    assert paths.x.shape == (1, 3, 8) and paths.mask.all()
    assert_close(paths.t, torch.arange(3).double()[None])
    assert paths.names.channels[:2] == ("AUD", "GBP")
    assert_close(paths.x[0, 2, 5], torch.tensor(0.006838))


TRAIN = '"V1","V2","V3","V4"\n"H1","605","586","586"\n"H2","3124.5",,\n'
TEST = '"V1","V2","V3"\n"H1","1","2"\n"H2","3","4"\n'


def test_m4_hourly(places):
    put(places[0], M4_TRAIN.path, TRAIN.encode())
    put(places[0], M4_TEST.path, TEST.encode())
    train, test, both = (load_dataset("m4_hourly", part=p) for p in ("train", "test", "all"))
    assert train.mask[..., 0].tolist() == [[True, True, True], [True, False, False]]
    assert_close(test.t, torch.tensor([[3.0, 4.0], [1.0, 2.0]]).double())
    assert_close(both.x[1, :3, 0], torch.tensor([3124.5, 3.0, 4.0]))
    assert_close(both.t[1], torch.tensor([0.0, 1, 2, 2, 2]).double())
    assert both.names.series == ("H1", "H2")


def test_dataset_is_a_source(places):
    small_hopper(places[0])
    assert Dataset("hopper", {"missing": 0.5}, series=4)().mask.any(-1).sum().item() == 4 * 35
    assert torch.equal(Dataset("co2")().x, load_dataset("co2").x)


def test_table_is_a_source(tmp_path):
    path = put(tmp_path, "mine.csv", b"who,when,a,b\nu,0,1,\nu,2,3,4\nv,1,5,6\n")
    paths = Table(str(path), series="who", time="when", channels=["b", "a"])()
    assert paths.names.series == ("u", "v") and paths.names.channels == ("b", "a")
    assert paths.mask.sum().item() == 5
    assert_close(paths.x[0, 1], torch.tensor([4.0, 3.0]))


class TestPrepare:
    def test_hopper_recipe(self):
        prepare = script("hopper")
        falls = np.random.default_rng(0).normal(size=(3, prepare.STEPS, 14)).astype(np.float32)
        falls[..., 0] = 0.0
        scaled = prepare.scale(falls)
        assert scaled[..., 0].max() == 0 and np.allclose(scaled.min((0, 1)), 0)
        top = falls.max((0, 1))[1:]
        assert np.allclose(scaled.max((0, 1))[1:], (top - falls.min((0, 1))[1:]) / top)
        cropped = prepare.crop(scaled)
        # the first numbers of numpy's RandomState(1991): the rows at which the published falls begin
        for k, start in enumerate([64, 78, 51]):
            assert np.array_equal(cropped[k], scaled[k, start : start + 100])

    def test_m4_hourly(self, tmp_path):
        prepare = script("m4_hourly")
        put(tmp_path, "in/Hourly-train.csv", TRAIN.encode())
        files = {"Hourly-train.csv": Source("series/train.csv", sha256(TRAIN.encode()))}
        (made,) = prepare.prepare(tmp_path / "in", tmp_path / "out", files)
        assert made == tmp_path / "out" / "train.csv"
        assert "2 series of 1 to 3 hours" in prepare.summary(made)

    def test_exchange_rate(self, tmp_path):
        prepare = script("exchange_rate")
        made = put(tmp_path, "a.csv", b"0,1\n2.0,3.0\n4.0,5.0\n")
        assert "2 days x 2 currencies" in prepare.summary(made)

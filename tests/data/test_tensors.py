"""Tensors with real indices: what the loaders make of their files, and what splits leave unseen."""

import math
from argparse import Namespace

import numpy as np
import pytest
import torch
from data_files import ROOT, put, script
from torch.testing import assert_close

from tsdyn.batch import Entries
from tsdyn.data.files import BEIJING_AIR, US_TEMPERATURE
from tsdyn.data.load import Dataset, load_dataset
from tsdyn.data.split import ByEntry, ByLevel
from tsdyn.data.tensors import All, Fold, first_of_each, published_fold
from tsdyn.errors import ConfigError, DataError
from tsdyn.verbs import table

HEAD = "No,year,month,day,hour,PM2.5,PM10,SO2,NO2,CO,O3,TEMP,PRES,DEWP,RAIN,wd,WSPM,station"


def entries(n=100):
    """Ten levels of the last mode."""
    index = torch.stack([torch.arange(n).double(), torch.arange(n).double() % 10], 1)
    return Entries(index, torch.arange(n).float(), torch.rand(n))


def write_us(folder, count=20):
    """Latitude, longitude, year and value, of which the last half repeats the first."""
    half = np.random.RandomState(1).rand(count // 2, 3)
    index = np.concatenate([half, half])
    y = np.concatenate([np.arange(count // 2), np.arange(count // 2)]).astype(float)
    test = np.zeros((5, count), dtype=bool)
    test[range(5), range(5)] = True
    path = put(folder, US_TEMPERATURE.path, b"")
    np.savez(path, raw_index=index, y=y, test_mask=test)
    return index, y


class TestSplits:
    def test_entries_at_random(self):
        data = entries()
        parts = ByEntry(val=0.2, test=0.3, seed=1)(data, All())
        (given, val), (rest, test) = parts.val, parts.test
        assert (len(parts.train.y), len(val.y), len(test.y)) == (50, 20, 30)
        assert given.y.tolist() == parts.train.y.tolist() and len(rest.y) == 70
        everything = torch.cat([parts.train.y, val.y, test.y])
        assert sorted(everything.tolist()) == data.y.tolist()
        # an entry keeps its index and weight
        rows = test.y.long()
        assert_close(test.index, data.index[rows])
        assert_close(test.weights, data.weights[rows])
        again, other = (ByEntry(0.2, 0.3, s)(data, All()).test[1].y.tolist() for s in (1, 2))
        assert again == test.y.tolist() != other

    def test_whole_levels(self):
        parts = ByLevel(val=0.1, test=0.3)(entries(), All())
        train, val, test = (
            set(e.index[:, 1].tolist()) for e in (parts.train, parts.val[1], parts.test[1])
        )
        assert (len(train), len(val), len(test)) == (6, 1, 3)
        assert not train & val and not train & test and not val & test
        assert len(ByLevel(mode=0, test=0.5)(entries(), All()).test[1].y) == 50

    def test_nothing_is_kept_or_left(self):
        parts = ByEntry(test=0.0)(entries(), All())
        assert parts.val is None and parts.test is None and len(parts.train.y) == 100
        with pytest.raises(DataError, match="TSD-D10: 100 entries leave none"):
            ByEntry(test=1.0)(entries(), All())

    def test_all_are_given_and_wanted(self):
        data = entries()
        assert All()(data) == (data, data)


def test_first_of_each_index():
    index = torch.tensor([[2.0, 1.0], [0.0, 5.0], [2.0, 1.0], [0.0, 4.0], [0.0, 5.0]])
    found = first_of_each(Entries(index, torch.arange(5.0)))
    assert found.y.tolist() == [0.0, 1.0, 3.0] and found.weights is None
    assert_close(found.index, index[[0, 1, 3]])


def test_synthetic_is_its_equation(tmp_path):
    data = load_dataset("synthetic_r1")
    s, t = data.index.T
    truth = (2 * math.pi * s).sin() ** 2 * (2 * math.pi * s).cos()
    truth = truth * (-2 * t).exp() * (1.5 * math.pi * t).sin()
    assert data.index.shape == (1350, 2)
    assert_close(data.y, truth.float(), rtol=1e-6, atol=1e-8)
    assert len(s.unique()) == len(t.unique()) == 90
    made = script("synthetic_r1").prepare(tmp_path)
    here = ROOT / "datasets" / "synthetic_r1" / "synthetic_r1.csv"
    ours, theirs = (np.loadtxt(p, delimiter=",", skiprows=1) for p in (made, here))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-15)


def test_verbs_about_series_refuse_tensors():
    with pytest.raises(ConfigError, match="TSD-X01: Dataset `synthetic_r1` holds Entries"):
        table(Namespace(data="synthetic_r1"))


class TestTemperatures:
    def test_folds_and_repetitions(self, places):
        index, y = write_us(places[0])
        data = load_dataset("us_temperature")
        assert_close(data.index, torch.from_numpy(index))
        assert data.y.tolist() == y.tolist() and data.y.dtype == torch.float32
        parts = Fold("us_temperature", 2)(data, All())
        assert parts.val is None and parts.test[1].y.tolist() == [2.0]
        assert len(parts.train.y) == 19 and 2.0 in parts.train.y, "the fold repeats itself"
        distinct = Dataset("us_temperature", {"distinct": True})()
        assert distinct.y.tolist() == list(range(10))
        with pytest.raises(ConfigError, match=r"TSD-X01.*which has 20 entries, for 10"):
            Fold("us_temperature", 2)(distinct, All())

    def test_the_script_takes_the_real_file_only(self, places, tmp_path):
        write_us(places[0])
        with pytest.raises(DataError, match="TSD-D14"):
            script("us_temperature").prepare(places[0] / US_TEMPERATURE.path, tmp_path)

    def test_unknown_folds(self, places):
        for name, fold in (("us_temperature", 5), ("us", 0)):
            with pytest.raises(ConfigError, match=f"TSD-X01: Fold {fold} of '{name}'"):
                published_fold(name, fold)

    def test_real(self, real_data):
        if not (real_data / US_TEMPERATURE.path).is_file():
            pytest.skip("no temperatures")
        data = load_dataset("us_temperature")
        assert [len(c.unique()) for c in data.index.T] == [15, 95, 267]
        assert data.y.mean().item() == pytest.approx(57.01, abs=0.01)
        assert data.y.std().item() == pytest.approx(8.68, abs=0.01)
        assert len(load_dataset("us_temperature", distinct=True).y) == 22_257
        train, _, (_, test) = Fold("us_temperature", 0)(data, All())
        known = {(*i, v) for i, v in zip(map(tuple, train.index.tolist()), train.y.tolist())}
        rows = [(*i, v) for i, v in zip(map(tuple, test.index.tolist()), test.y.tolist())]
        assert sum(r in known for r in rows) / len(rows) == pytest.approx(0.76, abs=0.005)


class TestAir:
    def write(self, folder):
        """Two stations, three days of two hours, one hour without a wind."""
        folder.mkdir()
        for number, station in enumerate(("Zoo", "Airport")):
            lines = [HEAD]
            for day in (1, 2, 3):
                for hour in (0, 1):
                    dust = 10 * day + hour + 100 * number
                    wind = "NA" if (station, day, hour) == ("Zoo", 2, 1) else "N"
                    lines.append(
                        f"1,2013,3,{day},{hour},{dust},{2 * dust},{3 * dust},1,1,1,"
                        f"{-0.1 - day},{1000 + hour},0,0,{wind},1,{station}"
                    )
            path = folder / f"PRSA_Data_{station}_20130301-20170228.csv"
            path.write_text("\n".join(lines) + "\n")

    def test_days_are_means_over_hours_without_a_hole(self, places, tmp_path):
        self.write(tmp_path / "raw")
        prepare = script("beijing_air").prepare
        made = prepare(tmp_path / "raw", places[0] / "tensors")
        assert [path.name for path in made] == [
            f"beijing_{p}_428x501x1461.npz" for p in ("pm25", "pm10", "so2")
        ]
        data = load_dataset("beijing_air", station=True)
        # by day, then by station in the order of their names
        assert data.index[:, 2].tolist() == [15765.0, 15765, 15766, 15766, 15767, 15767]
        assert data.index[:, 3].tolist() == [0.0, 1.0] * 3
        assert_close(data.index[:, 0], -0.1 - torch.tensor([1, 1, 2, 2, 3, 3]).double())
        assert data.index[:, 1].tolist() == [1000.5, 1000.5, 1000.5, 1000.0, 1000.5, 1000.5]
        dust = torch.tensor([110.5, 10.5, 120.5, 20.0, 130.5, 30.5])
        assert_close(data.y, (dust - dust.mean()) / dust.std(correction=0))
        # twice and three times the dust is the same in units of its own
        for pollutant in ("pm10", "so2"):
            other = load_dataset("beijing_air", pollutant=pollutant)
            assert_close(other.y, data.y)
            assert other.index.shape == (6, 3)
        with np.load(made[0], allow_pickle=False) as arrays:
            assert arrays["station_names"].tolist() == ["Airport", "Zoo"]
            assert arrays["test_mask"].sum(1).tolist() == [2] * 5  # 6 - int(0.8 * 6)

    def test_errors(self, places, tmp_path):
        with pytest.raises(DataError, match="TSD-D01: No file"):
            script("beijing_air").prepare(tmp_path, tmp_path)
        with pytest.raises(ConfigError, match="TSD-X01: Pollutant 'ozone'"):
            load_dataset("beijing_air", pollutant="ozone")
        with pytest.raises(DataError, match="TSD-D01"):
            load_dataset("beijing_air")

    def test_real(self, real_data):
        path = real_data / BEIJING_AIR["pm25"].path
        if not path.is_file():
            pytest.skip("no air")
        data = load_dataset("beijing_air")
        assert [len(c.unique()) for c in data.index.T] == [428, 501, 1461]
        with np.load(path, allow_pickle=False) as arrays:
            again = script("beijing_air").folds(16_965, 40)
            np.testing.assert_array_equal(again, arrays["test_mask"])
        # the mean of a day's training entries
        errors = []
        for fold in range(5):
            train, _, (_, test) = Fold("pm25", fold)(data, All())
            days, of = train.index[:, 2].unique(return_inverse=True)
            mean = torch.zeros(len(days)).scatter_reduce(0, of, train.y, "mean", include_self=False)
            guess = np.interp(test.index[:, 2].numpy(), days.numpy(), mean.numpy())
            errors.append(np.sqrt(np.mean((guess - test.y.numpy()) ** 2)))
        assert np.mean(errors) == pytest.approx(0.2734, abs=2e-4)

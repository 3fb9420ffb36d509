"""Stays in intensive care, on small archives of the published form."""

import io
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from data_files import script
from torch.testing import assert_close

from tsdyn.batch import Clock, Names, Paths, take
from tsdyn.data.files import PHYSIONET_2012, PHYSIONET_2019
from tsdyn.data.load import load_dataset
from tsdyn.data.physionet import counted
from tsdyn.data.records import at_multiples, read_records, write_records
from tsdyn.errors import DataError

HEAD = "Time,Parameter,Value\n00:00,RecordID,{name}\n00:00,Age,54\n00:00,Gender,0\n00:00,Height,-1\n00:00,ICUType,4\n00:00,Weight,{weight}\n"
STAY = HEAD + "00:07,HR,88\n00:07,HR,90\n00:07,Temp,36.5\n47:59,WBC,11.2\n"


def archive(path, texts):
    """A .tar.gz of records set-a/<name>.txt, as published."""
    with tarfile.open(path, "w:gz") as files:
        for name, text in texts.items():
            member = tarfile.TarInfo(f"set-a/{name}.txt")
            member.size = len(text)
            files.addfile(member, io.BytesIO(text.encode()))
    return path


@pytest.fixture
def stays(tmp_path, places):
    """Two sets: a with a full and an empty record and outcomes, b with one record and none."""
    prepare = script("physionet_2012")
    texts = {
        "132540": HEAD.format(name=132540, weight=-1),
        "132539": STAY.format(name=132539, weight=76),
    }
    outcomes = tmp_path / "Outcomes-a.txt"
    outcomes.write_text(
        "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n"
        "132539,6,1,5,-1,0\n132540,16,8,8,3,1\n"
    )
    own = places[0]
    prepare.prepare(archive(tmp_path / "a", texts), outcomes, own / PHYSIONET_2012["a"].path, 2)
    other = {"142675": STAY.format(name=142675, weight=-1)}
    prepare.prepare(archive(tmp_path / "b", other), None, own / PHYSIONET_2012["b"].path, 1)


class TestPhysioNet2012:
    def test_a_record_line_by_line(self, stays):
        paths = load_dataset("physionet_2012", part="a", quantum=None)
        assert paths.names.series == ("132539", "132540") and paths.x.shape == (2, 3, 37)
        assert_close(paths.t[0], torch.tensor([0.0, 7 / 60, 47 + 59 / 60]).double())
        seen = {
            (row, paths.names.channels[channel]): paths.x[0, row, channel].item()
            for row, channel in paths.mask[0].nonzero().tolist()
        }
        assert seen == pytest.approx(
            {(0, "Weight"): 76.0, (1, "HR"): 89.0, (1, "Temp"): 36.5, (2, "WBC"): 11.2}
        )
        assert not paths.mask[1].any() and paths.t[1].tolist() == [0.0, 0.0, 0.0]
        assert paths.labels.tolist() == [0, 1] and paths.names.classes == ("survived", "died")
        assert paths.names.clock == Clock("float")

    def test_unknown_facts_are_zero_and_said_to_be_unknown(self, stays):
        paths = load_dataset("physionet_2012", part="a")
        facts = dict(zip(paths.names.static, paths.static[0].tolist()))
        assert facts == {
            **{"Age": 54.0, "Gender": 0.0, "Height": 0.0, "ICUType": 4.0},
            **{"Age_known": 1.0, "Gender_known": 1.0, "Height_known": 0.0, "ICUType_known": 1.0},
        }

    def test_both_sets_and_labels_only_if_all_are_known(self, stays):
        paths = load_dataset("physionet_2012")
        assert paths.names.series == ("132539", "132540", "142675") and paths.labels is None
        assert paths.static.shape == (3, 8) and paths.mask[2].sum() == 3

    def test_times_are_multiples_of_the_quantum(self, stays):
        paths = load_dataset("physionet_2012", part="a")
        assert_close(paths.t[0], torch.tensor([0.0, 7 * 0.016, 2999 * 0.016]).double())
        coarse = load_dataset("physionet_2012", part="a", quantum=1.0)
        assert_close(coarse.t[0], torch.tensor([0.0, 48.0]).double())
        assert coarse.mask[0].sum(1).tolist() == [3, 1]

    def test_minutes_never_fall_together_at_the_published_quantum(self):
        t = torch.arange(48 * 60 + 1, dtype=torch.float64)[None] / 60
        x = torch.ones(1, t.shape[1], 1)
        assert at_multiples(Paths(t, x, x.bool()), 0.016).t.shape == t.shape

    @pytest.mark.parametrize(
        "line, said",
        [("00:07,HHR,1", "parameter `HHR`"), ("00:07,HR", "HH:MM"), ("0x:07,HR,1", "HH:MM")],
    )
    def test_a_bad_line_is_named(self, line, said):
        text = HEAD.format(name=1, weight=1) + line + "\n"
        with pytest.raises(DataError, match=f"TSD-D14: a.txt, line 8.*{said}"):
            script("physionet_2012").parse(text, "a.txt")

    def test_records_are_counted_and_outcomes_complete(self, tmp_path):
        prepare = script("physionet_2012")
        made = archive(tmp_path / "a", {"1": STAY.format(name=1, weight=1)})
        with pytest.raises(DataError, match=r"TSD-D14.*1 records. Wanted: 4000"):
            prepare.prepare(made, None, tmp_path / "out.npz")
        (tmp_path / "o").write_text("RecordID,In-hospital_death\n2,0\n")
        with pytest.raises(DataError, match=r"TSD-D14.*does not tell of record 1"):
            prepare.prepare(made, tmp_path / "o", tmp_path / "out.npz", 1)

    def test_outcomes_of_a_folder_may_be_absent(self, tmp_path):
        prepare = script("physionet_2012")
        (tmp_path / "set-a.tar.gz").touch()
        assert prepare.raw("set-a.tar.gz", tmp_path, tmp_path) == tmp_path / "set-a.tar.gz"
        assert prepare.raw("Outcomes-a.txt", tmp_path, tmp_path) is None

    def test_there_are_41_variables(self):
        prepare = script("physionet_2012")
        assert len({*prepare.STATIC, *prepare.CHANNELS}) == 41


class TestRecords:
    def test_there_and_back(self, tmp_path):
        t = [torch.tensor([0.0, 1.5]).double(), torch.tensor([2.0, 2.0, 4.0]).double()]
        x = [torch.tensor([[1.0], [torch.nan]]), torch.tensor([[torch.nan], [3.0], [torch.nan]])]
        names = Names(("u", "v"), ("c",), Clock("float"))
        path = write_records(tmp_path / "made" / "r.npz", list(zip(t, x)), names)
        paths = read_records(path)
        assert paths.names == names and paths.static is None and paths.labels is None
        assert paths.t.tolist() == [[0.0, 1.5, 1.5], [2.0, 2.0, 4.0]]  # unobserved rows stay
        assert paths.mask[..., 0].tolist() == [[True, False, False], [False, True, False]]
        assert read_records(path, rows=1).t.tolist() == [[0.0], [2.0]]

    def test_another_file_is_refused(self, tmp_path):
        np.savez(tmp_path / "a.npz", t=np.zeros(1))
        with pytest.raises(DataError, match=r"TSD-D14.*no array channels, clock"):
            read_records(tmp_path / "a.npz")

    def test_rows_that_fall_together_are_averaged(self):
        t = torch.tensor([[0.0, 0.9, 1.1, 1.2, 1.2]]).double()
        x = torch.tensor([[[5.0, 0], [1, 2], [3, 0], [0, 4], [9, 9]]])
        mask = torch.tensor([[[1, 0], [1, 1], [1, 0], [0, 1], [0, 0]]]).bool()
        merged = at_multiples(Paths(t, x, mask), 1.0)
        assert merged.t.tolist() == [[0.0, 1.0]]
        assert merged.x.tolist() == [[[5.0, 0.0], [2.0, 3.0]]]
        assert merged.mask.tolist() == [[[True, False], [True, True]]]

    def test_counts_of_what_was_observed(self):
        mask = torch.tensor([[[1, 0], [0, 1], [1, 1]]]).bool()
        t = torch.arange(3.0)[None]
        paths = counted(Paths(t, torch.zeros(1, 3, 2), mask, names=Names((0,), ("a", "b"))))
        assert paths.covariates.tolist() == [[[1.0, 0.0], [1.0, 1.0], [2.0, 2.0]]]
        assert paths.names.covariates == ("n_a", "n_b")


def psv(prepare, rows, sepsis=()):
    """A record: HR = 80 + hour at the hours of `rows`; sepsis at some of them."""
    lines = ["|".join(prepare.COLUMNS)]
    for hour in rows:
        values = dict.fromkeys(prepare.COLUMNS, "NaN")
        values |= {"HR": str(80 + hour), "Age": "83.14", "Gender": "0", "HospAdmTime": "-0.03"}
        values |= {"ICULOS": str(hour), "SepsisLabel": str(int(hour in sepsis))}
        if hour % 2:
            values["Lactate"] = "1.5"
        lines.append("|".join(values.values()))
    return "\n".join(lines) + "\n"


@pytest.fixture
def sepsis(tmp_path, places):
    prepare = script("physionet_2019")
    texts = {
        "training/p000002.psv": psv(prepare, range(1, 101), sepsis={99, 100}),
        "training/p000001.psv": psv(prepare, range(2, 5)),
        "training/index.html": "",
    }
    for part, kept in (("a", list(texts)), ("b", ["training/p000001.psv"])):
        with zipfile.ZipFile(tmp_path / f"{part}.zip", "w") as files:
            for name in kept:
                files.writestr(name, texts[name])
        count = sum(name.endswith(".psv") for name in kept)
        target = places[0] / PHYSIONET_2019[part].path
        prepare.prepare(tmp_path / f"{part}.zip", target, count)


class TestPhysioNet2019:
    def test_hourly_rows_labels_of_the_whole_stay(self, sepsis):
        paths = load_dataset("physionet_2019", part="a")
        assert paths.x.shape == (2, 72, 34) and paths.covariates is None
        assert paths.names.series == ("p000001", "p000002")
        assert paths.labels.tolist() == [0, 1]  # it came at hour 99, after the rows kept
        assert paths.names.classes == ("no_sepsis", "sepsis")
        assert_close(paths.t[1], torch.arange(1.0, 73).double())
        assert_close(paths.t[0, :4], torch.tensor([2.0, 3, 4, 4]).double())
        assert paths.names.channels[0] == "HR" and paths.names.channels[-1] == "Platelets"
        assert_close(paths.x[1, :, 0], 80 + torch.arange(1.0, 73))
        lactate = paths.names.channels.index("Lactate")
        assert paths.mask.sum((0, 1)).nonzero().flatten().tolist() == [0, lactate]
        assert paths.mask[1, :, lactate].tolist() == [True, False] * 36

    def test_static(self, sepsis):
        paths = load_dataset("physionet_2019", part="b")
        assert paths.names.static[:5] == ("Age", "Gender", "Unit1", "Unit2", "HospAdmTime")
        known = torch.tensor([1.0, 1, 0, 0, 1])
        assert_close(paths.static[0], torch.cat([torch.tensor([83.14, 0, 0, 0, -0.03]), known]))

    def test_intensity_counts_up_to_each_row(self, sepsis):
        paths = load_dataset("physionet_2019", intensity=True, hours=10)
        assert paths.x.shape == (3, 10, 34) == paths.covariates.shape
        names = paths.names.covariates
        assert names[0] == "n_HR" and len(names) == 34
        assert_close(paths.covariates[1, :, 0], torch.arange(1.0, 11))
        lactate = names.index("n_Lactate")
        assert paths.covariates[1, :, lactate].tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
        assert paths.covariates[0, 3:, 0].tolist() == [3.0] * 7  # padding keeps the count
        assert take(paths, [0]).covariates.shape == (1, 10, 34)

    @pytest.mark.parametrize(
        "change, said",
        [
            (lambda text: text.replace("|HR|", "|").replace("HR|", "", 1), "40 columns"),
            (lambda text: text.replace("83.14", "old"), "line 2"),
            (lambda text: text.splitlines()[0], "no hour"),
        ],
    )
    def test_a_bad_file_is_named(self, change, said):
        prepare = script("physionet_2019")
        with pytest.raises(DataError, match=f"TSD-D.*p1.psv.*{said}"):
            prepare.parse(change(psv(prepare, [1])), "p1.psv")

    def test_records_are_counted(self, tmp_path):
        prepare = script("physionet_2019")
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as files:
            files.writestr("p1.psv", psv(prepare, [1]))
        with pytest.raises(DataError, match=r"TSD-D14.*1 records. Wanted: 20336"):
            prepare.prepare(tmp_path / "a.zip", tmp_path / "out.npz", prepare.COUNT["a"])

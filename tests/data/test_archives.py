"""The datasets of the archives: small files of their form, and the real ones where they are at hand."""

import zipfile

import pytest
import torch
from data_files import ROOT, put, script, sha256
from torch.testing import assert_close

from tsdyn.batch import Clock
from tsdyn.data.archives import ARCHIVES, FOLDER, extract, read_parts, sources, summary
from tsdyn.data.files import Source
from tsdyn.data.load import load_dataset
from tsdyn.errors import DataError

MOTIONS = """@problemName BasicMotions
@timeStamps false
@univariate false
@dimensions 6
@equalLength true
@seriesLength 2
@classLabel true Standing Running Walking Badminton
@data
1,2:3,4:5,6:7,8:9,10:11,12:{label}
"""

VOWELS = """@problemName JapaneseVowels
@timeStamps false
@univariate false
@dimensions 12
@equalLength false
@classLabel true 1 2 3 4 5 6 7 8 9
@data
{rows}
"""


def vowels(*series):
    """(speaker, length) -> the text of a file; coefficient d of row k is 100 d + k."""
    rows = []
    for speaker, length in series:
        rows.append(
            ":".join(",".join(str(100 * d + k) for k in range(length)) for d in range(12))
            + f":{speaker}"
        )
    return VOWELS.format(rows="\n".join(rows)).encode()


def test_basic_motions(places):
    for part, label in (("train", "Walking"), ("test", "Running")):
        put(places[0], sources("basic_motions")[part].path, MOTIONS.format(label=label).encode())
    paths = load_dataset("basic_motions")
    assert paths.x.shape == (2, 2, 6) and paths.labels.tolist() == [2, 1]
    assert_close(paths.t[0], torch.tensor([0.0, 0.1]).double())
    assert paths.names.clock == Clock("float")
    assert paths.names.channels[3] == "gyro_x" and paths.names.classes[3] == "Badminton"
    assert load_dataset("basic_motions", part="test").labels.tolist() == [1]


def test_unequal_lengths_stay_ragged(places):
    files = sources("japanese_vowels")
    put(places[0], files["train"].path, vowels((3, 2), (9, 4)))
    put(places[0], files["test"].path, vowels((1, 5)))
    paths = load_dataset("japanese_vowels")
    assert paths.x.shape == (3, 5, 12) and paths.labels.tolist() == [2, 8, 0]
    seen = paths.mask.all(-1)
    assert torch.equal(seen, paths.mask.any(-1)) and seen.sum(1).tolist() == [2, 4, 5]
    assert_close(paths.t[1], torch.tensor([0.0, 1, 2, 3, 3]).double())
    assert_close(paths.x[1, 3], 100.0 * torch.arange(12) + 3)
    assert paths.names.channels[11] == "cepstrum_12" and paths.names.clock == Clock("integer")
    assert load_dataset("japanese_vowels", part="train").x.shape == (2, 4, 12)


@pytest.mark.parametrize("name", ARCHIVES)
def test_readmes_quote_the_checksums(name):
    readme = (ROOT / "datasets" / name / "README.md").read_text()
    for source in sources(name).values():
        assert source.path in readme and source.sha256 in readme


@pytest.mark.parametrize("name", ARCHIVES)
def test_every_script_is_the_shared_one(name, tmp_path, monkeypatch, capsys):
    """The script is run on a wheel of another content: found, and refused by its SHA256."""
    title = ARCHIVES[name].title
    with zipfile.ZipFile(tmp_path / "aeon.whl", "w") as wheel:
        wheel.writestr(f"{FOLDER}/{title}/{title}_TRAIN.ts", "@data\n1\n")
    monkeypatch.setattr("sys.argv", ["prepare.py", "--wheel", str(tmp_path / "aeon.whl")])
    monkeypatch.setenv("TSDYN_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match="TSD-D14"):
        script(name).prepare(name)


def test_files_come_out_of_the_wheel_checked(tmp_path):
    text = MOTIONS.format(label="Walking")
    with zipfile.ZipFile(tmp_path / "aeon.whl", "w") as wheel:
        wheel.writestr(f"{FOLDER}/Toy_eq/Toy_eq_TRAIN.ts", text)
    files = {"train": Source("toy/Toy_eq_TRAIN.ts", sha256(text.encode()))}
    (made,) = extract(tmp_path / "aeon.whl", tmp_path / "out", files)
    assert made == tmp_path / "out" / "Toy_eq_TRAIN.ts" and made.read_text() == text
    assert "1 x 2 x 6, classes Standing" in summary(made)


@pytest.mark.data
@pytest.mark.parametrize(
    "name, part, shape, shortest, counts, first",
    [
        ("arrow_head", "train", (36, 251, 1), 251, [12] * 3, -1.9630089),
        ("arrow_head", "test", (175, 251, 1), 251, [69, 53, 53], -1.9077772),
        ("gun_point", "train", (50, 150, 1), 150, [24, 26], -0.6478854),
        ("gun_point", "test", (150, 150, 1), 150, [76, 74], -1.1250133),
        ("japanese_vowels", "train", (270, 26, 12), 7, [30] * 9, 1.8609360),
        (
            "japanese_vowels",
            "test",
            (370, 29, 12),
            7,
            [31, 35, 88, 44, 29, 24, 40, 50, 29],
            1.6355330,
        ),
        ("basic_motions", "train", (40, 100, 6), 100, [10] * 4, 0.079106),
    ],
)
def test_as_published(real_data, name, part, shape, shortest, counts, first):
    try:
        paths = read_parts(name, part)
    except DataError:
        pytest.skip(f"{name} is not prepared")
    assert paths.x.shape == shape
    assert torch.bincount(paths.labels).tolist() == counts
    assert int(paths.mask.any(-1).sum(1).min()) == shortest
    assert_close(float(paths.x[0, 0, 0]), first, rtol=0.0, atol=1e-6)

"""The reader of `.ts` files, on files small enough to read by eye."""

import pytest
import torch
from torch.testing import assert_close

from tsdyn.batch import Clock
from tsdyn.data.archive import concatenate, read_archive
from tsdyn.data.archives import sources
from tsdyn.data.files import cache_folder
from tsdyn.errors import ConfigError, DataError

HEADER = """#A remark.
@problemName Toy
@timeStamps false
@missing true
@univariate false
@dimensions 2
@equalLength false
@classLabel true walk run
@data
"""


@pytest.fixture
def file(tmp_path):
    def write(text, name="Toy.ts"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_dimensions_holes_lengths_and_classes(file):
    paths = read_archive(file(HEADER + "1.5,?,3:4,5,6:run\n\n-1e2,7:0,NaN:walk\n"))
    assert_close(paths.t, torch.tensor([[0.0, 1, 2], [0, 1, 1]]).double())
    seen = [[[1, 1], [0, 1], [1, 1]], [[1, 1], [1, 0], [0, 0]]]
    assert torch.equal(paths.mask, torch.tensor(seen).bool())
    assert_close(paths.x[0], torch.tensor([[1.5, 4], [0, 5], [3, 6]]))
    assert_close(paths.x[1, :2], torch.tensor([[-100.0, 0], [7, 0]]))
    assert paths.labels.tolist() == [1, 0]
    assert paths.names.classes == ("walk", "run")
    assert paths.names.channels == ("x0", "x1")
    assert paths.names.series == (0, 1)
    assert paths.names.clock == Clock("integer")


def test_one_dimension_without_classes(file):
    text = (
        "@problemName A\n@univariate true\n@equalLength true\n@classLabel false\n@data\n1,2\n3,4\n"
    )
    paths = read_archive(file(text))
    assert_close(paths.x[..., 0], torch.tensor([[1.0, 2], [3, 4]]))
    assert paths.labels is None and paths.names.classes == ()


def test_targets_of_a_regression_file(file):
    text = "@problemname A\n@timestamps false\n@targetlabel true\n@data\n1,2:0.25\n3,4:-7\n"
    assert_close(read_archive(file(text)).labels, torch.tensor([0.25, -7.0]))


def test_classes_that_the_header_does_not_list_are_sorted(file):
    paths = read_archive(file("@classLabel true\n@data\n1:b\n2:a\n3:b\n"))
    assert paths.labels.tolist() == [1, 0, 1] and paths.names.classes == ("a", "b")


def test_dimensions_with_times_of_their_own(file):
    text = "@timeStamps true\n@classLabel true u v\n@data\n(0,1),(2.5,2):(1,?),(2.5,3):v\n"
    paths = read_archive(file(text))
    assert_close(paths.t, torch.tensor([[0.0, 1.0, 2.5]]).double())
    assert torch.equal(paths.mask[0], torch.tensor([[1, 0], [0, 0], [1, 1]]).bool())
    assert_close(paths.x[0], torch.tensor([[1.0, 0], [0, 0], [2, 3]]))
    assert paths.names.clock == Clock("float") and paths.labels.tolist() == [1]


def test_dates_are_seconds_since_1970(file):
    text = (
        "@timeStamps True\n@univariate true\n@classLabel true 1 2\n@data\n"
        "(1970-01-01 00:00:00,241.97),(1970-01-02 00:01:00,241.75):1\n"
    )
    paths = read_archive(file(text))
    assert_close(paths.t, torch.tensor([[0.0, 86_460.0]]).double())
    assert paths.names.clock == Clock("datetime")


@pytest.mark.parametrize(
    "line, code, said",
    [
        ("1,x:2,3:run", "D03", "`x`"),
        ("1,inf:2,3:run", "D05", "infinite"),
        ("1,2:run", "D13", "1 dimensions"),
        ("1:2:3:run", "D13", "3 dimensions"),
        ("1:2:jump", "D14", "class `jump`"),
        ("::run", "D01", "no value"),
    ],
)
def test_a_bad_line_is_named_by_its_number(file, line, code, said):
    path = file(HEADER + "1,2:3,4:run\n" + line + "\n")
    with pytest.raises(DataError, match=f"TSD-{code}.*line 11.*{said}"):
        read_archive(path)


@pytest.mark.parametrize(
    "line, code",
    [
        ("(0,1),(0,2):a", "D06"),
        ("(1,1),(0,2):a", "D07"),
        ("(soon,1):a", "D04"),
        ("(inf,1):a", "D04"),
        ("(0,1),2:a", "D03"),
        ("(0,one):a", "D03"),
    ],
)
def test_a_bad_time_stamp_is_named(file, line, code):
    path = file("@timeStamps true\n@classLabel true a\n@data\n" + line)
    with pytest.raises(DataError, match=f"TSD-{code}.*line 4"):
        read_archive(path)


def test_lengths_must_be_equal_where_the_header_says_so(file):
    with pytest.raises(DataError, match=r"TSD-D14.*line 4.*3 rows after 2"):
        read_archive(file("@equalLength true\n@data\n1,2\n1,2,3\n"))


def test_the_number_of_dimensions_must_not_change(file):
    with pytest.raises(DataError, match=r"TSD-D13.*line 3"):
        read_archive(file("@data\n1:2\n1\n"))


@pytest.mark.parametrize(
    "text, said",
    [
        ("@problemName A\n1,2,3\n", "line 2"),
        ("@relation A\n@data\n1\n", "line 1"),
        ("@problemNam A\n@data\n1\n", "Did you mean `problemname`"),
        ("@problemName A\n", "no line `@data`"),
    ],
)
def test_a_header_that_cannot_be_read(file, text, said):
    with pytest.raises(ConfigError, match=f"TSD-X02.*{said}"):
        read_archive(file(text))


def test_a_file_without_series(file):
    with pytest.raises(DataError, match="TSD-D01"):
        read_archive(file(HEADER))


def test_concatenate_numbers_series_anew_and_pads(file):
    a = read_archive(file(HEADER + "1,2,3:4,5,6:run\n", "a.ts"))
    b = read_archive(file(HEADER + "1:?:walk\n", "b.ts"))
    both = concatenate([a, b])
    assert both.labels.tolist() == [1, 0] and both.names.series == (0, 1)
    assert both.mask.sum((1, 2)).tolist() == [6, 1]
    assert_close(both.t[1], torch.zeros(3).double())


@pytest.mark.data
def test_basic_motions_as_published(real_data):
    """The first line of the archive's own file, where it is at hand."""
    found = [
        file
        for folder in (real_data, cache_folder())
        if (file := folder / sources("basic_motions")["train"].path).is_file()
    ]
    if not found:
        pytest.skip("BasicMotions is not prepared")
    paths = read_archive(found[0])
    assert paths.x.shape == (40, 100, 6) and paths.mask.all()
    assert_close(paths.x[0, :3, 0], torch.tensor([0.079106, 0.079106, -0.903497]))
    assert paths.names.classes == ("Standing", "Running", "Walking", "Badminton")
    assert torch.bincount(paths.labels).tolist() == [10, 10, 10, 10]


def test_a_time_stamp_with_an_offset_is_that_instant(tmp_path):
    lines = [
        "@problemname A\n@timestamps true\n@targetlabel false\n@data",
        "(2024-01-01T01:00:00+01:00,1.0),(2024-01-01T01:00:00,2.0)\n",
    ]
    file = tmp_path / "a.ts"
    file.write_text("\n".join(lines))
    paths = read_archive(file)
    assert paths.t.diff().tolist() == [[3600.0]]  # without an offset it is read as UTC

"""A table of scores over rates and seeds; and what is already known is not computed again."""

import csv
import json
import statistics
from pathlib import Path

import pytest
import yaml

from tsdyn.cli import main
from tsdyn.lit import sweep
from tsdyn.lit.cli import Command, main as train

CONFIG = {
    "model": {
        "model": {"class_path": "toys.Line"},
        "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-2}},
    },
    "data": {
        "source": {"class_path": "toys.Ramp"},
        "task": {"class_path": "tsdyn.data.tasks.Forecasting", "init_args": {"fraction": 0.7}},
        "missing": {"by": "value"},
        "batch_size": 4,
    },
    "trainer": {"max_epochs": 2, "accelerator": "cpu"},
}
ARGV = ["sweep", "--config", "toy.yaml", "--missing", "0", "0.5"]
SEEDS = ["--seeds", "0", "1"]


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TSDYN_TEST_STOP", raising=False)
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(CONFIG))
    return tmp_path


@pytest.fixture
def started(monkeypatch):
    """The words of every command that a sweep runs."""
    words = []

    class Noted(Command):
        def __init__(self, argv):
            words.append(argv)
            super().__init__(argv)

    monkeypatch.setattr(sweep, "Command", Noted)
    return words


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_is_that_of_the_runs(capsys, at_home):
    assert main([*ARGV, *SEEDS, "--out", "scores.csv"]) == 0
    header, _, *rows = map(cells, capsys.readouterr().out.splitlines())
    assert header == ["missing", "coverage_90", "crps", "loss", "mse"]
    assert [row[0] for row in rows] == ["0", "0.5"]
    with Path("scores.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [(r["missing"], r["seed"]) for r in found] == [
        ("0.0", "0"),
        ("0.0", "1"),
        ("0.5", "0"),
        ("0.5", "1"),
    ]
    for row, (a, b) in zip(rows, (found[:2], found[2:])):
        for name, cell in zip(header[1:], row[1:]):
            values = float(a[name]), float(b[name])
            spread = f"{statistics.fmean(values):.4g} +- {statistics.stdev(values):.2g}"
            assert cell == spread
    assert found[0]["loss"] != found[1]["loss"], "seeds matter"


def test_rates_reach_what_is_given(capsys):
    """A closed form, for which seeds do not matter: the less it is given, the further off it is."""
    assert main([*ARGV, *SEEDS, "--", "--model.model", "tsdyn.models.baselines.LastValue"]) == 0
    header, _, *rows = map(cells, capsys.readouterr().out.splitlines())
    whole, half = (row[header.index("crps")].split(" +- ") for row in rows)
    assert whole[1] == half[1] == "0"
    assert float(half[0]) > float(whole[0])


def test_a_run_is_what_fit_and_test_do_by_hand(capsys, at_home):
    assert main([*ARGV, "--seeds", "3", "--out", "scores.csv", "--", "--model.samples", "7"]) == 0
    with Path("scores.csv").open(newline="") as file:
        _, found = csv.DictReader(file)
    same = ["-c", "toy.yaml", "--data.missing.rate=.5", "--seed_everything=3", "--model.samples=7"]
    assert train(["fit", *same]) == 0
    (best,) = Path("runs/toy").glob("*/checkpoints/0*.ckpt")
    capsys.readouterr()
    assert train(["test", *same, "--ckpt_path", str(best)]) == 0
    shown = dict(map(cells, capsys.readouterr().out.splitlines()[2:]))
    assert shown == {
        f"test/{k}": f"{float(found[k]):.4g}" for k in ("coverage_90", "crps", "loss", "mse")
    }


def test_what_is_finished_is_read(started, capsys):
    assert main(ARGV) == 0
    assert [argv[0] for argv in started] == ["fit", "test"] * 2
    first = capsys.readouterr().out
    assert main(ARGV) == 0 and len(started) == 4
    assert capsys.readouterr().out == first
    assert main([*ARGV, "0.7"]) == 0 and len(started) == 6, "only the new rate"
    assert "--data.missing.rate 0.7" in " ".join(started[-1])
    assert main([*ARGV, "--folder", "elsewhere"]) == 0 and len(started) == 10


def test_another_configuration_or_other_options_run_anew(started, at_home):
    argv = ["sweep", "--config", "toy.yaml", "--missing", "0.5"]
    assert main(argv) == 0
    assert main([*argv, "--", "--trainer.max_epochs", "1"]) == 0 and len(started) == 4
    (at_home / "toy.yaml").write_text(yaml.safe_dump(CONFIG | {"seed_everything": 9}))
    assert main([*argv, "--", "--trainer.max_epochs", "1"]) == 0 and len(started) == 6
    assert not any("--ckpt_path" in argv for argv in started if argv[0] == "fit")


# in the second of two epochs of three or four steps
def test_a_sweep_that_was_stopped_goes_on(started, monkeypatch, capsys):
    whole = ["sweep", "--config", "toy.yaml", "--missing", "0.5", "--folder"]
    assert main([*whole, "whole"]) == 0
    table = capsys.readouterr().out
    monkeypatch.setenv("TSDYN_TEST_STOP", "SIGINT 6")
    assert main([*whole, "parts"]) == 130
    monkeypatch.delenv("TSDYN_TEST_STOP")
    (record,) = Path("parts").rglob("sweep.json")
    assert "scores" not in json.loads(record.read_text())
    capsys.readouterr()
    assert main([*whole, "parts"]) == 0
    assert started[-2][-2:] == ["--ckpt_path", "auto"]
    assert len(list(Path("parts").rglob("interrupted.ckpt"))) == 1
    assert capsys.readouterr().out == table, "as if it had never been stopped"


def test_a_spoilt_record_is_no_record(started):
    assert main(ARGV[:-1]) == 0
    (record,) = Path("runs").rglob("sweep.json")
    record.write_text("{")
    assert main(ARGV[:-1]) == 0 and len(started) == 4


def test_what_is_missing_can_be_chosen_by_any_option(started):
    assert main([*ARGV[:-2], "0.5", "--", "--data.missing.by", "row", "--data.missing.seed=2"]) == 0
    (file,) = Path("runs").glob("toy-sweep/missing-0.5/seed-0/*/checkpoints/../config.yaml")
    config = yaml.safe_load(file.read_text())
    assert config["data"]["missing"] == {"rate": 0.5, "by": "row", "seed": 2}


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--missing", "1.5"], "TSD-X01: Missing(rate=1.5). Wanted: a part in [0, 1)"),
        (
            ["--missing", "0", "--", "--trainer.max_epoch", "3"],
            "Did you mean `--trainer.max_epochs`?",
        ),
        (["--missing", "0", "--seed", "3"], "Did you mean `--seeds`?"),
        ([], "--missing"),
        (["--missing", "0", "--config", "tay.yaml"], "TSD-X02: There is no file tay.yaml"),
        (["--missing", "0", "--out", "no/scores.csv"], "no folder no"),
    ],
)
def test_errors_are_one_line(argv, said, capsys):
    assert main(["sweep", "--config", "toy.yaml", *argv]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and said in last


def test_numbers_that_break_exit_with_1():
    assert main([*ARGV, "--", "--model.model", "toys.Bursting"]) == 1


def test_help_tells_all(capsys):
    assert main(["sweep", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert all(
        word in text for word in ("--missing", "--seeds", "--folder", "--out", "not repeated")
    )


def test_a_sweep_that_was_stopped_before_the_test_only_tests(started, capsys):
    assert main(ARGV[:-1]) == 0
    table = capsys.readouterr().out
    (record,) = Path("runs").rglob("sweep.json")
    kept = json.loads(record.read_text())
    record.write_text(json.dumps({"asked": kept["asked"]}))
    assert main(ARGV[:-1]) == 0
    assert capsys.readouterr().out == table
    assert len(list(Path("runs").rglob("last.ckpt"))) == 1, "the training was not repeated"

"""The light verbs: what they write, what they say, and with which exit code they end."""

import pandas as pd
import pytest
import torch

import tsdyn
from tsdyn.cli import main
from tsdyn.data.frames import to_frame
from tsdyn.data.synthetic import OrnsteinUhlenbeck
from tsdyn.models.linear import Linear


@pytest.fixture
def table(tmp_path):
    """Three irregular series of an Ornstein-Uhlenbeck process with holes, under other libraries' names."""
    frame = to_frame(OrnsteinUhlenbeck(n=3, length=60, missing=0.1, seed=1)())
    frame = frame.rename(columns={"series_id": "unique_id", "time": "ds", "x0": "y"})
    frame["ds"] = pd.Timestamp("2024-03-01", tz="Europe/Berlin") + pd.to_timedelta(frame["ds"], "D")
    path = tmp_path / "table.csv"
    frame.to_csv(path, index=False)
    return path


def test_version_and_help(capsys):
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"tsdyn {tsdyn.__version__}\n"
    assert main(["--help"]) == 0
    assert "forecast" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv, message",
    [
        (
            ["forcast"],
            "error: `forcast` is none of the choices of tsdyn. Did you mean `forecast`?\n",
        ),
        (
            ["forecast", "co2", "--horizon", "3", "--sampels", "9"],
            "error: unrecognized arguments: --sampels 9. Did you mean `--samples`?\n",
        ),
        (
            ["forecast", "co2", "--horizon", "3", "--sample", "9"],
            "error: unrecognized arguments: --sample 9. Did you mean `--samples`?\n",
        ),
        (["forecast", "co2"], "error: the following arguments are required: --horizon.\n"),
        (
            ["list", "model"],
            "error: `model` is none of the choices of tsdyn list. Did you mean `models`?\n",
        ),
        (
            ["forecast", "c02", "--horizon", "3"],
            "error: TSD-X01: `c02` is neither a file nor a dataset. Wanted: a .csv or .parquet file, or "
            "a name from `tsdyn list datasets`. Did you mean `co2`?\n",
        ),
        (
            ["evaluate", "co2"],
            "error: TSD-X01: Evaluate got neither of --horizon and --missing. Wanted: exactly one. For "
            "example --horizon 52.\n",
        ),
        (
            ["simulate", "lorentz"],
            "error: TSD-X01: `lorentz` is neither a system nor a file. Wanted: a name from `tsdyn list "
            "systems`, or a saved model. Did you mean `lorenz`?\n",
        ),
        (
            ["simulate", "lorenz", "--start", "1"],
            "error: TSD-X01: --start got 1 value. Wanted: 3, one per channel.\n",
        ),
        (
            ["forecast", "co2", "--horizon", "3", "--model", "no.ckpt"],
            "error: TSD-C01: no.ckpt does not exist or is no file. Wanted: a file written by tsdyn.save "
            "or by training. Check the path.\n",
        ),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_two(argv, message, capsys):
    assert main(argv) == 2
    assert capsys.readouterr().err == message


def test_forecast_writes_table_and_picture(table, tmp_path, capsys):
    out, picture = tmp_path / "out.parquet", tmp_path / "out.png"
    code = main(
        [
            "forecast",
            str(table),
            "--horizon",
            "7",
            "-o",
            str(out),
            "--plot",
            str(picture),
            "--samples",
            "50",
        ]
    )
    assert code == 0
    assert "model: Linear" in capsys.readouterr().err
    frame = pd.read_parquet(out)
    assert list(frame.columns[:5]) == ["series_id", "time", "channel", "mean", "q0.05"]
    assert frame.groupby("series_id").size().tolist() == [7, 7, 7]
    assert frame["time"].iloc[0].utcoffset() == pd.Timedelta(1, "h")
    assert (frame["q0.05"] <= frame["q0.5"]).all() and (frame["q0.5"] <= frame["q0.95"]).all()
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_gives_the_same_table(table, tmp_path):
    tables = []
    for seed in (3, 3, 4):
        out = tmp_path / "out.csv"
        assert (
            main(["forecast", str(table), "--horizon", "2", "-o", str(out), "--seed", str(seed)])
            == 0
        )
        tables.append(out.read_text())
    assert tables[0] == tables[1] != tables[2]


def test_impute_fills_the_holes_of_the_table_and_nothing_else(table, tmp_path):
    out = tmp_path / "filled.csv"
    assert main(["impute", str(table), "-o", str(out), "--kind", "mean"]) == 0
    before, after = pd.read_csv(table), pd.read_csv(out)
    seen = before["y"].notna()
    assert after["y"].notna().all() and len(after) == len(before)
    assert (after["y"][seen] - before["y"][seen]).abs().max() < 1e-6


def test_a_saved_model_answers(table, tmp_path, capsys):
    paths = tsdyn.read(table)
    model = tsdyn.fit(Linear(1), paths, tsdyn.data.tasks.Forecasting(steps=5))
    tsdyn.save(model, tmp_path / "m.pt")
    assert main(["forecast", str(table), "--horizon", "2", "--model", str(tmp_path / "m.pt")]) == 0
    output = capsys.readouterr()
    assert "model:" not in output.err and "q0.95" in output.out
    assert main(["simulate", str(tmp_path / "m.pt"), "--start", "0.5", "--steps", "4"]) == 0


def test_evaluate_and_backtest_show_baselines(table, tmp_path, capsys):
    assert main(["evaluate", str(table), "--horizon", "5", "--samples", "50"]) == 0
    assert "| last value" in capsys.readouterr().out
    assert main(["evaluate", str(table), "--missing", "0.2", "--samples", "50"]) == 0
    assert "| linear interpolation" in capsys.readouterr().out
    out = tmp_path / "scores.csv"
    argv = ["backtest", str(table), "--horizon", "5", "--cutoffs", "2", "--samples", "50"]
    assert main([*argv, "-o", str(out), "--period", "none"]) == 0
    assert pd.read_csv(out)["model"].tolist() == ["Linear", "last value"]
    assert main([*argv, "--refit"]) == 0


@pytest.mark.parametrize(
    "verb", [["inspect", "co2"], ["doctor"], ["list", "models"], ["list", "datasets"]]
)
def test_reports(verb, capsys):
    assert main(verb) == 0
    assert capsys.readouterr().out


def test_simulate_a_system(tmp_path):
    out = tmp_path / "paths.csv"
    argv = [
        "simulate",
        "lotka_volterra",
        "--samples",
        "3",
        "--steps",
        "20",
        "--until",
        "5",
        "-o",
        str(out),
    ]
    assert main(argv) == 0
    frame = pd.read_csv(out)
    assert len(frame) == 3 * 21 * 2 and (frame["value"] > 0).all()


def test_data_errors_are_one_line(tmp_path, capsys):
    path = tmp_path / "twice.csv"
    pd.DataFrame({"time": [1.0, 1.0, 2.0], "x": [1.0, 2.0, 3.0]}).to_csv(path, index=False)
    assert main(["forecast", str(path), "--horizon", "2"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: TSD-D06: ") and message.count("\n") == 1


def test_the_global_generator_is_left_alone(table):
    torch.manual_seed(5)
    expected = torch.rand(())
    torch.manual_seed(5)
    main(["forecast", str(table), "--horizon", "2"])
    assert torch.rand(()) == expected

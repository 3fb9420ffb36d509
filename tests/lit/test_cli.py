import json
import pickle

import pytest
import torch
import yaml
from toys import Line, Ramp

import tsdyn.io
from tsdyn.data.frames import read_draws
from tsdyn.lit.cli import Command, main
from tsdyn.lit.quiet import quiet

CONFIG = {
    "seed_everything": 0,
    "model": {
        "model": {"class_path": "toys.Line", "init_args": {"hidden": 3}},
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 3e-3}},
    },
    "data": {
        "source": {"class_path": "toys.Ramp"},
        "task": {"class_path": "tsdyn.data.tasks.Forecasting", "init_args": {"fraction": 0.7}},
        "batch_size": 4,
    },
    "trainer": {"max_epochs": 2, "accelerator": "cpu"},
}


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(CONFIG))
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a finished run."""
    home = tmp_path_factory.mktemp("trained")
    (home / "toy.yaml").write_text(yaml.safe_dump(CONFIG))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert main(["fit", "-c", "toy.yaml"]) == 0
    (folder,) = (home / "runs" / "toy").iterdir()
    return folder


def refused(capsys, *argv):
    """The one line said by a verb that exits with 2."""
    assert main(list(argv)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_run_leaves_all_one_needs_to_know(trained):
    assert {f.name for f in trained.iterdir()} >= {"config.yaml", "environment.json", "metrics.csv"}
    kept = sorted(f.name for f in (trained / "checkpoints").iterdir())
    assert kept[-1] == "last.ckpt" and kept[0].startswith("001-")
    facts = json.loads((trained / "environment.json").read_text())
    assert facts["command"] == "tsdyn fit -c toy.yaml" and facts["seed"] == 0
    assert facts["data"]["shape"]["x"] == [20, 12, 1] and len(facts["data"]["sha256"]) == 64
    assert facts["versions"]["torch"] == torch.__version__
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["name"] == "toy" and config["trainer"]["gradient_clip_val"] == 1.0
    assert "val/loss" in (trained / "metrics.csv").read_text().splitlines()[0]
    for file in (trained / "checkpoints").iterdir():
        assert torch.load(file, weights_only=True)["config"]["model"]["model"]["init_args"]
        assert isinstance(tsdyn.io.load(file, "cpu"), Line)


def test_the_same_configuration_runs_again(trained, capsys):
    config = str(trained / "config.yaml")
    assert main(["fit", "-c", config]) == 0 == main(["fit", "-c", config, "--trainer.logger=false"])
    assert "best val/loss" in capsys.readouterr().err


def test_flags_win_over_the_checkpoint(trained):
    last = str(trained / "checkpoints" / "last.ckpt")
    argv = ["predict", "--ckpt_path", last, "--data.source", "toys.Ramp", "--model.samples", "7"]
    with quiet():
        command = Command([*argv, "--output", "out.parquet"])
    assert command.model.samples == 7
    assert command.model.model.arguments["hidden"] == 3, (
        "what no flag says comes from the checkpoint"
    )
    assert command.datamodule.batch_size == 4
    _, samples, mask, names, kind = read_draws("out.parquet")
    assert samples.shape[:2] == (7, 20) and kind == "imputation" and int(mask.sum()) == 1
    assert names.series == Ramp()().names.series


def test_forecasts_need_no_model_on_the_command_line(trained, at_home):
    last = str(trained / "checkpoints" / "last.ckpt")
    argv = ["predict", "--ckpt_path", last, "--data.source", "toys.Ramp", "--name", "ahead"]
    ask = ["--data.ask", "tsdyn.lit.data.Ahead", "--data.ask.horizon", "2", "--data.ask.steps", "3"]
    assert main([*argv, *ask, "--output", "out.csv"]) == 0
    rows = (at_home / "out.csv").read_text().splitlines()
    assert rows[0] == "series_id,time,channel,mean,q0.05,q0.25,q0.5,q0.75,q0.95"
    assert len(rows) == 1 + 20 * 3
    assert main([*argv, *ask]) == 0
    assert list(at_home.glob("runs/ahead/*/predictions.parquet"))


def test_changed_shapes_and_strange_names_are_refused(trained, capsys):
    last = str(trained / "checkpoints" / "last.ckpt")
    source = ["--data.source", "toys.Ramp"]
    line = refused(capsys, "test", "--ckpt_path", last, *source, "--model.model.hidden", "9")
    assert "TSD-C04" in line and "size mismatch" in line
    # the checkpoint may not have the user's functions called
    line = refused(capsys, "test", "--ckpt_path", last)
    assert "TSD-X02: data.source" in line and "toys.Ramp" in line


def test_last_is_the_newest_state_of_that_name(trained, at_home, capsys, monkeypatch):
    assert "TSD-C01: No run in runs/toy" in refused(
        capsys, "fit", "-c", "toy.yaml", "--ckpt_path=last"
    )
    assert main(["fit", "-c", "toy.yaml", "--ckpt_path", "auto", "--trainer.max_epochs", "1"]) == 0
    assert main(["fit", "-c", "toy.yaml", "--ckpt_path", "last"]) == 0
    (folder,) = at_home.glob("runs/toy/*")
    assert (folder / "metrics-1.csv").exists() and (folder / "metrics.csv").exists()
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 1


def test_last_is_looked_for_where_the_configuration_sends_runs(at_home):
    config = CONFIG | {"trainer": CONFIG["trainer"] | {"default_root_dir": "elsewhere"}}
    (at_home / "away.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "-c", "away.yaml"]) == 0
    assert main(["test", "-c", "away.yaml", "--ckpt_path", "last"]) == 0


@pytest.mark.parametrize(
    "argv,said",
    [
        (
            ["--trainer.max_epoch", "3"],
            "TSD-X01: Unknown option `--trainer.max_epoch`. Did you mean `--trainer.max_epochs`?",
        ),
        (
            ["--model.model.hiden", "3"],
            "TSD-X01: Unknown argument `hiden` of toys.Line (model.model). Did you mean `hidden`?",
        ),
        (
            ["--model.model", "toys.Lin"],
            "TSD-X01: Unknown `toys.Lin` (model.model). Did you mean `toys.Line`?",
        ),
        (
            ["--model.model", "LastValeu"],
            "TSD-X01: Unknown `LastValeu` (model.model). Did you mean `LastValue`?",
        ),
        (
            ["--model.model", "tsdyn.models.scled.Scaled"],
            "Did you mean `tsdyn.models.scaled.Scaled`?",
        ),
        (["--model.optimizer", "torch.optim.Adm"], "Did you mean `torch.optim.Adam`?"),
        (
            ["--model.optimizer", "SGD", "--model.optimizer.lrr", "1"],
            "Unknown argument `lrr` of torch.optim.SGD (model.optimizer). Did you mean `lr`?",
        ),
        (["--data.task.fractio", "1"], "(data.task). Did you mean `fraction`?"),
        (
            ["--data.task", "tsdyn.data.tasks.Imputatio"],
            "Did you mean `tsdyn.data.tasks.Imputation`?",
        ),
        (["--data.split", "tsdyn.data.split.ByTim"], "Did you mean `tsdyn.data.split.ByTime`?"),
        (["--data.source", "toys.Rmp"], "Did you mean `toys.Ramp`?"),
        (["--data.batch_size", "x"], "TSD-X02: data.batch_size is x. Wanted: a whole number."),
        (
            ["--model.model.hidden", "x"],
            "TSD-X02: model.model.hidden is x. Wanted: a whole number.",
        ),
        (["--trainer.accelerator", "gpus"], "TSD-X02: You selected an invalid accelerator"),
        (["--ckpt_path", "absent.ckpt"], "TSD-C01: absent.ckpt does not exist"),
        (["--trainer.default_root_dir", "/proc/x"], "TSD-C01: Cannot write to /proc/x/toy/"),
    ],
)
def test_usage_errors_are_one_line_with_a_hint(argv, said, capsys):
    line = refused(capsys, "fit", "-c", "toy.yaml", *argv)
    assert line.startswith("error: TSD-") and said in line


@pytest.mark.parametrize(
    "text,said",
    [
        (
            "model:\n  model: {class_path: toys.Line\n  x: [1\n",
            "TSD-X02: bad.yaml, line 3 column 4",
        ),
        ("a: b: c\n", "TSD-X02: bad.yaml, line 1 column 5: mapping values are not allowed"),
        (
            "modle:\n  model: 3\n",
            "TSD-X01: Unknown key `modle.model` in bad.yaml. Did you mean `model.model`?",
        ),
        ("just text", "TSD-X02: bad.yaml holds 'just text'"),
        ("trainer: {max_epochs: 1}", "TSD-X02: model.model, data.source, data.task not given"),
        (None, "bad.yaml does not exist. Wanted: a file."),
    ],
)
def test_configuration_errors_name_the_place(text, said, capsys, at_home):
    if text is not None:
        (at_home / "bad.yaml").write_text(text)
    assert said in refused(capsys, "fit", "-c", "bad.yaml")


class Attack:
    def __reduce__(self):
        return (open, ("executed", "w"))


def test_bad_checkpoints_are_refused_and_never_executed(at_home, capsys, trained):
    whole = (trained / "checkpoints" / "last.ckpt").read_bytes()
    bad = {"empty": b"", "truncated": whole[: len(whole) // 2], "noise": b"\x00" * 100}
    for name, content in bad.items():
        (at_home / name).write_bytes(content)
        assert "TSD-C01" in refused(capsys, "test", "-c", "toy.yaml", "--ckpt_path", name)
    torch.save({"state_dict": {}, "x": Attack()}, "attack")
    assert "TSD-C02" in refused(capsys, "test", "-c", "toy.yaml", "--ckpt_path", "attack")
    (at_home / "attack").write_bytes(pickle.dumps(Attack()))
    refused(capsys, "test", "-c", "toy.yaml", "--ckpt_path", "attack")
    tsdyn.io.save(Line(), "model")
    assert "no state of a training run" in refused(
        capsys, "fit", "-c", "toy.yaml", "--ckpt_path", "model"
    )
    assert not (at_home / "executed").exists()


def test_a_checkpoint_cannot_name_functions_to_call(at_home, capsys, trained):
    content = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    content["config"]["data"]["ask"] = "os.abort"
    content["config"]["data"]["task"] = {
        "class_path": "tsdyn.data.tasks.Thinned",
        "init_args": {"task": "os.abort"},
    }
    torch.save(content, "evil.ckpt")
    line = refused(capsys, "test", "--ckpt_path", "evil.ckpt", "--data.source", "toys.Ramp")
    assert "TSD-X02: data.task" in line and "os.abort" in line


def test_untrained_models_are_not_judged(capsys, at_home):
    assert "TSD-M01" in refused(capsys, "test", "-c", "toy.yaml")
    assert not (at_home / "runs").exists()
    baseline = ["--model.model", "tsdyn.models.baselines.LastValue"]
    assert main(["validate", "-c", "toy.yaml", *baseline]) == 0


def test_scores_are_a_table(trained, capsys):
    last = str(trained / "checkpoints" / "last.ckpt")
    argv = ["validate", "-c", "toy.yaml", "--ckpt_path", last]
    assert main(argv) == 0
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert header.split("|")[1].strip() == "score"
    names = [row.split("|")[1].strip() for row in rows]
    assert names == ["val/coverage_90", "val/crps", "val/loss", "val/mse"]
    (best,) = (f.stem for f in (trained / "checkpoints").iterdir() if f.stem.startswith("001"))
    shown = float(rows[2].split("|")[2])
    assert shown == pytest.approx(float(best[4:]), rel=1e-3)
    assert main([*argv, "--verbose", "false"]) == 0
    assert capsys.readouterr().out == ""


def test_a_closed_form_takes_one_epoch_and_says_so(at_home, capsys):
    baseline = ["--model.model", "tsdyn.models.baselines.LastValue"]
    assert main(["fit", "-c", "toy.yaml", *baseline]) == 0
    assert "closed form: one epoch" in capsys.readouterr().err
    (last,) = at_home.glob("runs/toy/*/checkpoints/last.ckpt")
    assert torch.load(last, weights_only=True)["epoch"] == 0
    assert main(["fit", "-c", "toy.yaml", *baseline, "--trainer.max_epochs", "1"]) == 0
    assert "closed form" not in capsys.readouterr().err


def test_numbers_that_break_exit_with_1_and_name_the_series(capsys, at_home):
    assert main(["fit", "-c", "toy.yaml", "--data.source.spoiled", "true"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: TSD-M02: The loss is inf at step ")
    assert "want holds 1e+30 in series s5, channel c0" in said
    assert main(["fit", "-c", "toy.yaml", "--model.model", "toys.Bursting", "--name", "b"]) == 1
    (good,) = at_home.glob("runs/b/*/checkpoints/interrupted.ckpt")
    state = torch.load(good, weights_only=True)
    assert state["global_step"] == 2
    assert all(w.isfinite().all() for w in state["state_dict"].values())


def test_the_configuration_can_be_seen_and_debugged(capsys, monkeypatch):
    assert main(["fit", "-c", "toy.yaml", "--model.model", "Line", "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["model"]["class_path"] == "toys.Line"
    monkeypatch.setenv("TSDYN_DEBUG", "1")
    with pytest.raises(ValueError, match="TSD-X01"):
        main(["fit", "-c", "toy.yaml", "--nonsense", "1"])


def test_a_trial_run_leaves_nothing(at_home):
    assert main(["fit", "-c", "toy.yaml", "--trainer.fast_dev_run", "true"]) == 0
    assert not (at_home / "runs").exists()

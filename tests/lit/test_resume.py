"""Training that was stopped and went on gives bitwise the weights of training that never stopped."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch.utils._pytree import tree_leaves

from tsdyn.lit.cli import main

HERE = Path(__file__).parent
CONFIG = {
    "model": {
        "model": {"class_path": "toys.Line"},
        "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-2}},
        "scheduler": {
            "class_path": "lightning.pytorch.cli.ReduceLROnPlateau",
            "init_args": {"monitor": "val/loss", "patience": 0, "threshold": 1.0},
        },
    },
    "data": {
        "source": {"class_path": "toys.Ramp"},
        "task": {"class_path": "tsdyn.data.tasks.Imputation"},
        "batch_size": 4,
    },
    "trainer": {"max_epochs": 4, "accelerator": "cpu"},
}
SIGNALLED = """
import os, signal, sys, toys
from tsdyn.lit.cli import main

sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TSDYN_TEST_STOP", raising=False)
    Path("toy.yaml").write_text(yaml.safe_dump(CONFIG))


def run(name, *argv, model="toys.Line"):
    return main(["fit", "-c", "toy.yaml", "--name", name, "--model.model", model, *argv])


def state(name):
    (file,) = Path("runs", name).glob("*/checkpoints/last.ckpt")
    content = torch.load(file, weights_only=True)
    return [
        content[key]
        for key in (
            "state_dict",
            "optimizer_states",
            "lr_schedulers",
            "random_states",
            "global_step",
        )
    ]


def assert_same(a, b):
    leaves, others = tree_leaves(a), tree_leaves(b)
    assert len(leaves) == len(others) > 600  # torch's, numpy's and Python's generators, and weights
    for u, v in zip(leaves, others, strict=True):
        assert torch.equal(u, v) if isinstance(u, torch.Tensor) else u == v


def command(said):
    (line,) = (line for line in said.splitlines() if line.startswith("go on with: tsdyn "))
    return line.removeprefix("go on with: tsdyn ").split()


# four steps per epoch: inside the second epoch, and on its last step
@pytest.mark.parametrize("step,workers", [(6, 0), (8, 0), (6, 2)])
def test_a_signal_then_on(step, workers, monkeypatch, capsys):
    assert run("whole") == 0
    monkeypatch.setenv("TSDYN_TEST_STOP", f"SIGINT {step}")
    assert run("parts", f"--data.workers={workers}") == 130
    monkeypatch.delenv("TSDYN_TEST_STOP")
    said = capsys.readouterr().err
    assert f"step {step}; the state is in runs/parts/" in said
    torch.rand(3)  # what the process drew in between does not matter
    assert main(command(said)) == 0
    assert_same(state("whole"), state("parts"))


@pytest.mark.parametrize("step", [6, 8, 9])
@pytest.mark.parametrize(
    "option",
    [
        "max_steps=14",
        "limit_train_batches=3",
        "val_check_interval=2",
        "accumulate_grad_batches=2",
        "check_val_every_n_epoch=2",
    ],
)
def test_a_signal_then_on_with(option, step, monkeypatch, capsys):
    assert run("whole", f"--trainer.{option}") == 0
    monkeypatch.setenv("TSDYN_TEST_STOP", f"SIGTERM {step}")
    assert run("parts", f"--trainer.{option}") == 143
    monkeypatch.delenv("TSDYN_TEST_STOP")
    assert main(command(capsys.readouterr().err)) == 0
    assert_same(state("whole"), state("parts"))


def test_a_real_sigterm(capsys):
    environment = os.environ | {
        "TSDYN_TEST_STOP": "SIGTERM 6",
        "PYTHONPATH": f"{HERE}:{HERE.parents[1]}",
    }
    argv = ["fit", "-c", "toy.yaml", "--name", "parts"]
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, *argv], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 128 + signal.SIGTERM
    assert "stopped at epoch 1, step 6" in done.stderr and "Traceback" not in done.stderr
    assert main(command(done.stderr)) == 0
    assert run("whole") == 0
    assert_same(state("whole"), state("parts"))


def test_state_outside_of_buffers_goes_back_to_the_epoch_before(monkeypatch, capsys):
    assert run("whole", model="toys.Forgetful") == 0
    monkeypatch.setenv("TSDYN_TEST_STOP", "SIGTERM 7")
    assert run("parts", model="toys.Forgetful") == 143
    monkeypatch.delenv("TSDYN_TEST_STOP")
    go_on = command(capsys.readouterr().err)
    assert go_on[-1].endswith("last.ckpt")
    assert main(go_on) == 0
    assert_same(state("whole"), state("parts"))


def test_handlers_are_put_back(monkeypatch):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("TSDYN_TEST_STOP", "SIGINT 1")
    assert run("stopped") == 130
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_second_signal_does_not_wait(monkeypatch, capsys):
    monkeypatch.setenv("TSDYN_TEST_STOP", "SIGINT 6 twice")
    assert run("stopped") == 130
    said = capsys.readouterr().err
    assert "step 5; the state is in" in said and command(said)[-1].endswith("last.ckpt")


@pytest.mark.slow
def test_two_processes_score_like_one(tmp_path):
    """33 series, 5 of them judged in batches of 2: uneven in two processes."""
    script = tmp_path / "run.py"
    script.write_text(SIGNALLED)
    environment = os.environ | {"PYTHONPATH": f"{HERE}:{HERE.parents[1]}"}
    shared = ["-c", "toy.yaml", "--data.source.series", "33", "--data.batch_size", "2"]
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    ask = ["--data.ask", "tsdyn.lit.data.Ahead", "--data.ask.horizon", "1"]

    def tsdyn(*argv):
        subprocess.run(
            [sys.executable, str(script), *argv], env=environment, check=True, timeout=300
        )

    tsdyn("fit", *shared, *two, "--name", "fit", "--trainer.max_epochs", "1")
    (last,) = Path("runs/fit").glob("*/checkpoints/last.ckpt")
    shared += ["--ckpt_path", str(last)]
    for name, devices in (("one", []), ("two", two)):
        tsdyn("validate", *shared, *devices, "--name", name)
        tsdyn("predict", *shared, *devices, *ask, "--output", f"{name}.csv")
    one, two = (next(Path("runs", n).glob("*/metrics.csv")).read_text() for n in ("one", "two"))
    assert one == two
    assert Path("one.csv").read_text() == Path("two.csv").read_text()

"""What the README shows a new user works as it stands there."""

import re
import shlex
from pathlib import Path

import pytest

from tsdyn.cli import TRAINING, VERBS, main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return [
        text for kind, text in re.findall(r"```(\w*)\n(.*?)```", README, re.S) if kind == language
    ]


def test_the_first_python_example_forecasts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[0], "README.md", "exec"), {})
    assert "q0.95" in capsys.readouterr().out
    assert (tmp_path / "co2.png").stat().st_size > 10_000 and (tmp_path / "co2.pt").exists()


def test_the_second_python_example_reconstructs_populations(capsys):
    named = {}
    exec(compile(blocks("python")[1], "README.md", "exec"), named)
    assert "transport midpoint" in capsys.readouterr().out
    assert named["paths"].x.shape == (200, 5, 2)


def commands():
    lines = [line for block in blocks("") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("tsdyn ")]


@pytest.mark.parametrize("argv", commands(), ids=" ".join)
def test_the_commands_exist_with_their_options(argv, capsys):
    verb, *rest = argv
    assert verb in VERBS or verb in TRAINING
    if verb in VERBS:
        assert main([verb, "--help"]) == 0
        text = capsys.readouterr().out
        assert all(word in text for word in rest if word.startswith("-"))
    configs = [word for word in rest if word.startswith("configs/")]
    assert all((ROOT / c).exists() for c in configs)


def test_linked_files_exist():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link

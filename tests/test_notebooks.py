"""Every notebook runs from top to bottom, in its fast mode, in a folder of its own."""

import os
import runpy
from pathlib import Path

import pytest

from tsdyn.errors import DataError

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("TSDYN_FAST", "1")
    monkeypatch.setenv("TSDYN_FIGURES", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    try:
        runpy.run_path(str(notebook))
    except DataError as error:
        if error.code != "TSD-D01" or os.environ.get("TSDYN_DATA"):
            raise
        pytest.skip(f"the data of {notebook.name} are not here; set TSDYN_DATA")
    figures = [p for p in os.listdir(tmp_path) if p.endswith(".png")]
    assert figures, "a notebook shows at least one figure"


def test_notebooks_are_percent_scripts():
    assert NOTEBOOKS
    for notebook in NOTEBOOKS:
        text = notebook.read_text()
        assert "# %% [markdown]" in text and "format_name: percent" in text, notebook.name

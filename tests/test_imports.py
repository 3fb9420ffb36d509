"""What a door costs: how much is loaded before anything was asked for. One fresh interpreter each."""

import subprocess
import sys

import pytest

HEAVY = {
    "torch",
    "lightning",
    "pandas",
    "scipy",
    "gpytorch",
    "pyro",
    "torchsde",
    "matplotlib",
    "jsonargparse",
    "pyarrow",
}


def loaded(code: str) -> set[str]:
    """The heavy packages that are in memory after `code`."""
    report = f"import sys\n{code}\nprint('\\nloaded', *({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


def command(*argv: str) -> str:
    return (
        "from tsdyn.cli import main\n"
        f"try:\n    code = main({list(argv)!r})\nexcept SystemExit as end:\n    code = end.code\n"
        "assert not code, code"
    )


@pytest.mark.parametrize(
    "code, allowed",
    [
        ("import tsdyn", set()),
        ("import tsdyn; dir(tsdyn); tsdyn.__version__", set()),
        (command("--help"), set()),
        (command("version"), set()),
        ("from tsdyn import Paths, Model, forecast, impute, evaluate, save, load", {"torch"}),
        ("import tsdyn.models.stable_sde, tsdyn.models.linear", {"torch"}),
        ("from tsdyn import read, load_dataset", {"torch", "pandas", "scipy", "pyarrow"}),
    ],
    ids=["import", "dir", "help", "version", "models", "model", "tables"],
)
def test_nothing_is_loaded_that_is_not_asked_for(code, allowed):
    assert loaded(code) <= allowed


def test_every_public_name_is_there():
    import tsdyn

    for name in dir(tsdyn):
        assert getattr(tsdyn, name) is not None
    with pytest.raises(AttributeError, match="no public name `forcast`"):
        _ = tsdyn.forcast

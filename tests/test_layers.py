"""Who may import whom. An import points down or to a sibling, and heavy packages have one owner."""

import ast
import functools
from pathlib import Path

import pytest

import tsdyn

ROOT = Path(tsdyn.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

LAYERS = [
    {"batch", "errors", "chance", "maths"},
    {"nets", "frames_net", "data"},
    {"models"},
    {"predict", "evaluation", "population_scores", "forecasts", "io", "plot", "plot_populations"},
    {"lit"},
    {"cli", "verbs", "choose", "demo"},
    {"__init__", "__main__"},
]
LEVEL = {name: i for i, names in enumerate(LAYERS) for name in names}

OWNERS = {
    "lightning": {"lit/*"},
    "jsonargparse": {"lit/*"},
    "pandas": {"data/*", "lit/writer.py", "demo.py"},
    "pyarrow": {"data/*"},
    "matplotlib": {"plot.py", "plot_populations.py"},
    "mpl_toolkits": {"plot.py"},
    "torchsde": {"maths/solve.py", "maths/adaptive.py"},
    "scipy": {"data/*", "maths/*"},
    "gpytorch": {"models/from_gpytorch.py", "models/gpytorch_kernels.py"},
    "pyro": {"models/gp_bayesian.py"},
    "anndata": {"data/*"},
}


def module(file: Path) -> tuple[str, ...]:
    """("maths", "near") of tsdyn/maths/near.py."""
    return file.relative_to(ROOT).with_suffix("").parts


def is_module(parts: tuple[str, ...]) -> bool:
    return ROOT.joinpath(*parts).with_suffix(".py").exists()


class Imports(ast.NodeVisitor):
    """Everything a file imports when it runs: (full name, line). `TYPE_CHECKING` blocks are left out."""

    def __init__(self, package: tuple[str, ...]):
        self.package, self.found = package, []

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) != "TYPE_CHECKING":
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [((*alias.name.split("."),), node.lineno) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = tuple(node.module.split(".")) if node.module else ()
        if node.level:
            home = ("tsdyn", *self.package)
            base = home[: len(home) - node.level + 1] + base
        for alias in node.names:
            # `from ..maths import walk` names a module, `from .. import data` a package, and
            # `from ..batch import Paths` what is in one
            inner = (*base[1:], alias.name)
            if base[0] == "tsdyn" and is_module(inner):
                self.found.append(((*base, alias.name), node.lineno))
            elif base[0] == "tsdyn" and is_module((*inner, "__init__")):
                self.found.append(((*base, alias.name, "__init__"), node.lineno))
            else:
                self.found.append((base, node.lineno))


@functools.cache
def imports(file: Path) -> list[tuple[tuple[str, ...], str]]:
    """What is imported, and a sentence that says where."""
    visitor = Imports(module(file)[:-1])
    visitor.visit(ast.parse(file.read_text()))
    return [
        (name, f"{file.relative_to(ROOT)}:{line} imports {'.'.join(name)}")
        for name, line in visitor.found
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda f: "/".join(module(f)))
def test_imports_point_down_or_sideways(file):
    here = LEVEL[module(file)[0]]
    for name, text in imports(file):
        if name[0] == "tsdyn" and len(name) > 1:
            assert LEVEL[name[1]] <= here, text


@pytest.mark.parametrize("file", FILES, ids=lambda f: "/".join(module(f)))
def test_nothing_comes_from_the_init_of_a_package(file):
    """A name has one home; only the version lives in an `__init__`."""
    source = ast.parse(file.read_text())
    versions = {
        node.lineno
        for node in ast.walk(source)
        if isinstance(node, ast.ImportFrom) and [a.name for a in node.names] == ["__version__"]
    }
    for name, text in imports(file):
        if name[0] == "tsdyn" and int(text.split(":")[1].split()[0]) not in versions:
            assert is_module(name[1:]), text


@pytest.mark.parametrize("file", sorted((ROOT / "maths").glob("*.py")), ids=lambda f: f.stem)
def test_maths_knows_torch_and_itself(file):
    known = {
        "torch",
        "torchsde",
        "scipy",
        "math",
        "warnings",
        "itertools",
        "functools",
        "collections",
    }
    known |= {"typing", "dataclasses", "abc", "operator", "enum", "types", "contextlib"}
    for name, text in imports(file):
        own = name[0] == "tsdyn" and name[1] in ("maths", "errors")
        assert own or name[0] in known, text


@pytest.mark.parametrize("package", OWNERS)
def test_heavy_packages_have_owners(package):
    for file in FILES:
        path = file.relative_to(ROOT)
        if not any(path.match(pattern) for pattern in OWNERS[package]):
            for name, text in imports(file):
                assert name[0] != package, text


def test_inits_of_inner_packages_are_empty():
    """What stands there would run on the way to every sibling."""
    for file in ROOT.rglob("*/__init__.py"):
        assert not file.read_text().strip(), file


def test_every_file_has_a_layer():
    assert {module(f)[0] for f in FILES} <= set(LEVEL)

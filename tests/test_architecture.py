"""Architecture: imports run in the order that docs/architecture.md states, and in no circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
Graph = dict[str, set[str]]


def stated_order(document: str) -> list[list[str]]:
    """The levels of the first code block with arrows; modules of a level stand side by side."""
    block = next(b for b in re.findall(r"```\n(.*?)```", document, re.DOTALL) if "→" in b)
    return [[name.strip() for name in level.split(",")] for level in block.split("→")]


def import_graph(package: Path) -> Graph:
    """Module → modules of the package that it imports anywhere: lazily and for types, too."""
    files = {_dotted(path, package): path for path in package.rglob("*.py")}
    return {name: set(_targets(name, path, set(files))) for name, path in files.items()}


def _dotted(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _targets(name: str, path: Path, modules: set[str]) -> Iterator[str]:
    home = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from {alias.name for alias in node.names} & modules
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), home)
            for alias in node.names:
                submodule = f"{origin}.{alias.name}"
                found = submodule if submodule in modules else origin
                if found in modules:
                    yield found


def top_level(graph: Graph) -> Graph:
    """The graph of the modules that the document names; the package itself keeps its name."""
    merged: Graph = {}
    for name, targets in graph.items():
        merged.setdefault(_part(name), set()).update(_part(target) for target in targets)
    return {name: targets - {name} for name, targets in merged.items()}


def _part(dotted: str) -> str:
    return dotted.split(".")[1] if "." in dotted else dotted


def backward(graph: Graph, order: list[list[str]]) -> list[str]:
    """Imports that do not go to an earlier level."""
    level = {name: place for place, names in enumerate(order) for name in names}
    return [
        f"{name} imports {target}"
        for name, targets in graph.items()
        for target in sorted(targets)
        if level[target] >= level[name]
    ]


ORDER = stated_order((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
GRAPH = import_graph(ROOT / "src" / "zoogen")


def test_the_document_names_every_module_once() -> None:
    assert sorted(name for level in ORDER for name in level) == sorted(top_level(GRAPH))


def test_imports_run_in_the_stated_order() -> None:
    assert backward(top_level(GRAPH), ORDER) == []


def test_modules_of_a_package_import_in_no_circle() -> None:
    tuple(TopologicalSorter(GRAPH).static_order())  # raises CycleError


# ------------------------------------------------------------------------ that the tests can fail
@pytest.mark.parametrize(
    ("planted", "found"),
    [
        ("", []),
        ("from toy import errors", []),
        ("import json, numpy.linalg", []),
        ("import toy.store", ["grid imports store"]),
        ("from toy.store import read", ["grid imports store"]),
        ("from toy import store as other", ["grid imports store"]),
        ("from . import store", ["grid imports store"]),
        ("from .store.disk import write", ["grid imports store"]),
        ("def late():\n    from toy.store import disk", ["grid imports store"]),
        ("if TYPE_CHECKING:\n    from toy.store import Zoo", ["grid imports store"]),
        ("from toy.keys import key_for", ["grid imports keys"]),  # of the same level
        ("from toy import open_zoo", ["grid imports toy"]),
    ],
)
def test_a_backward_import_is_found(planted: str, found: list[str], tmp_path: Path) -> None:
    package = toy(tmp_path, grid=planted)
    order = stated_order("text\n```\nerrors → grid, keys\n    → store → toy\n```\n")
    assert backward(top_level(import_graph(package)), order) == found


def test_a_circle_inside_a_package_is_found(tmp_path: Path) -> None:
    graph = import_graph(toy(tmp_path, disk="from toy.store import manifest"))
    with pytest.raises(CycleError, match=r"toy\.store\.manifest"):
        tuple(TopologicalSorter(graph).static_order())


def toy(folder: Path, grid: str = "", disk: str = "") -> Path:
    """A package in good order, but for what is planted."""
    sources = {
        "__init__": "from toy.store import read", "errors": "", "keys": "", "grid": grid,
        "store/__init__": "from toy.store.manifest import read", "store/disk": disk,
        "store/manifest": "import toy.errors\nfrom toy.store.disk import write",
    }  # fmt: skip
    for name, source in sources.items():
        path = folder / "toy" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return folder / "toy"

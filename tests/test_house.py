"""Which module may import which: the arrows point one way."""

import ast
from graphlib import TopologicalSorter

import pytest

from helpers import PROJECT

PATHS = sorted((PROJECT / "helpers").rglob("*.py"))


def name_of(path):
    parts = path.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in PATHS}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def imports(module):
    """The modules of helpers that a module imports, anywhere in it."""
    package = module.split(".") if MODULES[module].stem == "__init__" else module.split(".")[:-1]
    found = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            named = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else base for name in named}
    return found & MODULES.keys()


ARROWS = {module: imports(module) for module in MODULES}


def room(module):
    """A file beside the folders, or the folder that a module is in."""
    return ".".join(module.split(".")[:2])


def test_imports_are_found():
    assert "helpers.svd" in ARROWS["helpers.compress.cut"]
    assert "helpers.compress.observed" in ARROWS["helpers.compress"]
    assert "helpers.data" in ARROWS["helpers.lab.sweep"]


def test_no_file_and_no_folder_imports_one_that_imports_it():
    list(TopologicalSorter(ARROWS).static_order())  # raises CycleError, which names the circle
    rooms = {}
    for module, behind in ARROWS.items():
        rooms.setdefault(room(module), set()).update(map(room, behind))
    rooms = {name: behind - {name} for name, behind in rooms.items()}
    assert "helpers.compress" in rooms["helpers.lab"]
    list(TopologicalSorter(rooms).static_order())


@pytest.mark.parametrize("module", MODULES)
def test_arrows_point_one_way(module):
    rooms = set(map(room, ARROWS[module]))
    if room(module) not in ("helpers.lab", "helpers.__main__"):
        assert "helpers.lab" not in rooms
    if room(module) == "helpers.compress":
        assert not rooms & {"helpers.model", "helpers.callbacks"}

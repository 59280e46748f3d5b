"""Which module may import which: the arrows point one way, and private names stand in one place."""

import ast
import re
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


PUBLIC = {"_asdict", "_replace", "_exit"}  # documented: of named tuples, and of os


def private_names(tree):
    """Private names of others.

    Attributes with one leading underscore, but for a class's own and helpers' modules'.
    """
    modules = {name.split(".")[-1] for name in MODULES}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.match("_(?!_)", node.attr):
            owner = node.value
            if isinstance(owner, ast.Call) and ast.unparse(owner) == "super()":
                owner = ast.Name("self")
            own = isinstance(owner, ast.Name) and owner.id in {"self", "cls", *modules}
            if not own and node.attr not in PUBLIC:
                yield node.attr
        elif isinstance(node, ast.keyword) and re.match("_(?!_)", node.arg or ""):
            yield node.arg
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            yield from re.findall("^_(?!_).+", str(node.slice.value))
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from (name for name in names if re.match("_(?!_)", name))


def test_private_names_are_found():
    source = "from keras._x import y\nx._y\nf(_z=1)\nd['_key']\nself._own\nkeras.__version__"
    assert set(private_names(ast.parse(source))) == {"_x", "_y", "_z", "_key"}


def test_private_names_of_other_libraries_stand_in_one_place():
    """They may go at any update; test_cost.py asks whether this one is still there."""
    found = [(name, module) for module, tree in TREES.items() for name in private_names(tree)]
    only = "_experimental_disable_per_channel_quantization_for_dense_layers"
    assert found == [(only, "helpers.lab.cost")]

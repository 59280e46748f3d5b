"""Which module may import which: the arrows point one way."""

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


def imports(module):
    """The modules of helpers that a module imports, anywhere in it."""
    package = module.split(".") if MODULES[module].stem == "__init__" else module.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            named = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else base for name in named}
    return found & MODULES.keys()


def test_no_module_imports_one_that_imports_it():
    graph = {module: imports(module) for module in MODULES}
    assert "helpers.svd" in graph["helpers.compress"]  # imports are found at all
    assert "helpers.data" in graph["helpers.lab.sweep"]
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


LESSON = [
    module for module in MODULES if not module.startswith(("helpers.lab", "helpers.__main__"))
]


@pytest.mark.parametrize("module", LESSON)
def test_the_lesson_needs_little_of_the_workshop(module):
    """TensorFlow without its noise, and where digits come from."""
    behind = {name for name in imports(module) if name.startswith("helpers.lab")}
    assert behind <= {"helpers.backend", "helpers.lab.digits"}


def code_lines(path):
    """Lines without docstrings, comments and blanks."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    words = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            words |= set(range(node.lineno, node.end_lineno + 1))
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    return sum(i not in words and line.strip()[:1] not in ("", "#") for i, line in lines)


def test_the_lesson_is_read_in_one_sitting():
    lines = {path.name: code_lines(path) for path in PATHS if path.parent.name == "helpers"}
    assert sum(lines.values()) <= 850, lines
    assert max(lines.values()) <= 200, lines


PUBLIC = {"_asdict"}  # of named tuples: documented, in spite of its underscore


def private_names(tree):
    """Attributes with one leading underscore, but for a class's own and helpers' modules'."""
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


def test_of_other_libraries_one_private_name_is_used():
    """It may go at any update; that it is there still is asked in test_cost.py."""
    found = {
        name: path.name
        for path in PATHS
        for name in private_names(ast.parse(path.read_text(encoding="utf-8")))
    }
    only = "_experimental_disable_per_channel_quantization_for_dense_layers"
    assert found == {only: "cost.py"}

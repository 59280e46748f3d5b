"""Source code as the notebooks show it: without the docstrings they explain around it."""

import ast
import inspect
import textwrap


def body(function: object) -> str:
    """Source of a function or class without its docstring."""
    source = textwrap.dedent(inspect.getsource(function))
    first = ast.parse(source).body[0].body[0]
    if not (isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", 0), str)):
        return source
    lines = source.splitlines()
    rest = [*lines[: first.lineno - 1], *lines[first.end_lineno :]]
    return "\n".join(rest)

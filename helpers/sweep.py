"""Run every notebook once by papermill: `python -m helpers.sweep [-p NAME VALUE]…`.

Executed copies, results (JSON) and pictures go to .runs/; a table of results ends the run.
"""

import argparse
import ast
import json
import os
import sys
import time

import papermill

from . import parameters
from .files import PROJECT

NOTEBOOKS = PROJECT / "notebooks"
RUNS = PROJECT / ".runs"


def main(arguments=None):
    """Run the notebooks; return 0, or 1 if one failed, or 2 if an argument cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m helpers.sweep", description=__doc__)
    parser.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter for the notebooks that have it, such as -p D 50; may be repeated",
    )
    overrides = {name: _literal(value) for name, value in parser.parse_args(arguments).p}
    notebooks = {path: _defaults(path) for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
    try:
        _check(overrides, notebooks)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    results, failures = _run_all(notebooks, overrides)
    _print_table(results)
    for name, reason in failures.items():
        print(f"{name} failed: {reason}", file=sys.stderr)
    print(f"Executed notebooks, results and pictures: {RUNS.relative_to(PROJECT)}/")
    return 1 if failures else 0


def _literal(text):
    """20 → int, 0.1 → float, anything that is no Python literal → str."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _defaults(path):
    """{name: default} of a notebook's parameters."""
    return {
        name: _literal(parameter["default"])
        for name, parameter in papermill.inspect_notebook(str(path)).items()
    }


def _check(overrides, notebooks):
    known = {name for defaults in notebooks.values() for name in defaults} - {"results"}
    if unknown := set(overrides) - known:
        raise ValueError(f"no notebook takes {sorted(unknown)}; they take {sorted(known)}.")
    for defaults in notebooks.values():
        parameters.check(**defaults | _taken(overrides, defaults))


def _taken(overrides, defaults):
    return {name: value for name, value in overrides.items() if name in defaults}


def _run_all(notebooks, overrides):
    """Run each notebook; return ({name: results}, {name: reason it failed})."""
    os.environ["SVD_FIGURES"] = str(RUNS / "figures")  # figures/ holds the published pictures
    RUNS.mkdir(exist_ok=True)
    results, failures = {}, {}
    for number, (path, defaults) in enumerate(notebooks.items(), start=1):
        print(f"[{number}/{len(notebooks)}] {path.stem}", file=sys.stderr)
        start = time.perf_counter()
        written = RUNS / f"{path.stem}.json"
        written.unlink(missing_ok=True)
        try:
            papermill.execute_notebook(
                str(path),
                str(RUNS / path.name),
                _taken(overrides, defaults) | {"results": str(written)},
                kernel_name="python3",
                cwd=str(NOTEBOOKS),
            )
            results[path.stem] = json.loads(written.read_text(encoding="utf-8"))
        except Exception as error:  # one notebook's failure must not cost the others their run
            failures[path.stem] = _reason(error)
        print(f"    {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return results, failures


def _reason(error):
    if isinstance(error, papermill.PapermillExecutionError):
        return f"cell [{error.exec_count}]: {error.ename}: {error.evalue}"
    return f"{type(error).__name__}: {error}"


def _print_table(results):
    """A line per network: its test accuracy and size."""
    for name, result in results.items():
        print(f"\n{name}: D = {result['D']}, seed {result['seed']}, {result['dataset']}")
        print(f"  {'network':24}{'test accuracy':>14}{'parameters':>14}")
        for method, measured in result.items():
            for label, row in _rows(method, measured):
                size = f"{row['parameters']:,}" if "parameters" in row else ""
                print(f"  {label:24}{row['test_accuracy']:>14.2%}{size:>14}")
    print()


def _rows(method, measured):
    """(label, figures) of what was measured once, or once for each D."""
    if not isinstance(measured, dict):
        return []
    if "test_accuracy" in measured:
        return [(method, measured)]
    return [(f"{method}, D = {D}", row) for D, row in measured.items() if "test_accuracy" in row]


if __name__ == "__main__":
    sys.exit(main())

import re

import nbformat
import pytest

from tests.grading import claims

NAMES = claims.NAMES
CHECK = 'print("it is small:", size < 10)'


def notebook(folder, name, *sources, ids=("1", "2"), check=CHECK, size=3):
    """Parameters, these cells, then a check for each id that prints what is committed."""
    cells = [nbformat.v4.new_code_cell(f"size = {size}", metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    printed = [nbformat.v4.new_output("stream", text="it is small: True\n")]
    for id in ids:
        grade = {"grade": {"id": id}}
        cells.append(nbformat.v4.new_code_cell(check, metadata=grade, outputs=printed))
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / name)


def test_a_check_says_what_is_committed():
    found = [cell for name in NAMES for cell in claims.checks_of(name)]
    assert len({cell.metadata.grade.id for cell in found}) == len(found) > 25
    for cell in found:
        id, title = cell.metadata.grade.id, cell.metadata.grade.title
        assert re.match(rf"# check {id}(?: \(\d points?\))?: {re.escape(title)}\n", cell.source)
        assert "nbval-check-output" in cell.metadata.tags
        printed = "".join(output.text for output in cell.outputs)
        assert printed
        assert "False" not in printed


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of three small notebooks; the cells of a copy need nothing but Python."""
    for name in NAMES:
        notebook(tmp_path / "project" / "notebooks", name)
    monkeypatch.setattr(claims, "PROJECT", tmp_path / "project")


def test_a_claim_holds_if_its_check_prints_what_is_committed(project, tmp_path):
    folder = tmp_path / "copy"
    away = "import os; assert os.environ['SVD_FIGURES'] and os.environ['SVD_DATASET']"
    notebook(folder, NAMES[0], away, check="print('it is small: True')", size=30)
    notebook(folder, NAMES[1], "size = 40", "1 / 0", ids=("2",))
    notebook(folder, NAMES[2], "del size", ids=("1", "1", "2"))
    ran = claims.run(folder, timeout=60)
    assert ran[NAMES[0]] == (2, 2, "")
    small = "expected 'it is small: True', found 'it is small: False'"
    assert ran[NAMES[1]] == (0, 2, f"1: its cell is missing; 2: {small}")
    error = "NameError: name 'size' is not defined"
    assert ran[NAMES[2]] == (0, 2, f"1: {error}; 2: {error}")


def test_nothing_is_claimed_after_a_cell_that_never_ends(project, tmp_path):
    """Nor in a file that is missing, or no notebook."""
    notebook(tmp_path / "copy", NAMES[0], "while True:\n    pass")
    (tmp_path / "copy" / NAMES[1]).write_text("{")
    ran = claims.run(tmp_path / "copy", timeout=3)
    assert [outcome[:2] for outcome in ran.values()] == [(0, 2)] * 3
    reasons = "never ran", "it is not a notebook", "the notebook is missing"
    for reason, (_, _, said) in zip(reasons, ran.values(), strict=True):
        assert said.count(reason) == 2


def test_nothing_is_claimed_after_the_end_of_the_kernel(project, tmp_path):
    path = tmp_path / "copy" / NAMES[1]
    notebook(path.parent, path.name)
    cells = nbformat.read(path, as_version=4)
    cells.cells.insert(2, nbformat.v4.new_code_cell("import os; os._exit(1)"))
    nbformat.write(cells, path)
    held, made, reasons = claims.run(path.parent, timeout=60)[path.name]
    assert (held, made) == (1, 2)
    assert reasons.startswith("2: it never ran")

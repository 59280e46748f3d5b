import numpy as np
import pandas as pd
import pytest

from helpers.lab import figures, results


def run(D, seed, **methods):
    """The results file of one run."""
    about = {"notebook": "02_b", "D": D, "seed": seed, "dataset": "mnist", "epochs": 15}
    baseline = {"test_accuracy": 0.98 + seed / 100, "parameters": 1000}
    return about | {"baseline": baseline} | methods


EXACT = {"test_accuracy": 0.96}


@pytest.fixture
def table():
    measured = [
        run(20, seed, truncated={"test_accuracy": 0.9 + seed / 50}, fine_tuned=tuned, exact=EXACT)
        for seed, tuned in enumerate([{"test_accuracy": 0.97, "parameters": 200}] * 2)
    ]
    measured.append(run(5, 0, truncated={"5": {"test_accuracy": 0.5, "parameters": 50}, "9": {}}))
    return results.merge(*map(results.rows, measured))


def test_a_table_is_read_as_it_was_written(table, tmp_path):
    results.write(tmp_path / "results.csv", table[::-1])
    again = results.read(tmp_path / "results.csv")
    pd.testing.assert_frame_equal(again, table.sort_values(results.RUN, ignore_index=True))
    # Ours is of \r\n lines, and git leaves it as it is.
    results.write(tmp_path / "again.csv", results.read(results.TABLE))
    assert (tmp_path / "again.csv").read_bytes() == results.TABLE.read_bytes()


def test_a_seed_counts_once_and_sizes_are_those_of_the_rank(table):
    """Of a notebook and the measuring script, the notebook's."""
    script = table.assign(notebook="measure", test_accuracy=0.1)
    for several in (results.merge(table, script), results.merge(script, table)):
        measured = results.by_method(several)
        accuracies, parameters = measured["truncated"][20]
        assert (accuracies.tolist(), parameters) == ([0.9, 0.92], 200)
        assert list(measured["truncated"]) == [5, 20]


def test_the_spread_is_of_several_seeds_of_one_data_set(table, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "TABLE", tmp_path / "results.csv")
    assert results.spread("mnist", 15) == {}
    results.write(results.TABLE, results.merge(table, table.assign(dataset="subset")))
    found = results.spread("mnist", 15)["plain"]
    assert {D: accuracies.tolist() for D, accuracies in found.items()} == {20: [0.9, 0.92]}
    assert results.spread("mnist", 3) == {}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder whose README has a place for the table, and no results yet."""
    monkeypatch.setattr(results, "TABLE", tmp_path / "figures" / "results.csv")
    monkeypatch.setattr(results, "README", tmp_path / "README.md")
    monkeypatch.setattr(results, "RUNS", tmp_path / "runs")
    (tmp_path / "README.md").write_text(f"before\n{results.START}old\n{results.END}\nafter\n")
    return tmp_path


def test_the_command_adds_runs_and_writes_all_that_shows_them(table, folder, capsys):
    assert results.main([]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    others = [table[:1].assign(dataset="subset"), table[:1].assign(epochs=3, test_accuracy=0.1)]
    half = len(table) // 2
    results.write(folder / "runs" / "results.csv", results.merge(table[:half], *others))
    results.write(folder / "runs" / "measure.csv", table[half:])
    for _ in range(2):
        assert results.main([]) == 0
        text = (folder / "README.md").read_text()
        assert text == f"before\n{results.START}{results.small_table(table)}{results.END}\nafter\n"
        page = (folder / "figures" / "README.md").read_text()
        assert page == results.page(table, folder / "figures")
        assert "- [results.png](results.png): " in page
    assert (folder / "figures" / "results.png").stat().st_size > 1000
    anew = table[:1].assign(test_accuracy=0.1)  # takes the old row's place; the others are kept
    results.write(folder / "runs" / "results.csv", anew)
    (folder / "runs" / "measure.csv").unlink()
    assert results.main([]) == 0
    kept = results.read(folder / "figures" / "results.csv")
    assert (len(kept), (kept["test_accuracy"] == 0.1).sum()) == (len(table), 1)


def test_the_page_shows_means_and_spreads(table, tmp_path):
    text = results.page(table, tmp_path)
    assert "\n| D | kept | plain |\n| --- | --- | --- |\n| 5 | 5.0% | 50.00 |\n" in text
    assert "\n| 20 | 20.0% | 91.00 ± 1.41 (2) |\n" in text
    assert "\nBaseline: 98.50 ± 0.71 (2).\n" in text
    assert "\n| 20 | 20.0% | 96.00 ± 0.00 (2) |\n" in text.partition("derivatives")[2]
    assert "derivatives" not in results.page(table[table["method"] != "exact"], tmp_path)
    assert "## Pictures" not in text  # the folder has none


def test_the_readme_shows_means_alone(table):
    text = results.small_table(table)
    assert "| 20 | 20.0% | 91.00 |\n\nTest accuracy in %. Baseline: 98.50." in text
    assert text.endswith("\n1 at D = 5, 2 at D = 20.\n")
    one = table[:1].assign(D=20, seed=0, method="small_dense")
    assert "\n1 at D = 5, 1 to 2 at D = 20.\n" in results.small_table(results.merge(table, one))


def test_differences_are_taken_seed_by_seed(tmp_path):
    accuracies = {"fine_tuned_shared": [0.9, 0.8, 0.7], "small_dense": [0.89, 0.78, 0.67, 0.1]}
    table = results.frame(
        run(5, seed) | {"method": method, "test_accuracy": accuracy, "parameters": 100}
        for method, by_seed in accuracies.items()
        for seed, accuracy in enumerate(by_seed)
    )
    alone = table[table["seed"] == 0].assign(D=10)  # has no standard error
    table = results.merge(table, alone)
    found = results.differences(table, "fine_tuned_shared", "small_dense")
    assert list(found) == [5]
    np.testing.assert_allclose(found[5], [0.01, 0.02, 0.03])
    assert results.differences(table, "fine_tuned_shared", "exact") == {}
    table = results.merge(table, *(results.rows(run(5, seed)) for seed in (0, 1, 2)))
    lines = results.page(table, tmp_path).splitlines()
    assert "|  | D = 5 |" in lines
    # the standard error is 0.01 / √3
    line = "| fine-tuned, shared ranks − small dense network | +2.00 ± 0.58 (3) |"
    assert line in lines


def test_the_readmes_show_the_committed_table():
    table, folder = results.read(results.TABLE), results.TABLE.parent
    readme = results.README.read_text(encoding="utf-8")
    shown = readme.partition(results.START)[2].partition(results.END)[0]
    assert shown == results.small_table(table)
    assert (folder / "README.md").read_text(encoding="utf-8") == results.page(table, folder)


def test_each_picture_has_a_line():
    kept = {p.name for p in results.TABLE.parent.glob("*") if p.suffix in (".png", ".html")}
    assert {*pd.read_csv(results.PICTURES)["picture"]} == kept


@pytest.mark.parametrize(
    "row", ["01,x,0,mnist,15,m,0.5,1", "01,5,0,mnist,15,m,,1", "01,5,0,mnist,15,m,0.5,x", "D\n1"]
)
def test_a_damaged_table_is_one_sentence(folder, capsys, row):
    header = "notebook,D,seed,dataset,epochs,method,test_accuracy,parameters\n"
    results.TABLE.parent.mkdir()
    results.TABLE.write_text(row if row.startswith("D") else header + row)
    with pytest.raises(ValueError, match=r"^results\.csv is not a table of results[^\n]*$"):
        results.read(results.TABLE)
    assert results.main([]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)


def test_what_the_readme_claims_of_the_committed_table():
    mean = {
        (method, D): np.mean(accuracies)
        for method, by_rank in results.by_method(results.read(results.TABLE)).items()
        for D, (accuracies, _) in by_rank.items()
    }
    published = pd.read_csv(results.PUBLISHED).groupby("source")["test_accuracy"]
    best = published.max()[["public solutions", "DLRT, means"]].max()
    for D in (5, 10, 20):
        assert max(best, mean["small_dense", D]) < mean["cut", D]
        assert mean["small_dense", D] < mean["cut_shape_anew", D] < mean["fine_tuned_cut", D]
        assert mean["fine_tuned_cut", D] > mean["baseline", D] - 0.001
        assert mean["cut", D] > mean["interpolative", D] + 0.005
        assert mean["random_factors_shared", D] < mean["fine_tuned_shared", D]
    assert mean["cut", 5] > mean["baseline", 5] - 0.003
    assert mean["shared", 5] < 0.83
    assert mean["shared", 20] > mean["baseline", 20] - 0.001
    assert mean["dynamic_ranks", 20] > mean["fine_tuned", 20]
    assert mean["truncated", 20] > published.first()["public solutions"] + 0.02
    assert mean["straight_through", 20] < mean["tangent", 20] - 0.008
    assert abs(mean["baseline_adamw", 20] - mean["baseline", 20]) < 0.001
    assert mean["truncated_adamw", 20] < mean["truncated", 20] - 0.1
    assert mean["truncated", 20] + 0.01 < mean["whitened", 20] < mean["shared", 20] - 0.01


def test_a_readme_without_a_place_for_the_table_stays_as_it_is(table, folder, capsys):
    results.write(folder / "runs" / "measure.csv", table)
    (folder / "README.md").write_text(results.START + "more", encoding="utf-8")
    assert results.main([]) == 2
    assert capsys.readouterr().err.startswith("README.md has no place for a table")
    assert (folder / "README.md").read_text(encoding="utf-8") == results.START + "more"
    assert not results.TABLE.exists()


def test_every_method_has_a_look():
    labels = {*results.FIRST.values(), *results.OTHERS.values()}
    assert labels <= set(figures.LOOKS)


def test_a_run_has_a_row_for_each_method_at_its_rank():
    cut = {"test_accuracy": 0.5, "parameters": 7, "more": 1}
    others = {"other": {"seconds": 5}, "list": [1], "exact": EXACT}
    measured = run(20, 3, truncated={"20": cut, "9": EXACT}, **others)
    about = {"notebook": "02_b", "D": 20, "seed": 3, "dataset": "mnist", "epochs": 15}
    rows = [
        about | {"method": "baseline", "test_accuracy": 0.98 + 3 / 100, "parameters": 1000},
        about | {"method": "truncated", "test_accuracy": 0.5, "parameters": 7},
        about | {"method": "exact", "test_accuracy": 0.96},
    ]
    pd.testing.assert_frame_equal(results.rows(measured), results.frame(rows))


def test_of_the_same_run_the_newer_row_counts_of_others_both():
    old = {"notebook": "a", "D": 1, "seed": 0, "dataset": "x", "epochs": 1, "method": "m"}
    old["test_accuracy"] = 0.9
    for key in results.RUN:
        other = old | {key: 7}
        assert len(results.merge(results.frame([old]), results.frame([other]))) == 2
    new = old | {"test_accuracy": 0.5}
    merged = results.merge(results.frame([old | {"test_accuracy": 0.1}]), results.frame([new]))
    assert merged["test_accuracy"].tolist() == [0.5]


def test_the_baseline_is_that_of_the_rank_with_most_seeds(table, tmp_path):
    baseline = table[table["method"] == "baseline"][:1]
    more = [baseline.assign(D=9, seed=seed, test_accuracy=0.7) for seed in range(3)]
    more = results.merge(table, *more)
    assert "\nBaseline: 70.00 ± 0.00 (3).\n" in results.page(more, tmp_path)
    # Of as many seeds, those count where most baselines are.
    longer = table[(table["method"] == "baseline") & (table["seed"] == 0)]
    longer = longer.assign(method="baseline_longer", test_accuracy=longer["D"] / 100)
    said = "; trained on for as many epochs as fine-tuning: 20.00.\n"
    assert said in results.page(results.merge(table, longer), tmp_path)


def test_a_size_is_that_of_the_row_or_else_of_the_rank():
    about = {"notebook": "a", "dataset": "x", "epochs": 1, "test_accuracy": 0.5, "seed": 0}
    table = [
        about | {"D": 5, "method": "fine_tuned", "parameters": 100},
        about | {"D": 5, "method": "whitened"},
        about | {"D": 5, "method": "shared", "parameters": 90},
    ]
    measured = results.by_method(results.frame(table))
    sizes = [measured[m][5][1] for m in ("fine_tuned", "whitened", "shared")]
    assert sizes == [100, 100, 90]

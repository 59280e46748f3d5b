import itertools

import numpy as np
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
    return [row for content in measured for row in results.rows(content)]


def test_a_table_is_read_as_it_was_written(table, tmp_path):
    results.write(tmp_path / "results.csv", table[::-1])
    again = results.read(tmp_path / "results.csv")
    assert sorted(map(str, again)) == sorted(
        str({key: row[key] for key in results.COLUMNS if key in row}) for row in table
    )
    results.write(tmp_path / "again.csv", again)
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "results.csv").read_bytes()


def test_a_run_measured_anew_stands_for_the_old_one(table):
    newer = [row | {"test_accuracy": 0.1} for row in table[:2]]
    merged = results.merge(table, newer)
    assert len(merged) == len(table)
    assert [row["test_accuracy"] for row in merged].count(0.1) == 2


def test_a_seed_counts_once_and_sizes_are_those_of_the_rank(table):
    twice = [*table, *(row | {"notebook": "03_c"} for row in table)]
    measured = results.by_method(twice)
    accuracies, parameters = measured["truncated"][20]
    assert (accuracies.tolist(), parameters) == ([0.9, 0.92], 200)
    assert list(measured["truncated"]) == [5, 20]


def test_the_readme_gets_means_and_spreads(table, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "TABLE", tmp_path / "results.csv")
    monkeypatch.setattr(results, "README", tmp_path / "README.md")
    monkeypatch.setattr(results, "RUNS", tmp_path / "runs")
    assert results.main([]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    others = [table[0] | {"dataset": "subset"}, table[0] | {"epochs": 3, "test_accuracy": 0.1}]
    results.write(tmp_path / "runs" / "results.csv", [*table, *others])
    (tmp_path / "README.md").write_text(f"before\n{results.START}old\n{results.END}\nafter\n")
    for _ in range(2):
        assert results.main([]) == 0
        text = (tmp_path / "README.md").read_text()
        assert text.startswith(f"before\n{results.START}| D | kept | truncated | fine-tuned |\n")
        assert text.endswith(f"{results.END}\nafter\n")
        assert "\n| 20 | 20.0% | 91.00 ± 1.41 (2) | 97.00 ± 0.00 (2) |\n" in text
        assert "\n| 5 | 5.0% | 50.00 |  |\n" in text
        assert "Baseline: 98.50 ± 0.71 (2)." in text
        assert (
            "\n| D | kept | exact |\n| --- | --- | --- |\n| 20 | 20.0% | 96.00 ± 0.00 (2) |" in text
        )
        assert "old" not in text
    assert len(results.read(tmp_path / "results.csv")) == len(table)
    results.write(tmp_path / "runs" / "results.csv", table[:1])  # what was measured before is kept
    assert results.main([]) == 0
    assert len(results.read(tmp_path / "results.csv")) == len(table)
    assert (tmp_path / "results.png").stat().st_size > 1000


def test_differences_are_taken_seed_by_seed():
    accuracies = {"fine_tuned_shared": [0.9, 0.8, 0.7], "small_dense": [0.89, 0.78, 0.67, 0.1]}
    table = [
        run(5, seed) | {"method": method, "test_accuracy": accuracy, "parameters": 100}
        for method, by_seed in accuracies.items()
        for seed, accuracy in enumerate(by_seed)
    ]
    table += [row | {"D": 10} for row in table if row["seed"] == 0]  # alone, no standard error
    found = results.differences(table, "fine_tuned_shared", "small_dense")
    assert list(found) == [5]
    np.testing.assert_allclose(found[5], [0.01, 0.02, 0.03])
    assert results.differences(table, "small_dense", "fine_tuned_shared")[5].max() < 0
    assert results.differences(table, "fine_tuned_shared", "exact") == {}
    table += [row for s in (0, 1, 2) for row in results.rows(run(5, s))]
    lines = results.markdown(table).splitlines()
    assert "| | D = 5 |" in lines
    # the standard error is 0.01 / √3
    line = "| fine-tuned, shared ranks − small dense network | +2.00 ± 0.58 (3) |"
    assert line in lines


def test_a_notebook_comes_before_the_script_that_makes_its_networks():
    row = run(20, 0) | {"method": "truncated", "test_accuracy": 0.9, "parameters": 200}
    measured = [row | {"notebook": "measure", "test_accuracy": 0.1}, row]
    for rows in (measured, measured[::-1]):
        assert results.by_method(rows)["truncated"][20][0].tolist() == [0.9]


def test_the_readme_shows_the_committed_table():
    readme = results.README.read_text(encoding="utf-8")
    shown = readme.partition(results.START)[2].partition(results.END)[0]
    assert shown == results.markdown(results.read(results.TABLE))


def test_a_damaged_table_is_one_sentence(tmp_path, monkeypatch, capsys):
    (tmp_path / "results.csv").write_text("D,seed\nx,1\n")
    with pytest.raises(ValueError, match=r"results\.csv is not a table of results"):
        results.read(tmp_path / "results.csv")
    monkeypatch.setattr(results, "TABLE", tmp_path / "results.csv")
    assert results.main([]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)


def test_what_the_readme_claims_of_the_committed_table():
    mean = {
        (method, D): np.mean(accuracies)
        for method, by_rank in results.by_method(results.read(results.TABLE)).items()
        for D, (accuracies, _) in by_rank.items()
    }
    dense = [
        accuracy
        for source in ("public solutions", "DLRT, means")
        for _, accuracy in results.PUBLISHED[source]
    ]
    assert mean["fine_tuned_shared", 20] > max(dense)
    assert mean["fine_tuned_shared", 20] > mean["baseline", 20] - 0.001
    assert mean["shared", 20] > mean["baseline", 20] - 0.001
    assert mean["fine_tuned_shared", 20] > mean["small_dense", 20] + 0.001
    assert abs(mean["fine_tuned_shared", 10] - mean["small_dense", 10]) < 0.002
    assert mean["fine_tuned_shared", 5] < mean["small_dense", 5] - 0.01
    assert all(
        mean["random_factors_shared", D] > mean["fine_tuned_shared", D] - 0.01 for D in (5, 10, 20)
    )
    assert mean["dynamic_ranks", 20] > mean["fine_tuned", 20]
    assert mean["truncated", 20] > results.PUBLISHED["public solutions"][0][1] + 0.02
    assert mean["straight_through", 20] < mean["tangent", 20] - 0.008
    assert abs(mean["dynamic_no_training_ranks", 20] - mean["dynamic_ranks", 20]) < 0.0015
    for method in ("dynamic_no_training_ranks", "dynamic_ranks"):
        assert mean[method, 10] > mean["dynamic_tapered", 10] + 0.001
        assert all(mean[method, D] > mean["dynamic_tolerance", D] + 0.02 for D in (5, 10, 20))
    assert abs(mean["baseline_adamw", 20] - mean["baseline", 20]) < 0.001
    assert mean["truncated_adamw", 20] < mean["truncated", 20] - 0.1
    assert mean["truncated", 20] + 0.01 < mean["whitened", 20] < mean["shared", 20] - 0.01


def test_the_size_of_dlrts_dense_network_is_counted():
    widths = [784] * 5 + [10]
    assert sum((n_in + 1) * n_out for n_in, n_out in itertools.pairwise(widths)) == results.DLRT


def test_a_readme_without_a_place_for_the_table_stays_as_it_is(
    table, tmp_path, monkeypatch, capsys
):
    for name in ("README", "TABLE"):
        monkeypatch.setattr(results, name, tmp_path / name)
    monkeypatch.setattr(results, "RUNS", tmp_path)
    results.write(tmp_path / "measure.csv", table)
    (tmp_path / "README").write_text(results.START + "more", encoding="utf-8")
    assert results.main([]) == 2
    assert capsys.readouterr().err.startswith("README has no place for a table")
    assert (tmp_path / "README").read_text(encoding="utf-8") == results.START + "more"
    assert not (tmp_path / "TABLE").exists()


def test_every_method_has_a_style():
    assert set(results.METHODS.values()) <= set(figures.STYLES)


def test_the_rows_of_a_table_are_sorted_by_run_and_method(table, tmp_path):
    rng = np.random.default_rng(0)
    results.write(tmp_path / "results.csv", [table[i] for i in rng.permutation(len(table))])
    lines = (tmp_path / "results.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "notebook,D,seed,dataset,epochs,method,test_accuracy,parameters"
    found = [
        (row["D"], row["seed"], row["method"]) for row in results.read(tmp_path / "results.csv")
    ]
    assert found == [
        *[(5, 0, "baseline"), (5, 0, "truncated")],
        *[(20, s, m) for s in (0, 1) for m in ("baseline", "exact", "fine_tuned", "truncated")],
    ]


def test_a_missing_table_has_no_rows(tmp_path):
    assert results.read(tmp_path / "results.csv") == []


def test_numbers_are_read_as_numbers(table, tmp_path):
    results.write(tmp_path / "results.csv", table)
    for row in results.read(tmp_path / "results.csv"):
        kinds = {key: type(value) for key, value in row.items()}
        assert kinds == {
            key: type(table[0][key]) if key != "parameters" else int for key in row
        } | {"test_accuracy": float}


def test_a_run_has_a_row_for_each_method_at_its_rank():
    measured = run(
        20,
        3,
        truncated={"20": {"test_accuracy": 0.5, "parameters": 7, "more": 1}, "9": EXACT},
        other={"seconds": 5},
        list=[1],
        exact=EXACT,
    )
    about = {"notebook": "02_b", "D": 20, "seed": 3, "dataset": "mnist", "epochs": 15}
    assert results.rows(measured) == [
        about | {"method": "baseline", "test_accuracy": 0.98 + 3 / 100, "parameters": 1000},
        about | {"method": "truncated", "test_accuracy": 0.5, "parameters": 7},
        about | {"method": "exact", "test_accuracy": 0.96},
    ]


def test_of_the_same_run_the_newer_row_counts_of_others_both():
    old = {"notebook": "a", "D": 1, "seed": 0, "dataset": "x", "epochs": 1, "method": "m"}
    for key in results.RUN:
        other = old | {key: "another"}
        assert results.merge([old], [other]) == [old, other]
    new = old | {"test_accuracy": 0.5}
    assert results.merge([old | {"test_accuracy": 0.1}], [new]) == [new]


def test_the_baseline_of_the_readme_is_that_of_most_seeds(table, tmp_path):
    more = [row | {"D": 9, "seed": i} for i in range(3) for row in table[:1]]
    assert results._baseline(results.by_method([*table, *more]))[0] == 1000
    assert len(results._baseline(results.by_method([*table, *more]))[1]) == 3
    assert (results.picture(table, tmp_path), len([*tmp_path.glob("*.png")]))[1] == 1


def test_of_as_many_seeds_those_count_where_most_baselines_are(table):
    longer = [
        row | {"method": "baseline_longer", "test_accuracy": row["D"] / 100}
        for row in table
        if row["method"] == "baseline" and row["seed"] == 0
    ]
    measured = results.by_method([*table, *longer])
    assert measured["baseline_longer"].keys() == {5, 20}
    assert results._baseline(measured, "baseline_longer")[1] == [0.2]


def test_a_size_is_that_of_the_row_or_else_of_the_rank():
    about = {"notebook": "a", "dataset": "x", "epochs": 1, "test_accuracy": 0.5, "seed": 0}
    table = [
        about | {"D": 5, "method": "fine_tuned", "parameters": 100},
        about | {"D": 5, "method": "whitened"},
        about | {"D": 5, "method": "shared", "parameters": 90},
        about | {"D": 7, "method": "dynamic", "parameters": 150},
        about | {"D": 7, "method": "exact"},
    ]
    measured = results.by_method(table)
    sizes = {m: {D: size for D, (_, size) in found.items()} for m, found in measured.items()}
    assert sizes == {
        "fine_tuned": {5: 100},
        "whitened": {5: 100},
        "shared": {5: 90},
        "dynamic": {7: 150},
        "exact": {7: 150},
    }


def test_the_readme_shows_what_was_published(table):
    text = results.markdown(table)
    assert (
        "| public solutions | 93.86 with 215,370, 97.43 with 215,370, 97.94 with 215,370, " in text
    )
    assert text.count("| DLRT, means | 97.40 with 133,") == 1
    head = "| published | test accuracy in %, with so many parameters |\n| --- | --- |\n"
    assert f"\n{head}| public" in text
    assert "The derivatives of notebook 3, after a fifth of the baseline's epochs:" in text
    plain = results.markdown([row for row in table if row["method"] != "exact"])
    assert "derivatives" not in plain
    assert text.startswith(
        "| D | kept | truncated | fine-tuned |\n| --- | --- | --- | --- |\n| 5 |"
    )
    assert text.endswith("|\n")


def test_other_baselines_stand_beside_the_baseline(table):
    adamw = [row | {"method": "baseline_adamw", "test_accuracy": 0.5} for row in table[:2]]
    assert "Baseline: 98.50 ± 0.71 (2); trained by AdamW: 50.00.\n" in results.markdown(
        table + adamw
    )

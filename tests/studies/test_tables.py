"""Tables from made-up results, against scipy and pandas by hand; and the tables of docs/method.md against the code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from psp_ray.studies import tables
from psp_ray.studies.collect import CURVE_COLUMNS, RESULT_COLUMNS
from psp_ray.studies.paper import PUBLISHED, TABULATED
from psp_ray.studies.pictures import MOST_LINES, draw_curves
from psp_ray.studies.report import with_section

METHOD = Path(__file__).parents[2] / "docs" / "method.md"
SEEDS, ROUNDS = 4, 3
KEYS = [("random", "none"), ("badge+pcb", "none"), ("badge+pcb", "ust"), ("psp", "ust")]


@pytest.fixture
def made():
    """Results and curves of two data sets; psp's seed 3 failed on the second."""
    rng = np.random.default_rng(0)
    results, curves = [], []
    for place, dataset in enumerate(("one", "two")):
        for rank, (strategy, training) in enumerate(KEYS):
            for seed in range(SEEDS):
                keys = [dataset, strategy, training, 1, seed]
                if (dataset, strategy, seed) == ("two", "psp", 3):
                    row = {"status": "failed", "error": "it broke"}
                    results.append(dict(zip(RESULT_COLUMNS[:5], keys, strict=True)) | row)
                    continue
                accuracy = 0.3 + 0.1 * rank + 0.1 * np.arange(ROUNDS) + rng.normal(0, 0.01, ROUNDS)
                row = {"status": "finished", "final_accuracy": accuracy[-1], "mean_accuracy": accuracy.mean()}
                row |= {"final_macro_accuracy": 0.5, "mean_macro_accuracy": 0.4, "zero_shot_accuracy": 0.2}
                row |= {"labels_used": 30, "seconds": 10.0 + seed, "error": ""}
                results.append(dict(zip(RESULT_COLUMNS[:5], keys, strict=True)) | row)
                for number, value in enumerate([0.2, *accuracy]):
                    item = {"round": number, "labels": 10 * number * (1 + place), "accuracy": value}
                    curves.append(dict(zip(CURVE_COLUMNS[:5], keys, strict=True)) | item)
    return pd.DataFrame(results, columns=RESULT_COLUMNS), pd.DataFrame(curves, columns=CURVE_COLUMNS)


def cells(table, strategy, training):
    line = next(line for line in table.splitlines() if line.startswith(f"| {strategy} | {training} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][2:]


def values(results, dataset, key, name="final_accuracy"):
    rows = results[(results.dataset == dataset) & (results.strategy == key[0]) & (results.self_training == key[1])]
    return rows.set_index("seed")[name].dropna()


def test_accuracies_of_one_data_set(made):
    table = tables.accuracy_table(tables.panel(*made, ["one"], 1))
    for key in KEYS:
        found = values(made[0], "one", key)
        shown = cells(table, *key)
        assert shown[0].strip("*") == f"{100 * found.mean():.1f} ± {100 * found.std():.1f}"
        assert shown[0].startswith("**") == (key == ("psp", "ust"))
        assert shown[-2:] == ["12", "4"]  # seconds 10..13, four runs
    failed = cells(tables.accuracy_table(tables.panel(*made, ["two"], 1)), "psp", "ust")
    assert failed[-1] == "3 of 4, 1 failed"
    assert failed[-2] == "11"


def test_differences_are_paired_t_intervals(made):
    table = tables.difference_table(
        tables.panel(*made, ["two"], 1), ["random:none", "badge+pcb:none", "badge+pcb:same"]
    )
    ours = values(made[0], "two", ("psp", "ust"))
    shown = cells(table, "psp", "ust")
    for place, other in ((0, ("random", "none")), (2, ("badge+pcb", "none")), (4, ("badge+pcb", "ust"))):
        theirs = values(made[0], "two", other)[ours.index]  # without the seed that failed
        interval = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
        mean = 100 * (ours - theirs).mean()
        assert shown[place] == f"{mean:+.1f} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"
    assert cells(table, "random", "none")[0] == "–"
    assert cells(table, "badge+pcb", "none")[4] == "–"
    assert cells(table, "badge+pcb", "ust")[4] == "–"


def test_averages_are_per_seed_over_all_data_sets(made):
    part = tables.panel(*made, ["one", "two"], 1)
    one, two = (values(made[0], name, ("psp", "ust")) for name in ("one", "two"))
    both = ((one + two) / 2).dropna()
    assert sorted(part.by_seed(("psp", "ust"), "final_accuracy")) == [0, 1, 2]
    assert (
        cells(tables.accuracy_table(part), "psp", "ust")[0] == f"**{100 * both.mean():.1f} ± {100 * both.std():.1f}**"
    )
    random = (values(made[0], "one", KEYS[0]) + values(made[0], "two", KEYS[0])) / 2
    interval = stats.ttest_rel(both, random[both.index]).confidence_interval(0.95)
    shown = cells(tables.difference_table(part, ["random:none"]), "psp", "ust")[0]
    assert shown.endswith(f"[{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]")


def test_labels_needed(made):
    part = tables.panel(*made, ["two"], 1)
    table = tables.accuracy_table(part)
    assert cells(table, "random", "none")[4] == "not reached"
    assert cells(table, "badge+pcb", "ust")[4] == "100 % (60 of 60)"  # the best that isn't ours
    assert "labels to badge+pcb:ust's end" in table
    mean = part.curves[part.curves["round"] > 0].groupby(["strategy", "self_training", "round"]).accuracy.mean()
    target = mean["badge+pcb", "ust", ROUNDS]
    curve = mean["psp", "ust"]
    labels = np.interp(target, curve.to_numpy(), [20, 40, 60])  # it rises, so it can be turned around
    assert cells(table, "psp", "ust")[4] == f"{100 * labels / 60:.0f} % ({labels:.0f} of 60)"
    both = tables.accuracy_table(tables.panel(*made, ["one", "two"], 1))
    assert cells(both, "random", "none")[4] == "reached on 0 of 2"
    assert cells(both, "badge+pcb", "ust")[4] == "100 %"
    assert "labels to the best rival's end" in both


def test_rows_are_ours_the_closest_rivals_and_references(made):
    results, curves = made
    full = results[results.strategy == "random"].assign(strategy="full protocol=pcb", labels_per_class=None)
    part = tables.panel(pd.concat([full, results]), curves, ["one"], 1)
    expected = [("psp", "ust"), ("badge+pcb", "ust"), ("badge+pcb", "none"), ("random", "none")]
    assert part.keys == [*expected, ("full protocol=pcb", "none")]
    assert part.best_rival == ("badge+pcb", "ust")
    ours = results[results.strategy == "psp"]
    alone = tables.panel(ours, curves[curves.strategy == "psp"], ["one"], 1)
    assert alone.best_rival is None
    assert "labels to" not in tables.accuracy_table(alone)


def test_the_best_rival_is_each_data_set_s_own(made):
    """On the second data set random is best: labels are counted to its end there, and to badge+pcb's on the first."""
    results, curves = (frame.copy() for frame in made)
    for frame, column in ((results, "final_accuracy"), (curves, "accuracy")):
        frame.loc[(frame.dataset == "two") & (frame.strategy == "random"), column] += 0.5
    assert tables.panel(results, curves, ["two"], 1).best_rival == ("random", "none")
    assert tables.panel(results, curves, ["one"], 1).best_rival == ("badge+pcb", "ust")
    both = tables.accuracy_table(tables.panel(results, curves, ["one", "two"], 1))
    assert cells(both, "psp", "ust")[4] == "reached on 1 of 2"


def test_body_names_all_and_failures_are_told(made):
    text = tables.body(*made, ["random:none"], {"one": "curves_one.png"})
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Average over 2 data sets",
        "## one",
        "## two",
    ]
    assert "![Learning curves on one](curves_one.png)" in text
    assert tables.failures(made[0]) == ["- two psp:ust seed 3: failed (it broke)"]


def test_pictures_hold_random_in_every_panel(made, tmp_path, monkeypatch):
    import matplotlib.axes

    drawn: dict[int, list[str]] = {}
    plot = matplotlib.axes.Axes.plot

    def spy(axes, *args, label="", **more):
        drawn.setdefault(id(axes), []).append(label)
        return plot(axes, *args, label=label, **more)

    monkeypatch.setattr(matplotlib.axes.Axes, "plot", spy)
    results, curves = (frame[frame.dataset == "one"] for frame in made)
    draw_curves(tmp_path / "few.png", results, curves, "one", "test")
    assert [sorted(labels) for labels in drawn.values()] == [
        ["badge+pcb · none", "badge+pcb · self-training", "psp · self-training", "random · none"]
    ]
    drawn.clear()
    many = [results.assign(strategy=results.strategy.where(results.strategy != "psp", f"p{i}")) for i in range(20)]
    lines = [curves.assign(strategy=curves.strategy.where(curves.strategy != "psp", f"p{i}")) for i in range(20)]
    draw_curves(tmp_path / "many.png", pd.concat(many), pd.concat(lines), "one", "test")
    assert len(drawn) == 4  # one panel without self-training, 21 lines with it in three
    for labels in drawn.values():
        assert "random · none" in labels
        assert len(labels) <= MOST_LINES + 1
    assert {label for labels in drawn.values() for label in labels} >= {f"p{i} · self-training" for i in range(20)}


def test_sections_replace_themselves_only():
    text = with_section(with_section("", "a", "one"), "b", "two")
    assert text == "# Results\n\n<!-- begin a -->\none\n<!-- end a -->\n\n<!-- begin b -->\ntwo\n<!-- end b -->\n"
    assert with_section(text, "a", r"new \1") == text.replace("one", r"new \1")


# -- docs/method.md --------------------------------------------------------------------------------------------------


def test_the_papers_figures_in_the_docs_are_those_of_reproduce():
    lines = METHOD.read_text().splitlines()
    lines = lines[lines.index("| method | DTD | Pets | EuroSAT | Cars | Aircraft | average of 7 |") :]
    for line in PUBLISHED:
        row = next(text for text in lines if text.startswith(f"| {line.name} |"))
        found = [cell.strip() for cell in row.strip("|").split("|")][1:]
        expected = [*line.values, line.average]
        assert len(found) == len(TABULATED) + 1
        for cell, value in zip(found, expected, strict=True):
            assert (cell == "–") if value is None else (float(cell) == value)

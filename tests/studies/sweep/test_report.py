"""The report, from results written by hand: who is best, the Pareto front, sensitivities."""

import csv

import pytest

from psp_ray.core.errors import OutputError
from psp_ray.core.files import write_json
from psp_ray.studies.sweep.analysis import Analysis
from psp_ray.studies.sweep.plan import Plan, TrialResult, save_plan
from psp_ray.studies.sweep.references import References, references_file
from psp_ray.studies.sweep.trial import score_of
from tuning.report import main

REFERENCES = {"a": References(0.5, 0.9, 0.2), "b": References(0.6, 0.7, 0.3)}


def write_sweep(folder, trials):
    plan = Plan(
        {"a": {"dataset": "digits"}, "b": {"dataset": "digits"}},
        [1, 2],
        {"beta": "0..1", "tau": "0.01..0.5:log", "align": "id,pad"},
        {"gamma": 0.8, "rounds": 2},
        classes={"a": 10, "b": 10},
    )
    save_plan(folder, plan, resume=False)
    for name, found in REFERENCES.items():
        references_file(folder, name).parent.mkdir(exist_ok=True)
        write_json(references_file(folder, name), vars(found))
    for number, (status, budget, beta, finals) in enumerate(trials):
        rounds = []
        for round, gap in ((1, 0.1), (2, 0.0)):
            accuracy = {name: value - gap for name, value in zip("ab", finals, strict=True)}
            labels = dict.fromkeys("ab", 10 * budget * round)
            row = {"round": round, "score": score_of(accuracy, REFERENCES), "accuracy": accuracy, "labels": labels}
            rounds.append(row)
        point = {"labels_per_class": budget, "beta": beta, "tau": 0.1, "align": "id"}
        kept = rounds[:1] if status == "stopped" else rounds if status == "finished" else []
        error = "boom" if status == "failed" else ""
        TrialResult(f"{number:04d}", point, status, kept, error, 3.0).save(folder)


TRIALS = [
    ("finished", 1, 0.1, (0.70, 0.65)),
    ("finished", 1, 0.9, (0.60, 0.68)),
    ("finished", 2, 0.2, (0.80, 0.61)),
    ("finished", 2, 0.8, (0.80, 0.60)),
    ("stopped", 2, 0.5, (1.00, 1.00)),
    ("failed", 1, 0.4, (0, 0)),
]


def test_scores_are_normalized_and_averaged():
    # a: (0.7 - 0.5) / 0.4 = 0.5; b: (0.65 - 0.6) / 0.1 = 0.5
    assert score_of({"a": 0.7, "b": 0.65}, REFERENCES) == pytest.approx(0.5)
    assert score_of({"a": 0.5, "b": 0.6}, REFERENCES) == pytest.approx(0.0)
    assert score_of({"a": 0.9, "b": 0.7}, REFERENCES) == pytest.approx(1.0)
    tie = {"a": References(0.5, 0.5, 0.1)}
    assert score_of({"a": 0.505}, tie) == pytest.approx(0.5), "a tie of the references must not divide by nothing"


def test_best_lines_and_table(tmp_path, capsys):
    folder = tmp_path / "sweep"
    write_sweep(folder, TRIALS)
    main([str(folder)])
    printed = capsys.readouterr().out
    assert printed == (folder / "report.md").read_text()
    lines = printed.splitlines()
    assert "best a: beta=0.2 tau=0.1 gamma=0.8 labels_per_class=2 align=id accuracy=0.8000" in lines
    assert "best b: beta=0.9 tau=0.1 gamma=0.8 labels_per_class=1 align=id accuracy=0.6800" in lines
    # scores: 0.5, 0.525, 0.425, 0.375; the stopped trial's rounds don't make it best
    overall = next(line for line in lines if line.startswith("best overall"))
    assert overall.startswith("best overall: beta=0.9")
    assert "score=0.5250" in overall
    assert [line for line in lines if "equally good" in line] == [
        "- on a, all 2 trials with this budget are equally good; shown is the first"
    ]
    assert "- 0005: boom" in lines
    with open(folder / "report.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 2 + 1 + 1
    assert {row["trial"] for row in rows} == {f"{i:04d}" for i in range(6)}
    assert [row["accuracy_a"] for row in rows if row["trial"] == "0000"] == ["0.6", "0.7"]
    assert rows[-1]["error"] == "boom"
    for picture in ("pareto.png", "sensitivity.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")


def test_pareto_front_against_brute_force_and_effects_without_the_budget(tmp_path):
    folder = tmp_path / "sweep"
    write_sweep(folder, TRIALS)
    report = Analysis(folder)
    points = {(row["labels"]["a"], row["accuracy"]["a"]) for trial in report.trials for row in trial.rounds}
    wanted = [p for p in sorted(points) if not any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points)]
    assert report.pareto("a") == wanted
    values, effects = report.effects("beta")
    assert values == [0.1, 0.9, 0.2, 0.8]
    assert effects["a"] == pytest.approx([5, -5, 0, 0])
    assert effects["b"] == pytest.approx([-1.5, 1.5, 0.5, -0.5])


def test_without_a_finished_trial_it_says_so(tmp_path, capsys):
    write_sweep(tmp_path / "sweep", [("failed", 1, 0.1, (0, 0))])
    with pytest.raises(OutputError, match="no trial has finished"):
        Analysis(tmp_path / "sweep")
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path)])
    assert stop.value.code == 2
    assert "holds no sweep.json" in capsys.readouterr().err

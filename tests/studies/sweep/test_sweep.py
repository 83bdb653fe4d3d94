"""Sweeps for real, on Ray with a tiny model: shared work, failures, resuming, interruption."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from psp_ray.core.errors import ConfigError, Interrupted, OutputError, ResourceError
from psp_ray.data.load import load_dataset
from psp_ray.labels import Ledger
from psp_ray.studies.sweep.analysis import Analysis
from psp_ray.studies.sweep.plan import Plan, load_trial, load_trials, save_plan, trial_name
from psp_ray.studies.sweep.references import load_references, make_references, references_file
from psp_ray.studies.sweep.request import SweepRequest, make_plan
from psp_ray.studies.sweep.resources import check_trial_fits
from psp_ray.studies.sweep.run import run_sweep
from psp_ray.studies.sweep.space import random_points
from psp_ray.studies.sweep.trial import SweepTrial

SMALL = {"CPU": 0.5, "GPU": 0.0}


def plan_of(given):
    return make_plan(SweepRequest(**given))


def mtimes(folder):
    return {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/*/summary.json")}


def test_a_sweep_with_a_failing_trial_is_resumed_without_repeating_the_others(local_ray, given, tmp_path, capfd):
    plan = plan_of(given)
    assert list(plan.classes.values()) == [3, 2]
    out = tmp_path / "sweep"
    points = random_points(plan.dimensions, plan.labels_per_class, 3, plan.seed)
    names = [trial_name(number, point) for number, point in enumerate(points)]
    victim = out / "trials" / names[1] / next(iter(plan.datasets))
    save_plan(out, plan, False)
    victim.mkdir(parents=True)
    (victim / "foreign.txt").write_text("not a run")
    with pytest.raises(OutputError, match="add --resume"):
        run_sweep(plan, out, False, 3, SMALL, 1, None)
    assert run_sweep(plan, out, True, 3, SMALL, 1, None) == 0
    before = mtimes(out)
    printed = capfd.readouterr()
    assert f"{names[1]}" in printed.out
    assert "FAILED" in printed.out
    assert "holds something else" in printed.err, "the summary shows the error"
    assert "holds something else" in (out / "trials" / names[1] / "error.txt").read_text()
    assert [trial.status for trial in load_trials(out)] == ["finished", "failed", "finished"]

    (victim / "foreign.txt").unlink()
    assert run_sweep(plan, out, True, 3, SMALL, 1, None) == 0
    trials = load_trials(out)
    assert [(trial.name, trial.status) for trial in trials] == [(name, "finished") for name in names]
    assert [trial.point for trial in trials] == points
    after = mtimes(out)
    assert (len(before), len(after)) == (4, 6)
    assert all(after[path] == stamp for path, stamp in before.items()), "a finished trial ran again"

    references = load_references(out, plan)
    for trial in trials:
        assert [row["round"] for row in trial.rounds] == [1, 2]
        for name, classes in plan.classes.items():
            budget = trial.point["labels_per_class"] * classes
            assert [row["labels"][name] for row in trial.rounds] == [budget, 2 * budget]
            summary = json.loads((out / "trials" / trial.name / name / "summary.json").read_text())
            assert summary["evaluate_on"] == "val"
            assert summary["final_accuracy"] == trial.rounds[-1]["accuracy"][name]
        wanted = sum(references[n].normalized(a) for n, a in trial.rounds[-1]["accuracy"].items()) / 2
        assert trial.score == pytest.approx(wanted)
    with Ledger(out / "ledger.sqlite") as ledger:
        status = ledger.status()
    used = sum(row["labels_used"] for row in status["experiments"])
    assert used == sum(sum(trial.rounds[-1]["labels"].values()) for trial in trials)
    assert status["labels_bought"] < used, "trials share the ledger: a label is bought once"
    stamp = references_file(out, next(iter(plan.datasets))).stat().st_mtime_ns
    assert run_sweep(plan, out, True, 3, SMALL, 1, None) == 0
    assert "0 trials to run, 3 done before" in capfd.readouterr().out
    assert references_file(out, next(iter(plan.datasets))).stat().st_mtime_ns == stamp

    events = list((out / "tune").rglob("events.out.tfevents.*"))
    assert len(events) == 4, "TensorBoard events: three trials, then the repaired one"
    assert b"score" in b"".join(path.read_bytes() for path in events)
    assert len(Analysis(out).best_lines()) == 3


def test_references_with_unreadable_and_excluded_images(tmp_path, tiny_model, cache_folder, second_folder):
    """All labels are those of the images that can be asked about."""
    folder = shutil.copytree(second_folder, tmp_path / "grays")
    pool = load_dataset(str(folder)).pool["path"].to_pylist()
    Path(pool[3]).write_bytes(Path(pool[3]).read_bytes()[:60])
    (tmp_path / "exclude.txt").write_text(pool[5] + "\n")
    settings = {
        "model": tiny_model,
        "cache": str(cache_folder),
        "rounds": 1,
        "learning_steps": 1,
        "exclude": str(tmp_path / "exclude.txt"),
    }
    plan = Plan({"grays": {"dataset": str(folder)}}, [1], {}, settings, classes={"grays": 2})
    assert 0.0 <= make_references(tmp_path / "sweep", plan, "grays").full <= 1.0
    summary = json.loads((tmp_path / "sweep" / "references" / "grays" / "full" / "summary.json").read_text())
    assert summary["labels_used"] == len(pool) - 2


def test_what_cannot_work_fails_before_anything_is_written(local_ray, given, tmp_path):
    for change, message in [
        ({"labels_per_class": "1,x"}, "whole numbers"),
        ({"labels_per_class": "100"}, "labels, but the pool"),
        ({"vary": ("betta=1,2",)}, "not a setting"),
        ({"vary": ("seed=-1,1",)}, "--seed"),
        ({"vary": ("out=a,b",)}, "can't be varied"),
        ({"beta": "1..0"}, "LOW must be below HIGH"),
        ({"fixed": (*given["fixed"], "nothing:seed=1")}, "DATASET:KEY=VALUE"),
    ]:
        with pytest.raises(ConfigError, match=message):
            plan_of(given | change)
    plan = plan_of(given)
    with pytest.raises(ResourceError, match=r"needs 500 CPUs and 2 GPUs .* but the cluster has [\d.]+ CPUs and 0 GPUs"):
        run_sweep(plan, tmp_path / "big", False, 1, {"CPU": 500.0, "GPU": 2.0}, None, None)
    assert not (tmp_path / "big").exists()
    assert check_trial_fits([{"CPU": 0.5}]) >= 2
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("")
    with pytest.raises(OutputError, match="not an empty folder"):
        run_sweep(plan, tmp_path / "used", False, 1, SMALL, None, None)


def test_a_resumed_sweep_must_be_the_same(given, tmp_path):
    save_plan(tmp_path / "sweep", plan_of(given), False)
    (tmp_path / "sweep" / "trials").mkdir()
    with pytest.raises(OutputError, match="--seed 0, now it is 1"):
        save_plan(tmp_path / "sweep", plan_of(given | {"seed": 1}), True)


def test_the_ledger_of_the_environment_is_used_on_every_node_and_not_written_down(given, tmp_path, monkeypatch):
    monkeypatch.delenv("PSP_RAY_LEDGER", raising=False)
    assert plan_of(given).ledger(tmp_path) == str(tmp_path / "ledger.sqlite")
    named = plan_of(given | {"fixed": (*given["fixed"], f"ledger={tmp_path}/mine.sqlite")})
    monkeypatch.setenv("PSP_RAY_LEDGER", "postgresql://somebody:secret@nowhere/labels")
    assert named.ledger(tmp_path) == f"{tmp_path}/mine.sqlite"
    plan = plan_of(given)
    save_plan(tmp_path / "sweep", plan, False)
    (tmp_path / "sweep" / "trials").mkdir()
    assert plan.ledger(tmp_path) is None, "a run looks at the variable itself"
    assert "secret" not in (tmp_path / "sweep" / "sweep.json").read_text()
    monkeypatch.delenv("PSP_RAY_LEDGER")
    with pytest.raises(ConfigError, match="PSP_RAY_LEDGER: set where the sweep was started, but not on this node"):
        plan.ledger(tmp_path)
    with pytest.raises(OutputError, match="PSP_RAY_LEDGER set: true, now it is false"):
        save_plan(tmp_path / "sweep", plan_of(given), True)


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("no"), "failed"), (KeyboardInterrupt(), None), (Interrupted(), None)]
)
def test_a_trial_that_somebody_ends_has_not_failed(error, status, tmp_path, monkeypatch):
    class Ends:
        def __init__(self, config): ...

        def next_round(self):
            raise error

        def close(self): ...

    monkeypatch.setattr("psp_ray.studies.sweep.trial.StepwiseRun", Ends)
    save_plan(tmp_path / "sweep", Plan({"a": {"dataset": "digits"}}, [1], {}, {"rounds": 2}, classes={"a": 10}), False)
    trial = SweepTrial({"folder": str(tmp_path / "sweep"), "name": "0000-a", "point": {"labels_per_class": 1}})
    with pytest.raises(type(error)):
        trial.step()
    found = load_trial(tmp_path / "sweep", "0000-a")
    assert (found.status if found else None) == status


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_was(given, tmp_path):
    """The whole command with Optuna and ASHA, killed after its first trial, interrupted after its third."""
    out = tmp_path / "sweep"
    command = [sys.executable, "-m", "tuning.sweep", "--out", str(out), "--resume", "--num-samples", "6"]
    command += [
        "--datasets",
        given["datasets"],
        "--labels-per-class",
        "1",
        "--scheduler",
        "asha",
        "--grace-rounds",
        "1",
    ]
    command += ["--concurrent", "1", "--cpus-per-trial", "0.5", "--beta", "0..1", "--searcher", "optuna"]
    command += ["--vary", "learning_steps=1,30", "--seed", "3"]  # with this seed bad points come after good ones
    for item in given["fixed"]:
        if not item.startswith("learning_steps"):
            command += ["--set", item.replace("rounds=2", "rounds=4")]

    def run(until=None, stop=signal.SIGKILL):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        deadline = time.monotonic() + 240
        while process.poll() is None and time.monotonic() < deadline:
            if until is not None and sum(t.status != "running" for t in load_trials(out)) >= until:
                process.send_signal(stop)
                break
            time.sleep(0.05)
        return process.communicate(timeout=120)[0], process.returncode

    output, code = run(until=1)
    assert code == -signal.SIGKILL, output
    first = {t.name: t for t in load_trials(out) if t.status in ("finished", "stopped")}
    stamps = mtimes(out)
    output, code = run(until=3, stop=signal.SIGTERM)
    assert code == 130, output
    assert "--resume" in output
    output, code = run()
    assert code == 0, output
    trials = load_trials(out)
    assert len(trials) == 6, output
    assert {t.status for t in trials} <= {"finished", "stopped"}
    stopped = [t for t in trials if t.status == "stopped"]
    assert stopped, "no trial was stopped early, though some learn nothing"
    assert all(len(t.rounds) < 4 for t in stopped)
    now = mtimes(out)
    assert all(now[path] == stamp for path, stamp in stamps.items() if path.parts[-3] in first)
    assert Analysis(out).best_lines()

"""Whole runs on a tiny model: what they leave behind, and that a crash anywhere changes nothing."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from psp_ray.cli.main import main
from psp_ray.core.errors import OutputError
from psp_ray.core.files import alone
from psp_ray.data.load import load_dataset
from psp_ray.report.progress import Reporter
from psp_ray.run.command import run
from psp_ray.run.resolve import resolve

ROUNDS = 3


@pytest.fixture
def options(tiny_model, tiny_folder, cache_folder):
    return {
        "dataset": str(tiny_folder),
        "model": tiny_model,
        "cache": str(cache_folder),
        "rounds": ROUNDS,
        "labels_per_round": 3,
        "learning_steps": 6,
        "update_steps": 3,
        "views": "2",
        "confidence_min": 0.0,
        "uncertainty_max": 1.0,
        "runner": "inline",
        "threads": 1,
    }


def quiet():
    return Reporter(ROUNDS, Console(quiet=True))


def start(options, out, **more):
    return run(resolve({**options, "out": str(out), **more}), quiet())


def result_of(out):
    """All that a run computed, without times."""
    summary = json.loads((out / "summary.json").read_text())
    summary.pop("wall_seconds")
    summary.pop("versions")  # names the state of the checkout
    for row in summary["rounds"]:
        row.pop("seconds")
        row.pop("wall_seconds")
    tables = {name: pq.read_table(out / f"{name}.parquet") for name in ("labels", "policy", "pool_predictions")}
    return summary, tables, (out / "prompts.safetensors").read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, tiny_model, tiny_folder, cache_folder):
    out = tmp_path_factory.mktemp("whole") / "run"
    start(options.__wrapped__(tiny_model, tiny_folder, cache_folder), out)
    return out


def test_what_a_run_leaves(uninterrupted, tiny_folder):
    summary, tables, _ = result_of(uninterrupted)
    assert summary["status"] == "finished"
    assert (summary["strategy"], summary["self_training"], summary["labels_used"]) == ("psp", "ust", 9)
    assert summary["labels_paid"] == 9
    assert [row["labels_total"] for row in summary["rounds"]] == [3, 6, 9]
    for row in summary["rounds"]:
        assert row["ms_indicator"] <= 0
        assert np.isfinite(row["reward"])
        assert 0 <= row["test_accuracy"] <= 1
    assert summary["final_accuracy"] == summary["rounds"][-1]["test_accuracy"]

    labels = tables["labels"].to_pandas()
    assert labels.sample_id.is_unique
    assert (labels.sample_id.str.split("/").str[0] == labels.label).all()
    assert labels["round"].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert (labels.log_prob < 0).all()

    predictions = tables["pool_predictions"].to_pandas()
    assert predictions.sample_id.is_unique
    bought = predictions[predictions.source == "bought"]
    assert sorted(bought.sample_id) == sorted(labels.sample_id)
    assert (bought.sample_id.str.split("/").str[0] == bought["class"]).all()
    assert set(predictions.source) <= {"bought", "pseudo", "predicted"}
    assert predictions.probability.between(0, 1).all()
    assert all((tiny_folder / name).is_file() for name in predictions.sample_id)

    policy = tables["policy"].to_pandas()
    assert policy.groupby("round").size().tolist() == [3, 3, 3]
    assert {"loss_v", "loss_q", "loss_pi", "alpha", "entropy", "effective_pool_size"} <= set(policy)
    with open(uninterrupted / "rounds.csv") as file:
        assert [row["round"] for row in csv.DictReader(file)] == ["1", "2", "3"]
    assert (uninterrupted / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_same_seed_same_run_and_another_seed_another(options, uninterrupted, tmp_path):
    start(options, tmp_path / "again")
    whole, again = result_of(uninterrupted), result_of(tmp_path / "again")
    assert whole[0] == again[0]
    assert all(whole[1][name].equals(again[1][name]) for name in whole[1])
    start(options, tmp_path / "other", seed=1)
    other = pq.read_table(tmp_path / "other" / "labels.parquet")
    assert not other["sample_id"].equals(whole[1]["labels"]["sample_id"])


class Crash(BaseException):
    """Stands in for a killed process: nothing in the program catches it."""


@pytest.mark.parametrize("stage", ["propose", "label", "learn", "update", "checkpoint"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_crash_at_any_stage_changes_nothing(options, uninterrupted, tmp_path, stage, number):
    class Crashing(Reporter):
        def stage(self, round, name):
            if (round, name) == (number, stage):
                raise Crash

    out = tmp_path / "run"
    with pytest.raises(Crash):
        run(resolve({**options, "out": str(out)}), Crashing(ROUNDS, Console(quiet=True)))
    start(options, out, resume=True)
    assert_same(uninterrupted, out)


def assert_same(one, other):
    first, second = result_of(one), result_of(other)
    assert first[0] == second[0]
    for name in first[1]:
        assert first[1][name].equals(second[1][name]), name
    assert first[2] == second[2]


def test_crash_between_purchase_and_checkpoint_pays_once(options, tmp_path, monkeypatch):
    out, ledger = tmp_path / "run", tmp_path / "ledger.sqlite"
    monkeypatch.setattr("psp_ray.run.loop.save_checkpoint", lambda *_: (_ for _ in ()).throw(Crash()))
    with pytest.raises(Crash):
        start(options, out, ledger=str(ledger))
    monkeypatch.undo()
    assert start(options, out, ledger=str(ledger), resume=True)["labels_paid"] == 9


class CrashInRoundTwo(Reporter):
    def stage(self, round, name):
        if (round, name) == (2, "learn"):
            raise Crash


@pytest.mark.parametrize("change", ["content", "name"])
def test_a_pool_that_changed_is_not_that_of_the_checkpoint(options, tiny_folder, tmp_path, change):
    """Positions would mean other images: every label after the first changed one would be another's."""
    folder, out = tmp_path / "images", tmp_path / "run"
    shutil.copytree(tiny_folder, folder)
    options = {**options, "dataset": str(folder)}
    with pytest.raises(Crash):
        run(resolve({**options, "out": str(out)}), CrashInRoundTwo(ROUNDS, Console(quiet=True)))
    asked = pq.read_table(out / "labels.parquet")["sample_id"].to_pylist()
    spared = folder / next(i for i in load_dataset(str(folder)).pool["sample_id"].to_pylist() if i not in asked)
    content = spared.read_bytes()
    if change == "content":
        spared.write_bytes((folder / asked[0]).read_bytes())
    else:
        pool = json.loads((out / "checkpoints" / "round_001" / "state.json").read_text())
        pool["pool"] = "0" * 32  # as if names or classes had been others
        (out / "checkpoints" / "round_001" / "state.json").write_text(json.dumps(pool))
    with pytest.raises(OutputError, match="not those that the checkpoint knows"):
        start(options, out, resume=True)
    if change == "content":
        spared.write_bytes(content)
        assert start(options, out, resume=True)["status"] == "finished"


def test_two_processes_in_one_folder_are_refused(options, tmp_path):
    with alone(tmp_path / "run"), pytest.raises(OutputError, match="another process is at work"):
        start(options, tmp_path / "run")
    assert start(options, tmp_path / "run", rounds=1)["status"] == "finished"


def test_a_folder_that_a_kill_left_half_made_is_taken_up(options, tmp_path, monkeypatch):
    def killed(path, text):
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr("psp_ray.run.command.write_text", killed)
        with pytest.raises(Crash):
            start(options, tmp_path / "run", rounds=1)
    assert start(options, tmp_path / "run", rounds=1, resume=True)["status"] == "finished"
    assert (tmp_path / "run" / "config.yaml").exists()


def test_a_shared_ledger_makes_a_second_run_free_and_equal(options, uninterrupted, tmp_path):
    ledger = str(tmp_path / "ledger.sqlite")
    first = start(options, tmp_path / "a", ledger=ledger)
    second = start(options, tmp_path / "b", ledger=ledger)
    assert (first["labels_paid"], second["labels_paid"]) == (9, 0)
    assert first["labels_used"] == second["labels_used"] == 9
    assert first["final_accuracy"] == second["final_accuracy"]


def test_a_used_folder_is_refused_and_a_finished_run_stays(options, uninterrupted):
    before = result_of(uninterrupted)
    with pytest.raises(OutputError, match="not empty"):
        start(options, uninterrupted)
    with pytest.raises(OutputError, match="--beta"):
        start(options, uninterrupted, resume=True, beta=0.5)
    assert start(options, uninterrupted, resume=True)["status"] == "finished"
    assert result_of(uninterrupted)[0] == before[0]


@pytest.mark.parametrize("views", ["fresh:2", "cached:2"])
@pytest.mark.parametrize("strategy", ["psp-paper", "psp-no-vssp", "psp-no-ust", "psp-vae", "random"])
def test_strategies_and_views(options, tmp_path, strategy, views):
    if views == "fresh:2" and strategy not in ("psp-paper", "psp-no-vssp"):
        pytest.skip("views matter to self-training only; two strategies are enough")
    del options["confidence_min"], options["uncertainty_max"]
    summary = start(options, tmp_path / "run", strategy=strategy, views=views, rounds=2)
    assert summary["status"] == "finished"
    assert summary["labels_used"] == 6
    if strategy == "psp-paper":
        assert all(row["pseudo_labels"] >= 3 for row in summary["rounds"])  # the floor: one of every class
    if strategy == "random":
        assert all(row["reward"] is None and row["pseudo_labels"] == 0 for row in summary["rounds"])


def test_predict_reads_what_run_wrote(options, uninterrupted, tiny_folder, tmp_path, capsys):
    from psp_ray import Classifier

    (tmp_path / "broken.png").write_bytes(b"no image")
    classifier = Classifier.load(uninterrupted)
    predictions = classifier.predict([tiny_folder / "red", tmp_path / "broken.png"])
    assert len(predictions) == 21
    assert predictions[-1].error
    pool = pd.read_parquet(uninterrupted / "pool_predictions.parquet").set_index("path")
    seen = 0
    for item in predictions[:-1]:
        if item.path in pool.index and pool.loc[item.path].source == "predicted":
            seen += 1
            assert item.label == pool.loc[item.path]["class"]
            assert item.probability == pytest.approx(pool.loc[item.path].probability, abs=2e-3)
    out = tmp_path / "p.csv"
    with pytest.raises(SystemExit) as ended:
        main(["predict", "--run", str(uninterrupted), "--out", str(out), str(tiny_folder / "blue")])
    assert ended.value.code == 0
    assert len(pd.read_csv(out)) == 20
    assert seen > 0 or np.all(pool.source != "predicted")


def command(options, out, *more):
    words = [sys.executable, "-m", "psp_ray.main", "run", "--out", str(out)]
    for key, value in options.items():
        words += [f"--{key.replace('_', '-')}", str(value)]
    return [*words, *more]


def test_killed_and_terminated_processes_resume_to_the_bit(options, uninterrupted, tmp_path):
    out = tmp_path / "run"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    killed = subprocess.Popen(command(options, out), env=environment, stdout=subprocess.DEVNULL)
    wait_for(out / "checkpoints" / "round_001" / "COMPLETE", killed)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL or (out / "summary.json").exists()

    ended = subprocess.Popen(command(options, out, "--resume"), env=environment, stdout=subprocess.PIPE, text=True)
    wait_for(out / "checkpoints" / "round_002" / "COMPLETE", ended)
    ended.send_signal(signal.SIGTERM)
    text, _ = ended.communicate()
    if ended.returncode == 143:  # it may have finished before the signal came
        assert "--resume" in text
        assert json.loads((out / "summary.json").read_text())["status"] == "interrupted"
    start(options, out, resume=True)
    assert_same(uninterrupted, out)


def test_an_unreadable_image_with_an_initial_label_is_left_out(options, tmp_path, tiny_folder, capsys):
    folder = shutil.copytree(tiny_folder, tmp_path / "data")
    pool = load_dataset(str(folder)).pool
    names, paths = (pool[column].to_pylist()[:2] for column in ("sample_id", "path"))
    Path(paths[0]).write_bytes(Path(paths[0]).read_bytes()[:60])
    lines = [f"{name},{name.split('/')[0]}\n" for name in names]
    (tmp_path / "known.csv").write_text("sample_id,label\n" + "".join(lines))
    more = {"dataset": str(folder), "initial_labels": str(tmp_path / "known.csv"), "rounds": 1, "strategy": "random"}
    reporter = Reporter(1, Console(width=1000))
    summary = run(resolve({**options, **more, "self_training": "none", "out": str(tmp_path / "run")}), reporter)
    assert summary["labels_initial"] == 1
    said = "".join(capsys.readouterr())
    assert f"left out 1 initial label: its image can't be read ({names[0]})" in said


def wait_for(path, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert path.exists()


def test_featurizing_alone_encodes_what_a_run_would_look_for(monkeypatch):
    """The image size of a data set is settled before any encoder is built: or the cache would hold another one's."""
    from psp_ray import run as run_module

    seen = []

    @contextmanager
    def spy(config, reporter):
        seen.append(config)
        yield None

    monkeypatch.setattr(run_module, "open_runtime", spy)
    monkeypatch.setattr(run_module, "featurize_prepared", lambda prepared, runtime, reporter: seen.append(prepared))
    with pytest.raises(AttributeError):  # nothing was featurized
        run_module.featurize_only(resolve({"runner": "inline"}))
    config, prepared = seen
    assert config.model.image_size == 96
    assert prepared.spec.preprocessing.size == (96, 96)

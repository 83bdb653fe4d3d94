"""Whole runs on a tiny model: what they leave behind, and that a crash anywhere changes nothing."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
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
from psp_ray.features.tower import encoder_spec
from psp_ray.report.progress import Reporter
from psp_ray.report.round_report import Next
from psp_ray.run.checkpoint import MARKER
from psp_ray.run.command import run
from psp_ray.run.featurizing import featurize_only
from psp_ray.run.resolve import resolve
from psp_ray.run.runtime import InlineRuntime
from tests.conftest import paint

ROUNDS = 3


@pytest.fixture
def options(tiny_settings, tiny_folder):
    return {
        **tiny_settings,
        "dataset": str(tiny_folder),
        "rounds": ROUNDS,
        "labels_per_round": 3,
        "learning_steps": 6,
        "update_steps": 3,
        "pictures": False,
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
def uninterrupted(tmp_path_factory, tiny_settings, tiny_folder):
    out = tmp_path_factory.mktemp("whole") / "run"
    start(options.__wrapped__(tiny_settings, tiny_folder), out)
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
    assert not list(uninterrupted.glob("*.png")), "pictures were turned off"


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


def begin_and_crash(options, out):
    with pytest.raises(Crash):
        run(resolve({**options, "out": str(out)}), CrashInRoundTwo(ROUNDS, Console(quiet=True)))


@pytest.fixture
def copied(options, tiny_folder, tmp_path):
    """A folder of pictures that may be changed, and the options of a run on it."""
    folder = tmp_path / "images"
    shutil.copytree(tiny_folder, folder)
    return folder, {**options, "dataset": str(folder)}


def test_a_pool_may_change_after_a_checkpoint(copied, tmp_path):
    """Images added, renamed or gone, labeled or not: the run goes on with what it knows, and labels stay right."""
    (folder, options), out = copied, tmp_path / "run"
    begin_and_crash(options, out)
    asked = pq.read_table(out / "labels.parquet")["sample_id"].to_pylist()
    unlabeled = [name for name in load_dataset(str(folder)).pool["sample_id"].to_pylist() if name not in asked]
    (folder / asked[0]).unlink()
    (folder / asked[1]).rename(folder / asked[1].replace(".png", "-renamed.png"))
    (folder / unlabeled[0]).unlink()
    (folder / unlabeled[1]).write_bytes((folder / unlabeled[2]).read_bytes())
    paint(folder / "red" / "00-new.png", (200, 60, 30), np.random.default_rng(5))
    said = []
    reporter = quiet()
    reporter.warn = said.append
    summary = run(resolve({**options, "out": str(out), "resume": True}), reporter)
    assert summary["status"] == "finished"
    assert any("1 labeled image is gone" in line and "1 labeled image was renamed" in line for line in said)
    table = pq.read_table(out / "labels.parquet").to_pylist()
    assert {row["sample_id"]: row["label"] for row in table} == {
        row["sample_id"]: row["sample_id"].split("/")[0] for row in table
    }, "every label is still that of its image"
    assert asked[0] not in {row["sample_id"] for row in table}
    assert len(table) >= 3 * ROUNDS - 1, "answers to the first query set of round 2 are known, too"


def test_a_labeled_image_that_was_replaced_is_named(copied, tmp_path):
    (folder, options), out = copied, tmp_path / "run"
    begin_and_crash(options, out)
    name = pq.read_table(out / "labels.parquet")["sample_id"][0].as_py()
    content = (folder / name).read_bytes()
    paint(folder / name, (1, 2, 3), np.random.default_rng(6))
    with pytest.raises(OutputError, match=rf"image '{name}' was labeled and has another content now; restore it"):
        start(options, out, resume=True)
    (folder / name).write_bytes(content)
    assert start(options, out, resume=True)["status"] == "finished"


def test_images_may_be_excluded_later(options, tmp_path):
    out = tmp_path / "run"
    begin_and_crash(options, out)
    name = pq.read_table(out / "labels.parquet")["sample_id"][0].as_py()
    (tmp_path / "exclude.txt").write_text(f"{name}\n")
    assert start(options, out, resume=True, exclude=str(tmp_path / "exclude.txt"))["status"] == "finished"
    assert name not in pq.read_table(out / "labels.parquet")["sample_id"].to_pylist()


def test_classes_of_another_run_are_named(copied, tmp_path):
    (folder, options), out = copied, tmp_path / "run"
    begin_and_crash(options, out)
    paint(folder / "gray" / "1.png", (90, 90, 90), np.random.default_rng(7))
    with pytest.raises(OutputError, match="class 'gray' is new; restore the classes"):
        start(options, out, resume=True)
    shutil.rmtree(folder / "gray")
    assert start(options, out, resume=True)["status"] == "finished"


def test_two_processes_in_one_folder_are_refused(options, tmp_path):
    with alone(tmp_path / "run"), pytest.raises(OutputError, match="another process is at work"):
        start(options, tmp_path / "run")
    assert start(options, tmp_path / "run", rounds=1)["status"] == "finished"


def test_a_folder_that_a_kill_left_half_made_is_taken_up(options, tmp_path, monkeypatch):
    def killed(path, text):
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr("psp_ray.run.folder.write_text", killed)
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


def test_predict_reads_what_run_wrote(options, tiny_folder, tmp_path):
    from psp_ray import Classifier

    out = tmp_path / "run"
    start(options, out, strategy="random", self_training="none", rounds=1)
    (tmp_path / "broken.png").write_bytes(b"no image")
    pool = pd.read_parquet(out / "pool_predictions.parquet").set_index("path")
    rest = pool[pool.source == "predicted"]
    assert len(rest) == 42 - 3
    predictions = Classifier.load(out).predict([*rest.index, tmp_path / "broken.png"])
    assert predictions[-1].error
    assert [item.path for item in predictions[:-1]] == rest.index.tolist()
    assert [item.label for item in predictions[:-1]] == rest["class"].tolist()
    np.testing.assert_allclose([item.probability for item in predictions[:-1]], rest.probability, atol=2e-3)
    with pytest.raises(SystemExit) as ended:
        main(["predict", "--run", str(out), "--out", str(tmp_path / "p.csv"), str(tiny_folder / "blue")])
    assert ended.value.code == 0
    assert len(pd.read_csv(tmp_path / "p.csv")) == 20


SIGNALED = """
import os, sys
from psp_ray.report.progress import Reporter

def stage(self, round, name):
    if (round, name) == ({round}, "learn"):
        os.kill(os.getpid(), {signal})

Reporter.stage = stage
from psp_ray.cli.main import main
main(sys.argv[1:])
"""


def signaled(options, out, round, number, *more):
    """The command line in a process of its own, which a signal reaches while it learns in a round."""
    words = [sys.executable, "-c", SIGNALED.format(round=round, signal=int(number)), "run", "--out", str(out)]
    for key, value in options.items():
        name = key.replace("_", "-")
        words += [f"--{'' if value else 'no-'}{name}"] if isinstance(value, bool) else [f"--{name}", str(value)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run([*words, *more], env=environment, capture_output=True, text=True, check=False)


def test_killed_and_terminated_processes_resume_to_the_bit(options, uninterrupted, tmp_path):
    out = tmp_path / "run"
    killed = signaled(options, out, 2, signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert not (out / "summary.json").exists()
    assert [path.name for path in (out / "checkpoints").glob("*/COMPLETE")] == ["COMPLETE"]

    ended = signaled(options, out, 3, signal.SIGTERM, "--resume")
    assert ended.returncode == 143
    assert f"go on with: psp-ray continue {out}" in ended.stdout
    summary = json.loads((out / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert [row["round"] for row in summary["rounds"]] == [1, 2]
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


def test_a_listener_stops_a_run_which_then_goes_on(options, uninterrupted, tmp_path):
    class Patient(Reporter):
        def after_round(self, report):
            seen.append(report.round)
            return Next.STOP if len(seen) == 2 else Next.CONTINUE

    seen, out = [], tmp_path / "run"
    stopped = run(resolve({**options, "out": str(out)}), Patient(ROUNDS, Console(quiet=True)))
    assert (stopped["status"], len(stopped["rounds"])) == ("interrupted", 2)
    done = run(resolve({**options, "out": str(out), "resume": True}), Patient(ROUNDS, Console(quiet=True)))
    assert seen == [1, 2, 1, 2, 3], "rounds of the checkpoint are told of again"
    assert done["status"] == "finished"
    assert_same(uninterrupted, out)


def test_a_checkpoint_of_another_version_is_refused_in_one_line(options, tmp_path):
    out = tmp_path / "run"
    begin_and_crash(options, out)
    path = out / "checkpoints" / "round_001" / "state.json"
    record = json.loads(path.read_text())
    record["rows"][0]["mood"] = "good"
    path.write_text(json.dumps(record))
    (path.parent / MARKER).write_bytes(b"")  # of a version without checksums
    with pytest.raises(OutputError, match="another version of psp-ray wrote the checkpoint"):
        start(options, out, resume=True)


def test_featurizing_alone_encodes_what_a_run_would_look_for(tmp_path):
    """The image size of a data set is settled before any encoder is built: or the cache would hold another one's."""
    seen = []

    class Spy(InlineRuntime):
        def map_chunks(self, tasks):
            seen.extend(tasks)
            raise Crash

    @contextmanager
    def spy(config):
        seen.append(config)
        yield Spy(config)

    with pytest.raises(Crash):
        featurize_only(resolve({"runner": "inline", "cache": str(tmp_path)}), quiet(), spy)
    config, *tasks = seen
    assert tasks, "there was something to encode"
    assert config.model.image_size == 96
    assert encoder_spec(config.model).preprocessing.size == (96, 96)


def test_a_text_tower_is_loaded_for_class_names_that_nobody_has_encoded(options, tmp_path):
    import psp_ray.clip.backbone as towers

    given = {**options, "cache": str(tmp_path / "cache"), "rounds": 1}
    loaded, quiet = [], Reporter(1, Console(quiet=True))
    with pytest.MonkeyPatch.context() as patch:
        original = towers.load_backbone
        patch.setattr(towers, "load_backbone", lambda *a, **k: loaded.append(k["towers"]) or original(*a, **k))
        for name in ("first", "second"):
            run(resolve({**given, "out": str(tmp_path / name)}), quiet)
        assert loaded.count("text") == 1
        run(resolve({**given, "out": str(tmp_path / "third"), "template": "a drawing of a {}."}), quiet)
        assert loaded.count("text") == 2
        run(resolve({**given, "out": str(tmp_path / "fourth"), "head": "prompt", "learning_steps": 1}), quiet)
        assert loaded.count("text") == 3
    first, second = (tmp_path / name / "prompts.safetensors" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()

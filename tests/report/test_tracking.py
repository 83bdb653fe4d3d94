"""`--track`, read back with what isn't ours: MLflow's files on disk, TensorBoard's events by their format."""

from __future__ import annotations

import struct
import sys
import types
from pathlib import Path

import pytest

from psp_ray.core.errors import ConfigError
from psp_ray.core.files import read_json
from psp_ray.report.tracking import TRACKERS, metrics_of, open_tracked
from psp_ray.run.command import run
from psp_ray.run.continuing import continued
from psp_ray.run.events import Silent
from psp_ray.run.resolve import resolve
from psp_ray.run.watching import RunTracker
from psp_ray.studies.tracking import StudyTracker
from tests.helpers import report_of


def test_what_is_not_known_is_no_number():
    assert metrics_of(report_of(test_accuracy=0.5)) == {
        "labels": 10.0,
        "pseudo_labels": 0.0,
        "accuracy": 0.5,
        "predictions_changed": 0.1,
        "seconds": 0.0,
    }


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"wandb is not installed; run: pip install 'psp-ray\[wandb\]'"):
        TRACKERS.find("wandb")(tmp_path)
    with pytest.raises(ConfigError, match="unknown"):
        RunTracker("comet")


def scalars(folder):
    """{(tag, step): value} of all event files below a folder: records of length, checksum, event, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for file in folder.rglob("events.out.tfevents.*"):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    return found


def test_tensorboard_has_the_numbers(tmp_path):
    tracker = TRACKERS.find("tensorboard")(tmp_path)
    first = open_tracked(tracker, tmp_path, "run", {"seed": 1})
    first.log(1, {"accuracy": 0.25})
    first.end(finished=False)
    again = open_tracked(tracker, tmp_path, "run", {"seed": 1})
    again.log(2, {"accuracy": 0.75})
    again.end(finished=True)
    assert again.id == first.id
    found = scalars(tmp_path / "tensorboard" / "run")
    assert {key: value for key, value in found.items() if key[0] == "accuracy"} == {
        ("accuracy", 1): 0.25,
        ("accuracy", 2): 0.75,
    }


def lines_of(store, run_id, metric):
    """{step: value} of a metric as MLflow's file store keeps it: lines of time, value, step."""
    (folder,) = [path for path in Path(store).glob(f"*/{run_id}") if path.is_dir()]
    rows = [line.split() for line in (folder / "metrics" / metric).read_text().splitlines()]
    return {int(step): float(value) for _, value, step in rows}


@pytest.fixture
def store(tmp_path, monkeypatch):
    """MLflow's files in a folder of their own."""
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    return tmp_path / "store"


@pytest.mark.slow
def test_a_run_in_mlflow_goes_on_where_it_was(store, tmp_path, tiny_model, tiny_folder, cache_folder):
    given = {"dataset": str(tiny_folder), "model": tiny_model, "cache": str(cache_folder), "runner": "inline"}
    given |= {"rounds": 1, "labels_per_round": 3, "strategy": "random", "out": str(tmp_path / "run")}
    run(resolve(given), Silent(), watchers=[RunTracker("mlflow")])
    config = continued(tmp_path / "run", {"rounds": 2})
    summary = run(config, Silent(), watchers=[RunTracker("mlflow")], continuing=True)
    (run_id,) = read_json(tmp_path / "run" / "tracking.json").values()
    assert lines_of(store, run_id, "accuracy") == {
        0: summary["zero_shot_accuracy"],
        **{row["round"]: row["test_accuracy"] for row in summary["rounds"]},
    }
    assert lines_of(store, run_id, "labels") == {0: 0.0, 1: 3.0, 2: 6.0}
    (folder,) = store.glob(f"*/{run_id}")
    assert (folder / "params" / "strategy").read_text() == "random"
    assert {path.name for path in (folder / "artifacts").iterdir()} >= {"summary.json", "learning_curve.png"}
    assert "status: 3" in (folder / "meta.yaml").read_text()  # FINISHED


def test_a_study_is_a_parent_with_children(store, tmp_path):
    study = tmp_path / "study"
    said: list[str] = []
    for names in (["a", "b"], ["c"]):  # two sessions
        tracker = StudyTracker("mlflow", study, {"seeds": 2}, said.append)
        for name in names:
            (study / name).mkdir(parents=True)
            tracker.child(name, study / name, {"seed": 1}, {1: {"accuracy": 0.5}}, ended=True)
        tracker.end(finished=True)
    assert not said
    (parent,) = read_json(study / "tracking.json").values()
    children = [next(iter(read_json(study / name / "tracking.json").values())) for name in "abc"]
    parents = {(next(store.glob(f"*/{child}")) / "tags" / "mlflow.parentRunId").read_text() for child in children}
    assert parents == {parent}
    assert lines_of(store, children[2], "accuracy") == {1: 0.5}


def test_a_tool_that_fails_ends_the_tracking_only(tmp_path, monkeypatch):
    """Nothing is listening there: the study hears of it once, and goes on."""
    calls = []

    def init(**given):
        calls.append(given["name"])
        raise OSError("no route to host")

    stand_in = types.ModuleType("wandb")
    stand_in.init = init
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    said: list[str] = []
    tracker = StudyTracker("wandb", tmp_path, {}, said.append)
    for name in "ab":
        tracker.child(name, tmp_path, {}, {}, ended=True)
    tracker.end(finished=True)
    assert calls == [tmp_path.name]
    assert said == ["--track wandb failed and is left out from here (OSError: no route to host)"]


def test_wandb_is_told_what_it_takes(tmp_path, monkeypatch):
    told = []

    class Run:
        id = "abc"

        def log(self, metrics, step):
            told.append((step, metrics))

        def finish(self, exit_code):
            told.append(exit_code)

    opened = []
    stand_in = types.ModuleType("wandb")
    stand_in.init = lambda **given: opened.append(given) or Run()
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    tracker = TRACKERS.find("wandb")(tmp_path)
    parent = open_tracked(tracker, tmp_path, "study", {})
    child = tmp_path / "child"
    child.mkdir()
    run_ = open_tracked(tracker, child, "run", {"seed": 3}, parent)
    run_.log(2, {"accuracy": 0.5})
    run_.end(finished=True)
    assert (opened[1]["project"], opened[1]["group"], opened[1]["config"]) == ("mine", "abc", {"seed": 3})
    assert told == [(2, {"round": 2, "accuracy": 0.5}), 0]
    open_tracked(tracker, child, "run", {"seed": 3}, parent)
    assert (opened[2]["id"], opened[2]["resume"]) == ("abc", "allow")


@pytest.mark.parametrize("content", ["{", "[]", "\x00"])
def test_a_damaged_note_of_what_tools_called_a_run_costs_that_note(tmp_path, content):
    class Tool:
        def open(self, name, settings, known=None, parent=None):
            assert known is None
            return types.SimpleNamespace(id="new")

    (tmp_path / "tracking.json").write_text(content)
    assert open_tracked(Tool(), tmp_path, "run", {}).id == "new"
    assert read_json(tmp_path / "tracking.json") == {"Tool": "new"}

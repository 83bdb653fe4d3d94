"""`psp-ray continue`: nothing is said again, what is still to come may change, what is done may not."""

from __future__ import annotations

import csv
import io
import json
import os
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from psp_ray.cli.main import main
from psp_ray.config.config import Config
from psp_ray.core.errors import ConfigError, OutputError
from psp_ray.report.progress import Reporter
from psp_ray.run.command import run
from psp_ray.run.continuing import check_left, continued
from psp_ray.run.events import Silent
from psp_ray.run.folder import differences
from psp_ray.run.messages import rounds_to_suggest
from psp_ray.run.prepare import load_data
from psp_ray.run.resolve import resolve


@pytest.fixture
def options(two_rounds):
    return dict(two_rounds)


def begin(options, out, **more):
    return run(resolve({**options, "out": str(out), **more}), Silent())


def go_on(out, heard=None, **changes):
    events = Silent() if heard is None else Reporter(9, Console(file=heard, soft_wrap=True))
    return run(continued(out, changes), events, continuing=True)


def rounds_of(summary):
    dropped = ("seconds", "wall_seconds", "pool_accuracy_estimate")
    return [{key: value for key, value in row.items() if key not in dropped} for row in summary["rounds"]]


def test_more_rounds_are_those_of_a_longer_run(options, tmp_path):
    """For a strategy that learns nothing they are the same to the bit; one that learns has ended its last round."""
    begin(options, tmp_path / "whole", rounds=4, strategy="coreset", self_training="ust")
    two = begin(options, tmp_path / "grown", strategy="coreset", self_training="ust")
    four = go_on(tmp_path / "grown", rounds=4)
    assert (two["status"], len(two["rounds"])) == ("finished", 2)
    assert (four["status"], len(four["rounds"])) == ("finished", 4)
    one, other = (pq.read_table(tmp_path / name / "labels.parquet") for name in ("whole", "grown"))
    assert one.equals(other)
    one, other = ((tmp_path / name / "pool_predictions.parquet").read_bytes() for name in ("whole", "grown"))
    assert one == other
    assert "rounds: 4" in (tmp_path / "grown" / "config.yaml").read_text()
    heard = io.StringIO()
    assert go_on(tmp_path / "grown", heard)["wall_seconds"] == four["wall_seconds"]
    assert "already finished" in heard.getvalue()


OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("bandit", "el2n-policy", "cbsq+pcb", "psp-id")]


@pytest.mark.parametrize("strategy", ["psp", *OTHERS])
def test_query_sets_may_change_their_size(options, tmp_path, strategy):
    before = begin(options, tmp_path / "run", strategy=strategy)
    after = go_on(tmp_path / "run", rounds=4, labels_per_round=5)
    assert [row["labels_total"] for row in after["rounds"]] == [3, 6, 11, 16]
    assert rounds_of(after)[:2] == rounds_of(before)


def test_what_ended_a_run_may_be_taken_back(options, tmp_path):
    begin(options, tmp_path / "run", rounds=6, stop="stable:0.0001")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], len(summary["rounds"])) == ("finished", 3)
    assert "stable" in summary["stopped"]
    assert len(go_on(tmp_path / "run")["rounds"]) == 3
    assert len(go_on(tmp_path / "run", rounds=5)["rounds"]) == 3, "what stopped it still holds"
    last = go_on(tmp_path / "run", stop="none")
    assert len(last["rounds"]) == 5
    assert last["stopped"] is None


def test_what_is_done_is_done(options, tmp_path, capsys):
    begin(options, tmp_path / "run")
    for changes, reason in (
        ({"seed": "1"}, "--seed 1: can't change from 0 on the way, since all chance in the rounds so far hangs on it"),
        ({"head": "gda"}, "the classifiers of the rounds so far were learned with it"),
        ({"strategy": "random"}, "can't change from"),
        ({"rounds": "1"}, "--rounds 1: 2 rounds are done already"),
    ):
        with pytest.raises(ConfigError, match=reason.replace("(", r"\(")):
            continued(tmp_path / "run", changes)
    with pytest.raises(OutputError, match="no such folder"):
        continued(tmp_path / "nothing", {})
    with pytest.raises(SystemExit) as ended:
        main(["continue", str(tmp_path / "run"), "--image-size", "64"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "the features of the rounds so far are this model's" in said
    assert "--initial-labels" in said


def test_people_fill_in_and_go_on(options, tmp_path, tiny_folder, capsys):
    """By the command line: no option is said again, and a query set that is laid out keeps its size."""
    out = tmp_path / "run"
    begin(options, out, oracle="file")
    for number in (1, 2):
        file = out / f"round_{number:02d}" / "query.csv"
        rows = list(csv.DictReader(file.open(newline="")))
        with pytest.raises(ConfigError, match=f"the 3 images of round {number} are asked for already"):
            continued(out, {"labels_per_round": 4})
        lines = [{**row, "label": row["sample_id"].split("/")[0]} for row in rows]
        with file.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, list(rows[0]))
            writer.writeheader()
            writer.writerows(lines)
        with pytest.raises(SystemExit) as ended:
            main(["continue", str(out), "--no-html"])
        assert ended.value.code == (3 if number == 1 else 0)
    assert f"then: psp-ray continue {out}" in capsys.readouterr().out
    assert json.loads((out / "summary.json").read_text())["status"] == "finished"
    for html, there in (("--no-html", False), ("--html", True)):
        with pytest.raises(SystemExit) as ended:
            main(["continue", str(out), html])
        assert (ended.value.code, (out / "report.html").is_file()) == (0, there)
    assert f"report: {out / 'report.html'}, written anew" in capsys.readouterr().out


def test_relative_paths_are_seen_from_where_the_run_began(options, tmp_path, tiny_folder, monkeypatch, capsys):
    """An answer is wrong, which is told with its file: so data set and run were found from elsewhere."""
    home, elsewhere = tiny_folder.parent, tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(home)
    out = tmp_path / "run"
    begin(options | {"dataset": tiny_folder.name}, out, oracle="file")
    (out / "round_01" / "query.csv").write_text("sample_id,label\nred/00.png,nothing\n")
    for folder in (home, elsewhere):
        monkeypatch.chdir(folder)
        with pytest.raises(SystemExit) as ended:
            main(["continue", os.path.relpath(out), "--no-html"])
        assert ended.value.code == 2
        assert "run/round_01/query.csv:2: 'nothing' is no class" in capsys.readouterr().err
        assert os.getcwd() == str(home)


def test_a_changed_default_of_another_strategy_is_no_difference():
    old, now = (Config(strategy="random", update_steps=steps).identity() for steps in (40, 10))
    assert differences(old, now) == ""
    assert "--audit-fraction" in differences({**old, "audit_fraction": 0.5}, now)
    mine, other = (Config(strategy="vssp", update_steps=steps).identity() for steps in (40, 10))
    assert "--update-steps 40" in differences(mine, other)


def test_no_more_is_asked_than_is_left(options, tmp_path, capsys):
    """42 images in the pool, of which 6 rounds of 5 asked about 30: 12 are left."""
    out = tmp_path / "run"
    begin(options, out, rounds=6, labels_per_round=5, strategy="random", self_training="none")
    dataset = load_data(continued(out, {}))
    assert dataset.pool.num_rows == 42
    for changes, says in (
        ({"rounds": 10}, "--rounds 10: rounds done so far: 6; 12 images of the pool are left to ask about, 5 a round; "
                         "give at most --rounds 9"),
        ({"rounds": 9, "labels_per_round": 6}, "12 images .*, 6 a round; give at most --rounds 8"),
        ({"rounds": 7, "labels_per_round": 13}, "--labels-per-round 13: 12 images of the pool are left"),
        ({"rounds": 9, "label_cap": 44}, "--label-cap 44: 30 labels so far, and 5 in each of 3 more rounds, are 45"),
        ({"rounds": 9, "label_cap": 45}, None),
        ({"rounds": 7, "labels_per_round": 12}, None),
        ({}, None),
    ):  # fmt: skip
        config = continued(out, changes)
        if says is None:
            check_left(out, config, dataset)
            continue
        with pytest.raises(ConfigError, match=says):
            check_left(out, config, dataset)
    with pytest.raises(SystemExit) as ended:
        main(["continue", str(out), "--rounds", "12", "--no-html"])
    assert (ended.value.code, "at most --rounds 9" in capsys.readouterr().err) == (2, True)
    assert json.loads((out / "run.json").read_text())["identity"]["rounds"] == 6, "what is refused changes nothing"
    heard = io.StringIO()
    assert [row["labels_new"] for row in go_on(out, heard, rounds=9)["rounds"]][6:] == [5, 5, 2]
    assert "more:    every image of the pool was asked about" in heard.getvalue()
    with pytest.raises(ConfigError, match="every image of the pool was asked about"):
        check_left(out, continued(out, {"rounds": 10}), dataset)


@pytest.mark.parametrize(
    ("left", "done", "rounds", "suggested"), [(0, 4, 4, 0), (1, 4, 4, 5), (6, 4, 4, 5), (7, 4, 4, 6), (99, 3, 4, 0)]
)
def test_only_rounds_that_there_are_images_for_are_suggested(left, done, rounds, suggested):
    config = resolve({"rounds": rounds, "labels_per_round": 6})
    assert rounds_to_suggest(config, SimpleNamespace(round=done), left) == suggested

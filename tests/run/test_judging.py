"""Cross-fitting in a run: no label that judges has touched what it judges, and the run goes on as if nobody judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from psp_ray.posterior.audit import stratum
from psp_ray.report.round_report import Next
from psp_ray.run import command
from psp_ray.run.crossfitted import CrossFitted, Line
from psp_ray.run.events import Silent
from psp_ray.run.folder import SUMMARY
from psp_ray.run.judging import folds_of, judge
from psp_ray.run.resolve import resolve


@pytest.fixture
def options(tiny_settings, tiny_folder, tmp_path):
    return {
        **tiny_settings,
        "dataset": str(tiny_folder),
        "strategy": "entropy+audit",
        "audit_fraction": 0.4,
        "estimate_folds": 2,
        "rounds": 2,
        "labels_per_round": 6,
        "learning_steps": 5,
        "threads": 1,
        "out": str(tmp_path / "run"),
    }


@pytest.mark.parametrize(
    ("source", "head"), [("posterior", "auto"), ("posterior", "linear"), ("graph", "gda"), ("prompt", "prompt")]
)
def test_a_label_that_judges_leaves_no_trace(options, monkeypatch, source, head):
    """Other answers to the held-out images change nothing of what their fold says; other answers to others do."""
    seen = []
    monkeypatch.setattr(command, "finish", lambda config, data, run, state, *rest: seen.append((run, state)) or {})
    config = resolve({**options, "self_training": "ust", "pseudo_source": source, "head": head})
    command.run(config, Silent())
    ((run, state),) = seen
    assert folds_of(run.config, tested=True) == 1
    answers = run.answers(state)
    held = stratum(answers)
    assert held.any()
    assert not held.all()
    start = CrossFitted.start(1, Line(run.zero_shot))

    def said(labels):
        given = replace(answers, answers=labels.astype(np.int32))
        return judge(run, 2, start, given, state.unlabeled(run.n_pool)).logits[held]

    other = (answers.answers + 1) % len(run.names.classes)
    found = said(answers.answers)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, said(np.where(held, other, answers.answers)))
    assert not np.array_equal(found, said(np.where(held, answers.answers, other)))


def test_judging_changes_nothing_but_what_is_known(options, tmp_path):
    """Even where the learner remembers its last round."""
    given = {**options, "head": "prompt", "pseudo_source": "graph", "self_training": "ust", "warm_start": True}
    judged = command.run(resolve(given), Silent())
    plain = command.run(resolve({**given, "estimate_folds": 0, "out": str(tmp_path / "plain")}), Silent())
    assert judged["rounds"][-1]["pool_accuracy_estimate"]["planned"] == 5
    assert plain["rounds"][-1]["pool_accuracy_estimate"] is None
    assert judged["final_accuracy"] == plain["final_accuracy"]
    labels = [pq.read_table(tmp_path / name / "labels.parquet") for name in ("run", "plain")]
    assert labels[0].equals(labels[1])
    for ours, theirs in zip(judged["rounds"], plain["rounds"], strict=True):
        assert (ours["agreement"], ours["reward"]) == (theirs["agreement"], theirs["reward"])


def test_a_resumed_run_judges_to_the_same_bits(options, tmp_path):
    """The lines of descent of all folds are in the checkpoint, with their bias."""
    given = {**options, "head": "linear", "self_training": "ust", "strategy": "random"}
    whole = command.run(resolve(given), Silent())
    given["out"] = str(tmp_path / "halves")
    cut = command.run(resolve(given), Silent(lambda report: Next.STOP))
    assert cut["status"] == "interrupted"
    assert (Path(given["out"]) / SUMMARY).exists()
    resumed = command.run(resolve({**given, "resume": True}), Silent())
    assert resumed["calibration"] == whole["calibration"]
    assert whole["pool_accuracy_estimate"] is not None
    for key in ("pool_accuracy_estimate", "zero_shot_pool_accuracy_estimate"):
        assert resumed[key] == whole[key]

"""Cross-fitting in a run: no label that judges has touched what it judges, and the run goes on as if nobody judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from psp_ray.core.records import TextState
from psp_ray.posterior.audit import Answers, stratum
from psp_ray.report.round_report import Next
from psp_ray.run import command
from psp_ray.run.crossfitted import CrossFitted, Line
from psp_ray.run.events import Silent
from psp_ray.run.folder import SUMMARY
from psp_ray.run.judging import estimate_before, folds_of, judge
from psp_ray.run.resolve import resolve

ZERO_SHOT = TextState(np.eye(2, dtype=np.float32), 1.0)


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


def test_without_folds_a_round_is_judged_by_its_own_draws_and_its_limits_hold():
    """Zero-shot is right on 5 %, the classifier of round 1 on 85 %: what judged the one says nothing of the other."""
    rng = np.random.default_rng(0)
    held, draws, rounds = 0, 20, np.repeat([1, 2], 20).astype(np.int32)
    for _ in range(400):
        right = rng.random(2 * draws) < np.where(rounds == 1, 0.05, 0.85)
        logits = np.where(right[:, None], [[1.0, 0.0]], [[0.0, 1.0]]).astype(np.float32)
        answers = Answers(
            *(np.arange(2 * draws), np.zeros(2 * draws, np.int32), rounds, np.ones(2 * draws, bool)),
            *(np.arange(2 * draws, dtype=np.uint64), logits),
        )
        found = estimate_before(answers, CrossFitted.start(0, Line(ZERO_SHOT, {})), 2)
        assert found is not None
        assert found.draws == draws
        held += found.low <= 0.85 <= found.high
    assert held >= 0.93 * 400

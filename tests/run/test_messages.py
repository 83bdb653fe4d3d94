"""What a run says of where it is."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from psp_ray.report.progress import Reporter
from psp_ray.run.messages import accuracy_text, say_goodbye, where_text
from psp_ray.run.resolve import resolve
from tests.helpers import report_of

STILL = [0.7, 0.7, 0.7, 0.7]


@pytest.mark.parametrize(
    ("given", "variable", "told"),
    [
        ({"runner": "inline"}, "10.0.0.1:6379", "all in this process (--runner inline)"),
        ({}, None, "on Ray, started on this machine (--runner ray, the default"),
        ({}, "local", "on Ray, started on this machine"),
        ({}, "10.0.0.1:6379", "on the Ray cluster at 10.0.0.1:6379 (RAY_ADDRESS;"),
        ({"ray_address": "10.0.0.2:1"}, "10.0.0.1:6379", "on the Ray cluster at 10.0.0.2:1 (--ray-address;"),
    ],
)
def test_a_run_says_where_it_is_and_what_said_so(given, variable, told, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert where_text(resolve({"dataset": "digits", **given})).startswith(told)


@pytest.mark.parametrize(("final", "told"), [(0.95, False), (0.885, False), (0.66, True)])
def test_a_run_that_ends_below_zero_shot_says_so(final, told):
    summary = {"final_accuracy": final, "zero_shot_accuracy": 0.889, "rounds": []}
    text = accuracy_text(summary, resolve({"dataset": "digits"}))
    assert text.startswith(f"zero-shot 88.9 % -> {100 * final:.1f} % test accuracy")
    assert ("below zero-shot" in text) == told


@pytest.mark.parametrize(
    ("accuracies", "changed", "settings", "said"),
    [
        (
            STILL,
            0.001,
            {},
            "try --self-training none or another --head (now auto) in a new run with --initial-labels r/l",
        ),
        (
            STILL,
            0.001,
            {"self_training": "none", "head": "gda"},
            "try --self-training ust or another --head (now gda) in a new run",
        ),
        ([0.5, 0.5, 0.7, 0.7], 0.001, {}, "more:    psp-ray continue r --rounds 6"),  # it moves still
        (STILL, 0.3, {}, "more:    psp-ray continue r --rounds 6"),
        ([0.95, 0.95, 0.95, 0.95], 0.001, {}, "more:    psp-ray continue r --rounds 6"),
    ],
)
def test_what_is_suggested_at_the_end_is_what_helps(accuracies, changed, settings, said, capsys):
    config = resolve({"dataset": "digits", "rounds": 4, "labels_per_round": 8, **settings})
    nobody = np.zeros(0, np.int64)
    state = SimpleNamespace(
        round=4,
        zero_shot=SimpleNamespace(accuracy=0.9, n=3000),
        reports=[
            report_of(round=i, test_accuracy=value, predictions_changed=changed)
            for i, value in enumerate(accuracies, 1)
        ],
        labeled=nobody,
        asked_in=nobody,
        answers=nobody,
        has_class=nobody,
        labels_paid=32,
    )
    summary = {
        "final_accuracy": accuracies[-1],
        "zero_shot_accuracy": 0.9,
        "rounds": [],
        "wall_seconds": 1.0,
        "stopped": "",
    }
    say_goodbye(Reporter(4), config, summary, state, Path("r"), left=100)
    told = capsys.readouterr().out
    assert said in told
    assert ("more of the same will not help" in told) != ("more:  " in told)
    assert "--self-training none" not in told or not settings

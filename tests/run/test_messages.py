"""What a run says of where it is."""

import pytest

from psp_ray.run.messages import accuracy_text, where_text
from psp_ray.run.resolve import resolve


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

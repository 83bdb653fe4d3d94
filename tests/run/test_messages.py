"""What a run says of where it is."""

import pytest

from psp_ray.run.messages import where_text
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

"""`run.log`: what a run said, with the time, whatever became of it."""

from __future__ import annotations

import re

import pytest

from psp_ray.core.errors import OracleError
from psp_ray.run.events import Silent
from psp_ray.run.logbook import LOG, logbook
from tests.helpers import Hearing, report_of


def test_what_was_said_stands_with_its_time(tmp_path):
    heard = Hearing()
    with logbook(tmp_path, "psp on photos", heard, rounds=2) as events:
        events.note("first\nsecond")
        events.round(report_of(round=1, labels_total=7), warning="slow")

    def fail():
        with logbook(tmp_path, "psp on photos", heard, rounds=2) as events:
            events.warn("odd")
            raise OracleError("query.csv:3: no such class")

    with pytest.raises(OracleError):
        fail()
    lines = (tmp_path / LOG).read_text(encoding="utf-8").splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S", line) for line in lines)
    said = [line[20:] for line in lines]
    assert said[0].startswith("psp on photos (version ")
    assert said[1:3] == ["first", "second"]
    assert said[3].startswith("round 1/2: 7 labels")
    assert said[4:] == [
        "warning: slow",
        said[0],
        "warning: odd",
        "ended by OracleError: query.csv:3: no such class",
    ]
    assert heard.heard == ["first\nsecond"]


def test_a_folder_that_takes_no_log_costs_no_run(tmp_path):
    (tmp_path / LOG).mkdir()
    with logbook(tmp_path, "psp on photos", Silent(), rounds=1) as events:
        events.note("goes on")
    assert (tmp_path / LOG).is_dir()

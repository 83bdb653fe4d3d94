"""The record of a round: what is stored comes back, what is unknown is None, and nothing is NaN."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psp_ray.posterior.accuracy import Estimate
from psp_ray.report.round_report import RoundReport, StageSeconds, known
from tests.helpers import report_of

SHARE = st.floats(0, 1)
MAYBE = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@given(
    count=st.integers(0, 10**6),
    precision=st.none() | SHARE,
    estimate=st.none() | st.builds(Estimate, SHARE, SHARE, SHARE, st.floats(0, 1e6)),
    reward=MAYBE,
    key=MAYBE,
    learn=st.floats(0, 1e5),
)
def test_json_and_csv_hold_what_the_report_holds(count, precision, estimate, reward, key, learn):
    report = report_of(
        labels_total=count,
        pseudo_label_precision=precision,
        pool_accuracy_estimate=estimate,
        reward=reward,
        next_key=key,
        seconds=StageSeconds(learn=learn),
    )
    stored = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert RoundReport.from_json(stored) == report
    text = io.StringIO()
    writer = csv.DictWriter(text, list(report.csv_row()))
    writer.writeheader()
    writer.writerow(report.csv_row())
    (row,) = csv.DictReader(io.StringIO(text.getvalue()))
    assert row["reward"] == ("" if reward is None else repr(reward))
    assert row["pool_accuracy_estimate_low"] == ("" if estimate is None else repr(estimate.low))
    assert float(row["seconds_learn"]) == pytest.approx(learn, abs=1e-4)
    assert set(report.summary_row()) == {field.name for field in fields(report)} - {
        "next_key",
        "train_loss",
        "restarts",
    }


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["reward", "test_accuracy", "agreement", "wall_seconds"])
def test_what_is_not_finite_is_refused(name, value):
    assert known(value) is None
    with pytest.raises(ValueError, match=name):
        report_of(**{name: value})


def test_fields_of_another_version_are_refused():
    stored = report_of(pool_accuracy_estimate=Estimate(0.5, 0.4, 0.6, 9, 8)).as_json()
    for other in (
        {**stored, "mood": 1.0},
        {key: value for key, value in stored.items() if key != "reward"},
        {**stored, "pool_accuracy_estimate": {"value": 0.5}},
    ):
        with pytest.raises(ValueError, match="fields"):
            RoundReport.from_json(other)

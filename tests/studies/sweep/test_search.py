"""Where points come from, against a function whose best point is known."""

import math
import statistics

import pytest
from click.testing import CliRunner

from psp_ray.cli.sweep import sweep
from psp_ray.studies.sweep.plan import TrialResult
from psp_ray.studies.sweep.search import ListSource, OptunaSource
from psp_ray.studies.sweep.space import BUDGET, Dimension, random_points

SPACE = [Dimension.parse("beta", "0..1"), Dimension.parse("tau", "0.001..1:log"), Dimension.parse("align", "id,pad")]


def value_of(point):
    """Best at beta 0.7, tau 0.03, align id; a larger budget is always better."""
    wrong = 0.5 if point["align"] == "pad" else 0.0
    return point[BUDGET] - (point["beta"] - 0.7) ** 2 - 0.1 * (math.log10(point["tau"]) + 1.5) ** 2 - wrong


def run_all(source, stop_after=None):
    told = []
    while (given := source.next()) is not None:
        name, point = given
        if stop_after is not None and len(told) >= stop_after:
            told.append(TrialResult(name, point, "running"))
            break
        told.append(TrialResult(name, point, "finished", [{"score": value_of(point)}]))
        source.tell(told[-1])
    return told


def test_a_list_skips_what_is_done():
    points = random_points(SPACE, [1, 2], 6, 0)
    every = run_all(ListSource(points, set()))
    assert [trial.point for trial in every] == points
    assert len({trial.name for trial in every}) == 6
    rest = run_all(ListSource(points, {every[0].name, every[3].name}))
    assert [trial.name for trial in rest] == [every[i].name for i in (1, 2, 4, 5)]


def test_optuna_learns_and_both_budgets_get_their_share():
    trials = run_all(OptunaSource(SPACE, [1, 2], 60, 0, []))
    budgets = [trial.point[BUDGET] for trial in trials]
    assert (budgets.count(1), budgets.count(2)) == (30, 30)

    def loss(trial):
        return trial.point[BUDGET] - trial.rounds[-1]["score"]

    early = sum(loss(trial) for trial in trials[:10]) / 10
    late = sum(loss(trial) for trial in trials[-20:]) / 20
    assert late < early / 2, (early, late)


def test_a_resumed_search_knows_the_first_part_and_takes_the_cut_off_trial_first():
    first = run_all(OptunaSource(SPACE, [1, 2], 30, 0, []), stop_after=19)
    cut = first[-1]
    source = OptunaSource(SPACE, [1, 2], 30, 0, first)
    assert source.pending_count == 11
    rest = run_all(source)
    assert (rest[0].name, rest[0].point) == (cut.name, cut.point)
    names = {trial.name for trial in (*first, *rest)}
    assert len(names) == 30
    losses = [trial.point[BUDGET] - trial.rounds[-1]["score"] for trial in (*first[:-1], *rest)]
    assert sum(losses[-8:]) / 8 < sum(losses[:8]) / 8


def test_optuna_learns_beside_early_stopping_and_again_when_resumed():
    """Those below the median go no further than a round, whose score says little beside that of eight."""

    def play(source, told, most):
        while len(told) < most and (given := source.next()) is not None:
            name, point = given
            score = value_of(point)
            whole = score >= statistics.median([value_of(trial.point) for trial in told] or [score])
            rows = [{"score": score * round / 8} for round in range(1, 9 if whole else 2)]
            told.append(TrialResult(name, point, "finished" if whole else "stopped", rows))
            source.tell(told[-1])

    told = []
    play(OptunaSource(SPACE, [1], 50, 0, []), told, 25)
    play(OptunaSource(SPACE, [1], 50, 0, told), told, 50)
    assert 5 < sum(trial.status == "stopped" for trial in told) < 45
    losses = [1 - value_of(trial.point) for trial in told]
    assert sum(losses[-15:]) / 15 < sum(losses[:10]) / 10 / 2


@pytest.mark.parametrize("options", [["--scheduler", "pb2"], ["--scheduler", "BOHB"], ["--searcher", "bohb"]])
def test_what_others_offer_is_refused_with_what_to_take_instead(options, tmp_path):
    found = CliRunner().invoke(sweep, ["--datasets", "digits", "--out", str(tmp_path / "new"), *options])
    assert found.exit_code == 2
    assert "--searcher optuna --scheduler asha" in found.output
    assert not (tmp_path / "new").exists()

"""Early stopping: who goes on at each rung, by budget, and after a restart."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from ray.tune.schedulers import TrialScheduler

from psp_ray.studies.sweep.halving import HalvingByBudget
from psp_ray.studies.sweep.plan import Plan, TrialResult
from psp_ray.studies.sweep.space import BUDGET

PLAN = Plan({"a": {}}, [1, 4], {}, {"rounds": 8}, scheduler="asha", grace_rounds=2)


def play(scheduler, trials):
    """Run trials one after the other; returns their results with the rounds that they were let do."""
    done = []
    for number, (budget, level) in enumerate(trials):
        trial = SimpleNamespace(trial_id=f"t{number}-{id(scheduler)}", config={"point": {BUDGET: budget}})
        result = TrialResult(f"{number:04d}", {BUDGET: budget}, "finished")
        scheduler.on_trial_add(None, trial)
        for round in range(1, 9):
            row = {"round": round, "score": level * round}
            result.rounds.append(row)
            if round < 8 and scheduler.on_trial_result(None, trial, row) == TrialScheduler.STOP:
                result.status = "stopped"
                break
        scheduler.on_trial_complete(None, trial, result.rounds[-1])
        done.append(result)
    return done


def by_hand(trials, at=(2, 4), quantile=50):
    """Rounds by the definition: at rounds 2 and 4, go on unless below the median of who was there before."""
    rungs = {}
    rounds = []
    for budget, level in trials:
        reached = 8
        for rung in at:
            before = rungs.setdefault((budget, rung), [])
            stop = bool(before) and level * rung < np.percentile(before, quantile)
            before.append(level * rung)
            if stop:
                reached = rung
                break
        rounds.append(reached)
    return rounds


def some_trials(n, seed=0):
    levels = np.random.default_rng(seed).random(n)
    return [((1, 4)[i % 2], float(level) + 5 * (i % 2)) for i, level in enumerate(levels)]


def test_the_weaker_half_of_each_budget_stops():
    trials = some_trials(40)
    done = play(HalvingByBudget(PLAN), trials)
    assert [len(result.rounds) for result in done] == by_hand(trials)
    finished = [sum(r.status == "finished" for r in done if r.point[BUDGET] == budget) for budget in (1, 4)]
    assert min(finished) >= 2, "a cheap budget isn't judged by a dear one, which is far better here"
    assert {len(result.rounds) for result in done} == {2, 4, 8}


def test_one_in_four_goes_on():
    trials = some_trials(60, seed=2)
    done = play(HalvingByBudget(replace(PLAN, grace_rounds=1, keep_one_of=4)), trials)
    assert [len(result.rounds) for result in done] == by_hand(trials, at=(1, 4), quantile=75)
    assert {len(result.rounds) for result in done} == {1, 4, 8}


def test_a_resumed_sweep_judges_as_if_it_had_never_stopped():
    trials = some_trials(30, seed=1)
    whole = play(HalvingByBudget(PLAN), trials)
    first = play(HalvingByBudget(PLAN), trials[:13])
    cut = TrialResult("0013", {BUDGET: trials[13][0]}, "running", [{"round": 1, "score": 0.0}])
    rest = play(HalvingByBudget(PLAN, [*first, cut]), trials[13:])
    assert [len(r.rounds) for r in (*first, *rest)] == [len(r.rounds) for r in whole]
    forgetful = play(HalvingByBudget(PLAN), trials[13:])
    assert [len(r.rounds) for r in forgetful] != [len(r.rounds) for r in rest]

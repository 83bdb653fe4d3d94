"""Where a run stands against what it had already (zero-shot, the round before, its own best one), and what is to come.

Only words are made of it. No round, head or stopping rule looks at the test set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from psp_ray.config.config import Config
from psp_ray.posterior.accuracy import telling
from psp_ray.report.progress import percent
from psp_ray.run.context import RunContext
from psp_ray.run.output import newest_estimate
from psp_ray.run.state import RunState
from psp_ray.run.stopping import NET, RECENT, Expectation, Measure, expected_gain, outlook

MARGIN = 0.01
"""Accuracy that is lower by less is not called lower; nor is what lies within a standard error."""
SURE = 0.7
"""So many standard errors of the accuracy of one round are taken for noise when two rounds are compared."""


def setback(state: RunState, split: str) -> str:
    """What speaks against calling it well that little more is to be gained: the newest classifier is worse than one
    before, on the images of `split` or, without any, by estimates that leave no doubt. Empty where nothing does."""
    if state.zero_shot is not None:
        return fallen(state.zero_shot.accuracy, reached_by(state), state.zero_shot.n, split)
    newest, before = newest_estimate(state), state.zero_shot_estimate
    if newest is None or not newest[0] or not telling(newest[1]) or not telling(before):
        return ""
    if newest[1].high >= before.low:
        return ""
    return f"pool accuracy, about {percent(newest[1].value)}, is below zero-shot's, about {percent(before.value)}"


def reached_by(state: RunState) -> list[float]:
    """Accuracy (0..1) on the test set after each round that was judged on one."""
    return [report.test_accuracy for report in state.reports if report.test_accuracy is not None]


def remedy(config: Config, out: Path) -> str:
    """What may help where there is a `setback` of the run in `out`: what its settings leave to try, at no new label."""
    other = "ust" if config.selftrain.self_training == "none" else "none"
    return (
        f"look at the classes in report.html, and try --self-training {other} or another --head (now "
        f"{config.learn.head}) in a new run with --initial-labels "
        f"{out / 'labels.parquet'}, which buys no label twice (docs/troubleshooting.md)"
    )


def more_is_enough(state: RunState) -> bool:
    """Whether rounds like the last ones are expected to bring little more, and accuracy has stopped to move."""
    expectation = expected_gain([report.predictions_changed for report in state.reports])
    if expectation is None or not expectation.enough:
        return False
    reached = reached_by(state)
    return state.zero_shot is None or not reached or not moving(reached, state.zero_shot.n)


def fallen(zero_shot: float, accuracies: Sequence[float], n: int, split: str) -> str:
    """The same of `accuracies` after each round (0..1), measured on `n` images of `split`."""
    if not accuracies:
        return ""
    now = accuracies[-1]

    def above(value: float) -> bool:
        return value > now + max(MARGIN, math.sqrt(value * (1 - value) / max(n, 1)))

    best = max(accuracies)
    if above(zero_shot):
        return f"{split} accuracy, {percent(now)}, is below zero-shot's {percent(zero_shot)}"
    if len(accuracies) > 1 and above(accuracies[-2]):
        return f"{split} accuracy has just fallen from {percent(accuracies[-2])} to {percent(now)}"
    if above(best):
        return f"{split} accuracy, {percent(now)}, is below the {percent(best)} of round {accuracies.index(best) + 1}"
    return ""


def moving(accuracies: Sequence[float], n: int) -> bool:
    """Whether accuracy after one of the last `RECENT` rounds (0..1, on `n` images) was another than the round before.

    In skewed pools few predictions may change, and with them what is said of whole classes. Where accuracy had not
    moved so when "enough" was said, four more rounds seldom brought more than two points (docs/method.md).
    """
    late = accuracies[-1 - RECENT :]
    noise = max(MARGIN, SURE * math.sqrt(late[-1] * (1 - late[-1]) / max(n, 1)))
    return any(abs(now - before) > noise for before, now in pairwise(late))


def prospect(run: RunContext, state: RunState, expectation: Expectation | None, against: str) -> str:
    """The line after a round (`psp_ray.run.stopping.outlook`); `against`: the `setback`."""
    measure, newest = measured(run, state), state.reports[-1]
    return outlook(expectation, newest.predictions_changed, run.n_query, measure, against)


def measured(run: RunContext, state: RunState) -> Measure:
    """Where accuracy is read after the newest round, and whether it has just moved."""
    measure = Measure(len(run.stop_set), run.config.data.evaluate_on)
    if state.zero_shot is None or state.reports[-1].test_accuracy is None:
        return measure
    reached = reached_by(state)
    changed = [report.predictions_changed for report in state.reports if report.test_accuracy is not None]
    measure = replace(measure, tested=state.zero_shot.n, accuracy=reached[-1])
    return replace(measure, moving=moving(reached, measure.tested), excess=excess(reached, changed, measure))


def excess(accuracies: Sequence[float], changed: Sequence[float], measure: Measure) -> float:
    """The furthest move of accuracy in the last `RECENT` rounds, in units of its reach; 0 in the first round.

    `accuracies` (t,) after each round, `changed` (t,): the share of predictions that it changed.
    """
    late = list(zip(pairwise(accuracies), changed[1:], strict=False))[-RECENT:]
    return max((abs(now - before - NET * share) / measure.reach(share) for (before, now), share in late), default=0.0)

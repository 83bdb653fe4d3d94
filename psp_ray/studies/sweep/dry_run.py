"""What a sweep would try: all that can be told without starting Ray, encoding or buying anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from psp_ray.core.words import counted
from psp_ray.studies.sweep.plan import (
    DONE,
    Plan,
    check_sweep_out,
    listed_points,
    load_trials,
    trial_name,
    varied,
    with_former_names,
)
from psp_ray.studies.sweep.space import BUDGET, Point, told


def planned(plan: Plan, out: Path, resume: bool, num_samples: int) -> Iterator[str]:
    """A line for every trial, and how many are ahead. Writes nothing.

    Raises:
        OutputError: `out` can't be used. ConfigError: a grid over an interval.
    """
    plan = with_former_names(out, plan)
    check_sweep_out(out, plan, resume)
    done = {trial.name for trial in load_trials(out) if trial.status in DONE}
    if plan.searcher == "optuna":
        budgets = ",".join(map(str, plan.labels_per_class))
        trials = counted(num_samples, "trial")
        yield f"{trials} that Optuna chooses one after the other, judged on val; nothing was started"
        yield f"varied: {varied(plan)} {BUDGET}={budgets}"
        return
    ahead = 0
    for number, point in enumerate(listed_points(plan, num_samples)):
        name = trial_name(number, point)
        ahead += name not in done
        yield f"{name}: {told(point)}: {_labels(plan, point)}{', done' if name in done else ''}"
    yield f"{counted(ahead, 'trial')}, judged on val; nothing was started"


def _labels(plan: Plan, point: Point) -> str:
    """Labels of a trial by data set."""
    size = int(point[BUDGET])
    return ", ".join(f"{name} {plan.rounds} x {size * plan.classes[name]} labels" for name in plan.datasets)

"""Early stopping by round: asynchronous successive halving (ASHA) among trials of the same budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

from psp_ray.studies.sweep.plan import DONE, Plan, TrialResult
from psp_ray.studies.sweep.space import BUDGET


class Judged(Protocol):
    """What the schedulers look at of a trial: Ray Tune's own, or one of an earlier session."""

    trial_id: str
    config: dict[str, Any]


class HalvingByBudget(FIFOScheduler):
    """Ray Tune's ASHA, one for each budget: more labels would always win, and the cheap budgets would be stopped.

    Trials of earlier sessions are on its rungs, so a resumed sweep judges as if it had never been interrupted.
    """

    def __init__(self, plan: Plan, earlier: Sequence[TrialResult] = ()):
        super().__init__()  # type: ignore[no-untyped-call]  # Ray's
        self._of_budget = {
            budget: ASHAScheduler(
                time_attr="round",
                metric="score",
                mode="max",
                max_t=plan.rounds,
                grace_period=min(plan.grace_rounds, plan.rounds),
                reduction_factor=plan.keep_one_of,
            )
            for budget in plan.labels_per_class
        }
        for result in earlier:
            if result.status in DONE:
                past = _Past(result.name, {"point": result.point})
                self.on_trial_add(None, past)
                for row in result.rounds:
                    self.on_trial_result(None, past, dict(row))

    def on_trial_add(self, tune_controller: TuneController | None, trial: Judged) -> None:
        self._scheduler(trial).on_trial_add(cast(TuneController, tune_controller), cast(Trial, trial))

    def on_trial_result(self, tune_controller: TuneController | None, trial: Judged, result: dict[str, Any]) -> str:
        return str(
            self._scheduler(trial).on_trial_result(cast(TuneController, tune_controller), cast(Trial, trial), result)
        )

    def on_trial_complete(self, tune_controller: TuneController | None, trial: Judged, result: dict[str, Any]) -> None:
        self._scheduler(trial).on_trial_complete(cast(TuneController, tune_controller), cast(Trial, trial), result)

    def on_trial_remove(self, tune_controller: TuneController | None, trial: Judged) -> None:
        self._scheduler(trial).on_trial_remove(cast(TuneController, tune_controller), cast(Trial, trial))

    def _scheduler(self, trial: Judged) -> ASHAScheduler:
        return self._of_budget[trial.config["point"][BUDGET]]


@dataclass
class _Past:
    """A trial of an earlier session."""

    trial_id: str
    config: dict[str, Any]

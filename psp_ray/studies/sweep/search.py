"""Which point a trial tries: a list made beforehand, or Optuna's proposals. Both know what was tried before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ray.tune.search import Searcher

from psp_ray.core.errors import ConfigError
from psp_ray.studies.sweep.plan import DONE, TrialResult, load_trial, trial_name
from psp_ray.studies.sweep.space import BUDGET, Dimension, Point

if TYPE_CHECKING:
    from optuna.trial import Trial, TrialState


class Source(Protocol):
    """Where points come from."""

    def next(self) -> tuple[str, Point] | None:
        """Name and point of the next trial; None where there is no more."""

    def tell(self, result: TrialResult) -> None:
        """What came of it: finished, failed, or with the rounds that it was let do."""


class PointSearcher(Searcher):
    """Hands Ray Tune the points of a source, and tells the source what came of them."""

    def __init__(self, folder: Path, source: Source):
        super().__init__(metric="score", mode="max")
        self._folder, self._source = folder, source
        self._under_way: dict[str, tuple[str, Point]] = {}

    def suggest(self, trial_id: str) -> Any:  # Ray types its own FINISHED away
        given = self._source.next()
        if given is None:
            return Searcher.FINISHED
        self._under_way[trial_id] = given
        name, point = given
        return {"folder": str(self._folder), "name": name, "point": point}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        name, point = self._under_way.pop(trial_id, (None, None))
        if point is not None and name is not None:
            found = load_trial(self._folder, name)
            self._source.tell(TrialResult(name, point, "failed") if error or found is None else found)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the folder of the sweep is what a restart reads."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""


class ListSource:
    """Points in order, less those whose trials are done."""

    def __init__(self, points: Sequence[Point], done: set[str]):
        named = [(trial_name(number, point), point) for number, point in enumerate(points)]
        self.pending = [(name, point) for name, point in named if name not in done]
        self._next = iter(self.pending)

    def next(self) -> tuple[str, Point] | None:
        return next(self._next, None)

    def tell(self, result: TrialResult) -> None:
        """A list doesn't learn."""


class OptunaSource:
    """Optuna's tree-structured Parzen estimator, one study a budget: more labels would always win.

    Trials that ASHA stopped early count as pruned: the estimator ranks them behind those that went further, by their
    score after the same number of rounds. So it learns from cheap trials, too, as BOHB (Falkner, Klein and Hutter,
    ICML 2018) does.

    It is rebuilt from the results in the folder, so a resumed sweep knows what the first part learned; trials that
    were cut off are taken up first.
    """

    def __init__(
        self, space: Sequence[Dimension], budgets: Sequence[int], count: int, seed: int, earlier: Sequence[TrialResult]
    ):
        try:
            import optuna
        except ImportError:
            raise ConfigError("--searcher optuna: Optuna is not installed; run: pip install 'psp-ray[sweep]'") from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._space, self._budgets = optuna, list(space), list(budgets)
        finished = [trial for trial in earlier if trial.status in DONE and trial.score is not None]
        self._studies = {
            budget: optuna.create_study(
                direction="maximize",
                sampler=optuna.samplers.TPESampler(
                    seed=seed + 1000 * place + len(finished), n_startup_trials=4, constant_liar=True
                ),
            )
            for place, budget in enumerate(self._budgets)
        }
        for trial in finished:
            self._studies[trial.point[BUDGET]].add_trial(
                optuna.create_trial(
                    state=self._state(trial),
                    params={d.key: d.optuna_value(trial.point[d.key]) for d in self._space},
                    distributions={d.key: d.optuna_distribution() for d in self._space},
                    value=trial.score,
                    intermediate_values=_scores(trial),
                )
            )
        self._again = [(trial.name, trial.point) for trial in earlier if trial.status not in DONE]
        self._number = max((int(trial.name.split("-")[0]) + 1 for trial in earlier), default=0)
        self._left = max(0, count - len(finished) - len(self._again))
        self.pending_count = self._left + len(self._again)
        self._asked: dict[str, Trial] = {}

    def next(self) -> tuple[str, Point] | None:
        if self._again:
            return self._again.pop(0)
        if self._left == 0:
            return None
        self._left -= 1
        budget = self._budgets[self._number % len(self._budgets)]
        asked = self._studies[budget].ask()
        point: Point = {BUDGET: budget} | {dimension.key: dimension.suggest(asked) for dimension in self._space}
        name = trial_name(self._number, point)
        self._number += 1
        self._asked[name] = asked
        return name, point

    def tell(self, result: TrialResult) -> None:
        asked = self._asked.pop(result.name, None)
        if asked is None:
            return  # taken up from an earlier session: its result is in the folder for the next one
        state = self._state(result)
        for round, score in _scores(result).items():
            asked.report(score, round)
        value = result.score if state == self._optuna.trial.TrialState.COMPLETE else None
        self._studies[result.point[BUDGET]].tell(asked, value, state=state)

    def _state(self, result: TrialResult) -> TrialState:
        states = self._optuna.trial.TrialState
        if result.status == "finished":
            return states.COMPLETE
        return states.FAIL if result.status == "failed" or not result.rounds else states.PRUNED


def _scores(result: TrialResult) -> dict[int, float]:
    """The score after each round."""
    return {number: row["score"] for number, row in enumerate(result.rounds, 1)}

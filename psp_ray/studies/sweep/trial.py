"""One trial: a point of the space, run on all data sets in step, a round of each at a time."""

from __future__ import annotations

import time
import traceback
from pathlib import Path
from typing import Any

from ray import tune

from psp_ray.config.config import Config
from psp_ray.core.errors import Interrupted, OthersError, UserError
from psp_ray.core.files import write_text
from psp_ray.core.others import fault_of
from psp_ray.studies.sweep.plan import TrialResult, load_plan, load_trial, place_of
from psp_ray.studies.sweep.references import References, load_references
from psp_ray.studies.sweep.stepwise import StepwiseRun


class SweepTrial(tune.Trainable):
    """Ray Tune's view of a trial. A step is a round; reports `round`, `score`, `labels` and accuracies.

    `config` holds `folder` (the sweep's), `name` and `point`; all else is read from the folder. What Tune stops, fails
    or loses goes on from the runs' own checkpoints.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._runs: dict[str, StepwiseRun] = {}
        self._folder = Path(config["folder"])
        self._plan = load_plan(self._folder)
        self._references = load_references(self._folder, self._plan)
        self._result = TrialResult(config["name"], config["point"])
        earlier = load_trial(self._folder, config["name"])
        self._earlier_seconds = earlier.seconds if earlier else 0.0
        self._started = time.perf_counter()
        self._round = 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start another trial in this process: importing torch takes longer than a round."""
        self.cleanup()
        self.config = new_config
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        try:
            return self._step()
        except (KeyboardInterrupt, SystemExit, Interrupted):
            raise  # somebody ends the sweep: the trial goes on when it is resumed
        except BaseException as error:
            self._result.status = "failed"
            self._result.error = one_line(error)
            self._result.save(self._folder)
            write_text(self._folder / "trials" / self._result.name / "error.txt", details_of(error))
            raise

    def _step(self) -> dict[str, Any]:
        if not self._runs:
            self._runs = {name: StepwiseRun(self._config_of(name)) for name in self._plan.datasets}
        self._round += 1
        done = self._round >= self._plan.rounds
        report: dict[str, Any] = {"round": self._round, "labels": 0}
        accuracy: dict[str, float] = {}
        labels: dict[str, int] = {}
        for name, stepwise in self._runs.items():
            row = stepwise.next_round()
            accuracy[name], labels[name] = float(row["test_accuracy"]), int(row["labels_total"])
            report[f"accuracy/{name}"] = accuracy[name]
            report["labels"] += labels[name]
            if done:
                stepwise.finish()
        report["score"] = score_of(accuracy, self._references)
        self._result.rounds.append(
            {"round": self._round, "score": report["score"], "accuracy": accuracy, "labels": labels}
        )
        self._result.seconds = self._earlier_seconds + time.perf_counter() - self._started
        self._result.status = "finished" if done else "running"
        self._result.save(self._folder)
        return {**report, "done": done}

    def _config_of(self, dataset: str) -> Config:
        out = place_of(self._folder / "trials" / self._result.name, dataset)
        ledger = self._plan.ledger(self._folder)
        return self._plan.config(dataset, self._result.point, out=str(out), resume=True, ledger=ledger)

    def cleanup(self) -> None:
        for stepwise in self._runs.values():
            stepwise.close()
        self._runs = {}


def score_of(accuracy: dict[str, float], references: dict[str, References]) -> float:
    """Mean over the data sets of the accuracy on the scale 0 = random, 1 = full."""
    return sum(references[name].normalized(value) for name, value in accuracy.items()) / len(accuracy)


def details_of(error: BaseException) -> str:
    """The traceback; of what another package did in another process, the one from there."""
    return error.details if isinstance(error, OthersError) else "".join(traceback.format_exception(error))


def one_line(error: BaseException) -> str:
    error = fault_of(error) or error
    text = " ".join(str(error).split())
    return (text if isinstance(error, UserError) else f"{type(error).__name__}: {text}")[:500]

"""A line for every trial that ends, and its status in the sweep's folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
from ray.tune import Callback

from psp_ray.core.files import write_text
from psp_ray.report.progress import duration
from psp_ray.studies.sweep.plan import DONE, Plan, TrialResult, load_trial
from psp_ray.studies.sweep.space import told
from psp_ray.studies.tracking import StudyTracker


class TrialLines(Callback):
    """Prints how each trial ended. What a dead process couldn't write itself, this does."""

    def __init__(self, folder: Path, plan: Plan, total: int, tracker: StudyTracker | None = None):
        self._folder, self._plan, self._total, self._tracker = folder, plan, total, tracker
        self.ended = 0
        self._started = time.monotonic()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        result = self._result(trial)
        if result.status == "running":  # the scheduler's decision
            result.status = "stopped"
            result.save(self._folder)
        self._say(result)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        result = self._result(trial)
        if result.status != "failed":
            result.status = "failed"
            result.error = _last_line(trial) or "its process died"
            result.save(self._folder)
            text = Path(trial.error_file).read_text() if trial.error_file else result.error
            write_text(self._folder / "trials" / result.name / "error.txt", text)
        self._say(result)

    def _result(self, trial: Any) -> TrialResult:
        name, point = trial.config["name"], trial.config["point"]
        return load_trial(self._folder, name) or TrialResult(name, point)

    def _track(self, result: TrialResult) -> None:
        if self._tracker is None:
            return
        steps = {
            row["round"]: {"score": row["score"]}
            | {f"accuracy_{name}": value for name, value in row["accuracy"].items()}
            | {f"labels_{name}": float(value) for name, value in row["labels"].items()}
            for row in result.rounds
        }
        folder = self._folder / "trials" / result.name
        self._tracker.child(result.name, folder, result.point, steps, ended=result.status in DONE)

    def _say(self, result: TrialResult) -> None:
        self.ended += 1
        self._track(result)
        elapsed = time.monotonic() - self._started
        left = elapsed / self.ended * (self._total - self.ended)
        head = f"{self.ended}/{self._total} {result.name} {told(result.point)}"
        if result.status == "failed" or not result.rounds:
            click.echo(f"{head}: FAILED: {result.error}")
            return
        last = result.rounds[-1]
        accuracies = ", ".join(f"{name} {value:.1%}" for name, value in last["accuracy"].items())
        early = f" (stopped after round {last['round']})" if result.status == "stopped" else ""
        rest = f", about {duration(left)} left" if self.ended < self._total else ""
        click.echo(f"{head}: {accuracies}, score {last['score']:.3f}{early}, {duration(result.seconds)}{rest}")


def _last_line(trial: Any) -> str:
    if not trial.error_file:
        return ""
    lines = [line.strip() for line in Path(trial.error_file).read_text().splitlines() if line.strip()]
    return lines[-1][:500] if lines else ""

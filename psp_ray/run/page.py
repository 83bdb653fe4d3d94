"""`report.html` of a run: its files, looked at, in words and figures."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from psp_ray.config.base import option_name
from psp_ray.config.config import Config, default_of
from psp_ray.core.answers import IGNORE, SKIP
from psp_ray.core.files import write_text
from psp_ray.core.words import counted
from psp_ray.features.featurize import FeaturizedDataset
from psp_ray.posterior.accuracy import Estimate, limits, telling
from psp_ray.posterior.calibration import caution
from psp_ray.report.figures import CurvePoint, import_figures
from psp_ray.report.progress import duration, interval, percent
from psp_ray.report.run_page import Facts, RunPage, run_page
from psp_ray.run.looked_at import LookedAt, look_at
from psp_ray.run.output import newest_estimate, versions
from psp_ray.run.page_parts import (
    Pictures,
    Seen,
    calibration_of,
    change_of,
    class_names,
    classes_of,
    confusion_of,
    map_of,
    pseudo_of,
)
from psp_ray.run.picked import picked_of
from psp_ray.run.standing import remedy, setback
from psp_ray.run.state import RunState
from psp_ray.run.watching import Watched

PAGE = "report.html"
CHEAP = 0.1
"""The largest share of a round's time that its page may take."""
FIRST_COST = 2.0
"""Seconds that the first page is taken to need."""
_HIDDEN = frozenset({"preset", "out", "resume"})


def write_page(out: Path, data: FeaturizedDataset | None = None, pictures: Pictures | None = None) -> Path:
    """Write `report.html` into a run's folder, finished or not; returns its path.

    Raises:
        OutputError: no run there, or one of another version.
    """
    text = run_page(make_page(look_at(out, data), pictures or Pictures()))
    write_text(out / PAGE, text)
    return out / PAGE


class KeptPage:
    """Keeps `report.html` up to date while a run goes on: after a round where that takes a small part of it, and when
    the run ends or rests. A page that can't be written is a warning; the run goes on."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._pictures = Pictures()
        self._cost = FIRST_COST
        self._warmed = False

    def after_round(self, run: Watched, state: RunState) -> None:
        if state.reports and run.config.runtime.runner == "ray" and not self._warmed:
            self._warmed = True  # this process waits for actors now; at the end somebody waits for the page
            threading.Thread(target=import_figures, name="warm-up", daemon=True).start()
        if state.reports and self._cost <= CHEAP * state.reports[-1].wall_seconds:
            self._write(run)

    def at_end(self, run: Watched, state: RunState | None, finished: bool) -> None:
        if self._write(run):
            run.events.note(f"report: {run.out / PAGE}")

    def _write(self, run: Watched) -> bool:
        started = self._clock()
        try:
            write_page(run.out, run.data, self._pictures)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            run.events.warn(f"{run.out / PAGE} was not written ({reason}); psp-ray report {run.out} tries again")
            return False
        self._cost = self._clock() - started
        return True


def make_page(run: LookedAt, pictures: Pictures) -> RunPage:
    """All that the files of a run tell."""
    state, names, seen = run.state, class_names(run), Seen.of(run)
    curves, temperature, calibrated_by = calibration_of(run, seen)
    return RunPage(
        title=f"psp-ray · {Path(run.config.data.dataset).name} · {run.config.policy.shown_strategy}",
        answer=answer(run),
        state=state_line(run),
        rounds=() if state is None else state.reports,
        curve=() if state is None else curve_points(state),
        split=run.config.data.evaluate_on,
        summary=_summary(run),
        picked=picked_of(run, seen, pictures),
        pool_map=None if seen is None else map_of(run, seen, pictures),
        class_names=names,
        classes=classes_of(run, names, seen),
        confusion=confusion_of(run, names, seen),
        pseudo=pseudo_of(run),
        change=None if seen is None else change_of(run, names, seen),
        calibration=curves,
        temperature=temperature,
        calibrated_by=calibrated_by,
        caution=caution(calibrated_by),
        facts=_facts(run),
        notes=[f"Left out: map, pictures, and accuracy by class ({run.missing})."] if run.missing else [],
    )


# -- in words --------------------------------------------------------------------------------------------------------


def answer(run: LookedAt) -> str:
    """The one sentence that the page begins with."""
    state, status = run.state, run.summary.get("status")
    awaiting = run.summary.get("awaiting") or {}
    waits = ""
    if awaiting:
        verb = "is" if awaiting["missing"] == 1 else "are"
        waits = f"{counted(awaiting['missing'], 'label')} of round {awaiting['round']} {verb} waited for"
    if state is None and run.summary.get("zero_shot_accuracy") is not None and status == "finished":
        told = percent(run.summary["zero_shot_accuracy"])
        return f"Zero-shot gets {told} of the {run.config.data.evaluate_on} images right; no label was bought."
    if state is None or not state.reports:
        return f"Nothing has been learned yet{f': {waits}' if waits and status == 'awaiting_labels' else ''}."
    text = f"{reached(state, run.config)} with {counted(len(state.labeled), 'label')}"
    if state.zero_shot is not None:
        text += f" (without any: {percent(state.zero_shot.accuracy)})"
    if status == "finished":
        against = setback(state, run.config.data.evaluate_on)
        ended = f"{text}{f'; stopped early, since {state.stopped}' if state.stopped else ''}."
        return f"{ended} But {against}: {remedy(run.config, run.out)}." if against else ended
    rest = f"round {state.round} of {run.config.labels.rounds} is done"
    if status == "awaiting_labels" and awaiting.get("round") == state.round + 1:
        rest += f", and {waits}"
    return f"{text}; {rest}."


def reached(state: RunState, config: Config) -> str:
    """What the newest classifier gets right, as far as anybody knows."""
    last = state.reports[-1]
    if last.test_accuracy is not None:
        return f"The classifier gets {percent(last.test_accuracy)} of the {config.data.evaluate_on} images right"
    found = newest_estimate(state)
    if found is not None and telling(found[1]):
        number, estimate = found
        whose = (
            "The classifier"
            if number == state.round
            else f"The classifier of round {number}"
            if number
            else "Zero-shot"
        )
        return f"{whose} gets about {interval(estimate)} of the pool right, judged by labels it hadn't seen,"
    return "How good the classifier is cannot be said (no test set, too few labels drawn by chance)"


def state_line(run: LookedAt) -> str:
    """Where the run stands, and where it lies."""
    status = run.summary.get("status") if run.state is None or run.summary else None
    words = {"finished": "finished", "awaiting_labels": "waits for labels", "interrupted": "interrupted"}
    rounds = 0 if run.state is None else run.state.round
    if run.summary and len(run.summary.get("rounds", ())) < rounds:
        status = None  # the summary is of an earlier session: the run goes on, or was killed
    return (
        f"{words.get(str(status), 'under way, or killed')} · round {rounds} of {run.config.labels.rounds} · {run.out}"
    )


def curve_points(state: RunState) -> list[CurvePoint]:
    """Zero-shot and every round."""
    n = 0 if state.zero_shot is None else state.zero_shot.n
    first = CurvePoint(0, 0, None if state.zero_shot is None else _reach(state.zero_shot.accuracy, n),
                       _told(state.zero_shot_estimate))  # fmt: skip
    return [first] + [
        CurvePoint(
            report.round,
            report.labels_total,
            None if report.test_accuracy is None else _reach(report.test_accuracy, n),
            _told(report.pool_accuracy_estimate),
        )
        for report in state.reports
    ]


def _reach(accuracy: float, n: int) -> tuple[float, float, float]:
    return (accuracy, *limits(round(accuracy * n), n)) if n else (accuracy, accuracy, accuracy)


def _told(estimate: Estimate | None) -> Estimate | None:
    return estimate if telling(estimate) else None


def _summary(run: LookedAt) -> list[tuple[str, str]]:
    state = run.state
    if state is None:
        return []
    last = state.reports[-1] if state.reports else None
    found = [
        ("labels", f"{len(state.labeled):,}"),
        ("answers paid in this run", f"{state.labels_paid:,}"),
        ("drawn by chance", f"{int(state.by_chance.sum()):,}"),
    ]
    initial = int((state.asked_in == 0).sum())
    if initial:
        found.append(("known beforehand", f"{initial:,}"))
    for name, value in (("skipped", SKIP), ("ignored", IGNORE)):
        if (state.answers == value).any():
            found.append((name, f"{int((state.answers == value).sum()):,}"))
    if last is not None and last.pseudo_labels:
        found.append(("pseudo-labels", f"{last.pseudo_labels:,}"))
    if last is not None and last.test_macro_accuracy is not None:
        found.append(("mean over classes", percent(last.test_macro_accuracy)))
    seconds = state.wall_seconds if run.summary.get("status") != "finished" else run.summary["wall_seconds"]
    return [*found, ("time", duration(seconds))]


def _facts(run: LookedAt) -> Facts:
    given = run.config.flat()
    own = [(key, value) for key, value in given.items() if value != default_of(key) and key not in _HIDDEN]
    known = run.summary.get("versions") or versions()
    return Facts(
        settings=[(option_name(key), _shown(value)) for key, value in own],
        all_settings=[(option_name(key), _shown(value)) for key, value in given.items()],
        versions=[(name.replace("_", "-"), str(value)) for name, value in known.items() if value],
        written=f"{datetime.now():%Y-%m-%d %H:%M}",
    )


def _shown(value: Any) -> str:
    return "–" if value is None else str(value)

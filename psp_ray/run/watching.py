"""Who looks on while a run writes its folder: the page, trackers. None of them can end it or change its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from psp_ray.config.config import Config
from psp_ray.features.featurize import FeaturizedDataset
from psp_ray.report.tracking import TRACKERS, Tracked, Tracker, metrics_of, open_tracked
from psp_ray.run.events import Events
from psp_ray.run.state import RunState


@dataclass(frozen=True)
class Watched:
    """A run, to who looks on."""

    out: Path
    config: Config
    data: FeaturizedDataset
    events: Events


class Watcher(Protocol):
    """Told when a round, and when everything so far, is safe on disk."""

    def after_round(self, run: Watched, state: RunState) -> None:
        """A round is done; also told of the last one of a run that is taken up again."""
        ...

    def at_end(self, run: Watched, state: RunState | None, finished: bool) -> None:
        """The run has `finished`, or rests."""
        ...


class RunTracker:
    """Logs every round to a tracking tool. What the tool can't do is a warning, and ends the tracking, not the run."""

    def __init__(self, tool: str):
        self._kind = TRACKERS.find(tool)
        self._tool = tool
        self._tracker: Tracker | None = None
        self._run: Tracked | None = None
        self._logged = 0
        self._broken = False

    def check(self, out: Path) -> None:
        """Raise a ConfigError where the tool is not installed, before anything is written."""
        self._tracker = self._kind(out)

    def after_round(self, run: Watched, state: RunState) -> None:
        self._try(run, lambda: self._log(run, state))

    def at_end(self, run: Watched, state: RunState | None, finished: bool) -> None:
        def end() -> None:
            if state is not None:
                self._log(run, state)
            if self._run is None:
                return
            for name in ("report.html", "learning_curve.png", "summary.json", "config.yaml"):
                if finished and (run.out / name).is_file():
                    self._run.attach(run.out / name)
            self._run.end(finished)
            self._run = None

        self._try(run, end)

    def _log(self, run: Watched, state: RunState) -> None:
        if self._run is None:
            self._tracker = self._tracker or self._kind(run.out)
            self._run = open_tracked(self._tracker, run.out, run.out.absolute().name, run.config.flat())
        if not self._logged and state.zero_shot is not None:
            self._run.log(0, {"labels": 0.0, "accuracy": state.zero_shot.accuracy})
        for report in state.reports[self._logged :]:
            self._run.log(report.round, metrics_of(report))
        self._logged = len(state.reports)

    def _try(self, run: Watched, act: Callable[[], None]) -> None:
        if self._broken:
            return
        try:
            act()
        except Exception as error:
            self._broken = True
            run.events.warn(f"--track {self._tool} failed and is left out from here ({type(error).__name__}: {error})")

"""`--track` of comparisons and sweeps: a parent, and a child for each run or trial that has ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from psp_ray.report.tracking import TRACKERS, Tracked, Tracker, open_tracked


class StudyTracker:
    """Logs what ends to a tracking tool; without a tool it does nothing.

    What the tool can't do is told to `warn` once, and ends the tracking, not the study. Who ended in an earlier session
    has its entry already.

    Raises:
        ConfigError: the tool is unknown, or not installed.
    """

    def __init__(self, tool: str | None, folder: Path, settings: Mapping[str, Any], warn: Callable[[str], None]):
        self._tool, self._folder, self._settings, self._warn = tool, folder, settings, warn
        self._tracker: Tracker | None = None if tool is None else TRACKERS.find(tool)(folder)
        self._parent: Tracked | None = None

    def child(
        self,
        name: str,
        folder: Path,
        settings: Mapping[str, Any],
        steps: Mapping[int, Mapping[str, float]],
        ended: bool,
    ) -> None:
        """A run or trial in `folder`: its settings, and its numbers by step."""

        def log() -> None:
            assert self._tracker is not None
            if self._parent is None:
                self._parent = open_tracked(self._tracker, self._folder, self._folder.name, self._settings)
            run = open_tracked(self._tracker, folder, name, settings, self._parent)
            for step, metrics in steps.items():
                run.log(step, metrics)
            run.end(ended)

        self._try(log)

    def end(self, finished: bool, files: tuple[str, ...] = ("report.html", "table.md", "report.md")) -> None:
        """Nothing more comes in this session."""

        def close() -> None:
            if self._parent is None:
                return
            for name in files:
                if (self._folder / name).is_file():
                    self._parent.attach(self._folder / name)
            self._parent.end(finished)

        self._try(close)

    def _try(self, act: Callable[[], None]) -> None:
        if self._tracker is None:
            return
        try:
            act()
        except Exception as error:
            self._tracker = None
            self._warn(f"--track {self._tool} failed and is left out from here ({type(error).__name__}: {error})")

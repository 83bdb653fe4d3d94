"""A run that stops after every round until it is let go on, so that a trial can take several data sets in step."""

from __future__ import annotations

import queue
import threading
from typing import Any

from rich.console import Console

from psp_ray.config.config import Config
from psp_ray.core.records import Evaluation
from psp_ray.report.progress import Reporter
from psp_ray.run.command import run


class _Abandoned(BaseException):
    """The trial is over; the run's last checkpoint stays."""


class StepwiseRun:
    """`psp_ray.run.command.run` in a thread of its own, which waits at the end of each round.

    A run that is taken up again hands out the rounds of its checkpoint first, at once.
    """

    def __init__(self, config: Config):
        self._config = config
        self._go = threading.Semaphore(0)
        self._told: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._abandoned = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._handed = 0
        self.zero_shot: float | None = None

    def next_round(self) -> dict[str, Any]:
        """Let the run go on to the end of its next round; returns that round's row. Raises what the run raised."""
        row: dict[str, Any] = self._next("round")
        return row

    def finish(self) -> dict[str, Any]:
        """Let the run write its results after its last round; returns its summary."""
        summary: dict[str, Any] = self._next("end")
        self._thread.join()
        return summary

    def close(self) -> None:
        """End the run where it waits; waits for a round under way."""
        self._abandoned = True
        self._go.release()
        if self._thread.is_alive():
            self._thread.join()

    def _next(self, expected: str) -> Any:
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._go.release()
        kind, value = self._told.get()
        if kind == "error":
            raise value
        if kind != expected:
            raise AssertionError(f"the run told {kind!r}, not {expected!r}")
        return value

    def _work(self) -> None:
        try:
            summary = run(self._config, _Handover(self))
            for row in summary["rounds"][self._handed :]:  # it had finished before
                self.hand(row)
            self._told.put(("end", summary))
        except _Abandoned:
            pass
        except BaseException as error:
            self._told.put(("error", error))

    def hand(self, row: dict[str, Any]) -> None:
        if self._abandoned:
            raise _Abandoned
        self._handed += 1
        self._told.put(("round", row))
        self._go.acquire()
        if self._abandoned:
            raise _Abandoned


class _Handover(Reporter):
    """Says nothing, and hands each round over."""

    def __init__(self, stepwise: StepwiseRun):
        super().__init__(0, Console(quiet=True))
        self._stepwise = stepwise

    def restored(self, rows: list[dict[str, Any]], zero_shot: Evaluation) -> None:
        for row in rows:
            self._stepwise.hand(row)

    def round(self, row: dict[str, Any], warning: str = "") -> None:
        self._stepwise.hand(row)

"""What a comparison says while it runs: a line per finished run, and a live bar on a terminal."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from psp_ray.core.words import printable
from psp_ray.report.progress import duration, percent
from psp_ray.run.folder import read_summary
from psp_ray.studies.execute import Outcome, rounds_done
from psp_ray.studies.plan import Cell

LOOK_EVERY = 2.0
"""Seconds between looks at the disk for finished rounds."""


class Board:
    """Counts runs and rounds, and estimates the time left from the rounds of this session."""

    def __init__(self, console: Console, cells: list[Cell], finished: int):
        self.console = console
        self.failed = 0
        self._cells = {cell.id: cell for cell in cells}
        self._open = dict(self._cells)
        self._total, self._before = finished + len(cells), finished
        self._rounds = {cell.id: rounds_done(cell) for cell in cells}
        self._ahead = sum(cell.config.labels.rounds for cell in cells) - sum(self._rounds.values())
        self._ended_rounds = 0
        self._looked = time.monotonic()
        self._anchor: tuple[float, int] | None = None  # when the first rounds were seen, and how many: after start-up
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"))
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=max(1, self._ahead), left="")

    def __enter__(self) -> Board:
        self._bar.start()
        self._show(0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._bar.stop()

    def watch(self, cell: Cell, outcome: Outcome | None) -> None:
        """A run ended (`outcome`), or something may have moved (None)."""
        if outcome is not None:
            self._ended(cell, outcome)
        elif time.monotonic() - self._looked < LOOK_EVERY:
            return
        self._looked = time.monotonic()
        self._show(self._ended_rounds + self._moving())

    def _moving(self) -> int:
        """Rounds of this session in runs that have not ended."""
        return sum(rounds_done(item) - self._rounds[item.id] for item in self._open.values())

    def _ended(self, cell: Cell, outcome: Outcome) -> None:
        self._open.pop(cell.id)
        self._ended_rounds += cell.config.labels.rounds - self._rounds[cell.id]
        if outcome.error:
            self.failed += 1
            said = f"FAILED: {outcome.error}"
        else:
            summary = read_summary(cell.folder)
            accuracy = summary["zero_shot_accuracy"] if not summary["rounds"] else summary["final_accuracy"]
            said = f"{percent(accuracy)} ({duration(summary['wall_seconds'])})"
        left = self._left(self._ended_rounds + self._moving()) if self._open and not self.console.is_terminal else ""
        left = f", {left}" if left else ""
        done = self._total - len(self._open)
        style = "red" if outcome.error else None
        text = printable(f"[{done}/{self._total}] {cell.title}: {said}{left}")
        self.console.print(text, style=style, markup=False)

    def _show(self, rounds: int) -> None:
        done = self._total - len(self._open)
        failed = f", {self.failed} failed" if self.failed else ""
        text = f"{done}/{self._total} runs{failed}, {rounds}/{self._ahead} rounds"
        self._bar.update(self._task, completed=rounds, description=text, left=self._left(rounds))

    def _left(self, rounds: int) -> str:
        now = time.monotonic()
        if self._anchor is None and rounds > 0:
            self._anchor = now, rounds
        if self._anchor is None or rounds <= self._anchor[1]:
            return ""
        start, first = self._anchor
        return f"about {duration((now - start) / (rounds - first) * max(0, self._ahead - rounds))} left"

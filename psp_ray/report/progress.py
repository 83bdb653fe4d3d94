"""What a run says while it runs: one line a round, and a live line for the stage under way on a terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.table import Table

from psp_ray.core.records import Evaluation
from psp_ray.posterior.accuracy import telling

_SHOWN = {
    "propose": "propose",
    "label": "label",
    "pseudo_label": "pseudo-label",
    "learn": "learn",
    "evaluate": "evaluate",
    "reward": "reward",
    "update": "update",
    "checkpoint": "checkpoint",
}

LOOKING = "looking at the images"
LONG = 5.0
"""Seconds from which something is long enough to be told of."""


class Reporter:
    """Prints progress to a rich console; quiet runs pass `Console(quiet=True)`."""

    def __init__(self, rounds: int, console: Console | None = None):
        self.rounds = rounds
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._status: Status | None = None
        self._last_line = 0.0
        self._usual: dict[str, float] = {}

    def note(self, text: str) -> None:
        """A line of its own."""
        self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        self.console.print(f"warning: {text}", style="yellow", markup=False)

    def stage(self, round: int, name: str) -> None:
        """A stage of a round begins; where it took seconds in the round before, that says how long."""
        usual = self._usual.get("learn" if name.startswith("judge") else name, 0.0)
        hint = f" (about {duration(usual)})" if usual >= LONG else ""
        self._live(f"round {round}/{self.rounds}: {_SHOWN.get(name, name)}{hint} …")

    def featurizing(self, done: int, total: int, rate: float, eta: float) -> None:
        """Featurizing progress: images done and in all, images per second, seconds left."""
        self._progress("featurizing", "encodings", done, total, rate, eta)

    def images(self, what: str, done: int, total: int, seconds: float) -> None:
        """How many of `total` images are done with `what`, in how long; said where it takes seconds."""
        rate = done / max(seconds, 1e-9)
        if seconds >= LONG or self.console.is_terminal:
            self._progress(what, "images", done, total, rate, (total - done) / max(rate, 1e-9))

    def views(self, round: int, done: int, total: int, seconds: float) -> None:
        """How many images have their views on demand, in how long."""
        self.images(f"round {round}/{self.rounds}: views on demand", done, total, seconds)

    def _progress(self, what: str, unit: str, done: int, total: int, rate: float, eta: float) -> None:
        left = f", {duration(eta)} left" if math.isfinite(eta) and done < total else ""
        text = f"{what}: {done:,}/{total:,} {unit}, {rate:.0f} a second{left}"
        if self.console.is_terminal and done < total:
            self._live(text)
        elif done >= total or time.monotonic() - self._last_line > LONG:  # a log file gets a line now and then
            self._last_line = time.monotonic()
            self.stop()
            self.note(text)

    def zero_shot(self, evaluation: Evaluation) -> None:
        self.stop()
        if evaluation.n:
            self.note(f"zero-shot accuracy: {percent(evaluation.accuracy)} on {evaluation.n:,} images")

    def initial(self, count: int, evaluation: Evaluation) -> None:
        """Prompts were learned from labels known beforehand."""
        self.stop()
        reached = f": {percent(evaluation.accuracy)}" if evaluation.n else ""
        self.note(f"learned from {count:,} initial labels{reached}")

    def restored(self, rows: list[dict[str, Any]], zero_shot: Evaluation) -> None:
        self.stop()
        self._usual = rows[-1]["seconds"] if rows else {}
        known = f" (zero-shot accuracy {percent(zero_shot.accuracy)})" if zero_shot.n else ""
        self.note(f"continuing after round {len(rows)}{known}")

    def round(self, row: dict[str, Any], warning: str = "") -> None:
        """A round is finished and safe on disk."""
        self.stop()
        seconds = row["seconds"]
        self._usual = seconds
        stages = ", ".join(f"{_SHOWN[name]} {value:.1f}" for name, value in seconds.items() if value >= 0.05)
        pseudo = ""
        if row["pseudo_labels"]:
            pseudo = f", {row['pseudo_labels']:,} pseudo-labels"
            if not math.isnan(row["pseudo_label_precision"]):
                pseudo += f" ({percent(row['pseudo_label_precision'])} right)"
        dropped = ", ".join(f"{row[word]:,} {word}" for word in ("skipped", "ignored") if row[word])
        reached = "" if math.isnan(row["test_accuracy"]) else f" -> {percent(row['test_accuracy'])}"
        self.note(
            f"round {row['round']}/{self.rounds}: {row['labels_total']:,} labels{dropped and f' ({dropped})'}{pseudo}"
            f"{reached}   [{stages} s]"
        )
        if warning:
            self.warn(warning)

    def prospect(self, row: dict[str, Any], judged: dict[str, float] | None, outlook: str) -> None:
        """What a round's draws say of the prompts that it began with, and what the next one should bring."""
        if telling(judged):
            before = "zero-shot prompts" if row["round"] == 1 else f"prompts of round {row['round'] - 1}"
            self.note(f"  by its draws, the {before} are right on {interval(judged)} of the pool")
        if outlook:
            self.note(f"  {outlook}")

    def _live(self, text: str) -> None:
        if not self.console.is_terminal:
            return
        if self._status is None:
            self._status = self.console.status(text)
            self._status.start()
        else:
            self._status.update(text)

    def stop(self) -> None:
        """Take the live line away."""
        if self._status is not None:
            self._status.stop()
            self._status = None


def counting(reporter: Reporter, what: str) -> Callable[[int, int], None]:
    """A function of (done, total) that tells `reporter` how far `what` is; its clock starts now."""
    started = time.perf_counter()
    return lambda done, total: reporter.images(what, done, total, time.perf_counter() - started)


def percent(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def interval(estimate: Mapping[str, float] | None) -> str:
    """`61.2 % (52.0 to 69.5 %)`: an estimate with its 95 % interval."""
    if estimate is None:
        return "–"
    return f"{percent(estimate['value'])} ({100 * estimate['low']:.1f} to {percent(estimate['high'])})"


def duration(seconds: float) -> str:
    """`95` -> `1 min 35 s`."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def rounds_table(rows: list[dict[str, Any]], split: str) -> Table:
    """The table of rounds that ends a run; it fits 80 columns."""
    columns = {
        "round": [str(row["round"]) for row in rows],
        "labels": [f"{row['labels_total']:,}" for row in rows],
        "pseudo-\nlabels": [f"{row['pseudo_labels']:,}" for row in rows],
        "of these\nright": [percent(row["pseudo_label_precision"]) for row in rows],
        f"{split}\naccuracy": [percent(row["test_accuracy"]) for row in rows],
        "pool accuracy\nby the draws": [
            f"{100 * e['value']:.0f} % ({100 * e['low']:.0f}–{100 * e['high']:.0f})"
            if telling(e := row["pool_accuracy_estimate"])
            else "–"
            for row in rows
        ],
        "reward": [
            "–" if row["reward"] is None or math.isnan(row["reward"]) else f"{row['reward']:.2g}" for row in rows
        ],
        "seconds": [f"{sum(row['seconds'].values()):.1f}" for row in rows],
    }
    table = Table(box=None, pad_edge=False, header_style="bold")
    shown = [title for title, cells in columns.items() if set(cells) != {"–"}]  # what is never known needs no room
    for title in shown:
        table.add_column(title, justify="right", no_wrap=True, vertical="bottom")
    for number in range(len(rows)):
        table.add_row(*(columns[title][number] for title in shown))
    return table

"""What a run says while it runs: one line a round, and a live line for the stage under way on a terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from rich.console import Console
from rich.status import Status
from rich.table import Table

from psp_ray.core.records import Evaluation
from psp_ray.core.words import counted, printable
from psp_ray.posterior.accuracy import Estimate, telling
from psp_ray.report.round_report import Next, RoundReport

LOOKING = "looking at the images"
LONG = 5.0
"""Seconds from which something is long enough to be told of."""


class Reporter:
    """Prints progress to a rich console; quiet runs pass `Console(quiet=True)`.

    It is the `Events` of a run (`psp_ray.run.events`) that people see; whoever listens otherwise may inherit from it.
    """

    def __init__(self, rounds: int, console: Console | None = None):
        self.rounds = rounds
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._status: Status | None = None
        self._last_line = 0.0
        self._usual: dict[str, float] = {}

    def note(self, text: str) -> None:
        """A line of its own."""
        self.console.print(printable(text), markup=False)

    def warn(self, text: str) -> None:
        self.console.print(f"warning: {printable(text)}", style="yellow", markup=False)

    def stage(self, round: int, name: str) -> None:
        """A stage of a round begins; where it took seconds in the round before, that says how long. Round 0: before the
        first, what takes seconds and is told in a log, too."""
        if not round:
            if self.console.is_terminal:
                self._live(f"{name} …")
            else:
                self.note(f"{name} …")
            return
        usual = self._usual.get("learn" if name.startswith("judge") else name, 0.0)
        hint = f" (about {duration(usual)})" if usual >= LONG else ""
        self._live(f"{self._name(round)}: {_shown(name)}{hint} …")

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
        self.images(f"{self._name(round)}: views on demand", done, total, seconds)

    def _progress(self, what: str, unit: str, done: int, total: int, rate: float, eta: float) -> None:
        left = f", {duration(eta)} left" if math.isfinite(eta) and done < total else ""
        text = f"{what}: {done:,}/{total:,} {unit}, {rate:.0f} a second{left}"
        if self.console.is_terminal and done < total:
            self._live(text)
        elif done >= total or time.monotonic() - self._last_line > LONG:  # a log file gets a line now and then
            self._last_line = time.monotonic()
            self.stop()
            self.note(text)

    def zero_shot(self, evaluation: Evaluation | None) -> None:
        """Accuracy of the templates before the first round, where there are images to evaluate on."""
        self.stop()
        if evaluation is not None:
            self.note(f"zero-shot accuracy: {percent(evaluation.accuracy)} on {counted(evaluation.n, 'image')}")

    def initial(self, count: int, evaluation: Evaluation | None) -> None:
        """Prompts were learned from labels known beforehand."""
        self.stop()
        reached = "" if evaluation is None else f": {percent(evaluation.accuracy)}"
        self.note(f"learned from {counted(count, 'initial label')}{reached}")

    def restored(self, reports: Sequence[RoundReport], zero_shot: Evaluation | None) -> None:
        """A run goes on after the rounds in its checkpoint."""
        self.stop()
        self._usual = reports[-1].seconds.as_dict() if reports else {}
        known = "" if zero_shot is None else f" (zero-shot accuracy {percent(zero_shot.accuracy)})"
        self.note(f"continuing after round {len(reports)}{known}")

    def round(self, report: RoundReport, warning: str = "") -> None:
        """A round is finished and safe on disk."""
        self.stop()
        self._usual = report.seconds.as_dict()
        stages = ", ".join(f"{_shown(name)} {value:.1f}" for name, value in self._usual.items() if value >= 0.05)
        pseudo = ""
        if report.pseudo_labels:
            pseudo = f", {report.pseudo_labels:,} pseudo-labels"
            if report.pseudo_label_precision is not None:
                pseudo += f" ({percent(report.pseudo_label_precision)} right)"
        counts = {"skipped": report.skipped, "ignored": report.ignored}
        dropped = ", ".join(f"{count:,} {word}" for word, count in counts.items() if count)
        reached = "" if report.test_accuracy is None else f" -> {percent(report.test_accuracy)}"
        self.note(
            f"{self._name(report.round)}: {counted(report.labels_total, 'label')}{dropped and f' ({dropped})'}{pseudo}"
            f"{reached}   [{stages} s]"
        )
        if warning:
            self.warn(warning)

    def prospect(self, report: RoundReport, judged: Estimate | None, outlook: str) -> None:
        """What is known of the classifier without a test set, and what the next round should bring.

        Of the round's own where its folds were judged, else, by the round's draws, of the one that it began with.
        """
        own = report.pool_accuracy_estimate
        if telling(own):
            self.note(f"  judged by labels that it hasn't seen, the classifier is right on {interval(own)} of the pool")
        elif telling(judged):
            before = "zero-shot prompts" if report.round == 1 else f"classifier of round {report.round - 1}"
            verb = "are" if report.round == 1 else "is"
            self.note(f"  by the draws, the {before} {verb} right on {interval(judged)} of the pool")
        if outlook:
            self.note(f"  {outlook}")

    def after_round(self, report: RoundReport) -> Next:
        """Whether to go on; a run that is shown to people always does."""
        return Next.CONTINUE

    def finished(self, reports: Sequence[RoundReport], split: str) -> None:
        """All rounds are done: a table of them."""
        self.stop()
        self.console.print()
        self.console.print(rounds_table(reports, split), width=None if self.console.is_terminal else 100)

    def _name(self, round: int) -> str:
        """A round of how many; people may add some."""
        return f"round {round}/{max(round, self.rounds)}"

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


class ImageCounter(Protocol):
    """Who is told how many images are done."""

    def images(self, what: str, done: int, total: int, seconds: float) -> None: ...


def counting(listener: ImageCounter, what: str) -> Callable[[int, int], None]:
    """A function of (done, total) that tells `listener` how far `what` is; its clock starts now."""
    started = time.perf_counter()
    return lambda done, total: listener.images(what, done, total, time.perf_counter() - started)


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def interval(estimate: Estimate | None) -> str:
    """`61.2 % (52.0 to 69.5 %)`: an estimate with its 95 % interval."""
    if estimate is None:
        return "–"
    return f"{percent(estimate.value)} ({100 * estimate.low:.1f} to {percent(estimate.high)})"


def _shown(stage: str) -> str:
    return "pseudo-label" if stage == "pseudo_label" else stage


def duration(seconds: float) -> str:
    """`95` -> `1 min 35 s`."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def rounds_table(reports: Sequence[RoundReport], split: str) -> Table:
    """The table of rounds that ends a run; it fits 80 columns."""
    columns = {
        "round": [str(report.round) for report in reports],
        "labels": [f"{report.labels_total:,}" for report in reports],
        "pseudo-\nlabels": [f"{report.pseudo_labels:,}" for report in reports],
        "of these\nright": [percent(report.pseudo_label_precision) for report in reports],
        f"{split}\naccuracy": [percent(report.test_accuracy) for report in reports],
        "pool accuracy\nby the draws": [
            f"{100 * e.value:.0f} % ({100 * e.low:.0f}–{100 * e.high:.0f})"
            if telling(e := report.pool_accuracy_estimate)
            else "–"
            for report in reports
        ],
        "reward": ["–" if report.reward is None else f"{report.reward:.2g}" for report in reports],
        "seconds": [f"{report.seconds.total:.1f}" for report in reports],
    }
    table = Table(box=None, pad_edge=False, header_style="bold")
    shown = [title for title, cells in columns.items() if set(cells) != {"–"}]  # what is never known needs no room
    for title in shown:
        table.add_column(title, justify="right", no_wrap=True, vertical="bottom")
    for number in range(len(reports)):
        table.add_row(*(columns[title][number] for title in shown))
    return table

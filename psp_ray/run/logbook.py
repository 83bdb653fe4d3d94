"""`run.log` in a run's folder: what it said, with the time, over all its sessions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console

from psp_ray.core.errors import OthersError
from psp_ray.core.others import fault_of
from psp_ray.core.records import Evaluation
from psp_ray.core.version import __version__
from psp_ray.posterior.accuracy import Estimate
from psp_ray.report.progress import Reporter
from psp_ray.report.round_report import Next, RoundReport
from psp_ray.run.events import Events

LOG = "run.log"


class Stamped:
    """A text file that begins each line with the time. A disk that is full costs the log, not the run; nor does what is
    said after its end, when the file is closed."""

    def __init__(self, file: TextIO):
        self._file, self._rest, self._broken = file, "", False

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        self._put("".join(f"{now} {line}".rstrip() + "\n" for line in lines if line.strip()))
        return len(text)

    def flush(self) -> None:
        """Every line is written at once."""

    def _put(self, text: str) -> None:
        if self._broken or not text or self._file.closed:
            return
        try:
            self._file.write(text)
            self._file.flush()
        except OSError:
            self._broken = True


class Logged:
    """`Events` that go to a listener and, as text, to a log."""

    def __init__(self, events: Events, log: Reporter):
        self._events, self._log = events, log

    def note(self, text: str) -> None:
        self._log.note(text)
        self._events.note(text)

    def warn(self, text: str) -> None:
        self._log.warn(text)
        self._events.warn(text)

    def images(self, what: str, done: int, total: int, seconds: float) -> None:
        self._log.images(what, done, total, seconds)
        self._events.images(what, done, total, seconds)

    def featurizing(self, done: int, total: int, rate: float, eta: float) -> None:
        self._log.featurizing(done, total, rate, eta)
        self._events.featurizing(done, total, rate, eta)

    def zero_shot(self, evaluation: Evaluation | None) -> None:
        self._log.zero_shot(evaluation)
        self._events.zero_shot(evaluation)

    def initial(self, count: int, evaluation: Evaluation | None) -> None:
        self._log.initial(count, evaluation)
        self._events.initial(count, evaluation)

    def restored(self, reports: Sequence[RoundReport], zero_shot: Evaluation | None) -> None:
        self._log.restored(reports, zero_shot)
        self._events.restored(reports, zero_shot)

    def stage(self, round: int, name: str) -> None:
        self._events.stage(round, name)

    def views(self, round: int, done: int, total: int, seconds: float) -> None:
        self._log.views(round, done, total, seconds)
        self._events.views(round, done, total, seconds)

    def round(self, report: RoundReport, warning: str = "") -> None:
        self._log.round(report, warning)
        self._events.round(report, warning)

    def prospect(self, report: RoundReport, judged: Estimate | None, outlook: str) -> None:
        self._log.prospect(report, judged, outlook)
        self._events.prospect(report, judged, outlook)

    def after_round(self, report: RoundReport) -> Next:
        return self._events.after_round(report)

    def finished(self, reports: Sequence[RoundReport], split: str) -> None:
        self._log.finished(reports, split)
        self._events.finished(reports, split)

    def stop(self) -> None:
        self._events.stop()


@contextmanager
def logbook(out: Path, title: str, events: Events, rounds: int) -> Iterator[Events]:
    """Events that are also written to `run.log` of an output folder, below `title` and the version; what ends the run
    by an error is its last line; where another package's strategy, head or the like failed, the traceback follows."""
    try:
        file = (out / LOG).open("a", encoding="utf-8")
    except OSError as error:
        events.warn(f"{out / LOG}: can't be written ({error.strerror}); the run goes on without it")
        yield events
        return
    with file:
        stamped = Stamped(file)
        console = Console(file=stamped, width=200, highlight=False, soft_wrap=True, color_system=None)  # type: ignore[arg-type]
        log = Reporter(rounds, console)
        log.note(f"{title} (version {__version__})")
        try:
            yield Logged(events, log)
        except BaseException as error:
            log.note(f"ended by {type(error).__name__}: {error}".rstrip(": "))
            fault = error if isinstance(error, OthersError) else fault_of(error)
            if fault is not None:
                for line in fault.details.splitlines():
                    log.note(line)
                error.add_note(f"(traceback: {out / LOG})")
            raise

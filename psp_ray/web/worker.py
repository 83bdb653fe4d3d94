"""The worker: proposes, waits until people have answered, learns, and again, in a thread of its own."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from rich.console import Console

from psp_ray.core.answers import AwaitingLabels
from psp_ray.core.errors import ConfigError, UserError
from psp_ray.report.progress import Reporter
from psp_ray.report.round_report import RoundReport
from psp_ray.run.classes import RunClasses
from psp_ray.run.people import People
from psp_ray.run.session import Advice, Doubt, QuerySet
from psp_ray.run.state import RunState
from psp_ray.web.board import Board, Status, tasks_of
from psp_ray.web.desk import Desk

_STAGES = {
    "propose": "choosing images",
    "label": "taking answers up",
    "learn": "learning",
    "update": "learning what to ask",
    "checkpoint": "saving",
}
DOUBTS = 60
"""Doubtful labels that are offered for review."""


class Driven(Protocol):
    """What the worker needs of a `psp_ray.Session`."""

    @property
    def over(self) -> bool: ...
    @property
    def state(self) -> RunState: ...
    @property
    def advice(self) -> Advice: ...
    def propose(self, n: int | None = None) -> QuerySet: ...
    def ahead(self, n: int) -> QuerySet: ...
    def alike(self, queries: QuerySet) -> Sequence[int]: ...
    def learn(self, part: bool = False) -> RoundReport: ...
    def doubtful(self, n: int = 20) -> list[Doubt]: ...
    def extend(self, rounds: int) -> None: ...
    @property
    def run_classes(self) -> RunClasses: ...
    def add_class(self, name: str) -> None: ...
    def rename_class(self, old: str, new: str) -> None: ...
    def close(self) -> None: ...


class WebEvents(Reporter):
    """Tells the terminal what a run is doing, as ever, and the page in a few words."""

    def __init__(self, rounds: int, console: Console | None = None) -> None:
        super().__init__(rounds, console)
        self.status = Status()

    def warn(self, text: str) -> None:
        super().warn(text)
        self.status.notes.append(text)

    def stage(self, round: int, name: str) -> None:
        super().stage(round, name)
        self.status.stage = _STAGES.get(name, "checking itself" if name.startswith("judge") else name)


@dataclass
class Wishes:
    """What people asked the worker to do."""

    learn: bool = False
    extend: int = 0
    stop: bool = False
    classes: list[Callable[[Driven], None]] = field(default_factory=list)
    """Changes of the classes, in the order wished for."""


class Worker(threading.Thread):
    """Drives a session until it is stopped.

    Args:
        session: driven from this thread alone. people: of that session, asked anew when its classes have changed.
        rounds: how many there are to be. ahead: images set aside while learning.
    """

    def __init__(
        self, session: Driven, people: Callable[[], People], desk: Desk, rounds: Callable[[], int], ahead: int
    ) -> None:
        super().__init__(name="psp-ray label", daemon=True)
        self.session, self.people, self.desk = session, people, desk
        self._rounds, self._ahead = rounds, ahead
        self._wishes = Wishes()
        self._doubts: list[Doubt] = []

    # ---- from other threads ---------------------------------------------------------------------------------------

    def learn_now(self) -> None:
        """Learn from what is answered of the query set."""
        with self.desk.changed:
            self._wishes.learn = True
            self.desk.changed.notify_all()

    def extend(self, rounds: int) -> None:
        """Add rounds to the run."""
        with self.desk.changed:
            self._wishes.extend += rounds
            self.desk.changed.notify_all()

    def add_class(self, name: str) -> None:
        """Add a class as soon as nothing else is under way. Raises ConfigError for a name that none can have."""
        self.session.run_classes.added(name)
        self._wish_classes(lambda session: session.add_class(name))

    def rename_class(self, old: str, new: str) -> None:
        """Rename a class as soon as nothing else is under way. Raises ConfigError as `Session.rename_class`."""
        self.session.run_classes.renamed(old, new)
        self._wish_classes(lambda session: session.rename_class(old, new))

    def _wish_classes(self, change: Callable[[Driven], None]) -> None:
        with self.desk.changed:
            self._wishes.classes.append(change)
            self.desk.changed.notify_all()

    def stop(self) -> None:
        """End after what is under way."""
        with self.desk.changed:
            self._wishes.stop = True
            self.desk.changed.notify_all()

    # ---- the thread -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Propose, wait, learn; a failure is shown on the page, and what people answer is safe all the same."""
        try:
            self._doubts = self.session.doubtful(DOUBTS)
            while True:
                self._publish()
                wishes = self._wait()
                if wishes.stop:
                    return
                if wishes.classes:
                    self._change_classes(wishes.classes)
                if wishes.extend:
                    self._extend(wishes.extend)
                elif wishes.classes:
                    continue
                elif not self.session.over:
                    self._learn(part=wishes.learn)
        except UserError as error:
            self._break(str(error))
        except Exception as error:
            traceback.print_exc()
            self._break(f"{type(error).__name__}: {error}; the terminal says more")

    def _publish(self) -> None:
        session, state = self.session, self.session.state
        board = Board(
            round=state.round + (not session.over),
            rounds=self._rounds(),
            reports=state.reports,
            advice=session.advice,
            doubts=tuple(self._doubts),
            labels=len(state.labeled),
            paid=state.labels_paid,
            over=session.over,
        )
        if session.over:
            self.desk.publish(board)
            self.desk.status.state = "over"
            return
        self.desk.status.state = "choosing"
        queries = session.propose()
        # What is answered ahead comes in with the next query set: before the last round ends there is none to come.
        ahead = session.ahead(self._ahead) if self._ahead and board.round < board.rounds else None
        known = self.people().bought(queries.content_hashes)
        tasks = tasks_of(queries, session.alike(queries))
        more = [] if ahead is None else tasks_of(ahead, [len(tasks) + i for i in session.alike(ahead)], ahead=True)
        self.desk.publish(replace(board, bought=frozenset(known), tasks=tasks, ahead=more))
        self.desk.status.state = "waiting"

    def _wait(self) -> Wishes:
        """What to do next: learn as soon as the query set is answered, unless something else is wished for."""
        with self.desk.changed:
            while True:
                wishes = self._wishes
                asked = wishes.stop or wishes.extend or wishes.classes
                if asked or (wishes.learn and self.desk.answered) or self.desk.complete:
                    self._wishes = Wishes()
                    return wishes
                wishes.learn = False  # there is nothing to learn from yet
                self.desk.changed.wait()

    def _change_classes(self, changes: Sequence[Callable[[Driven], None]]) -> None:
        self.desk.status.state = "choosing"
        for change in changes:
            try:
                change(self.session)
            except UserError as error:  # an embedding is missing, say: the run is none the worse
                self.desk.status.notes.append(str(error))
        people, classes = self.people(), self.session.run_classes
        pool = replace(self.desk.pool, classes=classes.names, added_at=classes.added_at)
        self.desk.change_pool(people.answers, pool)
        self._doubts = self.session.doubtful(DOUBTS)

    def _extend(self, rounds: int) -> None:
        try:
            self.session.extend(rounds)
        except ConfigError as error:  # more than there is to ask about: the run is none the worse
            self.desk.status.notes.append(str(error))

    def _learn(self, part: bool) -> None:
        self.desk.status.state = "learning"
        try:
            self.session.learn(part)
        except AwaitingLabels:
            return  # somebody took an answer back in the meantime
        self._doubts = self.session.doubtful(DOUBTS)

    def _break(self, problem: str) -> None:
        self.desk.status.state, self.desk.status.problem = "broken", problem

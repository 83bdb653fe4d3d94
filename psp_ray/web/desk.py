"""The desk: hands images out, takes answers in, keeps people apart. Safe for threads; knows no network.

Every answer is in the book before the desk says so. What the desk itself remembers (who looks at what) may be lost with
the process: it ends with a lease anyway.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from psp_ray.core import noise
from psp_ray.core.answers import IGNORE
from psp_ray.core.errors import OracleError
from psp_ray.labels.answer_book import (
    ANSWER,
    REVIEW,
    SECOND,
    AnswerBook,
    Event,
    Said,
    decide,
    disagreements,
    opinions,
    standing,
)
from psp_ray.web.board import Board, PoolView, Status, Task
from psp_ray.web.crew import REVIEW as REVIEWER
from psp_ray.web.crew import Person
from psp_ray.web.leases import Leases
from psp_ray.web.suggesting import Record, record_of

LONGEST_LOOK = 120.0
"""Seconds that count for one image: whoever leaves the page open was not looking."""


@dataclass(frozen=True)
class Rules:
    """How the desk hands images out.

    `second_share`: share of the images that another person answers, too, without seeing the first answer.
    `suggest_from`, `suggest_after`: suggestions are shown where they are right as often as the one says, surely, by at
    least as many blind answers as the other (`psp_ray.web.suggesting`). `lease_seconds`: how long an image is kept for
    a silent person.
    """

    second_share: float = 0.0
    suggest_from: float = 0.5
    suggest_after: int = 20
    lease_seconds: float = 180.0


@dataclass(frozen=True)
class Handed:
    """An image before somebody's eyes. `suggestion` is -1 where none is shown; those of one `group` have the same
    suggestion or, without one, look alike; `second`: somebody else has answered it already."""

    position: int
    suggestion: int
    probability: float
    group: int
    second: bool
    ahead: bool


@dataclass(frozen=True)
class Given:
    """An answer from the page: `label` is a class index or code, `seconds` how long the person looked."""

    position: int
    label: int
    seconds: float = 0.0


class Desk:
    """One run's desk. `changed` is notified after every answer, so that a worker may wait for it."""

    def __init__(
        self,
        book: AnswerBook,
        pool: PoolView,
        rules: Rules | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.book, self.pool, self.rules = book, pool, rules or Rules()
        self.changed = threading.Condition(threading.RLock())
        self.status, self.board = Status(), Board(0, 0)
        self.leases = Leases(self.rules.lease_seconds, clock)
        self._tasks: dict[str, Task] = {}
        self._events: list[Event] = []
        self._note(book.events())

    # ---- from the worker ------------------------------------------------------------------------------------------

    def publish(self, board: Board) -> None:
        """Show a new board; whoever has an image keeps it."""
        with self.changed:
            self.board = board
            self._tasks.update((task.content_hash, task) for task in (*board.ahead, *board.tasks))
            self.changed.notify_all()

    def change_pool(self, book: AnswerBook, pool: PoolView) -> None:
        """Go on with other classes and the book opened anew; what is to be labeled will be chosen anew."""
        with self.changed:
            self.book, self.pool = book, pool
            self._tasks.clear()
            self.board = replace(self.board, tasks=(), ahead=())
            self.changed.notify_all()

    def refresh(self) -> None:
        """Take in what was written into the book elsewhere."""
        with self.changed:
            self._note(self.book.events(self._events[-1].number if self._events else 0))
            self.changed.notify_all()

    @property
    def complete(self) -> bool:
        """Whether all of the query set on the board is answered."""
        with self.changed:
            return bool(self.board.tasks) and not self._open_tasks()

    @property
    def answered(self) -> int:
        """Answers to the query set on the board."""
        with self.changed:
            return len(self.board.tasks) - len(self._open_tasks())

    # ---- for people -----------------------------------------------------------------------------------------------

    def hand_out(self, person: Person, count: int) -> list[Handed]:
        """At most `count` images for a person: of the query set, then second opinions, then ahead of the next one.

        They are the person's until answered, given back, or left alone for as long as a lease lasts. Where several
        people are at work nobody gets more than a fair share of what is left, and whoever comes late gets half of what
        somebody else has not come to yet.
        """
        with self.changed:
            alone = not self.leases.people() - {person.name}
            waiting, ahead = self._open_tasks(), self._open_ahead()
            free = self._free(person, waiting)
            mine = sum(self.leases.holder(task.position) == person.name for task in free)
            fair = max(-(-len(free) // len(self.leases.people() | {person.name})), mine)
            chosen = free[: min(count, fair)]
            for more in (self._seconds_for(person), ahead):
                if alone or not chosen:
                    chosen += self._free(person, more)[: count - len(chosen)]
            if not chosen and (waiting or ahead):
                chosen = _later_half(waiting or ahead, self.leases)[:count]
            self.leases.take(person.name, [t.position for t in chosen if self.leases.holder(t.position) != person.name])
            return self._handed(chosen, person)

    def answer(
        self, person: Person, given: Sequence[Given], *, shown: Iterable[int] = (), way: str = "", action: str = ""
    ) -> int:
        """Write answers down as one action; `shown`: positions whose suggestion the person saw. Returns how many.

        Of an image that somebody else has answered it is a second opinion. A named `action` is written once, however
        often the page sends it.
        Raises OracleError for an image or a label that there isn't; then nothing is written.
        """
        with self.changed:
            if action and any(event.batch == action and event.person == person.name for event in self._events):
                return 0
            saw = set(shown)
            said = [self._said(person, item, item.position in saw, way) for item in given]
            self._note(self.book.write(person.name, said, action or uuid.uuid4().hex))
            self.leases.renew(person.name)
            self.leases.give_back(person.name, [item.position for item in given])
            self.changed.notify_all()
            return len(said)

    def undo(self, person: Person) -> list[Handed]:
        """Take the person's last action back; its images are before the person's eyes again."""
        with self.changed:
            taken = self.book.undo(person.name, uuid.uuid4().hex)
            self.refresh()
            tasks = [self._task(event.content_hash) for event in taken]
            self.leases.take(person.name, [task.position for task in tasks])
            self.changed.notify_all()
            return self._handed(tasks, person)

    def give_back(self, person: Person, positions: Sequence[int] | None = None) -> None:
        """The person won't answer these now (None: any)."""
        with self.changed:
            self.leases.give_back(person.name, positions)
            self.changed.notify_all()

    def review(self, person: Person, position: int, label: int) -> None:
        """The last word on an image. Raises OracleError where the person may not have it."""
        if not person.may(REVIEWER):
            raise OracleError(f"{person.name} may label, not review; ask whoever leads for another role")
        with self.changed:
            said = self._said(person, Given(position, label), False, "review")
            self._note(self.book.write(person.name, [replace(said, kind=REVIEW)], uuid.uuid4().hex))
            self.changed.notify_all()

    # ---- what was said --------------------------------------------------------------------------------------------

    @property
    def standing(self) -> list[Event]:
        """Answers that nobody took back, in order."""
        with self.changed:
            return list(self._standing)

    @property
    def record(self) -> Record:
        """How suggestions did where they were withheld."""
        return record_of(self.standing, self.rules.suggest_from, self.rules.suggest_after)

    @property
    def decided(self) -> dict[str, Event]:
        """The answer to each image that has one, by content hash."""
        with self.changed:
            return dict(self._decided)

    def disagreements(self) -> Mapping[str, Mapping[str, Event]]:
        """{content hash: {person: what it says}} of images that await a reviewer."""
        return disagreements(self.standing)

    # ---- what these are made of -----------------------------------------------------------------------------------

    def _note(self, events: Sequence[Event]) -> None:
        self._events += events
        self._standing = standing(self._events)
        self._opinions = opinions(self._standing)
        self._decided = decide(self._standing)

    def _open_tasks(self) -> list[Task]:
        known = self._decided.keys() | self.board.bought
        return [task for task in self.board.tasks if task.content_hash not in known]

    def _open_ahead(self) -> list[Task]:
        return [task for task in self.board.ahead if task.content_hash not in self._decided]

    def _free(self, person: Person, tasks: Sequence[Task]) -> list[Task]:
        return [task for task in tasks if self.leases.free_for(person.name, task.position)]

    def _seconds_for(self, person: Person) -> list[Task]:
        """Images of others that are due a blind second opinion of this person."""
        share = self.rules.second_share
        if not share:
            return []
        return [
            self._task(digest)
            for digest, said in self._opinions.items()
            if len(said) == 1 and person.name not in said and digest in self.pool.position_of and drawn(digest, share)
        ]

    def _task(self, digest: str) -> Task:
        return self._tasks.get(digest) or Task(self.pool.position_of[digest], digest, -1, 0.0)

    def _handed(self, tasks: Sequence[Task], person: Person) -> list[Handed]:
        cut = self.record.cut
        return [_handed(task, person, self._opinions.get(task.content_hash, {}), cut) for task in tasks]

    def _said(self, person: Person, given: Given, shown: bool, way: str) -> Said:
        if not 0 <= given.position < len(self.pool.ids):
            raise OracleError(f"{given.position} is no image of the pool")
        if not IGNORE <= given.label < len(self.pool.classes):
            raise OracleError(f"{given.label} is no class; there are 0..{len(self.pool.classes) - 1}")
        digest = self.pool.content_hashes[given.position]
        first = next(iter(self._opinions.get(digest, {})), person.name) == person.name
        task = self._tasks.get(digest)
        return Said(
            digest,
            given.label,
            ANSWER if first else SECOND,
            task.predicted if task is not None else -1,
            task.probability if task is not None else 0.0,
            shown,
            way[:16],
            min(max(given.seconds, 0.0), LONGEST_LOOK),
        )


def drawn(content_hash: str, share: float) -> bool:
    """Whether an image is among the share that gets a second opinion: by chance, and always the same ones."""
    return float(noise.uniform(0, "second-opinion", noise.sample_keys([content_hash]))[0]) < share


def _handed(task: Task, person: Person, said: Mapping[str, Event], cut: float) -> Handed:
    """What `person` is shown of a task about which people `said` something; suggestions from probability `cut` on."""
    second = any(name != person.name for name in said)
    shown = task.predicted >= 0 and task.probability >= cut and not second and not task.by_chance
    suggestion, probability = (task.predicted, task.probability) if shown else (-1, 0.0)
    group = task.predicted if shown else -1 - task.look
    return Handed(task.position, suggestion, probability, group, second, task.ahead)


def _later_half(tasks: Sequence[Task], leases: Leases) -> list[Task]:
    """Of those that the person with most of them has: one is before that person's eyes."""
    held: dict[str | None, list[Task]] = {}
    for task in tasks:
        held.setdefault(leases.holder(task.position), []).append(task)
    most = max(held.values(), key=len)
    return most[len(most) - len(most) // 2 :]

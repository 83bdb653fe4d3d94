"""The page of a ledger: people label for every run that waits for them, wherever the runs are.

A run posts what it asks (`psp_ray.labels.questions`); here each has a desk of its own, at `runs/KEY/`. Nothing that is
kept here matters: questions, answers and people are in the database, so the page may be killed and started at will.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from psp_ray.core.errors import LedgerError
from psp_ray.labels.answer_book import AnswerBook
from psp_ray.labels.ledger import Ledger
from psp_ray.labels.questions import OVER, WAITING, Posted, PostedSet, Questions, bought
from psp_ray.web.app import HERE, Page, let_in, stranger, templates
from psp_ray.web.board import Board, PoolView, Status, Task
from psp_ray.web.crew import Crew, PeopleStore
from psp_ray.web.desk import Desk, Rules
from psp_ray.web.guard import Guard, person_of

FRESH_SECONDS = 1.0
"""For how long what was read from the database is taken for known."""
SILENT = "The run isn't there now, or can't reach the ledger. It takes answers up when it is submitted again."


class PostedPictures:
    """Pictures that runs posted, by the positions of one experiment."""

    def __init__(self, questions: Questions, hashes: Sequence[str]) -> None:
        self._questions, self._hashes = questions, hashes

    def get(self, position: int, size: str) -> bytes | None:
        return self._questions.picture(self._hashes[position], size)


class Counter:
    """The desk of one experiment, and its page; `refresh` brings both up to what the database holds."""

    def __init__(self, questions: Questions, crew: Crew, posted: PostedSet, rules: Rules) -> None:
        self._questions, self.posted, self._read_at = questions, posted, float("-inf")
        self._hashes: list[str] = []
        self._lock = threading.Lock()
        book = AnswerBook(questions.ledger, posted.experiment)
        self.desk = Desk(book, PoolView.of([], [], posted.classes), rules)
        pictures = PostedPictures(questions, self._hashes)
        self.app = Page(self.desk, crew, pictures, None, posted.title, home="../../").app(["*"])

    def refresh(self, posted: PostedSet, now: float) -> None:
        """Show `posted`, read a moment ago. Raises LedgerError."""
        with self._lock:
            if now - self._read_at < FRESH_SECONDS:
                return
            ledger, asked = self._questions.ledger, self._questions.asked(posted.experiment)
            if len(asked) != len(self._hashes) or posted.classes != self.desk.pool.classes:
                names = [question.sample_id for question in asked]
                self._hashes[:] = [question.content_hash for question in asked]
                self.desk.change_pool(self.desk.book, PoolView.of(names, list(self._hashes), posted.classes))
            self.desk.refresh()
            waits = posted.state == WAITING
            tasks = [task_of(question) for question in asked if waits and question.round == posted.round]
            known = bought(ledger, posted.label_space, posted.annotator, [task.content_hash for task in tasks])
            board = Board(posted.round, posted.rounds, frozenset(known), tasks, labels=posted.labels)
            paid = ledger.labels_paid(posted.experiment)
            self.desk.publish(replace(board, paid=paid, over=posted.state == OVER))
            self.desk.status = Status(posted.state, notes=[SILENT] if posted.silent else [])
            self.posted, self._read_at = posted, now


class SharedPage:
    """All runs that ask on one ledger. Safe for threads."""

    def __init__(
        self,
        ledger: Ledger,
        people: PeopleStore,
        rules: Rules | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.crew, self._rules, self._clock = Crew(people, clock), rules or Rules(), clock
        self._questions = Questions(ledger)
        self._counters: dict[str, Counter] = {}
        self._sets: list[PostedSet] = []
        self._read_at = float("-inf")
        self._lock = threading.Lock()
        self._templates = templates()

    def app(self, hosts: Sequence[str]) -> Starlette:
        """The application; `hosts` are the names that it answers to ("*": any)."""
        routes = [
            Route("/", self._home),
            Mount("/runs/{key}", app=self._run),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ]
        middleware = [Middleware(Guard), Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))]
        return Starlette(routes=routes, middleware=middleware)

    async def _home(self, request: Request) -> Response:
        token = request.query_params.get("token", "")
        try:
            person = await run_in_threadpool(self.crew.find, token) if token else None
            if person is not None:
                return let_in(request, token)
            person = await run_in_threadpool(person_of, request, self.crew) if not token else None
            if person is None:
                return stranger(self._templates)
            runs = await run_in_threadpool(self._shown)
        except LedgerError as error:
            return PlainTextResponse(f"{error}\n", 503)
        return HTMLResponse(self._templates.get_template("runs.html").render(runs=runs, person=person))

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The page of one run, up to date."""
        try:
            counter = await run_in_threadpool(self._counter, scope["path_params"]["key"])
        except LedgerError as error:
            await PlainTextResponse(f"{error}\n", 503)(scope, receive, send)
            return
        app = PlainTextResponse("no such run\n", 404) if counter is None else counter.app
        await app(scope, receive, send)

    def _counter(self, key: str) -> Counter | None:
        _ = self.crew.people  # read anew here, off the event loop, where that is due
        posted = next((item for item in self._posted() if item.key == key), None)
        if posted is None:
            return None
        with self._lock:
            if key not in self._counters:
                self._counters[key] = Counter(self._questions, self.crew, posted, self._rules)
            counter = self._counters[key]
        counter.refresh(posted, self._clock())
        return counter

    def _posted(self) -> list[PostedSet]:
        with self._lock:
            if self._clock() - self._read_at >= FRESH_SECONDS:
                self._sets, self._read_at = self._questions.sets(), self._clock()
            return self._sets

    def _shown(self) -> list[dict[str, object]]:
        """Lines of the list of runs."""
        found = []
        for posted in self._posted():
            counter = self._counter(posted.key)
            assert counter is not None
            desk = counter.desk
            found.append(
                {
                    "key": posted.key,
                    "title": posted.title,
                    "experiment": posted.experiment,
                    "round": f"{posted.round} of {posted.rounds}",
                    "left": len(desk.board.tasks) - desk.answered,
                    "state": "away" if posted.silent else posted.state,
                    "since": f"{datetime.fromtimestamp(posted.posted_at, UTC):%Y-%m-%d %H:%M} UTC",
                }
            )
        return found


def task_of(question: Posted) -> Task:
    """A posted question as the desk hands it out."""
    return Task(question.position, question.content_hash, question.predicted, question.probability, look=question.look)

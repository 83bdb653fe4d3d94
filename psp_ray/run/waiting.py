"""Waiting for people who label elsewhere: a run posts what it asks into the ledger's database, and goes on when it is
answered.

The run holds no claim meanwhile and writes down nothing that it could not say again, so it may be killed at any
moment: people go on answering what it posted, and the run takes their answers up when it is started again.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import numpy as np

from psp_ray.core.answers import AwaitingLabels
from psp_ray.core.errors import LedgerError
from psp_ray.core.records import PoolReader
from psp_ray.core.words import counted
from psp_ray.data.dataset import Dataset
from psp_ray.data.thumbnails import SIZES, jpeg
from psp_ray.labels.answer_book import Event, decide, standing
from psp_ray.labels.questions import LEARNING, OVER, QuerySetInfo, Question, Questions
from psp_ray.labels.restore import KnownAnswers, LedgerRepair
from psp_ray.labels.service import LabelRequest, LabelResponse
from psp_ray.report.progress import duration
from psp_ray.run.events import Events
from psp_ray.run.local import Done, call
from psp_ray.run.looks import alike
from psp_ray.run.people import People
from psp_ray.run.state import PoolNames

LOOK_SECONDS = 1.0
"""How often the book is looked at for new answers."""
HEARD_SECONDS = 5.0
"""How often a waiting run says that it is there, and asks what others have bought."""


@dataclass
class WaitingLabelSource:
    """A `LabelSource` that waits until people have answered, at most for `seconds`.

    `pool`, `dataset`: where looks and pictures of the images come from; `names`: of both, and of the classes.
    """

    people: People
    dataset: Dataset
    pool: PoolReader
    names: PoolNames
    title: str
    rounds: int
    seconds: float
    events: Events
    look_seconds: float = LOOK_SECONDS
    _posts: Questions = field(init=False)

    def __post_init__(self) -> None:
        self._posts = Questions(self.people.ledger)

    def label(self, request: LabelRequest) -> Done[LabelResponse]:
        """Raises AwaitingLabels where the time is over, and as `Oracle.label`."""
        return call(self._label, request)

    def restore(self, known: KnownAnswers) -> Done[LedgerRepair]:
        return call(self.people.oracle.restore, known)

    def over(self) -> None:
        """Nothing more will be asked."""
        self._posts.close(self.people.answers.experiment, OVER)

    def _label(self, request: LabelRequest) -> LabelResponse:
        until = time.monotonic() + self.seconds
        try:
            return self._bought(request)
        except AwaitingLabels as error:
            missing, asked = error.missing, error.asked
        self._post(request)
        self.events.note(
            f"round {request.round}: waiting for {missing:,} of {counted(asked, 'label')} by people, for at most "
            f"{duration(self.seconds)}; `psp-ray oracle page` is where they label"
        )
        while True:
            self._wait(request, until)
            try:
                return self._bought(request)
            except AwaitingLabels:  # somebody took an answer back in this moment
                if time.monotonic() >= until:
                    raise

    def _bought(self, request: LabelRequest) -> LabelResponse:
        response = self.people.oracle.label(request)
        self._posts.close(request.experiment, LEARNING)
        return response

    def _wait(self, request: LabelRequest, until: float) -> None:
        """Returns when all of the request is answered or bought, or the time is over."""
        book, asked = self.people.answers, set(request.content_hashes)
        events: list[Event] = []
        known: set[str] = set()
        heard = -math.inf
        while True:
            try:
                if time.monotonic() - heard >= HEARD_SECONDS:
                    self._posts.heard(request.experiment)
                    known = set(self.people.bought(request.content_hashes))
                    heard = time.monotonic()
                events += book.events(events[-1].number if events else 0)
                if asked <= known | decide(standing(events)).keys() or time.monotonic() >= until:
                    return
            except LedgerError as error:  # the database may come back: people's answers wait in their browsers
                if time.monotonic() >= until:
                    raise
                self.events.warn(f"{error}; still waiting")
                time.sleep(HEARD_SECONDS)
            time.sleep(self.look_seconds)

    def _post(self, request: LabelRequest) -> None:
        """Post what nobody has bought yet, once for each content, and its pictures."""
        known = self.people.bought(request.content_hashes)
        rows: dict[str, int] = {}
        for row, digest in enumerate(request.content_hashes):
            if digest not in known:
                rows.setdefault(digest, row)
        place = self.names.places([request.sample_ids[row] for row in rows.values()])
        places = [place[request.sample_ids[row]] for row in rows.values()]
        self._keep_pictures(dict(zip(rows, places, strict=True)))
        numbers = {name: index for index, name in enumerate(self.names.classes)}
        looks = alike(self.pool, np.array(places, np.int64))
        asked = [
            Question(
                digest,
                request.sample_ids[row],
                numbers[request.suggestions[row]] if request.suggestions else -1,
                request.confidence[row] if request.confidence else 0.0,
                look,
            )
            for (digest, row), look in zip(rows.items(), looks, strict=True)
        ]
        self._posts.post(self._about(request), asked)

    def _about(self, request: LabelRequest) -> QuerySetInfo:
        oracle = self.people.oracle
        return QuerySetInfo(
            experiment=request.experiment,
            title=self.title,
            classes=tuple(self.names.classes),
            label_space=oracle.label_space,
            annotator=oracle.annotator.name,
            round=request.round,
            rounds=self.rounds,
            labels=self.people.ledger.labels_used(request.experiment, request.round - 1),
        )

    def _keep_pictures(self, places: dict[str, int]) -> None:
        paths, images = self.dataset.pool["path"], self.dataset.pool["image"]
        for size in SIZES:
            for digest in self._posts.without_pictures(list(places), size):
                place = places[digest]
                data = jpeg(paths[place].as_py(), images[place].as_py(), size)
                if data is not None:
                    self._posts.keep_picture(digest, size, data)

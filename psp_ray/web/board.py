"""What the worker lets the page see: images to label, how far the run is, which labels are in doubt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from psp_ray.report.round_report import RoundReport
from psp_ray.run.session.records import Advice, Doubt, QuerySet


@dataclass(frozen=True)
class Task:
    """An image to be labeled: its position in the pool, what it is believed to show, and why it is asked.

    `ahead`: worth labeling while the round is learned; it is in no query set yet. `by_chance`: it judges the
    classifier, so that nobody is shown what that says. `look`: images of the same number look alike.
    """

    position: int
    content_hash: str
    predicted: int
    probability: float
    ahead: bool = False
    by_chance: bool = False
    look: int = 0


def tasks_of(queries: QuerySet, looks: Sequence[int], ahead: bool = False) -> list[Task]:
    """The images of a query set, one of each content, in the order chosen."""
    chances = queries.probabilities.max(axis=1) if len(queries) else ()
    tasks: dict[str, Task] = {}
    for row, digest in enumerate(queries.content_hashes):
        task = Task(
            int(queries.positions[row]),
            digest,
            int(queries.predicted[row]),
            float(chances[row]),
            ahead,
            bool(queries.by_chance[row]),
            int(looks[row]),
        )
        tasks.setdefault(digest, task)
    return list(tasks.values())


@dataclass(frozen=True)
class Board:
    """A moment of the run. `round`: the one that is being labeled; `tasks`: its query set; `bought`: contents of it
    whose label the ledger has already; `labels`, `paid`: of the rounds that are done."""

    round: int
    rounds: int
    bought: frozenset[str] = frozenset()
    tasks: Sequence[Task] = ()
    ahead: Sequence[Task] = ()
    reports: Sequence[RoundReport] = ()
    advice: Advice | None = None
    doubts: Sequence[Doubt] = ()
    labels: int = 0
    paid: int = 0
    over: bool = False


@dataclass
class Status:
    """What the worker is doing: `state` is starting, waiting (for labels), learning, over or broken."""

    state: str = "starting"
    stage: str = ""
    problem: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PoolView:
    """Names of the pool, for everybody: `ids` and `content_hashes` (n,), `classes` (C,).

    `added_at`: when the newest class was added on the way (seconds since the epoch), 0 where none was.
    """

    ids: Sequence[str]
    content_hashes: Sequence[str]
    classes: Sequence[str]
    position_of: Mapping[str, int]
    """By content; the first image where several are the same."""
    added_at: float = 0.0

    @classmethod
    def of(
        cls, ids: Sequence[str], content_hashes: Sequence[str], classes: Sequence[str], added_at: float = 0.0
    ) -> PoolView:
        places: dict[str, int] = {}
        for position, digest in enumerate(content_hashes):
            places.setdefault(digest, position)
        return cls(ids, content_hashes, classes, places, added_at)

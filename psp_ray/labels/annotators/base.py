"""What an annotator is, and the registry of those that `--oracle` names. A new one is a new file in this folder:

@ANNOTATORS.register("file-name", source="who says that this works")
class FileNameAnnotator(Annotator):
    \"""The first class whose name is part of the file's name.\"""

    def answer(self, items):
        return [next((name for name in self.given.classes if name in item.sample_id), SKIP) for item in items]
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from psp_ray.core.registry import Registry

if TYPE_CHECKING:
    import pyarrow as pa

    from psp_ray.labels.ledger import Ledger


@dataclass(frozen=True)
class Item:
    """One image to be labeled.

    `content_hash` names its bytes; a paid service should use it as its idempotency key, since after a crash between
    the answer and the ledger's commit the same item is asked again. `round`: in which round it is asked. `suggestion`:
    the class that the current classifier predicts, where people are to be shown it, else empty; `confidence`: its
    probability (0..1), 0 where it is not known.
    """

    sample_id: str
    content_hash: str
    round: int = 0
    suggestion: str = ""
    confidence: float = 0.0


@dataclass(frozen=True)
class AnnotatorInput:
    """What a run gives to the annotator that it asks.

    `classes` in the order of the labels. `truth`: {sample_id: class index} of the pool's images whose class is known,
    empty where nobody knows one. `pool`: its images, columns `sample_id`, `path` (null where the data set holds the
    bytes) and `image` (null where there is a path). `folder`: the run's output folder. `settings_file`: what
    `--annotators` names. `ledger`, `experiment`: where votes are kept, and under which name. `content_hashes`:
    {sample_id: hash} of the pool's images, where they are known. `former`: {name: class index} of names that classes
    bore before.
    """

    classes: Sequence[str]
    truth: Mapping[str, int] = field(default_factory=dict)
    pool: pa.Table | None = None
    folder: Path = Path()
    settings_file: str | None = None
    ledger: Ledger | None = None
    experiment: str = ""
    content_hashes: Mapping[str, str] = field(default_factory=dict)
    former: Mapping[str, int] = field(default_factory=dict)


class Annotator(ABC):
    """A source of labels; subclasses write `answer`, and whatever else they need.

    `name` is part of a bought label's key: labels of one annotator are never taken for another's; default: the name it
    is registered under. `cost` is the price of one label, in any unit. `batch_size` is how many items are asked, and
    made durable, at a time; None for all of them. `place`: where people answer, for messages.
    """

    name: str = ""
    cost: float = 1.0
    batch_size: int | None = None
    place: str = ""
    needs_truth: ClassVar[bool] = False
    """Answers from the data set's own labels: all of the pool must have one, and nothing is ever skipped."""

    def __init__(self, given: AnnotatorInput) -> None:
        self.given = given

    @classmethod
    def of(cls, given: AnnotatorInput) -> Self:
        """The annotator of a run. Raises ConfigError or OracleError where something it needs is missing."""
        return cls(given)

    @abstractmethod
    def answer(self, items: Sequence[Item]) -> Sequence[int | str | None]:
        """One answer for each item, in their order: a class index (0..C-1) or a class name, SKIP (can't tell), IGNORE
        (none of the classes), or None where there is no answer yet: what was answered is kept, the request waits.

        Raises OracleError where it fails.
        """


class RevisingAnnotator(Annotator):
    """An annotator that may change its mind: asked before each request about what it answered in earlier ones."""

    def begin(self, round: int, asked: Sequence[str]) -> None:
        """A request for all of `asked` begins, known or not: what else is open in the round is not asked any more.

        Raises OracleError or OutputError where that can't be shown.
        """

    @abstractmethod
    def revisions(self, told: Mapping[str, int]) -> Mapping[str, int]:
        """Given {sample_id: answer} of all earlier requests: the answers that are different now."""

    def volunteered(self, told: Mapping[str, int], asked: Sequence[str]) -> Sequence[tuple[Item, int]]:
        """Answers to samples that are neither `told` nor `asked` now: an earlier query set had them.

        Raises OracleError for an answer to what is no sample of the pool.
        """
        return []

    def asked_in(self, round: int, samples: Sequence[str]) -> Sequence[int]:
        """The rounds (k,) whose query sets had asked for `samples`, which were answered in `round` beside what it asks
        for; 0: none had, somebody said it unasked."""
        return [round] * len(samples)

    def waiting(self, told: Mapping[str, int]) -> int:
        """How many samples have an answer that was never `told`, counted without their contents. Raises OracleError as
        `volunteered`."""
        return 0

    @abstractmethod
    def settled(self) -> None:
        """The revisions are durable in the ledger: an annotator that must tell its own changes from those made
        elsewhere remembers here what it said."""


ANNOTATORS: Registry[type[Annotator]] = Registry("annotator", "psp_ray.labels.annotators", option="--oracle")


def make_annotator(name: str, given: AnnotatorInput) -> Annotator:
    """The annotator that is registered as `name`, for a run.

    Raises:
        ConfigError: an unknown name, with the nearest known one; or as its `of` says.
    """
    annotator = ANNOTATORS.find(name).of(given)
    annotator.name = annotator.name or name
    return annotator

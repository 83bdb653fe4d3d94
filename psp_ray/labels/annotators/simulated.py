"""Several simulated annotators, each with a price and mistakes of its own; their votes are made into one label.

For studies of noisy labels. A description is a YAML file:

    votes: 3                      # annotators asked for each image; default: all
    aggregation: dawid-skene      # or majority
    seed: 0
    annotators:
      - {name: ann, cost: 0.10, accuracy: 0.95}
      - {name: bob, cost: 0.02, confusion: [[0.8, 0.2], [0.4, 0.6]]}    # rows: true class
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field, field_validator

from psp_ray.config.base import Settings, read_yaml
from psp_ray.core import noise
from psp_ray.core.errors import ConfigError, OracleError
from psp_ray.core.records import Float64Array
from psp_ray.labels.annotators.base import ANNOTATORS, Annotator, AnnotatorInput, Item
from psp_ray.labels.schema import label_space_of
from psp_ray.labels.votes import Vote, load_votes, record_votes
from psp_ray.labels.voting import dawid_skene, majority

Record = Callable[[Sequence[Vote]], None]
"""Told of new votes before they count."""


class SimulatedAnnotator(Settings):
    """One of them: a name, the price of an answer, and how often it is right (or a whole confusion matrix)."""

    name: str = Field(description="name, unique among the annotators")
    cost: float = Field(1.0, ge=0, description="price of one answer")
    accuracy: float = Field(1.0, ge=0, le=1, description="chance of a right answer; mistakes fall on any other class")
    confusion: list[list[float]] | None = Field(None, description="chances of each answer (columns) by true class")

    @field_validator("confusion")
    @classmethod
    def _rows_sum_to_one(cls, value: list[list[float]] | None) -> list[list[float]] | None:
        if value is not None:
            square = all(len(row) == len(value) for row in value)
            if not square or any(min(row) < 0 or abs(sum(row) - 1) > 1e-6 for row in value):
                raise ValueError("must be square, without negative chances, each row summing to 1")
        return value

    def matrix(self, n_classes: int) -> Float64Array:
        """(C, C), rows by true class. Raises ConfigError where it is given for another number of classes."""
        if self.confusion is not None:
            if len(self.confusion) != n_classes:
                raise ConfigError(
                    f"annotator {self.name}: confusion is {len(self.confusion)} x {len(self.confusion)} but the data "
                    f"set has {n_classes} classes"
                )
            return np.array(self.confusion)
        other = (1 - self.accuracy) / max(1, n_classes - 1)
        return np.full((n_classes, n_classes), other) + np.eye(n_classes) * (self.accuracy - other)


class SimulatedGroup(Settings):
    """A group of simulated annotators, and how their votes are made into a label."""

    annotators: list[SimulatedAnnotator] = Field(description="those of the group", min_length=1)
    votes: int | None = Field(None, ge=1, description="annotators asked for each image; default: all")
    aggregation: Literal["majority", "dawid-skene"] = Field("majority", description="how votes become a label")
    seed: int = Field(0, ge=0, description="seed of who is asked and of their mistakes")

    @field_validator("annotators")
    @classmethod
    def _names_differ(cls, value: list[SimulatedAnnotator]) -> list[SimulatedAnnotator]:
        if len({one.name for one in value}) < len(value):
            raise ValueError("names must differ")
        return value

    @property
    def digest(self) -> str:
        """Names the group in the ledger: labels of another group are other labels."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        # This prefix, like the purposes of the noise below, is what ledgers and runs made so far know.
        return "crowd-" + hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def load_group(path: str | Path) -> SimulatedGroup:
    """Read a description.

    Raises:
        ConfigError: can't be read, or something in it is wrong.
    """
    data = read_yaml(path, "--annotators", "give a YAML file")
    if not isinstance(data, dict):
        raise ConfigError(f"--annotators {path}: expected keys annotators, votes, aggregation, seed")
    try:
        return SimulatedGroup(**{str(key): value for key, value in data.items()})
    except ConfigError as error:
        raise ConfigError(f"--annotators {path}: {error}") from None


@ANNOTATORS.register("simulated")
class SimulatedAnnotators(Annotator):
    """Simulated annotators with costs and mistakes, described by the file --annotators.

    Asks `votes` of them about each image and aggregates over all images asked so far. Who is asked and what they say
    depends on the seed and the image alone, so the same image has the same votes in any run. With Dawid-Skene a label
    is made of all votes known when it is asked for; it doesn't change later.

    Args:
        labels: true class of each sample_id. group: who there is. n_classes: C.
        earlier: votes already paid for; they are not asked again.
        record: told of new votes, which must be durable before they count.
    """

    needs_truth = True

    def __init__(
        self,
        labels: Mapping[str, int],
        group: SimulatedGroup,
        n_classes: int,
        earlier: Sequence[Vote] = (),
        record: Record | None = None,
    ) -> None:
        self.name = group.digest
        self._labels, self._group, self._n_classes, self._record = labels, group, n_classes, record
        self._lock = threading.Lock()
        self._asked = min(group.votes or len(group.annotators), len(group.annotators))
        self._matrices = [one.matrix(n_classes) for one in group.annotators]
        self._names = [one.name for one in group.annotators]
        self._known: dict[str, dict[int, int]] = {}
        self._remember(earlier)
        # The highest price of a label: caps must hold whoever is asked.
        self.cost = float(sum(sorted((one.cost for one in group.annotators), reverse=True)[: self._asked]))

    @classmethod
    def of(cls, given: AnnotatorInput) -> Self:
        """Those of a run: votes of earlier requests, of this process or another one, are in its ledger and count in
        what later votes are made into, so that a resumed run gets the labels of one that wasn't interrupted."""
        if given.settings_file is None:
            raise ConfigError("--oracle simulated: needs --annotators FILE, which says who they are")
        group, ledger, space = load_group(given.settings_file), given.ledger, label_space_of(given.classes)
        if ledger is None:
            return cls(given.truth, group, len(given.classes))

        def record(new: Sequence[Vote]) -> None:
            record_votes(ledger, space, group.digest, given.experiment, new)

        return cls(given.truth, group, len(given.classes), load_votes(ledger, space, group.digest), record)

    def answer(self, items: Sequence[Item], record: Record | None = None) -> Sequence[int]:
        """Labels of `items`; `record` takes the place of the one given at first. Safe for threads.

        Raises OracleError naming the first sample without a true class.
        """
        record = record or self._record
        missing = [item.sample_id for item in items if self._labels.get(item.sample_id) is None]
        if missing:
            raise OracleError(f"sample {missing[0]!r} has no ground-truth label for the simulated annotators")
        with self._lock:
            new = [vote for item in items if item.content_hash not in self._known for vote in self._ask(item)]
            if record is not None and new:
                record(new)
            self._remember(new)
            return self._aggregate([item.content_hash for item in items])

    def _ask(self, item: Item) -> list[Vote]:
        key = noise.sample_keys([item.content_hash])
        count, seed = len(self._names), self._group.seed
        order = [float(noise.uniform(seed, f"crowd/who/{name}", key)[0]) for name in self._names]
        truth = self._labels[item.sample_id]
        votes = []
        for one in sorted(range(count), key=lambda place: (order[place], place))[: self._asked]:
            at = float(noise.uniform(seed, f"crowd/says/{self._names[one]}", key)[0])
            said = int(np.searchsorted(np.cumsum(self._matrices[one][truth]), at, side="right"))
            said = min(said, self._n_classes - 1)
            votes.append(Vote(item.content_hash, self._names[one], said, self._group.annotators[one].cost))
        return votes

    def _remember(self, votes: Sequence[Vote]) -> None:
        places = {name: place for place, name in enumerate(self._names)}
        for vote in votes:
            if vote.annotator in places:
                self._known.setdefault(vote.content_hash, {})[places[vote.annotator]] = vote.label

    def _aggregate(self, wanted: list[str]) -> list[int]:
        hashes = sorted(self._known) if self._group.aggregation == "dawid-skene" else list(dict.fromkeys(wanted))
        rows = [(i, j, label) for i, name in enumerate(hashes) for j, label in sorted(self._known[name].items())]
        items, annotators, votes = (np.array(column, np.int64) for column in zip(*rows, strict=True))
        sizes = (len(hashes), self._n_classes)
        if self._group.aggregation == "majority":
            labels = majority(items, votes.astype(np.int32), *sizes)
        else:
            labels, _, _ = dawid_skene(items, annotators, votes.astype(np.int32), sizes[0], len(self._names), sizes[1])
        found = dict(zip(hashes, labels.tolist(), strict=True))
        return [int(found[name]) for name in wanted]

"""Several simulated people, each with a price and mistakes of their own; what they say is made into one label.

For studies of noisy labels. A description is a YAML file:

    votes: 3                      # people asked for each image; default: all
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from psp_ray.config.base import Settings, read_yaml
from psp_ray.core import noise
from psp_ray.core.errors import ConfigError, OracleError
from psp_ray.labels.annotators.base import Item, register_annotator
from psp_ray.labels.voting import dawid_skene, majority


class VoterSettings(Settings):
    """One person: a name, the price of an answer, and how often they are right (or a whole confusion matrix)."""

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

    def matrix(self, n_classes: int) -> np.ndarray:
        """(C, C), rows by true class."""
        if self.confusion is not None:
            if len(self.confusion) != n_classes:
                raise ConfigError(
                    f"annotator {self.name}: confusion is {len(self.confusion)} x {len(self.confusion)} but the data "
                    f"set has {n_classes} classes"
                )
            return np.array(self.confusion)
        other = (1 - self.accuracy) / max(1, n_classes - 1)
        return np.full((n_classes, n_classes), other) + np.eye(n_classes) * (self.accuracy - other)


class CrowdSettings(Settings):
    """A group of people and how their answers are made into a label."""

    annotators: list[VoterSettings] = Field(description="the people", min_length=1)
    votes: int | None = Field(None, ge=1, description="people asked for each image; default: all")
    aggregation: Literal["majority", "dawid-skene"] = Field("majority", description="how votes become a label")
    seed: int = Field(0, ge=0, description="seed of who is asked and of their mistakes")

    @field_validator("annotators")
    @classmethod
    def _names_differ(cls, value: list[VoterSettings]) -> list[VoterSettings]:
        if len({voter.name for voter in value}) < len(value):
            raise ValueError("names must differ")
        return value

    @property
    def digest(self) -> str:
        """Names the group in the ledger: labels of another group are other labels."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return "crowd-" + hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def load_crowd(path: str | Path) -> CrowdSettings:
    """Read a description.

    Raises:
        ConfigError: can't be read, or something in it is wrong.
    """
    data = read_yaml(path, "--annotators", "give a YAML file")
    if not isinstance(data, dict):
        raise ConfigError(f"--annotators {path}: expected keys annotators, votes, aggregation, seed")
    try:
        return CrowdSettings(**{str(key): value for key, value in data.items()})
    except ConfigError as error:
        raise ConfigError(f"--annotators {path}: {error}") from None


@dataclass(frozen=True)
class Vote:
    """What one person said about one image, and its price."""

    content_hash: str
    voter: str
    label: int
    cost: float


@register_annotator("crowd")
class CrowdAnnotator:
    """Asks `votes` people for each image and aggregates over all images asked so far.

    Who is asked and what they say depends on the seed and the image alone, so the same image has the same votes in
    any run. With Dawid-Skene a label is made of all votes known when it is asked for; it doesn't change later.

    Args:
        labels: true class of each sample_id. crowd: the group. n_classes: C.
        earlier: votes already paid for, by content hash; they are not asked again.
    """

    batch_size: int | None = None

    def __init__(
        self,
        labels: Mapping[str, int],
        crowd: CrowdSettings,
        n_classes: int,
        earlier: Sequence[Vote] = (),
    ) -> None:
        self.name = crowd.digest
        self._labels, self._crowd, self._n_classes = labels, crowd, n_classes
        self._lock = threading.Lock()
        self._asked = min(crowd.votes or len(crowd.annotators), len(crowd.annotators))
        self._matrices = [voter.matrix(n_classes) for voter in crowd.annotators]
        self._names = [voter.name for voter in crowd.annotators]
        self._known: dict[str, dict[int, int]] = {}
        self._remember(earlier)

    @property
    def cost(self) -> float:
        """The highest price of a label: caps must hold whoever is asked."""
        return float(sum(sorted((voter.cost for voter in self._crowd.annotators), reverse=True)[: self._asked]))

    def annotate(
        self, items: Sequence[Item], record: Callable[[Sequence[Vote]], None] | None = None
    ) -> list[int | None]:
        """Labels of `items`; `record` is told of new votes before they count. Safe for threads.

        Raises OracleError naming the first sample without a true class.
        """
        missing = [item.sample_id for item in items if self._labels.get(item.sample_id) is None]
        if missing:
            raise OracleError(f"sample {missing[0]!r} has no ground-truth label for the simulated annotators")
        with self._lock:
            new = [vote for item in items if item.content_hash not in self._known for vote in self._ask(item)]
            if record is not None and new:
                record(new)
            self._remember(new)
            return list(self._aggregate([item.content_hash for item in items]))

    def _ask(self, item: Item) -> list[Vote]:
        key = noise.sample_keys([item.content_hash])
        count, seed = len(self._names), self._crowd.seed
        order = [float(noise.uniform(seed, f"crowd/who/{name}", key)[0]) for name in self._names]
        truth = self._labels[item.sample_id]
        votes = []
        for voter in sorted(range(count), key=lambda place: (order[place], place))[: self._asked]:
            at = float(noise.uniform(seed, f"crowd/says/{self._names[voter]}", key)[0])
            said = int(np.searchsorted(np.cumsum(self._matrices[voter][truth]), at, side="right"))
            said = min(said, self._n_classes - 1)
            votes.append(Vote(item.content_hash, self._names[voter], said, self._crowd.annotators[voter].cost))
        return votes

    def _remember(self, votes: Sequence[Vote]) -> None:
        places = {name: place for place, name in enumerate(self._names)}
        for vote in votes:
            if vote.voter in places:
                self._known.setdefault(vote.content_hash, {})[places[vote.voter]] = vote.label

    def _aggregate(self, wanted: list[str]) -> list[int]:
        hashes = sorted(self._known) if self._crowd.aggregation == "dawid-skene" else list(dict.fromkeys(wanted))
        rows = [(i, j, label) for i, name in enumerate(hashes) for j, label in sorted(self._known[name].items())]
        items, voters, votes = (np.array(column, np.int64) for column in zip(*rows, strict=True))
        sizes = (len(hashes), self._n_classes)
        if self._crowd.aggregation == "majority":
            labels = majority(items, votes.astype(np.int32), *sizes)
        else:
            labels, _, _ = dawid_skene(items, voters, votes.astype(np.int32), sizes[0], len(self._names), sizes[1])
        found: dict[str, Any] = dict(zip(hashes, labels.tolist(), strict=True))
        return [int(found[name]) for name in wanted]

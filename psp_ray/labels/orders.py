"""One request as the ledger sees it, and how far it is."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from psp_ray.core.answers import SKIP
from psp_ray.labels.annotators.base import Item


@dataclass(frozen=True)
class Order:
    """One request as the ledger sees it. `sample_ids` and `content_hashes` run in parallel, ids distinct."""

    request_id: str
    experiment: str
    round: int
    label_space: str
    class_names: tuple[str, ...]
    annotator: str
    cost: float
    """Price of one label now."""
    sample_ids: tuple[str, ...]
    content_hashes: tuple[str, ...]
    label_cap: int | None = None
    cost_cap: float | None = None
    lease_seconds: float = 600.0
    ledger: str = "ledger"
    """The ledger's name, for messages."""

    @property
    def digest(self) -> str:
        """Of the asked set: the same whatever the order."""
        pairs = sorted(zip(self.sample_ids, self.content_hashes, strict=True))
        return hashlib.blake2b(json.dumps(pairs).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Progress:
    """Where a request stands. `answer` maps sample_id to label once all are bought, and is None before."""

    answer: dict[str, int] | None
    to_buy: tuple[Item, ...] = ()
    """Images whose claims this request holds, in the order asked."""
    waiting: str = ""
    """For the user: whose claim is waited for; empty where there is none."""


def request_id(experiment: str, round: int) -> str:
    """How a run calls the request of a round."""
    return f"{experiment}/round-{round:03d}"


def price(order: Order, label: int) -> float:
    """What an answer costs: nothing where the annotator couldn't tell."""
    return 0.0 if label == SKIP else order.cost

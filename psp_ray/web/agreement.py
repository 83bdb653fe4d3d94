"""How far people agree: Krippendorff's alpha of all, Cohen's kappa of each pair, what each class is mistaken for; and
what most likely is true where they don't, by Dawid and Skene."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from psp_ray.core.answers import answer_name
from psp_ray.labels.agreement import nominal_alpha
from psp_ray.labels.answer_book import REVIEW, Event, opinions
from psp_ray.labels.voting import dawid_skene

FEWEST = 10
"""Images that somebody and others answered, from which on the one can be compared with the others."""
SMOOTHING = 0.1
"""Pseudo-count of each cell of a person's confusion matrix: people answer few images twice."""


@dataclass(frozen=True)
class PairAgreement:
    """Two people on the images that both answered; `kappa` is None where both said one class throughout."""

    one: str
    other: str
    images: int
    same: float
    kappa: float | None


@dataclass(frozen=True)
class ClassAgreement:
    """Of the opinions on images that somebody called `label`, and several people answered: the share that says so."""

    label: str
    images: int
    same: float
    instead: str
    """What it is most often called otherwise; empty where nobody does."""


@dataclass(frozen=True)
class Alpha:
    """All people on the `images` that several answered: 1: always the same, 0: as by chance; `value` is None where all
    said one class throughout, or nobody answered what somebody else did."""

    value: float | None
    images: int
    people: int


@dataclass(frozen=True)
class Adjudicated:
    """What is most likely true of an image about which people differ, and how surely (0..1)."""

    label: int
    probability: float


@dataclass(frozen=True)
class Adjudication:
    """`images` by content hash; `right`: the share of a person's answers that is right if they are."""

    images: Mapping[str, Adjudicated]
    right: Mapping[str, float]


def krippendorff_alpha(events: Iterable[Event]) -> Alpha:
    """Krippendorff's alpha; skip and ignore are values like any other. `events` stand."""
    several = [list(by.values()) for by in opinions(events).values() if len(by) > 1]
    value = nominal_alpha([event.label for event in said] for said in several)
    return Alpha(value, len(several), len({event.person for said in several for event in said}))


def adjudicate(events: Iterable[Event], n_classes: int) -> Adjudication:
    """What is most likely true where opinions differ, and how often each person is right. `events` stand.

    Dawid and Skene's model (`psp_ray.labels.voting`) over all opinions; skip and ignore are classes of it. Reviewers'
    decisions are votes of one more person. Empty before three people have `FEWEST` images each that others answered:
    of two who differ nobody can tell who is right more often.
    """
    events = list(events)
    said = opinions(events)
    votes = [(digest, event.person, event.label) for digest, by in said.items() for event in by.values()]
    decided = {event.content_hash: event.label for event in events if event.kind == REVIEW}
    votes += [(digest, "", label) for digest, label in decided.items() if digest in said]
    voices = Counter(digest for digest, *_ in votes)
    shared = Counter(person for digest, person, _ in votes if voices[digest] > 1)
    if sum(count >= FEWEST for count in shared.values()) < 3:
        return Adjudication({}, {})
    images, people = {digest: row for row, digest in enumerate(said)}, sorted({person for _, person, _ in votes})
    labels = np.array([label if label >= 0 else n_classes - 1 - label for *_, label in votes], np.int32)
    items = np.array([images[digest] for digest, *_ in votes])
    who = np.array([people.index(person) for _, person, _ in votes])
    sizes = (len(images), len(people), n_classes + 2)
    found, chances, _ = dawid_skene(items, who, labels, *sizes, smoothing=SMOOTHING)
    differ = (digest for digest, by in said.items() if len({event.label for event in by.values()}) > 1)
    rows = {digest: images[digest] for digest in differ}
    return Adjudication(
        {
            digest: Adjudicated(_code(int(found[row]), n_classes), float(chances[row].max()))
            for digest, row in rows.items()
        },
        {
            person: float(chances[items[who == number], labels[who == number]].mean())
            for number, person in enumerate(people)
            if person
        },
    )


def _code(index: int, n_classes: int) -> int:
    return index if index < n_classes else n_classes - 1 - index


def pair_agreements(events: Iterable[Event]) -> list[PairAgreement]:
    """Every pair of people who answered some images both; `events` stand.

    Cohen, "A coefficient of agreement for nominal scales" (1960), by scikit-learn.
    """
    from sklearn.metrics import cohen_kappa_score

    said = opinions(events)
    people = sorted({person for by in said.values() for person in by})
    found = []
    for one, other in combinations(people, 2):
        both = [(by[one].label, by[other].label) for by in said.values() if one in by and other in by]
        if not both:
            continue
        first, second = zip(*both, strict=True)
        same = sum(a == b for a, b in both) / len(both)
        several = len({*first, *second}) > 1
        kappa = float(cohen_kappa_score(first, second)) if several else None
        found.append(PairAgreement(one, other, len(both), same, kappa))
    return found


def class_agreements(events: Iterable[Event], classes: Sequence[str]) -> list[ClassAgreement]:
    """Each class (and skip, ignore) that several people's answers name, the least agreed on first."""
    several = [by for by in opinions(events).values() if len(by) > 1]
    found = []
    for label in sorted({event.label for by in several for event in by.values()}):
        named = [by for by in several if any(event.label == label for event in by.values())]
        counts: Counter[int] = Counter(event.label for by in named for event in by.values())
        others = Counter({other: count for other, count in counts.items() if other != label})
        instead = answer_name(others.most_common(1)[0][0], classes) if others else ""
        same = counts[label] / counts.total()
        found.append(ClassAgreement(answer_name(label, classes), len(named), same, instead))
    return sorted(found, key=lambda item: item.same)


def per_person(events: Iterable[Event]) -> Mapping[str, tuple[int, float]]:
    """(answers that stand, seconds spent looking) of each person."""
    found: dict[str, tuple[int, float]] = {}
    for event in events:
        count, seconds = found.get(event.person, (0, 0.0))
        found[event.person] = (count + 1, seconds + event.seconds)
    return found

"""How far people agree: Cohen's kappa of each pair, and what each class is mistaken for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from psp_ray.core.answers import answer_name
from psp_ray.labels.answer_book import Event, opinions


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

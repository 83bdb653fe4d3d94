"""What the page is told, as plain JSON values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from psp_ray.core.answers import IGNORE, answer_name
from psp_ray.labels.answer_book import REVIEW, Event
from psp_ray.posterior.accuracy import Estimate, telling
from psp_ray.report.round_report import RoundReport
from psp_ray.run.session.records import Doubt
from psp_ray.web.agreement import adjudicate, class_agreements, krippendorff_alpha, pair_agreements, per_person
from psp_ray.web.board import Board
from psp_ray.web.crew import LEAD, Person
from psp_ray.web.crew import REVIEW as REVIEWER
from psp_ray.web.desk import Desk, Handed

CURVE = 40
"""Rounds that the page shows."""


def state_of(desk: Desk, person: Person, crew: Sequence[Person]) -> dict[str, Any]:
    """Everything beside the images: how far the run is, what it costs, what is to be reviewed."""
    board, status, record = desk.board, desk.status, desk.record
    standing = desk.standing
    work = per_person(standing)
    seconds = sum(spent for _, spent in work.values())
    answers = sum(count for count, _ in work.values())
    return {
        "person": person.name,
        "role": person.role,
        "state": status.state,
        "stage": status.stage,
        "problem": status.problem,
        "notes": status.notes[-3:],
        "round": board.round,
        "rounds": board.rounds,
        "over": board.over,
        "asked": len(board.tasks),
        "answered": desk.answered,
        "labels": board.labels,
        "paid": board.paid,
        "answers": answers,
        "minutes": seconds / 60,
        "seconds_each": seconds / answers if answers else None,
        "advice": None if board.advice is None else {"stop": board.advice.stop, "text": board.advice.text},
        "accuracy": accuracy_of(board),
        "curve": [_point(report) for report in board.reports[-CURVE:]],
        "suggesting": record.cut <= 1,
        "suggestions": {"right": record.right, "of": record.of, "cut": record.cut},
        "to_review": _to_review(desk) if person.may(REVIEWER) else 0,
        "classes": list(desk.pool.classes),
        "people": _people(crew, work, desk) if person.may(LEAD) else [],
    }


def accuracy_of(board: Board) -> dict[str, float | str] | None:
    """What is known of the classifier's accuracy: on the test set, else by chance draws; None: nothing yet."""
    if board.reports and board.reports[-1].test_accuracy is not None:
        return {"value": board.reports[-1].test_accuracy, "of": "test images"}
    estimate: Estimate | None = None if board.advice is None else board.advice.accuracy
    if not telling(estimate):
        return None
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "of": "images like these"}


def handed_of(desk: Desk, handed: Sequence[Handed]) -> list[dict[str, Any]]:
    """Images for the page; the browser learns a position and a name, never a path."""
    return [asdict(item) | {"name": desk.pool.ids[item.position]} for item in handed]


def disputed(desk: Desk) -> list[dict[str, Any]]:
    """Images on which opinions differ."""
    likely = adjudicate(desk.standing, len(desk.pool.classes)).images
    return [
        {
            "position": desk.pool.position_of[digest],
            "name": desk.pool.ids[desk.pool.position_of[digest]],
            "likely": asdict(likely[digest]) if digest in likely else None,
            "said": [{"person": name, "label": event.label} for name, event in said.items()],
        }
        for digest, said in desk.disagreements().items()
        if digest in desk.pool.position_of
    ]


def doubted(desk: Desk) -> list[dict[str, Any]]:
    """Labels that the evidence speaks against, and no reviewer has spoken on."""
    return [
        {
            "position": doubt.position,
            "name": doubt.id,
            "label": doubt.label,
            "suggestion": doubt.suggestion,
            "own": doubt.own,
            "probability": doubt.probability,
        }
        for doubt in _open_doubts(desk)
    ]


def examples(desk: Desk, each: int = 3) -> dict[int, list[int]]:
    """Positions of a few labeled images of each class."""
    found: dict[int, list[int]] = {}
    for digest, event in desk.decided.items():
        places = found.setdefault(event.label, [])
        if event.label >= 0 and len(places) < each and digest in desk.pool.position_of:
            places.append(desk.pool.position_of[digest])
    return found


def latest(desk: Desk, person: Person, count: int = 60) -> list[Event]:
    """What a person said last of each image, the newest first."""
    said: dict[str, Event] = {}
    for event in desk.standing:
        if event.person == person.name:
            said.pop(event.content_hash, None)
            said[event.content_hash] = event
    return list(said.values())[::-1][:count]


def history(desk: Desk, events: Sequence[Event]) -> list[dict[str, Any]]:
    """A person's own answers, for a second look."""
    places = desk.pool.position_of
    return [
        {
            "position": places[event.content_hash],
            "name": desk.pool.ids[places[event.content_hash]],
            "label": event.label,
            "said": answer_name(event.label, desk.pool.classes),
        }
        for event in events
        if event.content_hash in places
    ]


def agreement_of(desk: Desk) -> dict[str, Any]:
    """How far people agree: all of them, pair by pair and class by class; and how often each is right."""
    standing = desk.standing
    return {
        "alpha": asdict(krippendorff_alpha(standing)),
        "right": adjudicate(standing, len(desk.pool.classes)).right,
        "pairs": [asdict(pair) for pair in pair_agreements(standing)],
        "classes": [asdict(item) for item in class_agreements(standing, desk.pool.classes)],
    }


def none_before(desk: Desk, most: int = 200) -> list[dict[str, Any]]:
    """Images that were said to show none of the classes before the newest one was there, the latest first."""
    return history(desk, _said_none_before(desk)[::-1][:most])


def _said_none_before(desk: Desk) -> list[Event]:
    """Answers that stand and say that an image shows none of the classes, from before the newest one was there."""
    known = desk.pool.position_of
    return [
        event
        for digest, event in desk.decided.items()
        if event.label == IGNORE and event.given_at < desk.pool.added_at and digest in known
    ]


def _to_review(desk: Desk) -> int:
    return len(desk.disagreements()) + len(_open_doubts(desk)) + len(_said_none_before(desk))


def _open_doubts(desk: Desk) -> list[Doubt]:
    """Doubts about labels on which no reviewer has spoken."""
    reviewed = {event.content_hash for event in desk.standing if event.kind == REVIEW}
    return [doubt for doubt in desk.board.doubts if desk.pool.content_hashes[doubt.position] not in reviewed]


def _point(report: RoundReport) -> dict[str, Any]:
    point: dict[str, Any] = {"round": report.round, "labels": report.labels_total, "value": report.test_accuracy}
    estimate = report.pool_accuracy_estimate
    known = report.test_accuracy is None and telling(estimate)
    low, high = None, None
    if known and estimate is not None:
        point["value"], low, high = estimate.value, estimate.low, estimate.high
    return point | {"low": low, "high": high, "changed": report.predictions_changed}


def _people(crew: Sequence[Person], work: Mapping[str, tuple[int, float]], desk: Desk) -> list[dict[str, Any]]:
    at_work = desk.leases.people()
    return [
        {
            "name": person.name,
            "role": person.role,
            "token": person.token,
            "answers": work.get(person.name, (0, 0.0))[0],
            "seconds": work.get(person.name, (0, 0.0))[1],
            "at_work": person.name in at_work,
        }
        for person in crew
    ]

"""Who gets which image, and what becomes of the answers. No network, no session."""

from __future__ import annotations

import math
import random
import threading
from dataclasses import asdict, replace
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from psp_ray.core.errors import ConfigError, OracleError, OutputError
from psp_ray.labels.answer_book import AnswerBook, Event, Said
from psp_ray.web.agreement import (
    Adjudication,
    Alpha,
    adjudicate,
    class_agreements,
    krippendorff_alpha,
    pair_agreements,
    per_person,
)
from psp_ray.web.crew import Crew, read_people
from psp_ray.web.desk import Given, Rules, drawn
from psp_ray.web.shown import disputed, state_of
from psp_ray.web.suggesting import record_of
from tests.web.conftest import CLASSES, board, person, tasks

ANN, BOB, EVE = person("Ann"), person("Bob"), person("Eve", "review")


def positions(handed):
    return [item.position for item in handed]


def test_nobody_is_given_what_somebody_else_has(desk):
    desk.publish(board(*range(10)))
    ann = desk.hand_out(ANN, 5)
    bob = desk.hand_out(BOB, 20)
    assert positions(ann) == [0, 1, 2, 3, 4]
    assert not set(positions(ann)) & set(positions(bob))
    assert positions(desk.hand_out(ANN, 5)) == positions(ann)  # asked again: the same ones


def test_a_share_each(desk):
    desk.publish(board(*range(10)))
    assert len(desk.hand_out(ANN, 100)) == 10
    desk.give_back(ANN)
    desk.hand_out(BOB, 2)
    assert len(desk.hand_out(ANN, 100)) == 4  # half of the eight that are left


def test_a_lease_ends_with_silence_and_lasts_with_work(desk, clock):
    desk.publish(board(0, 1))
    assert positions(desk.hand_out(ANN, 2)) == [0, 1]
    clock.now = 179
    desk.answer(ANN, [Given(0, 1)])
    clock.now = 300
    assert not desk.hand_out(BOB, 2)  # Ann answered at 179
    clock.now = 360
    assert positions(desk.hand_out(BOB, 2)) == [1]


def test_whoever_comes_late_gets_half_of_what_somebody_has_not_come_to_yet(desk):
    desk.publish(board(*range(5)))
    assert positions(desk.hand_out(ANN, 9)) == [0, 1, 2, 3, 4]
    assert positions(desk.hand_out(BOB, 9)) == [3, 4]
    assert positions(desk.hand_out(ANN, 9)) == [0, 1, 2]
    assert positions(desk.hand_out(EVE, 9)) == [2]
    desk.answer(ANN, [Given(2, 1)])  # she was quicker than the page
    desk.answer(EVE, [Given(2, 1)])
    assert [event.kind for event in desk.standing] == ["answer", "second"]


def test_answers_are_in_the_book_before_the_desk_says_so_and_a_kill_loses_none(desk, desk_of, ledger):
    desk.publish(board(0, 1, 2))
    desk.hand_out(ANN, 3)
    desk.answer(ANN, [Given(0, 2, 1.5), Given(1, -1, 999.0)], shown=[1], way="grid")
    events = AnswerBook(ledger, "run").events()
    assert [(e.person, e.content_hash, e.label, e.suggested, e.shown, e.way) for e in events] == [
        ("Ann", "h0", 2, 0, False, "grid"),
        ("Ann", "h1", -1, 1, True, "grid"),
    ]
    assert [(e.seconds, e.probability) for e in events] == [(1.5, 0.5), (120.0, 0.51)]
    again = desk_of()
    again.publish(board(0, 1, 2))
    assert (again.answered, again.complete) == (2, False)
    assert positions(again.hand_out(BOB, 3)) == [2]
    again.answer(BOB, [Given(2, 0)])
    assert again.complete


def test_undo_brings_the_images_back_to_whoever_answered(desk):
    desk.publish(board(0, 1, 2, 3))
    desk.hand_out(ANN, 4)
    desk.answer(ANN, [Given(0, 0)])
    desk.answer(ANN, [Given(1, 1), Given(2, 1)])
    assert positions(desk.undo(ANN)) == [1, 2]
    assert not set(positions(desk.hand_out(BOB, 9))) & {1, 2}
    assert positions(desk.undo(ANN)) == [0]
    assert not desk.undo(ANN)
    assert not desk.undo(BOB)
    assert desk.answered == 0


def test_images_ahead_come_when_the_query_set_is_done(desk):
    desk.publish(board(0, 1, ahead=(5, 6)))
    handed = desk.hand_out(ANN, 3)
    assert [(item.position, item.ahead) for item in handed] == [(0, False), (1, False), (5, True)]
    assert [(item.position, item.ahead) for item in desk.hand_out(BOB, 3)] == [(6, True)]
    desk.answer(ANN, [Given(0, 1), Given(1, 1)])
    assert desk.complete


def test_what_the_ledger_has_already_is_not_asked(desk):
    desk.publish(replace(board(0, 1), bought=frozenset({"h0"})))
    assert positions(desk.hand_out(ANN, 5)) == [1]
    assert desk.answered == 1


@pytest.mark.parametrize(("position", "label"), [(40, 0), (-1, 0), (0, 3), (0, -3)])
def test_what_there_is_not_is_refused_whole(desk, position, label):
    desk.publish(board(0, 1))
    with pytest.raises(OracleError):
        desk.answer(ANN, [Given(1, 1), Given(position, label)])
    assert not desk.book.events()


def test_second_opinions_are_blind_and_of_others(desk_of):
    desk = desk_of(Rules(second_share=0.5, suggest_after=0))
    everything = range(30)
    desk.publish(board(*everything))
    desk.hand_out(ANN, 30)
    desk.answer(ANN, [Given(i, 0) for i in everything])
    due = [i for i in everything if drawn(f"h{i}", 0.5)]
    assert 5 < len(due) < 25
    handed = desk.hand_out(BOB, 30)
    assert positions(handed) == due
    assert all(item.second and item.suggestion == -1 for item in handed)
    assert not desk.hand_out(ANN, 30)  # nobody judges his own answers
    desk.answer(BOB, [Given(due[0], 0), Given(due[1], 2)])
    assert [event.kind for event in desk.standing[-2:]] == ["second", "second"]
    (dispute,) = disputed(desk)
    assert (dispute["position"], {said["person"]: said["label"] for said in dispute["said"]}) == (
        due[1],
        {"Ann": 0, "Bob": 2},
    )
    with pytest.raises(OracleError, match="label, not review"):
        desk.review(BOB, due[1], 2)
    desk.review(EVE, due[1], 2)
    assert not disputed(desk)
    assert desk.book.effective()[f"h{due[1]}"].label == 2


def test_the_share_of_second_opinions_is_the_one_asked_for():
    count = sum(drawn(f"image {i}", 0.2) for i in range(2000))
    assert stats.binomtest(count, 2000, 0.2).pvalue > 1e-3
    assert all(drawn(f"image {i}", 0.5) for i in range(200) if drawn(f"image {i}", 0.2))


def said(label, suggested, probability=0.9, shown=False, kind="answer"):
    given = Said("", label, kind, suggested, probability, shown)
    return Event(**asdict(given), number=0, person="", batch="", undoes=None, given_at=0.0)


def test_suggestions_wait_until_they_have_proved_right():
    """The cut against a plain search over all cuts with scipy's exact test."""
    rng = random.Random(0)
    events = []
    for _ in range(100):
        chance = rng.random()
        events.append(said(0, 0 if rng.random() < chance**0.3 else 1, chance))
    wanted = 2.0
    for cut in sorted({event.probability for event in events}):
        among = [event for event in events if event.probability >= cut]
        right = sum(event.label == event.suggested for event in among)
        if len(among) >= 20 and stats.binomtest(right, len(among)).proportion_ci(0.95, "exact").low >= 0.7:
            wanted = cut
            break
    record = record_of(events, 0.7, 20)
    assert record.cut == pytest.approx(wanted)
    assert record.cut < 1
    assert (record.right, record.of) == (sum(e.label == e.suggested for e in events), 100)
    assert record_of(events[:19], 0.7, 20).cut > 1
    assert record_of(events, 2.0, 20).cut > 1
    assert record_of([], 0.7, 0).cut == 0


def test_answers_that_saw_the_suggestion_prove_nothing():
    seen = [said(0, 0, shown=True) for _ in range(50)] + [said(0, 0, kind="second") for _ in range(50)]
    assert record_of(seen, 0.7, 20) == record_of([], 0.7, 20)


def test_chance_draws_are_shown_without_suggestion(desk_of):
    desk = desk_of(Rules(suggest_after=0))
    desk.publish(replace(board(), tasks=[*tasks(0, by_chance=True), *tasks(1)]))
    drawn_by_chance, chosen = desk.hand_out(ANN, 2)
    assert (drawn_by_chance.suggestion, chosen.suggestion) == (-1, 1)
    assert drawn_by_chance.group < 0 <= chosen.group


def test_many_people_at_once_answer_everything_once(desk):
    """Eight threads, one image at a time: no image twice, none forgotten."""
    desk.publish(board(*range(40)))

    def work(who):
        while handed := desk.hand_out(who, 3):
            desk.answer(who, [Given(handed[0].position, 1)])

    threads = [threading.Thread(target=work, args=(person(f"P{i}"),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    answered = [event.content_hash for event in desk.book.events()]
    assert sorted(answered) == sorted(f"h{i}" for i in range(40))
    assert {event.kind for event in desk.standing} == {"answer"}


def kappa(pairs):
    """Cohen's kappa by its definition."""
    n = len(pairs)
    same = sum(a == b for a, b in pairs) / n
    labels = {x for pair in pairs for x in pair}
    chance = sum(sum(a == x for a, _ in pairs) / n * sum(b == x for _, b in pairs) / n for x in labels)
    return (same - chance) / (1 - chance)


def test_agreement(desk):
    rng = random.Random(1)
    desk.publish(board(*range(30)))
    first = {i: rng.randrange(3) for i in range(30)}
    second = {i: first[i] if rng.random() < 0.7 else rng.randrange(3) for i in range(20)}
    desk.answer(ANN, [Given(i, label, 2.0) for i, label in first.items()])
    desk.answer(BOB, [Given(i, label, 1.0) for i, label in second.items()])
    (pair,) = pair_agreements(desk.standing)
    pairs = [(first[i], second[i]) for i in second]
    assert (pair.one, pair.other, pair.images) == ("Ann", "Bob", 20)
    assert pair.kappa == pytest.approx(kappa(pairs))
    assert pair.same == pytest.approx(sum(a == b for a, b in pairs) / 20)
    for item in class_agreements(desk.standing, CLASSES):
        label = CLASSES.index(item.label)
        named = [pair for pair in pairs if label in pair]
        assert item.images == len(named)
        assert item.same == pytest.approx(sum(x == label for pair in named for x in pair) / (2 * len(named)))
    assert per_person(desk.standing) == {"Ann": (30, 60.0), "Bob": (20, 20.0)}


def events_of(table):
    """Events of a table {person: what it says of image 0, 1, ...; None: nothing}."""
    rows = [(who, i, label) for who, labels in table.items() for i, label in enumerate(labels) if label is not None]
    return [
        Event(f"h{i}", label, number=number, person=who, batch=str(number), undoes=None, given_at=0.0)
        for number, (who, i, label) in enumerate(rows)
    ]


def test_alpha_of_the_worked_example():
    """Three observers of fifteen units, as in the literature: 0.691 for nominal values."""
    none = None
    table = {
        "A": [none, none, none, none, none, 3, 4, 1, 2, 1, 1, 3, 3, none, 3],
        "B": [1, none, 2, 1, 3, 3, 4, 3, none, none, none, none, none, none, none],
        "C": [none, none, 2, 1, 3, 4, 4, none, 2, 1, 1, 3, 3, none, 4],
    }
    found = krippendorff_alpha(events_of(table))
    assert found.value == pytest.approx(0.691358, abs=1e-6)
    assert (found.images, found.people) == (12, 3)


def test_alpha_by_counting_pairs():
    """By its definition: 1 - observed / expected disagreement, over pairs of values."""
    rng = random.Random(3)
    table = {who: [rng.choice([-2, 0, 0, 1, None]) for _ in range(25)] for who in "ABCD"}
    units = [[values[i] for values in table.values() if values[i] is not None] for i in range(25)]
    units = [values for values in units if len(values) > 1]
    pooled = [value for values in units for value in values]
    observed = sum(sum(a != b for a, b in permutations(values, 2)) / (len(values) - 1) for values in units) / len(
        pooled
    )
    expected = sum(a != b for a, b in permutations(pooled, 2)) / (len(pooled) * (len(pooled) - 1))
    assert krippendorff_alpha(events_of(table)).value == pytest.approx(1 - observed / expected)
    assert krippendorff_alpha(events_of({"A": [1, 1], "B": [1, 1]})).value is None
    assert krippendorff_alpha(events_of({"A": [1, 1]})) == Alpha(None, 0, 0)


def test_the_likely_truth_beats_whoever_was_first():
    """Where two differ and one of them is known to mistake dogs for foxes, the other one is right."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, 300)
    careful = np.where(rng.random(300) < 0.95, true, (true + 1) % 3)
    confused = np.where((true == 1) & (rng.random(300) < 0.8), 2, true)
    hasty = np.where(rng.random(300) < 0.6, true, rng.integers(0, 3, 300))
    three = rng.random(300) < 0.5
    table = {"Hasty": hasty.tolist(), "Careful": careful.tolist()}
    table["Confused"] = [int(label) if asked else None for label, asked in zip(confused, three, strict=True)]
    found = adjudicate(events_of(table), 3)
    rows = {int(digest[1:]): item for digest, item in found.images.items()}
    differ = [i for i in range(300) if len({labels[i] for labels in table.values() if labels[i] is not None}) > 1]
    assert sorted(rows) == differ
    right = np.mean([rows[i].label == true[i] for i in differ])
    first = np.mean([hasty[i] == true[i] for i in differ])
    assert right > 0.85 > first + 0.3
    sure = [i for i in differ if rows[i].probability > 0.9]
    assert np.mean([rows[i].label == true[i] for i in sure]) > right
    shares = {"Hasty": np.mean(hasty == true), "Careful": np.mean(careful == true)}
    for who, share in shares.items():
        assert found.right[who] == pytest.approx(share, abs=0.06)
    assert found.right["Careful"] > found.right["Confused"] > found.right["Hasty"]


def test_nothing_is_guessed_from_few(desk):
    table = {"A": [0] * 9, "B": [1] * 9}
    assert adjudicate(events_of(table), 3).images == {}
    two = {"A": [0, -1] * 10, "B": [0, -2] * 10}
    assert adjudicate(events_of(two), 3) == Adjudication({}, {}), "which of the two is right can't be told"
    more = adjudicate(events_of(two | {"C": [0, -2] * 5}), 3)
    assert more.images
    assert {item.label for item in more.images.values()} <= {-1, -2}


def test_two_people_who_say_one_thing_have_no_kappa(desk):
    desk.publish(board(0, 1))
    for who in (ANN, BOB):
        desk.answer(who, [Given(0, 1), Given(1, 1)])
    (pair,) = pair_agreements(desk.standing)
    assert (pair.same, pair.kappa) == (1.0, None)


def test_what_the_page_is_told(desk):
    desk.publish(board(0, 1, 2, ahead=(3,)))
    desk.hand_out(ANN, 1)
    desk.answer(ANN, [Given(0, 1, 3.0)])
    desk.hand_out(ANN, 1)
    told = state_of(desk, person("you", "lead"), [ANN, BOB])
    assert (told["asked"], told["answered"], told["answers"], told["seconds_each"]) == (3, 1, 1, 3.0)
    assert [(p["name"], p["answers"], p["at_work"]) for p in told["people"]] == [("Ann", 1, True), ("Bob", 0, False)]
    assert not state_of(desk, ANN, [ANN])["people"]
    assert all(not isinstance(value, float) or math.isfinite(value) for value in told.values())


def test_a_crew_keeps_its_links(tmp_path):
    crew = Crew(tmp_path)
    ann = crew.invite("  Ann   B. ", "label")
    assert (ann.name, len(ann.token) >= 32) == ("Ann B.", True)
    assert Crew(tmp_path).invite("Ann B.", "review").token == ann.token
    assert Crew(tmp_path).find(ann.token).role == "review"
    assert Crew(tmp_path).find(ann.token[:-1]) is None
    assert Crew(tmp_path).find("") is None
    assert (tmp_path / ".people.json").stat().st_mode & 0o077 == 0
    for name, role in (("", "label"), ("x" * 41, "label"), ("Bob", "boss"), ("a\x00b", "label")):
        with pytest.raises(ConfigError):
            crew.invite(name, role)
    (tmp_path / ".people.json").write_text("[{")
    with pytest.raises(OutputError, match="remove it"):
        Crew(tmp_path)


def test_people_as_the_command_line_names_them():
    assert read_people("Ann, Bob:review,") == [("Ann", "label"), ("Bob", "review")]
    assert read_people("") == []

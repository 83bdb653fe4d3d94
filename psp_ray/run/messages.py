"""What a run says when it ends, or rests until people have labeled."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from psp_ray.config.config import Config
from psp_ray.core.answers import IGNORE, SKIP, AwaitingLabels, answer_name
from psp_ray.core.words import counted, short
from psp_ray.labels.annotators.people import PLACE
from psp_ray.labels.layout import IMAGES
from psp_ray.labels.query import CORRECTIONS
from psp_ray.posterior.accuracy import telling
from psp_ray.report.progress import duration, interval, percent
from psp_ray.report.round_report import estimate_from_json
from psp_ray.run.events import Events
from psp_ray.run.folder import SUMMARY
from psp_ray.run.standing import MARGIN, more_is_enough, remedy, setback
from psp_ray.run.state import PoolNames, RunState

MORE_ROUNDS = 2
"""Rounds that the last lines of a run suggest to go on with."""
MOST_SHOWN = 5
"""Corrections that are named."""


def title_of(config: Config, out: Path) -> str:
    """What is run, and where to."""
    return (
        f"psp-ray: {config.policy.shown_strategy} on {config.data.dataset}, "
        f"{counted(config.labels.rounds, 'round')}, seed {config.runtime.seed} -> {out}"
    )


def where_text(config: Config) -> str:
    """Where the components of a run live, and what said so."""
    if config.runtime.runner == "inline":
        return "all in this process (--runner inline)"
    address = config.runtime.ray_address or os.environ.get("RAY_ADDRESS")
    if address and address != "local":
        name = "--ray-address" if config.runtime.ray_address else "RAY_ADDRESS"
        return f"on the Ray cluster at {address} ({name}; --runner inline: all in one process)"
    return "on Ray, started on this machine (--runner ray, the default; --runner inline: all in one process)"


def ask_people(events: Events, out: Path, number: int, error: AwaitingLabels, elsewhere: bool = False) -> None:
    """Where people are to label round `number`, and how the run goes on; `elsewhere`: on the ledger's page."""
    if error.place == PLACE:
        events.note(
            f"round {number}: {error.missing:,} of {counted(error.asked, 'image')} "
            f"{'is' if error.missing == 1 else 'are'} not labeled yet"
        )
        if elsewhere:
            events.note("the page goes on asking for them; wait again with the same command and --resume")
            return
        events.note(f"label them in the browser: {PLACE} {out}")
        return
    file = Path(error.place)
    if file.is_relative_to(out.resolve()):
        file = out / file.relative_to(out.resolve())  # as the user named the folder
    folder = file.parent
    if error.missing < error.asked:
        answered = error.asked - error.missing
        events.note(
            f"round {number}: {answered:,} of {counted(error.asked, 'answer')} taken up, {error.missing:,} missing"
        )
    events.note(
        f"round {number}: please label {counted(error.missing, 'image')}: write a class, skip (can't "
        f"tell) or ignore (none of the classes) into the column 'label' of\n  {file}"
    )
    events.note(f"  {shown_in(folder)}")
    events.note(f"then: psp-ray continue {out}")


def shown_in(folder: Path) -> str:
    """Where the images of a round's `folder` are to be seen, in words."""
    sheets = sorted(folder.glob("contact_sheet*.png"), key=lambda path: (len(path.name), path.name))
    places = [f"{folder / IMAGES}/"] if (folder / IMAGES).is_dir() else []
    places += [str(sheets[0]) + (f" to {sheets[-1].name}" if sheets[1:] else "")] if sheets else []
    if places:
        return f"the images: {' and '.join(places)}"
    return "no pictures of them are at hand: the table names them"


def tell_corrections(events: Events, before: RunState, after: RunState, names: PoolNames) -> None:
    """Which answers of earlier rounds are others now, where people (or another client of the ledger) changed some."""
    changed = np.flatnonzero(before.answers != after.answers[: len(before.answers)])
    if not len(changed):
        return
    shown = [
        f"{names.sample_ids[before.asked[row]]} {answer_name(int(before.answers[row]), names.classes)} -> "
        f"{answer_name(int(after.answers[row]), names.classes)}"
        for row in changed[:MOST_SHOWN]
    ]
    more = f" and {len(changed) - MOST_SHOWN:,} more" if len(changed) > MOST_SHOWN else ""
    events.note(f"took up {counted(len(changed), 'corrected label')} of earlier rounds: {'; '.join(shown)}{more}")


def tell_unasked(events: Events, samples: Sequence[str], rounds: Sequence[int]) -> None:
    """Which answers to `samples` (k,) are taken as known though the query set doesn't ask for them; `rounds` (k,):
    whose query sets once did, 0: none."""
    for number in sorted(set(rounds)):
        named = [sample for sample, asked in zip(samples, rounds, strict=True) if asked == number]
        where = f"to an earlier query set of round {number}" if number else f"that nobody asked for ({CORRECTIONS})"
        more = f" and {len(named) - MOST_SHOWN:,} more" if len(named) > MOST_SHOWN else ""
        verb = "is" if len(named) == 1 else "are"
        shown = f"{', '.join(short(sample, 40) for sample in named[:MOST_SHOWN])}{more}"
        events.note(f"{counted(len(named), 'answer')} {where} {verb} taken as known: {shown}")


def rounds_to_suggest(config: Config, state: RunState, left: int) -> int:
    """`--rounds` to go on with after a run's last round, `left` images of its pool not being asked about; 0: none."""
    size = config.labels.labels_per_round
    if state.round < config.labels.rounds or not isinstance(size, int):
        return 0
    ahead = min(MORE_ROUNDS, math.ceil(left / size))
    return config.labels.rounds + ahead if ahead else 0


def say_goodbye(
    events: Events, config: Config, summary: dict[str, Any], state: RunState, out: Path, left: int, images: bool = True
) -> None:
    """The table of rounds, what was reached, and where to go from here; `left`: images of the pool that nobody was
    asked about; `images`: the pool is of images."""
    events.finished(state.reports, config.data.evaluate_on)
    events.note(
        f"\n{accuracy_text(summary, config)} with {counted(len(state.labeled), 'label')} ({labels_text(state)}), "
        f"{duration(summary['wall_seconds'])}"
    )
    if summary["stopped"]:
        events.note(f"stopped early: {summary['stopped']}")
    against = setback(state, config.data.evaluate_on)
    vain = bool(against) and more_is_enough(state)
    if against:
        same = "; more of the same will not help" if vain else ""
        events.note(f"mind:    {against}{same}; {remedy(config, out)}")
    events.note(f"results: {out}/ ({SUMMARY}, rounds.csv, labels.parquet, pool_predictions.parquet, ...)")
    if config.output.pictures:
        events.note(f"picture: {out / 'learning_curve.png'}, {out / 'calibration.png'}")
    more = rounds_to_suggest(config, state, left)
    if more and not vain:
        events.note(f"more:    psp-ray continue {out} --rounds {more}")
    elif not left:
        events.note("more:    every image of the pool was asked about; nothing is left to label")
    inputs, sorting = ("IMAGES...", "--folders DIR") if images else ("TABLE", "--csv FILE")
    events.note(f"next:    psp-ray predict --run {out} {inputs}   or   psp-ray export --run {out} {sorting}")


def labels_text(state: RunState) -> str:
    """Where the labels are from that the table of rounds counts, and what else was answered."""
    initial = int(((state.asked_in == 0) & state.has_class).sum())
    bought = {"ignored": int((state.answers == IGNORE).sum()), "skipped": int((state.answers == SKIP).sum())}
    parts = [f"{initial:,} known beforehand"] if initial else []
    parts += [f"{counted(state.labels_paid, 'answer')} paid in this run"]
    return ", ".join([*parts, *(f"{count:,} {word}" for word, count in bought.items() if count)])


def accuracy_text(summary: dict[str, Any], config: Config) -> str:
    """What a run reached, in words: on the test set where there is one, and by the draws."""
    texts = []
    if summary["final_accuracy"] is not None:
        texts.append(
            f"zero-shot {percent(summary['zero_shot_accuracy'])} -> {percent(summary['final_accuracy'])} "
            f"{config.data.evaluate_on} accuracy"
        )
        if summary["final_accuracy"] < summary["zero_shot_accuracy"] - MARGIN:
            texts.append("below zero-shot")
    stored = dict(summary.get("pool_accuracy_estimate") or {})
    number = stored.pop("round", None)
    estimate = estimate_from_json(stored) if stored else None
    if telling(estimate):
        of = "" if number == len(summary["rounds"]) else f" after round {number}"
        texts.append(f"pool accuracy{of} about {interval(estimate)}")
    return ", ".join(texts) or "accuracy unknown (no test set, and no estimate from the draws)"

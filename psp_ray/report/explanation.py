"""Why images were asked about: a round's picks as a table, one image in sentences, both as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psp_ray.core.words import counted, short
from psp_ray.report.run_page import NOT_ASKED, UNASKED, WHO, Pick

MOST_NAME = 40
"""Characters of a name in the table."""
COLUMNS = {
    "image": "",
    "by": "who picked it, or how it came in",
    "policy": "how many times as much as uniform the policy by itself weighed it",
    "sure": "how sure all evidence together was of its class beforehand",
    "classifier said": "the likeliest class to the classifier that the round began with",
    "answer": "what it turned out to be",
    "farther than": f"share of {UNASKED} that lay nearer to an image labeled before",
    "nearest to": "pool images that lie nearer to it than to any other image asked by then",
    "reaches": "pool images to which its label spreads the most along the graph of neighbors",
}
"""Columns of the table, and what they say."""


@dataclass(frozen=True)
class Around:
    """What lay around an image: the `nearest` one labeled before its round, with its class and the cosine between them
    (None: nothing was labeled), images `nearest_to` it, and images that its label `reaches` (None: not known)."""

    nearest: str
    nearest_answer: str
    cosine: float | None
    nearest_to: int
    reaches: int | None


@dataclass(frozen=True)
class Explained:
    """A pick, and what lay around it where that is known."""

    pick: Pick
    around: Around | None = None

    @property
    def sentences(self) -> list[str]:
        """Why it was asked, and what came of it."""
        pick, around = self.pick, self.around
        found = list(pick.reasons)
        if around is not None:
            if around.cosine is not None:
                near = f"{around.nearest} ({around.nearest_answer}), cosine {around.cosine:.2f}"
                found.append(f"nearest image labeled before: {near}")
                if pick.farther is not None and pick.farther < 0.7:  # else it is said already
                    found.append(f"farther from all labeled images than {100 * pick.farther:.0f} % of {UNASKED}")
            lie = "lies" if around.nearest_to == 1 else "lie"
            found.append(
                f"{counted(around.nearest_to, 'image')} of the pool {lie} nearer to it than to any other asked by then"
            )
            if around.reaches is not None:
                spreads = "spreads" if pick.answer else "would spread"
                found.append(
                    f"its label is the one that {spreads} most to {counted(around.reaches, 'image')} of the pool"
                )
        return [*found, self.outcome]

    @property
    def outcome(self) -> str:
        """What it turned out to be."""
        pick = self.pick
        if not pick.answer:
            return "nobody has said yet what it is"
        if pick.answer in ("skip", "ignore"):
            return {"skip": "nobody could tell what it shows", "ignore": "it shows none of the classes"}[pick.answer]
        foreseen = "as the classifier had said" if pick.verdict == "right" else "which the classifier had not foreseen"
        taken = f"; self-training had it {'right' if pick.taken_for == pick.answer else 'wrong'}"
        return f"it turned out to be {pick.answer}, {foreseen}{taken if pick.taken_for else ''}"

    def as_json(self) -> dict[str, Any]:
        """Plain values; null: not known."""
        pick, around = self.pick, self.around
        return {
            "sample_id": pick.name,
            "round": pick.round,
            "by": pick.by or None,
            "policy_weight": pick.weight,
            "times_chance": pick.odds,
            "doubt": pick.doubt,
            "guess": pick.guess,
            "probability": pick.probability,
            "second_guess": pick.second,
            "second_probability": pick.second_probability,
            "pseudo_label": pick.taken_for or None,
            "farther_than": pick.farther,
            "nearest_labeled": None if around is None or around.cosine is None else around.nearest,
            "nearest_label": None if around is None or around.cosine is None else around.nearest_answer,
            "nearest_cosine": None if around is None else around.cosine,
            "nearest_to": None if around is None else around.nearest_to,
            "reaches": None if around is None else around.reaches,
            "answer": pick.answer or None,
            "why": self.sentences,
        }


@dataclass(frozen=True)
class Explanation:
    """Picks of a run: all of `round`, or one image. `missing`: what could not be said, and why. `open`: the round's
    images are being asked about now, some perhaps answered already; `next`: another round that is, if any."""

    run: str
    strategy: str
    round: int
    rounds: int
    picks: Sequence[Explained]
    single: bool
    missing: Sequence[str]
    open: bool = False
    next: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values; null: not known."""
        picks = [one.as_json() for one in self.picks]
        about: dict[str, Any] = {"run": self.run, "strategy": self.strategy, "round": self.round, "rounds": self.rounds}
        about |= {"asked_now": self.open}
        return {**about, "picks": picks, "missing": list(self.missing)}

    def lines(self) -> list[str]:
        """For people."""
        if self.single:
            one = self.picks[0]
            asked = "is being asked about, in" if self.open and not one.pick.answer else "asked in"
            when = f"{asked} round {one.pick.round} of {self.rounds}"
            if one.pick.by in NOT_ASKED:
                when = f"known from round {one.pick.round} of {self.rounds} on, which did not ask about it"
            found = [f"{one.pick.name}: {when} ({self.strategy})"]
            return [*found, *(f"  - {sentence}" for sentence in one.sentences), *self._left_out()]
        about = f"{counted(len(self.picks), 'image')}{self._asked_now()}"
        found = [f"{self.run}: round {self.round} of {self.rounds}, {about} ({self.strategy})"]
        return [*found, "", *self._table(), *self._left_out(), *self._hint()]

    def _asked_now(self) -> str:
        """How many of an open round's images nobody has answered yet, and how many of one that is done the query set
        did not ask for, in words."""
        if not self.open:
            came = sum(one.pick.by in NOT_ASKED for one in self.picks)
            return f", {came:,} of which {'was' if came == 1 else 'were'} not asked about" if came else ""
        left = sum(not one.pick.answer for one in self.picks)
        if left == len(self.picks):
            return " that are being asked about now"
        if not left:
            return f", all answered; psp-ray continue {self.run} learns from them"
        return f", {left:,} of which {'is' if left == 1 else 'are'} still being asked about"

    def _hint(self) -> list[str]:
        if self.next is None:
            return []
        return ["", f"Round {self.next} is being asked about now: psp-ray explain {self.run} --round {self.next}"]

    def _table(self) -> list[str]:
        rows = [_row(one) for one in self.picks]
        shown = [name for name in COLUMNS if any(row[name] for row in rows)]
        widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in shown}
        lines = ["  ".join(name.ljust(widths[name]) for name in shown).rstrip()]
        lines += ["  ".join(row[name].ljust(widths[name]) for name in shown).rstrip() for row in rows]
        met = dict.fromkeys(one.pick.by for one in self.picks)
        told = [f"  {name}: {COLUMNS[name]}" for name in shown if COLUMNS[name]]
        at = next((i + 1 for i, line in enumerate(told) if line.startswith("  by:")), 0)
        told[at:at] = [f"    {who}: {WHO[who]}" for who in WHO if who in met]
        return [*lines, "", *told]

    def _left_out(self) -> list[str]:
        return ["", *(f"Not said: {reason}." for reason in self.missing)] if self.missing else []


def _row(one: Explained) -> dict[str, str]:
    pick, around = one.pick, one.around
    said = f"{short(pick.guess, MOST_NAME)} {100 * pick.probability:.0f} %"
    return {
        "image": short(pick.name, MOST_NAME),
        "by": pick.by,
        "policy": "" if pick.weight is None else f"{pick.weight:.2f}",
        "sure": "" if pick.doubt is None else f"{100 * (1 - pick.doubt):.0f} %",
        "classifier said": said,
        "answer": short(pick.answer, MOST_NAME),
        "farther than": "" if pick.farther is None else f"{100 * pick.farther:.0f} %",
        "nearest to": "" if around is None else f"{around.nearest_to:,}",
        "reaches": "" if around is None or around.reaches is None else f"{around.reaches:,}",
    }

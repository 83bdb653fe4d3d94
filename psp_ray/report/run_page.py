"""`report.html` of a run: what there is to know of it, as records, and the page that is made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from psp_ray.posterior.accuracy import limits, telling
from psp_ray.posterior.calibration import Reliability
from psp_ray.report.figures import CurvePoint, PoolMap, calibration_figure, curve_figure, map_figure
from psp_ray.report.html import render
from psp_ray.report.progress import duration, interval, percent
from psp_ray.report.round_report import RoundReport

MOST_CELLS = 12
"""Classes up to which the confusion is a table; with more, a list of pairs."""
MOST_PAIRS = 15


@dataclass(frozen=True)
class Share:
    """`right` of `n`."""

    right: int
    n: int

    @property
    def value(self) -> float | None:
        return self.right / self.n if self.n else None

    @property
    def reach(self) -> tuple[float, float]:
        """95 % limits (Clopper and Pearson)."""
        return limits(self.right, self.n)


WHO = {
    "plan": "a first choice of the plan, which covers what is uncertain",
    "reserve": "of the plan's reserve: policy and draw put it before a first choice",
    "policy": "drawn by the policy; no plan had named it",
    "chance": "drawn by plain chance, to judge the classifier",
    "strategy": "chosen by the strategy",
    "ahead": "answered ahead of being asked",
    "unasked": "given unasked (corrections.csv)",
    "earlier": "asked for by an earlier query set of a round, which another one took the place of",
}
"""Who picked an image, and that in words."""
NOT_ASKED = ("ahead", "unasked", "earlier")
"""Those of `WHO` that are no pick of the query set."""
UNASKED = "the images not asked about before"
"""The images that a picked one is compared with."""


@dataclass(frozen=True)
class Pick:
    """An image that was asked about, or (without an `answer`) is now, or that came in unasked.

    `odds`: how many times as probable as under plain chance its draw was; `guess`, `second`: the likeliest classes to
    the classifier of the time, with their probabilities; `farther`: the share of the images that nobody had asked about
    that lay nearer to an image labeled before; `taken_for`: its pseudo-label of the round before, or an empty text;
    `by`: one of `WHO`; `weight`: how many times as much as uniform the policy itself weighed it; `doubt`: the
    posterior's. None: not known.
    """

    anchor: str
    round: int
    name: str
    answer: str
    by_chance: bool
    odds: float | None
    guess: str
    probability: float
    second: str
    second_probability: float
    farther: float | None
    taken_for: str
    picture: str
    by: str = ""
    weight: float | None = None
    doubt: float | None = None

    @property
    def verdict(self) -> str:
        """`right`, `wrong`, or nothing where no class was given."""
        if self.answer in ("", "skip", "ignore"):
            return ""
        return "right" if self.answer == self.guess else "wrong"

    @property
    def reasons(self) -> list[str]:
        """Why it was asked, in words."""
        who = "chance" if self.by_chance else self.by
        found = [WHO[who]] if who not in ("", "strategy") else []  # that a strategy chose goes without saying
        if self.odds is not None and not self.by_chance:
            found.append(f"drawn with {_times(self.odds)} the probability of plain chance")
        if self.weight is not None:
            found.append(f"the policy by itself weighed it {_times(self.weight)} as much as uniform")
        if self.doubt is not None:
            found.append(f"all evidence together was {100 * (1 - self.doubt):.0f} % sure of its class")
        if self.probability < 0.5:
            found.append(f"the classifier was unsure: {_likely(self.guess, self.probability)}, then "
                         f"{_likely(self.second, self.second_probability)}")  # fmt: skip
        else:
            found.append(f"the classifier said {_likely(self.guess, self.probability)}")
        if self.taken_for:
            found.append(f"self-training took it for {self.taken_for}")
        if self.farther is not None and self.farther >= 0.7:
            found.append(f"farther from all labeled images than {100 * self.farther:.0f} % of {UNASKED}")
        return found


def _times(factor: float) -> str:
    return f"{factor:.{0 if factor >= 10 else 1 if factor >= 0.95 else 2}f} times"


def _likely(name: str, probability: float) -> str:
    return f"{name} ({100 * probability:.0f} %)"


@dataclass(frozen=True)
class PickedRound:
    """A round's picks that are shown, of `count` in all."""

    number: int
    picks: Sequence[Pick]
    count: int


@dataclass(frozen=True)
class ClassRow:
    """A class: its labels, pseudo-labels and predictions in the pool, and how it fares on the test set and on labels
    that the classifier had not seen when they came."""

    name: str
    labels: int
    pseudo_labels: int
    predicted: int | None
    tested: Share | None
    asked: Share


@dataclass(frozen=True)
class Confusion:
    """`counts[true][predicted]` over the `names`, and where they are from."""

    names: Sequence[str]
    counts: Sequence[Sequence[int]]
    source: str

    @property
    def pairs(self) -> list[tuple[str, str, int]]:
        """(true, predicted, count) of what is mistaken most often."""
        found = [
            (self.names[i], self.names[j], count)
            for i, row in enumerate(self.counts)
            for j, count in enumerate(row)
            if i != j and count
        ]
        return sorted(found, key=lambda item: -item[2])[:MOST_PAIRS]

    @property
    def as_table(self) -> bool:
        return len(self.names) <= MOST_CELLS

    def heat(self, row: int, column: int) -> float:
        """Share (0..1) of a true class that was predicted to be another one."""
        total = sum(self.counts[row])
        return self.counts[row][column] / total if total else 0.0


@dataclass(frozen=True)
class Change:
    """What the last round changed: predictions of `changed` of `looked` pool images, and the classes between which
    most of them moved (before, after, count)."""

    changed: int
    looked: int
    moves: Sequence[tuple[str, str, int]]


@dataclass(frozen=True)
class Facts:
    """What stands in the list of facts, and in the tables at the end."""

    settings: Sequence[tuple[str, str]]
    """Options that differ from their defaults, as they are written on the command line."""
    all_settings: Sequence[tuple[str, str]]
    versions: Sequence[tuple[str, str]]
    written: str


@dataclass(frozen=True)
class RunPage:
    """All of a run's page. What is not known is None or empty, and left out."""

    title: str
    answer: str
    state: str
    rounds: Sequence[RoundReport]
    curve: Sequence[CurvePoint]
    split: str
    summary: Sequence[tuple[str, str]]
    picked: Sequence[PickedRound]
    pool_map: PoolMap | None
    class_names: Sequence[str]
    classes: Sequence[ClassRow]
    confusion: Confusion | None
    pseudo: Sequence[tuple[str, Share]]
    change: Change | None
    calibration: Mapping[str, Reliability]
    temperature: float | None
    calibrated_by: int
    """Labels that the temperature is fitted to."""
    caution: str
    """What must be said of the probabilities; empty where nothing need be."""
    facts: Facts
    notes: Sequence[str] = field(default_factory=list)
    """What is missing in the page, and why."""


def run_page(page: RunPage) -> str:
    """The HTML of the page: a file for itself, without scripts, that a browser shows from the disk."""
    known = any(point.tested is not None or point.judged is not None for point in page.curve)
    return render(
        "run.html",
        page=page,
        table=rounds_columns(page.rounds, page.split),
        times=stage_times(page.rounds),
        curve=curve_figure(page.curve, page.split) if known else None,
        map=None if page.pool_map is None else map_figure(page.pool_map, page.class_names),
        map_has_pictures=page.pool_map is not None and any(page.pool_map.pictures),
        reliability=calibration_figure(page.calibration) if page.calibration else None,
    )


def rounds_columns(rounds: Sequence[RoundReport], split: str) -> list[tuple[str, list[str]]]:
    """(title, cells) of the columns of the table of rounds; what is never known needs no room."""
    estimates = [row.pool_accuracy_estimate for row in rounds]
    columns = {
        "round": [str(row.round) for row in rounds],
        "labels": [f"{row.labels_total:,}" for row in rounds],
        f"{split} accuracy": [percent(row.test_accuracy) for row in rounds],
        "pool, estimated": [interval(estimate) if telling(estimate) else "–" for estimate in estimates],
        "skipped": [str(row.skipped or "–") for row in rounds],
        "ignored": [str(row.ignored or "–") for row in rounds],
        "pseudo-labels": [f"{row.pseudo_labels:,}" if row.pseudo_labels else "–" for row in rounds],
        "of these right": [percent(row.pseudo_label_precision) for row in rounds],
        "predictions changed": [percent(row.predictions_changed) for row in rounds],
        "seconds": [f"{row.seconds.total:.1f}" for row in rounds],
    }
    return [(title, cells) for title, cells in columns.items() if set(cells) != {"–"}]


def stage_times(rounds: Sequence[RoundReport]) -> list[tuple[str, str]]:
    """The stages that took seconds, and how long in all rounds together."""
    total: Counter[str] = Counter()
    for row in rounds:
        total.update(row.seconds.as_dict())
    return [(name.replace("_", "-"), duration(seconds)) for name, seconds in total.items() if seconds >= 0.5]

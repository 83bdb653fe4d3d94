"""What scores of a sweep are measured by: random selection is 0, all labels are 1. Both run once for each data set."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from psp_ray.actors.opening import open_runtime
from psp_ray.core.files import make_folder, write_json
from psp_ray.core.sealed import read_record
from psp_ray.run.command import run
from psp_ray.run.events import Silent
from psp_ray.studies.sweep.plan import Plan, place_of
from psp_ray.studies.sweep.space import BUDGET

SMALLEST_SPAN = 0.01
"""Least distance of random and full on the normalized scale, lest a tie blows noise up."""


@dataclass(frozen=True)
class References:
    """Final validation accuracies of random sampling (smallest budget, no self-training) and of all labels."""

    random: float
    full: float
    zero_shot: float

    @property
    def tied(self) -> bool:
        """Whether full is not above random by as much as the scale needs."""
        return self.full - self.random < SMALLEST_SPAN

    @property
    def one(self) -> float:
        """The accuracy whose score is 1: full's, or, where that is not above random, a little more than random's."""
        return self.random + SMALLEST_SPAN if self.tied else self.full

    def normalized(self, accuracy: float) -> float:
        """0 = random, 1 = `one`."""
        return (accuracy - self.random) / max(self.full - self.random, SMALLEST_SPAN)

    @property
    def one_told(self) -> str:
        """`one` in words."""
        return f"random + {100 * SMALLEST_SPAN:g} point" if self.tied else f"{self.full:.1%}"

    def told(self) -> str:
        """What the scores of a data set are measured by, in words."""
        text = f"zero-shot {self.zero_shot:.1%}, random {self.random:.1%} = 0"
        if not self.tied:
            return f"{text}, full {self.one_told} = 1"
        return f"{text}, {self.one_told} = 1: full ({self.full:.1%}) is not above that, so scores say little here"


def references_file(folder: Path, dataset: str) -> Path:
    return place_of(folder / "references", dataset, ".json")


def load_references(folder: Path, plan: Plan) -> dict[str, References]:
    """References of all data sets that have them."""
    paths = {name: references_file(folder, name) for name in plan.datasets}
    return {name: read_record(path, References) for name, path in paths.items() if path.exists()}


def make_references(folder: Path, plan: Plan, dataset: str) -> References:
    """Run both references of a data set, unless they are there; a killed one goes on from its checkpoint."""
    path = references_file(folder, dataset)
    if path.exists():
        return read_record(path, References)
    base = {
        "strategy": "random",
        "self_training": "none",
        "runner": "inline",
        "resume": True,
        "ledger": str((folder / "references" / "ledger.sqlite").resolve()),
        "label_cap": None,
    }
    make_folder(path.parent)
    summaries = []
    for kind, more in (("random", {}), ("full", {"rounds": 1, "labels_per_round": "pool"})):
        out = place_of(folder / "references", dataset) / kind
        config = plan.config(dataset, {BUDGET: min(plan.labels_per_class)}, **base, **more, out=str(out))
        summaries.append(run(config, Silent(), open_runtime=open_runtime))
    references = References(
        summaries[0]["final_accuracy"], summaries[1]["final_accuracy"], summaries[0]["zero_shot_accuracy"]
    )
    write_json(path, asdict(references))
    return references

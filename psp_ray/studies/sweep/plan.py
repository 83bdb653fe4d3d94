"""A sweep on disk: what it tries (`sweep.json`), its trials' results, and the reference runs they are measured by.

DIR/sweep.json                    the plan; a resumed sweep must agree with it
DIR/references/DATASET/           random and full, run once: 0 and 1 of the normalized scale
DIR/trials/NAME/result.json       rewritten after every round: the ledger of what is done
DIR/trials/NAME/DATASET/          the run itself, with its checkpoints
DIR/ledger.sqlite                 one label ledger for all trials (unless PSP_RAY_LEDGER or the settings name another)
DIR/tune/SESSION/                 Ray Tune's own files, TensorBoard events among them
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from psp_ray.config.base import option_name
from psp_ray.config.config import Config, fields
from psp_ray.core.errors import ConfigError, OutputError
from psp_ray.core.files import make_folder, write_json
from psp_ray.core.ours import mark
from psp_ray.core.sealed import read_record
from psp_ray.core.words import did_you_mean
from psp_ray.core.writing import writing
from psp_ray.run.resolve import resolve
from psp_ray.studies.names import file_name, owner_of
from psp_ray.studies.sweep.differences import difference
from psp_ray.studies.sweep.space import BUDGET, Dimension, Point, grid_points, parse_value, random_points

PLAN = "sweep.json"
LEDGER_VARIABLE = "PSP_RAY_LEDGER"
RESULT = "result.json"
DONE = ("finished", "stopped")
CHOSEN = {
    "dataset": "use --datasets",
    "evaluate_on": "it judges by val, and leaves test alone",
    "labels_per_round": "use --labels-per-class K, for K x the number of classes",
    "out": "every trial has a folder of its own",
    "resume": "give --resume to the sweep",
    "runner": "use --runner",
}
"""Settings that a sweep chooses itself, trial by trial."""
TOGETHER = ("rounds", "ledger", "cache")
"""Settings that the runs of a trial have in common."""


@dataclass(frozen=True)
class Plan:
    """A whole sweep, as plain values.

    `datasets` maps the short name of a data set to settings of its own (`dataset` among them); `settings` hold for
    all; `space` maps a setting to its values in the form that `Dimension.parse` reads.
    """

    datasets: dict[str, dict[str, Any]]
    labels_per_class: list[int]
    space: dict[str, str]
    settings: dict[str, Any]
    searcher: str = "random"
    scheduler: str = "none"
    grace_rounds: int = 2
    seed: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    """Classes of each data set, filled in when the plan is checked."""
    ledger_from_environment: bool = False
    """Whether PSP_RAY_LEDGER names the ledger. The URL itself may hold a password and is not written down."""
    keep_one_of: int = 2
    """Of the trials that reach a rung (the grace rounds times a power of this), about one in so many goes on."""

    @property
    def dimensions(self) -> list[Dimension]:
        return [Dimension.parse(key, text) for key, text in self.space.items()]

    @property
    def rounds(self) -> int:
        return int(self.settings.get("rounds", fields()["rounds"].default))

    def config(self, dataset: str, point: Mapping[str, Any], **more: Any) -> Config:
        """Settings of a trial's run on one data set: those of all < of the data set < of the point < `more`.

        Trials draw no pictures unless the settings say so: nobody looks at those of hundreds of runs.
        """
        given = {"pictures": False, **self.settings, **self.datasets[dataset], **point}
        budget = given.pop(BUDGET, None)
        if budget is not None and dataset in self.classes:
            given["labels_per_round"] = int(budget) * self.classes[dataset]
        return resolve({**given, "evaluate_on": "val", **more})

    def ledger(self, folder: Path) -> str | None:
        """The ledger of all trials; None: the one that PSP_RAY_LEDGER names here.

        Raises:
            ConfigError: it was set where the sweep was started, and isn't on this node.
        """
        if "ledger" in self.settings:
            return str(self.settings["ledger"])
        if not self.ledger_from_environment:
            return str((folder / "ledger.sqlite").resolve())
        if not os.environ.get(LEDGER_VARIABLE):
            raise ConfigError(
                f"{LEDGER_VARIABLE}: set where the sweep was started, but not on this node; set it on all"
            )
        return None

    def shown(self, dataset: str, point: Mapping[str, Any]) -> dict[str, Any]:
        """beta, tau, gamma, labels_per_class and what else is varied, with the values in force."""
        values = self.config(dataset, point).flat()
        keys = [*("beta", "tau", "gamma"), *(key for key in self.space if key not in ("beta", "tau", "gamma"))]
        return {key: values[key] for key in keys} | {BUDGET: point[BUDGET]}


def place_of(folder: Path, dataset: str, ending: str = "") -> Path:
    """Where in `folder` the files of a data set are: under its name, as far as that can be a file's."""
    former = folder / f"{dataset}{ending}"
    return former if former.exists() else folder / f"{file_name(dataset)}{ending}"


def with_former_names(folder: Path, plan: Plan) -> Plan:
    """`plan` whose data sets are called as in the sweep in `folder`, where they are the same."""
    if not is_begun(folder):
        return plan
    former = load_plan(folder).datasets
    if list(former) == list(plan.datasets) or list(former.values()) != list(plan.datasets.values()):
        return plan
    called = dict(zip(plan.datasets, former, strict=True))
    return replace(plan, datasets=former, classes={called[name]: count for name, count in plan.classes.items()})


def is_begun(folder: Path) -> bool:
    """Whether a sweep in `folder` has trials or reference runs: one that ended before them holds nothing to keep."""
    return (folder / PLAN).exists() and any((folder / name).exists() for name in ("references", "trials"))


def check_sweep_out(folder: Path, plan: Plan, resume: bool) -> None:
    """See whether a sweep can be run in `folder`. Touches nothing. Raises OutputError as `save_plan`."""
    if is_begun(folder):
        if not resume:
            raise OutputError(f"--out {folder}: holds a sweep; add --resume to go on with it, or choose another folder")
        found = difference(load_plan(folder), plan, LEDGER_VARIABLE)
        if found:
            raise OutputError(f"--resume: {folder} was {found}; give the same options, or another --out")
        return
    if (folder / PLAN).exists():
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"--out {folder}: is not an empty folder; choose another one")


def save_plan(folder: Path, plan: Plan, resume: bool) -> None:
    """Write the plan into a folder without a sweep that has begun, or check that the sweep's plan is the same.

    Raises:
        OutputError: the folder is used and not resumed, holds something else, or another sweep.
    """
    check_sweep_out(folder, plan, resume)
    if is_begun(folder):
        return
    with writing(f"--out {folder}", "choose another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        mark(folder)
        write_json(folder / PLAN, asdict(plan))


def load_plan(folder: Path) -> Plan:
    """The plan of a sweep's folder.

    Raises:
        OutputError: there is none.
    """
    path = folder / PLAN
    if not path.is_file():
        raise OutputError(f"{folder}: holds no {PLAN}; give the --out folder of `psp-ray sweep`")
    return read_record(path, Plan)


# -- trials ------------------------------------------------------------------------------------------------------------


def listed_points(plan: Plan, num_samples: int) -> list[Point]:
    """What is tried, in order, where that is known before the first trial: at random, or all of a grid."""
    if plan.searcher == "grid":
        return grid_points(plan.dimensions, plan.labels_per_class)
    return random_points(plan.dimensions, plan.labels_per_class, num_samples, plan.seed)


def varied(plan: Plan) -> str:
    """What a plan varies, in the form of `--vary`."""
    return " ".join(f"{key}={values}" for key, values in plan.space.items()) or "nothing but the budget"


def trial_name(number: int, point: Point) -> str:
    """`0007-1f3a9c02`: unique in a sweep, the same for the same point after a restart."""
    digest = hashlib.blake2b(json.dumps(point, sort_keys=True).encode(), digest_size=4).hexdigest()
    return f"{number:04d}-{digest}"


class RoundRow(TypedDict):
    """A round of a trial: its number, the mean normalized accuracy, and what each data set came to."""

    round: int
    score: float
    accuracy: dict[str, float]
    labels: dict[str, int]


@dataclass
class TrialResult:
    """What is known about a trial. `status`: running, finished, stopped (early, by the scheduler) or failed."""

    name: str
    point: Point
    status: str = "running"
    rounds: list[RoundRow] = field(default_factory=list)
    error: str = ""
    seconds: float = 0.0

    @property
    def score(self) -> float | None:
        return self.rounds[-1]["score"] if self.rounds else None

    def save(self, folder: Path) -> None:
        path = folder / "trials" / self.name
        make_folder(path)
        write_json(path / RESULT, asdict(self))


def load_trial(folder: Path, name: str) -> TrialResult | None:
    path = folder / "trials" / name / RESULT
    return read_record(path, TrialResult) if path.exists() else None


def load_trials(folder: Path) -> list[TrialResult]:
    """All trials of a sweep that have begun, by name."""
    paths = sorted((folder / "trials").glob(f"*/{RESULT}"))
    return [read_record(path, TrialResult) for path in paths]


def parse_settings(items: tuple[str, ...], datasets: list[str]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """`KEY=VALUE` for all data sets, `DATASET:KEY=VALUE` for one.

    Raises:
        ConfigError: malformed, an unknown data set, or what a sweep chooses itself.
    """
    common: dict[str, Any] = {}
    own: dict[str, dict[str, Any]] = {name: {} for name in datasets}
    for item in items:
        key, equals, value = item.partition("=")
        owner, colon, inner = key.rpartition(":")
        if not equals:
            raise ConfigError(f"--set {item}: give KEY=VALUE or DATASET:KEY=VALUE with DATASET of {', '.join(own)}")
        target = own[datasets[owner_of(owner, datasets, f"--set {item}")]] if colon else common
        target[settable(inner.strip(), f"--set {item}", one=bool(colon))] = parse_value(value)
    return common, own


def settable(key: str, where: str, one: bool) -> str:
    """The name of a key that may be set for all trials, or for those of `one` data set. Raises ConfigError."""
    key = key.replace("-", "_")
    if key not in fields():
        raise ConfigError(f"{where}: unknown setting '{key}'{did_you_mean(key, fields())}")
    if key in CHOSEN:
        raise ConfigError(f"{where}: {option_name(key)} is not set for a sweep; {CHOSEN[key]}")
    if one and key in TOGETHER:
        raise ConfigError(f"{where}: {option_name(key)} is the same for all data sets of a sweep; give --set {key}=...")
    return key

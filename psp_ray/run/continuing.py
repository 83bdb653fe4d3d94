"""Going on with a run under settings that may change on the way: more rounds, larger query sets, another end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from psp_ray.config.base import option_name
from psp_ray.config.config import CHANGEABLE, Config, section_of
from psp_ray.config.paths import seen_from
from psp_ray.config.presets import ZERO_SHOT
from psp_ray.core.errors import ConfigError, OutputError
from psp_ray.core.files import write_json
from psp_ray.core.sealed import DamagedFile
from psp_ray.core.words import counted
from psp_ray.data.dataset import Dataset
from psp_ray.run.checkpoint import latest_round, newest
from psp_ray.run.classes import RunClasses, are_noted, classes_of, told
from psp_ray.run.folder import KEPT as CHECKPOINTS
from psp_ray.run.folder import (
    SUMMARY,
    change_identity,
    finished_summary,
    has_run,
    home_of,
    read_run,
    read_summary,
    unseal_finished,
)
from psp_ray.run.remains import settings_in
from psp_ray.run.resolve import resolve

_NOTHING = pa.table({"sample_id": pa.array([], pa.string()), "round": pa.array([], pa.int32())})
REASONS = {
    "data": "images and names are what the rounds so far are about",
    "model": "the features of the rounds so far are this model's",
    "learn": "the classifiers of the rounds so far were learned with it",
    "selftrain": "the pseudo-labels of the rounds so far were made with it",
    "policy": "the query sets of the rounds so far were chosen with it",
    "labels": "the labels so far were asked for with it",
    "runtime": "all chance in the rounds so far hangs on it",
}
"""Why a setting of a section can't change on the way."""


def paths_lead_from(out: Path) -> Path | None:
    """The folder that the run in `out` was started in, where its relative paths lead somewhere from there alone."""
    home = home_of(out) if has_run(out) else ""
    if not home:
        return None
    settings = settings_in(out)
    return None if seen_from(home, settings) == settings else Path(home)


def continued(out: Path, changes: Mapping[str, Any]) -> Config:
    """The settings of the run in `out`, with `changes` (None: as it is), for going on with it. Writes nothing.

    Raises:
        OutputError: no run there, or none that is known enough of. ConfigError: a setting that rounds that are done
            depend on, fewer rounds than are done, or another size for a query set that people have before them.
    """
    settings = settings_in(out)
    given = {key: value for key, value in changes.items() if value is not None}
    before = resolve({"out": str(out), "resume": True}, settings)
    config = resolve({**given, "out": str(out), "resume": True}, settings)
    if config.policy.preset == ZERO_SHOT:
        raise OutputError(f"{out}: {ZERO_SHOT} has no rounds to continue; start a run with another --strategy")
    old, new = before.identity(), config.identity()
    for key in new:
        if old[key] != new[key] and key not in CHANGEABLE:
            raise ConfigError(
                f"{option_name(key)} {new[key]}: can't change from {old[key]} on the way, since "
                f"{REASONS[section_of(key)]}; leave it out, or start another run with --out and --initial-labels "
                f"{out / 'labels.parquet'} (what may change: "
                f"{', '.join(option_name(name) for name in sorted(CHANGEABLE))}, and where and how it is run)"
            )
    done = latest_round(out / CHECKPOINTS)
    if config.labels.rounds < done:
        raise ConfigError(
            f"--rounds {config.labels.rounds}: {counted(done, 'round is', 'rounds are')} done already; "
            "give at least as many"
        )
    if old["labels_per_round"] != new["labels_per_round"]:
        _refuse_open_query(out, config, done)
    return config


def check_left(out: Path, config: Config, dataset: Dataset) -> None:
    """Raise a ConfigError where the run in `out` is to go on with more rounds, or larger query sets, than there are
    images left to ask about, or than a cap allows.

    A run whose settings stay as they are goes on with what is left.
    """
    size, rounds, cap = config.labels.labels_per_round, config.labels.rounds, config.labels.label_cap
    checkpoint = newest(out / CHECKPOINTS)
    answered, done = _NOTHING, 0
    if checkpoint is not None:
        answered, done = checkpoint.tables["labels"], checkpoint.round
    if not isinstance(size, int) or "sample_id" not in answered.column_names:
        return
    known = pc.is_in(dataset.pool["sample_id"], value_set=answered["sample_id"])
    left = dataset.pool.num_rows - (pc.sum(known).as_py() or 0)
    before, most = Config(**settings_in(out)).labels, done + math.ceil(left / size)
    if rounds > max(before.rounds, most):
        raise ConfigError(f"--rounds {rounds}: rounds done so far: {done}; {_left_over(left, size, most)}")
    if left < size != before.labels_per_round and rounds > done:
        raise ConfigError(
            f"--labels-per-round {size}: "
            f"{counted(left, 'image of the pool is', 'images of the pool are')} left; give at most as many"
        )
    asked = pc.sum(pc.greater(answered["round"], 0)).as_py() or 0
    if cap is not None and asked + (rounds - done) * size > cap:
        raise ConfigError(
            f"--label-cap {cap}: {counted(asked, 'label')} so far, and {size:,} in each of "
            f"{counted(rounds - done, 'more round')}, are "
            f"{asked + (rounds - done) * size:,}; raise it, or lower --rounds"
        )


def _left_over(left: int, size: int, most: int) -> str:
    if not left:
        return "every image of the pool was asked about; leave it out, or add images to the pool"
    return (
        f"{counted(left, 'image of the pool is', 'images of the pool are')} left to ask about, "
        f"{size:,} a round; give at most --rounds {most}"
    )


def _refuse_open_query(out: Path, config: Config, done: int) -> None:
    """People have a query set before them: it keeps its size."""
    summary = read_summary(out) if (out / SUMMARY).is_file() else {}
    waits = summary.get("awaiting") or {}
    if summary.get("status") == "awaiting_labels" and waits.get("round") == done + 1:
        raise ConfigError(
            f"--labels-per-round {config.labels.labels_per_round}: the {counted(waits['asked'], 'image')} of round "
            f"{done + 1} {'is' if waits['asked'] == 1 else 'are'} asked for already; label first, "
            "then change it for the "
            "rounds after"
        )


def note_changes(out: Path, config: Config) -> None:
    """Make the settings of `continued` those of the run in `out`. A finished run is one that goes on then."""
    changed = {key: value for key, value in config.identity().items() if key in CHANGEABLE}
    try:
        before = read_run(out).identity
    except DamagedFile:  # `open_out` writes it anew, with what is given now
        before = settings_in(out)
    if all(before.get(key) == value for key, value in changed.items()):
        return
    # In this order a crash in between repeats no more than the end of the run.
    reopen(out)
    change_identity(out, changed, config)


def reopen(out: Path) -> None:
    """A finished run is one that goes on. Raises OutputError."""
    summary = finished_summary(out)
    if summary is not None:
        unseal_finished(out)
        write_json(out / SUMMARY, summary | {"status": "interrupted"})


def note_classes(out: Path, classes: RunClasses, note: Callable[[str], None] = lambda text: None) -> None:
    """Make `classes` those of the run in `out`; `note` hears what changed. To be called alone in the folder.

    Raises:
        OutputError: the run has got more classes since these were read (on its storage); or nothing can be written.
    """
    if are_noted(out, classes):
        return
    before = classes_of(out)
    if before is not None and before.names != classes.names:
        if len(before.classes) > len(classes.classes):
            raise OutputError(f"{out}: got other classes in the meantime; run the same command again")
        reopen(out)
        note(f"{told(before.names, classes.names)}; what is labeled stays as it is")
    classes.save(out)


def with_size_of_run(config: Config, out: Path) -> Config:
    """`config` whose query sets are as large as those of the run in `out`, where it doesn't say how large.

    By default they have a label for each class: of those that there were when the run began.
    """
    if config.labels.labels_per_round is not None or not has_run(out):
        return config
    try:
        return config.changed(labels_per_round=read_run(out).identity.get("labels_per_round"))
    except DamagedFile:  # mended, or told of, where the folder is entered
        return config

"""Who is asked for labels, by the settings: what can be told before an oracle is built."""

from __future__ import annotations

import os
from pathlib import Path

from psp_ray.config.labels import LabelSettings
from psp_ray.core.errors import ConfigError
from psp_ray.labels.annotators.base import ANNOTATORS

ASKED = ("people", "file")
"""Annotators whose runs people can label by hand: in the browser, or through `psp_ray.Session`."""
LEDGER = "ledger.sqlite"
"""A run's own ledger, in its folder, where the settings name no other one."""


def annotator_name(settings: LabelSettings) -> str:
    """Who is asked: the true labels go through simulated annotators where some are described."""
    if settings.oracle == "ground-truth" and settings.annotators is not None:
        return "simulated"
    return settings.oracle


def ledger_of(settings: LabelSettings, out: Path) -> str:
    """The ledger of the run in `out`, a file or a database's address."""
    return settings.ledger or os.environ.get("PSP_RAY_LEDGER") or str((out / LEDGER).resolve())


def check_annotators(settings: LabelSettings, n_classes: int | None = None) -> None:
    """Raise a ConfigError for an annotator that there isn't, or simulated ones that can't be used, or would not be.

    Whether simulated ones fit the classes can only be told where their number is given.
    """
    ANNOTATORS.find(settings.oracle)
    name = annotator_name(settings)
    if name == "simulated" and settings.annotators is None:
        raise ConfigError("--oracle simulated: needs --annotators FILE, which says who they are")
    if settings.label_wait and settings.oracle != "people":
        raise ConfigError(f"--label-wait: --oracle {settings.oracle} is never waited for; give --oracle people, or 0")
    if settings.annotators is None:
        return
    if name == "shared":
        raise ConfigError(
            "--annotators: a shared oracle has its own; give them to `psp-ray oracle start`, or leave --oracle out"
        )
    if name != "simulated":
        raise ConfigError(f"--annotators: --oracle {settings.oracle} would not ask them; leave one of them out")
    from psp_ray.labels.annotators.simulated import SimulatedAnnotators, load_group

    group = load_group(settings.annotators)
    if n_classes is not None:
        SimulatedAnnotators({}, group, n_classes)


def answers_from_truth(settings: LabelSettings) -> bool:
    """Whether the annotator gives the data set's own labels, so that all of the pool must have one."""
    return ANNOTATORS.find(settings.oracle).needs_truth

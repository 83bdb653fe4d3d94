"""`--track`: the numbers of a run, a comparison or a sweep in a tool that people have already.

A tracker is a file of `psp_ray/report/trackers`. Comparisons and sweeps are a parent with a child for each run or
trial. Which run of the tool belongs to a folder is kept in its `tracking.json`, so that a continued run goes on in it.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from psp_ray.core.errors import ConfigError
from psp_ray.core.files import read_json, write_json
from psp_ray.core.registry import Registry
from psp_ray.report.round_report import RoundReport

FILE = "tracking.json"
PROJECT = "psp-ray"
"""What runs are filed under: mlflow's experiment, wandb's project (unless their own variables name another)."""


class Tracked(ABC):
    """A run of a tracking tool that is open."""

    id: str
    """Its name in the tool: what `Tracker.open` takes to go on with it."""

    @abstractmethod
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Numbers of a step; a step that was logged before may come again."""

    @abstractmethod
    def attach(self, file: Path) -> None:
        """A file that belongs to the run, where the tool keeps files."""

    @abstractmethod
    def end(self, finished: bool) -> None:
        """Nothing more comes now. A run that has not `finished` may be opened again."""


class Tracker(ABC):
    """A tracking tool. `folder`: the output folder, for tools that write files of their own."""

    def __init__(self, folder: Path):
        self.folder = folder

    @abstractmethod
    def open(
        self, name: str, settings: Mapping[str, Any], *, known: str | None = None, parent: Tracked | None = None
    ) -> Tracked:
        """Open a run called `name`, or go on with the one whose id is `known`; `parent`: what it is a part of."""


TRACKERS: Registry[type[Tracker]] = Registry("tracker", "psp_ray.report.trackers", option="--track")


def needed(module: str, tool: str) -> ModuleType:
    """The package of a tool.

    Raises:
        ConfigError: it is not installed; the line says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"--track {tool}: the package {error.name or module} is not installed; run: pip install 'psp-ray[{tool}]'"
        ) from None


def open_tracked(
    tracker: Tracker, folder: Path, name: str, settings: Mapping[str, Any], parent: Tracked | None = None
) -> Tracked:
    """The run of the tool that belongs to an output folder: the one it has, or a new one."""
    tool = type(tracker).__name__
    known = _known(folder / FILE)
    tracked = tracker.open(name, settings, known=known.get(tool), parent=parent)
    write_json(folder / FILE, {**known, tool: tracked.id})
    return tracked


def _known(file: Path) -> dict[str, Any]:
    """What the tools called the run so far; nothing where that can't be read: they get a new one then."""
    try:
        known = read_json(file)
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def metrics_of(report: RoundReport) -> dict[str, float]:
    """The numbers of a round by name; what is not known is left out."""
    estimate = report.pool_accuracy_estimate
    found = {
        "labels": report.labels_total,
        "pseudo_labels": report.pseudo_labels,
        "pseudo_label_precision": report.pseudo_label_precision,
        "accuracy": report.test_accuracy,
        "macro_accuracy": report.test_macro_accuracy,
        "pool_accuracy": None if estimate is None else estimate.value,
        "pool_accuracy_low": None if estimate is None else estimate.low,
        "pool_accuracy_high": None if estimate is None else estimate.high,
        "predictions_changed": report.predictions_changed,
        "reward": report.reward,
        "seconds": report.seconds.total,
    }
    return {key: float(value) for key, value in found.items() if value is not None}

"""From the options of a sweep to its plan: what could fail later fails here."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from psp_ray.config.base import read_yaml
from psp_ray.config.paths import absolute
from psp_ray.core.errors import ConfigError, DatasetError
from psp_ray.core.words import masked
from psp_ray.data.registry import DATASETS
from psp_ray.run.given import check_given, check_named
from psp_ray.run.prepare import load_data, prepare
from psp_ray.studies.names import dataset_names
from psp_ray.studies.settings import parse_dataset
from psp_ray.studies.sweep.plan import CHOSEN, LEDGER_VARIABLE, TOGETHER, Plan, parse_settings, settable
from psp_ray.studies.sweep.space import BUDGET, DEFAULT_SPACE, Dimension, grid_points, parse_value

NOT_VARIED = (*CHOSEN, *TOGETHER)


@dataclass(frozen=True)
class SweepRequest:
    """What the command line says of the search; texts are in the form of the options."""

    datasets: str
    """Data sets, parted by commas."""
    labels_per_class: str = "1"
    """Budgets, parted by commas."""
    space: str | None = None
    """A YAML file of settings and their values."""
    beta: str | None = None
    tau: str | None = None
    gamma: str | None = None
    vary: tuple[str, ...] = ()
    """`KEY=VALUES` for other settings."""
    fixed: tuple[str, ...] = ()
    """`KEY=VALUE` for all trials, `DATASET:KEY=VALUE` for those of one data set."""
    searcher: str = "random"
    scheduler: str = "none"
    grace_rounds: int = 2
    keep_one_of: int = 2
    seed: int = 0
    runner: str = "inline"


def make_plan(request: SweepRequest) -> Plan:
    """The plan that a request describes, checked against the data sets.

    Raises:
        UserError: an unknown setting or data set, a value out of range, a pool too small for the budget.
    """
    datasets = name_datasets(request.datasets)
    settings, own = parse_settings(request.fixed, list(datasets))
    own = {name: datasets[name] | values for name, values in own.items()}
    space = _space(request)
    for key in settings:
        space.pop(key, None)  # a fixed setting is not searched
    settings = {"threads": 1, **settings, "runner": request.runner}
    # Trials run in folders of their own, and their settings are written down.
    settings = absolute(settings)
    own = {name: absolute(values) for name, values in own.items()}
    ledger = str(settings.get("ledger", ""))
    if masked(ledger) != ledger:
        raise ConfigError(
            f"--set ledger={masked(ledger)}: a sweep writes its settings down; leave the password to {LEDGER_VARIABLE} "
            "or to a password file of the database's own"
        )
    plan = Plan(
        own,
        _budgets(request.labels_per_class),
        {key: Dimension.parse(key, text).text() for key, text in space.items()},
        settings,
        request.searcher,
        request.scheduler,
        request.grace_rounds,
        request.seed,
        ledger_from_environment="ledger" not in settings and bool(os.environ.get(LEDGER_VARIABLE)),
        keep_one_of=request.keep_one_of,
    )
    if plan.searcher == "grid":
        grid_points(plan.dimensions, plan.labels_per_class)
    return _checked(plan)


def _checked(plan: Plan) -> Plan:
    """The plan with the classes of its data sets; every bound of every dimension makes a valid run."""
    middle = {dimension.key: dimension.bounds[0] for dimension in plan.dimensions}
    smallest, largest = plan.labels_per_class[0], plan.labels_per_class[-1]
    for name in plan.datasets:  # what no data would put right comes before any are read
        for dimension in plan.dimensions:
            for value in dimension.bounds:
                check_given(plan.config(name, middle | {dimension.key: value, BUDGET: smallest}))
        check_named(plan.config(name, middle))
    loaded = {name: load_data(plan.config(name, middle)) for name in plan.datasets}
    for name, dataset in loaded.items():
        if not dataset.val.num_rows:
            raise DatasetError(
                f"{name}: no val images, and a sweep judges by them (test stays untouched); add a part val: a folder "
                "of that name beside train, or val in column split (of embeddings: part)"
            )
    plan = replace(plan, classes={name: len(dataset.classes) for name, dataset in loaded.items()})
    for name, dataset in loaded.items():
        prepare(plan.config(name, middle | {BUDGET: smallest}), dataset)
        prepare(plan.config(name, middle | {BUDGET: largest}), dataset)
    return plan


def _budgets(text: str) -> list[int]:
    items = text.split(",")
    budgets = {int(item) for item in items if item.strip().isdecimal() and int(item) > 0}
    if not budgets or not all(item.strip().isdecimal() and int(item) > 0 for item in items):
        raise ConfigError(f"--labels-per-class {text}: give whole numbers of at least 1")
    return sorted(budgets)


def _space(request: SweepRequest) -> dict[str, str]:
    """Every varied setting and its values as `Dimension.parse` reads them: what was named, else `DEFAULT_SPACE`."""
    space = {} if request.space is None else read_space(request.space)
    given = {"beta": request.beta, "tau": request.tau, "gamma": request.gamma}
    space |= {key: text for key, text in given.items() if text}
    for item in request.vary:
        key, _, text = item.partition("=")
        space[_varied(key, text, f"--vary {key}")] = text
    return space or dict(DEFAULT_SPACE)


def read_space(path: str | Path) -> dict[str, str]:
    """A search space from a YAML file: lines of `setting: values`, values as `--vary` takes them, or a list.

    Raises:
        ConfigError: it can't be read, is not such lines, or names what can't be varied.
    """
    found = read_yaml(path, "--space")
    if not isinstance(found, dict) or not found:
        raise ConfigError(f"--space {path}: expected lines of 'setting: values'")
    texts = {
        str(key): ",".join(map(str, value)) if isinstance(value, list) else str(value) for key, value in found.items()
    }
    return {_varied(key, text, f"--space {path}: {key}"): text for key, text in texts.items()}


def _varied(key: str, text: str, where: str) -> str:
    dimension = Dimension.parse(key, text)
    if dimension.key in (*NOT_VARIED, BUDGET):
        raise ConfigError(f"{where}: can't be varied by a sweep; --datasets, --labels-per-class and --set do")
    return dimension.key


def name_datasets(text: str) -> dict[str, dict[str, Any]]:
    """The data sets of a list by their names, each with settings of its own, `dataset` among them.

    Raises:
        ConfigError: none, one twice, or a key that is no setting of a data set in a sweep.
    """
    entries = [parse_dataset(item.strip(), partial(settable, one=True)) for item in text.split(",") if item.strip()]
    if not entries:
        raise ConfigError("--datasets: name at least one")
    found: dict[str, dict[str, Any]] = {}
    for name, entry in zip(dataset_names(entries), entries, strict=True):
        place = entry.name if entry.name in DATASETS else absolute({"dataset": entry.name})["dataset"]
        found[name] = {**{key: parse_value(value) for key, value in entry.settings}, "dataset": place}
    return found

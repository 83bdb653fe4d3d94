"""From what a comparison is asked for to its runs: every one resolved and checked before anything starts."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from psp_ray.config.config import Config
from psp_ray.config.presets import REFERENCES, ZERO_SHOT
from psp_ray.core.errors import ConfigError, DatasetError, OutputError
from psp_ray.core.writing import writing
from psp_ray.data.dataset import Dataset
from psp_ray.data.own import initial_labels, limited
from psp_ray.run.folder import RUN_FILE, differences, finished_summary, read_run
from psp_ray.run.given import check_named
from psp_ray.run.prepare import Prepared, complete, load_data, prepare
from psp_ray.run.resolve import resolve
from psp_ray.studies.folders import Sought, folders_of
from psp_ray.studies.names import dataset_names, file_name, former_file_name, former_names, suffixes
from psp_ray.studies.places import placed
from psp_ray.studies.settings import Entry, Study, parse_dataset, parse_strategy

STUDY_FILE = "study.yaml"
RUNS = "runs"
REPLACED = "replaced"


@dataclass(frozen=True)
class Cell:
    """One run: where it stands in the tables, and its complete configuration (which names its folder)."""

    id: str
    dataset: str
    strategy: str
    self_training: str
    labels_per_class: int | None
    """k of k x C labels a round; None for the references, which know no such number."""
    seed: int
    config: Config
    labels: int
    """Labels that it buys at most."""
    former: tuple[str, ...] = ()
    """Names that its folder had in earlier versions."""

    @property
    def folder(self) -> Path:
        assert self.config.output.out is not None
        return Path(self.config.output.out)

    @property
    def title(self) -> str:
        """Its name on a line of progress."""
        times = f" k {self.labels_per_class}" if self.labels_per_class not in (None, 1) else ""
        return f"{self.dataset} {self.strategy}:{self.self_training}{times} seed {self.seed}"

    def identity(self) -> dict[str, Any]:
        return self.config.identity()


@dataclass(frozen=True)
class Shown:
    """A name as it is shown, and what it is short for."""

    text: str
    whole: str


@dataclass
class Plan:
    """All runs of a comparison in the order of its tables, and one prepared run for every set of features."""

    study: Study
    out: Path
    cells: list[Cell]
    features: list[Prepared] = field(default_factory=list)

    def finished(self) -> list[Cell]:
        return [cell for cell in self.cells if is_finished(cell)]

    def to_do(self) -> list[Cell]:
        """Runs without a result, seed by seed, so that an unfinished comparison compares like with like."""
        open_cells = [cell for cell in self.cells if not is_finished(cell)]
        return sorted(open_cells, key=lambda cell: cell.seed)  # stable: within a seed the order of the tables


def is_finished(cell: Cell) -> bool:
    return finished_summary(cell.folder) is not None


def make_plan(study: Study, out: Path) -> Plan:
    """Resolve and check every run.

    Raises:
        UserError: the first thing that is wrong with any of them, in one line.
    """
    strategies = [parse_strategy(text) for text in study.settings.strategies]
    entries = [parse_dataset(text) for text in study.settings.datasets]
    names = [Shown(*both) for both in zip(dataset_names(entries), dataset_names(entries, whole=True), strict=True)]
    behind = suffixes(strategies)
    for entry in entries:  # what no data would put right comes before any are read
        for strategy in strategies:
            check_named(resolve(_settings(study, entry, strategy)))
    loaded = [_load(entry, study) for entry in entries]
    former = former_names(entries, [dataset.name for dataset in loaded])
    plan = Plan(study, out, [])
    wanted: dict[tuple[Any, ...], Prepared] = {}
    for entry, dataset, called, before in zip(entries, loaded, names, former, strict=True):
        seen: dict[tuple[str, str], str] = {}
        for strategy, suffix in zip(strategies, behind, strict=True):
            for times in _times(strategy, study):
                prepared = _prepare(study, entry, dataset, strategy, times)
                plain = prepared.config.policy.shown_strategy
                shown = Shown(plain + suffix, strategy_name(prepared.config, strategy))
                place = (shown.text, prepared.config.selftrain.self_training)
                if seen.setdefault(place, strategy.text) != strategy.text:
                    raise ConfigError(
                        f"--strategies: {strategy.text} and {seen[place]} are the same runs; leave one of them out"
                    )
                wanted.setdefault(_features_key(prepared.config), prepared)
                for seed in range(1 if strategy.name == ZERO_SHOT else study.settings.seeds):
                    plan.cells.append(_cell(called, before, shown, prepared, times, seed))
        if len(seen) < len(strategies):
            twice = Counter(strategy.text for strategy in strategies).most_common(1)[0][0]
            raise ConfigError(f"--strategies: {twice} is listed twice; leave one of them out")
    # Those with views first: they encode the images as well, for all who go without views.
    plan.features = sorted(wanted.values(), key=lambda item: item.config.selftrain.self_training == "none")
    _check_against(study, plan.cells)
    sought = [Sought((cell.id, *cell.former), cell.identity()) for cell in plan.cells]
    plan.cells = [
        _placed(cell, out, name) for cell, name in zip(plan.cells, folders_of(out / RUNS, sought), strict=True)
    ]
    return plan


def strategy_name(config: Config, entry: Entry) -> str:
    return config.policy.shown_strategy + entry.suffix


def _load(entry: Entry, study: Study) -> Dataset:
    """All images of an entry: `pool_limit` takes others for each seed."""
    given = {**study.run, **dict(entry.settings), "pool_limit": None}
    config = resolve(placed(study, {**given, "dataset": entry.name, "strategy": "random"}))
    dataset = load_data(config)
    if not (dataset.known_labels(config.data.evaluate_on) >= 0).any():
        raise DatasetError(
            f"{dataset.name}: no {config.data.evaluate_on} images with labels to compare on; "
            "choose another --evaluate-on, or add some"
        )
    return dataset


def _times(strategy: Entry, study: Study) -> Iterable[int | None]:
    return (None,) if strategy.name in REFERENCES else study.settings.labels_per_class


def _settings(study: Study, entry: Entry, strategy: Entry) -> dict[str, Any]:
    """Settings of a strategy's runs on a data set, but for what depends on its images and classes."""
    given: dict[str, Any] = {**study.run, **dict(entry.settings), **dict(strategy.settings)}
    given |= {"dataset": entry.name, "strategy": strategy.name, "seed": 0, "runner": "inline", "resume": True}
    if strategy.self_training is not None:
        given["self_training"] = strategy.self_training
    if strategy.name in REFERENCES:
        given.pop("rounds", None)  # they have their own, or none
    return placed(study, given)


def _prepare(study: Study, entry: Entry, dataset: Dataset, strategy: Entry, times: int | None) -> Prepared:
    given = _settings(study, entry, strategy)
    given["pool_limit"] = None if strategy.name == ZERO_SHOT else replicate_size(study, given, dataset)
    if times is not None:
        given["labels_per_round"] = times * len(dataset.classes)
    return _checked(given, dataset)


def replicate_size(study: Study, given: Mapping[str, Any], dataset: Dataset) -> int | None:
    """Pool images of each seed's part of the pool; None where every seed has the whole pool."""
    whole = dataset.pool.num_rows
    size = min(whole, int(given.get("pool_limit") or whole))
    size = round(study.settings.pool_share * size)
    return None if size >= whole else max(2, size)


def _checked(given: dict[str, Any], dataset: Dataset) -> Prepared:
    """A run with all images of its data set, which are encoded once, checked against the pool it will have."""
    config = resolve(given)
    if config.data.pool_limit is not None:
        file = config.data.initial_labels
        known = initial_labels(dataset, file)[0] if file else np.zeros(0, np.int64)
        prepare(config, limited(dataset, config.data.pool_limit, config.runtime.seed, known))
    return replace(prepare(config.changed(pool_limit=None), dataset), config=complete(config, dataset))


def _cell(name: Shown, former: str, strategy: Shown, prepared: Prepared, times: int | None, seed: int) -> Cell:
    """A run that has no folder yet. `former`: what its data set was called before."""
    config = prepared.config
    training, rounds, size = config.selftrain.self_training, config.labels.rounds, config.labels.labels_per_round
    rest = [training, *([] if times is None else [f"k{times}"]), f"seed{seed}"]
    pool = config.data.pool_limit or prepared.dataset.pool.num_rows
    return Cell(
        id="--".join([*(file_name(shown.text, shown.whole) for shown in (name, strategy)), *rest]),
        dataset=name.text,
        strategy=strategy.text,
        self_training=training,
        labels_per_class=times,
        seed=seed,
        config=config.changed(seed=seed),
        labels=0 if config.policy.preset == ZERO_SHOT else rounds * (size if isinstance(size, int) else pool),
        former=(
            "--".join(map(file_name, (name.whole, strategy.whole, *rest))),
            "--".join(map(former_file_name, (former, strategy.whole, *rest))),
        ),
    )


def _placed(cell: Cell, out: Path, folder: str) -> Cell:
    return replace(cell, id=folder, config=cell.config.changed(out=str(out / RUNS / folder)))


def _features_key(config: Config) -> tuple[Any, ...]:
    views = (config.model.view_count, config.model.view_scale, config.model.view_flip, config.model.view_seed)
    uses = config.selftrain.self_training != "none" and config.model.view_mode == "cached"
    model = (
        config.model.model,
        config.model.checkpoint,
        config.model.image_size,
        config.model.precision,
        config.model.device,
    )
    return (config.data.dataset, config.data.data_root, *model, views if uses else None)


def _check_against(study: Study, cells: list[Cell]) -> None:
    if "against" not in study.settings.model_fields_set:
        return
    known = {cell.strategy for cell in cells} | {f"{cell.strategy}:{cell.self_training}" for cell in cells}
    for text in study.settings.against:
        name, _, training = text.rpartition(":")
        if (text if training in ("none", "ust") else name if training == "same" else text) not in known:
            raise ConfigError(
                f"--against {text}: is not among the --strategies; add it there, or give STRATEGY:none, :ust or :same"
            )


# -- the output folder -----------------------------------------------------------------------------------------------


def check_study_out(plan: Plan, resume: bool, replace_changed: bool) -> list[Cell]:
    """See whether the folder can be used; returns runs in it that were made with other settings. Touches nothing.

    Raises:
        OutputError: a file, used while not resuming, holding something else, or with runs of other settings in it.
    """
    out = plan.out
    if out.exists() and not out.is_dir():
        raise OutputError(f"--out {out}: a file of that name exists; choose another folder")
    entries = [path.name for path in out.iterdir() if not path.name.startswith(".")] if out.exists() else []
    if entries and STUDY_FILE not in entries:
        raise OutputError(f"--out {out}: the folder holds something else than a comparison; choose another one")
    if RUNS in entries and not resume:
        raise OutputError(f"--out {out}: a comparison is in it; add --resume to go on with it, or choose another one")
    changed = [(cell, words) for cell in plan.cells if (words := _changed(cell))]
    if changed and not replace_changed:
        cell, words = changed[0]
        raise OutputError(
            f"--resume: {len(changed)} of {len(plan.cells)} runs in {out} were made with other settings ({cell.id}: "
            f"{words}); give the same ones, choose another --out, or add --replace-changed to run those again"
        )
    return [cell for cell, _ in changed]


def _changed(cell: Cell) -> str:
    path = cell.folder / RUN_FILE
    return differences(read_run(cell.folder).identity, cell.identity()) if path.exists() else ""


def set_aside(plan: Plan, cells: list[Cell]) -> None:
    """Move runs out of the way, into `replaced/`."""
    for cell in cells:
        target = plan.out / REPLACED / cell.id
        number = 1
        while target.exists():
            number += 1
            target = plan.out / REPLACED / f"{cell.id}-{number}"
        with writing(target):
            target.parent.mkdir(exist_ok=True)
            shutil.move(cell.folder, target)

"""What a sweep found, in numbers: who is best, what matters, and what so many labels can buy.

All accuracies are on `val`; scores are normalized (0 = random, 1 = full) and averaged over the data sets.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from psp_ray.core.errors import OutputError
from psp_ray.studies.sweep.plan import Plan, TrialResult, load_plan, load_trials
from psp_ray.studies.sweep.references import References, load_references
from psp_ray.studies.sweep.space import BUDGET, shown

CORE = ("beta", "tau", "gamma")
FEW = 5
"""Different values of a setting up to which each is looked at by itself."""
CHANCE = 0.05
"""Probability below which a difference is not called chance."""


class Analysis:
    """The trials of a sweep, looked at from all sides."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.plan: Plan = load_plan(folder)
        self.references: dict[str, References] = load_references(folder, self.plan)
        self.trials: list[TrialResult] = load_trials(folder)
        self.full_length = [t for t in self.trials if t.status == "finished"]
        """Trials with all rounds: only they may be called best; an early-stopped one is judged by its early rounds."""
        if not self.full_length:
            raise OutputError(f"{folder}: no trial has finished yet; go on with `psp-ray sweep ... --resume`")
        first = next(iter(self.plan.datasets))
        self.values = {trial.name: self.plan.shown(first, trial.point) for trial in self.trials}

    # -- who is best ---------------------------------------------------------------------------------------------------

    def accuracy(self, trial: TrialResult, dataset: str) -> float:
        return float(trial.rounds[-1]["accuracy"][dataset])

    def labels(self, trial: TrialResult) -> int:
        return int(sum(trial.rounds[-1]["labels"].values()))

    def best(self, dataset: str | None, budget: int | None = None) -> TrialResult | None:
        """The best trial with all rounds; ties go to fewer labels, then to the earlier trial."""
        among = [t for t in self.full_length if budget is None or t.point[BUDGET] == budget]
        key = (lambda t: t.rounds[-1]["score"]) if dataset is None else (lambda t: self.accuracy(t, dataset))
        return max(among, key=lambda t: (key(t), -t.point[BUDGET]), default=None)

    def best_lines(self) -> list[str]:
        """`best DATASET: beta=... accuracy=...` for each data set, and `best overall: ...`."""
        lines = []
        for dataset in self.plan.datasets:
            trial = self.best(dataset)
            assert trial is not None
            lines.append(f"best {dataset}: {self.describe(trial)} accuracy={self.accuracy(trial, dataset):.4f}")
        trial = self.best(None)
        assert trial is not None
        accuracies = " ".join(f"accuracy[{d}]={self.accuracy(trial, d):.4f}" for d in self.plan.datasets)
        lines.append(f"best overall: {self.describe(trial)} score={trial.rounds[-1]['score']:.4f} {accuracies}")
        return lines

    def tie_lines(self) -> list[str]:
        """Where several trials with as few labels are equally good, what the best line says of the others."""
        lines = []
        for dataset in (*self.plan.datasets, None):
            best = self.best(dataset)
            assert best is not None
            value = best.score if dataset is None else self.accuracy(best, dataset)
            same = [t for t in self.full_length if t.point[BUDGET] == best.point[BUDGET]]
            equal = sum((t.score if dataset is None else self.accuracy(t, dataset)) == value for t in same)
            if equal > 1:
                how_many = f"all {equal}" if equal == len(same) else f"{equal} of the {len(same)}"
                where = "overall" if dataset is None else f"on {dataset}"
                lines.append(f"- {where}, {how_many} trials with this budget are equally good; shown is the first")
        return ["", *lines] if lines else []

    def describe(self, trial: TrialResult) -> str:
        values = self.values[trial.name]
        keys = [*CORE, BUDGET, *(key for key in values if key not in (*CORE, BUDGET))]
        return " ".join(f"{key}={shown(values[key])}" for key in keys)

    # -- what matters --------------------------------------------------------------------------------------------------

    def sensitivity_keys(self) -> list[str]:
        """What took more than one value."""
        values = list(self.values.values())
        return [key for key in values[0] if key != BUDGET and len({str(v[key]) for v in values}) > 1]

    def effects(self, key: str) -> tuple[list[Any], dict[str, np.ndarray]]:
        """Values of `key` and, for each data set, accuracy less the mean of its budget (in points), a trial each."""
        values = [self.values[trial.name][key] for trial in self.full_length]
        effects = {}
        for dataset in self.plan.datasets:
            accuracy = np.array([self.accuracy(trial, dataset) for trial in self.full_length])
            budget = np.array([trial.point[BUDGET] for trial in self.full_length])
            means = {k: accuracy[budget == k].mean() for k in set(budget.tolist())}
            effects[dataset] = 100 * (accuracy - np.array([means[k] for k in budget.tolist()]))
        return values, effects

    def sensitivity_rows(self) -> list[tuple[str, str, str, str]]:
        """Setting, data set, rank correlation with accuracy inside a budget, and best minus worst third (points)."""
        from scipy.stats import spearmanr

        rows = []
        for key in self.sensitivity_keys():
            values, effects = self.effects(key)
            numbers, names = ordinal(values)
            for dataset, effect in effects.items():
                if len(set(numbers)) < 2:
                    rows.append((key, dataset, "not varied", "–"))
                    continue
                ordered = names is None and np.ptp(effect) > 0
                rank = spearmanr(numbers, effect).statistic if ordered else float("nan")
                centers, means = trend(np.array(numbers, float), effect)
                shown_rank = "–" if np.isnan(rank) else f"{rank:+.2f}"
                rows.append((key, dataset, shown_rank, f"{means.max() - means.min():.1f}" if len(centers) > 1 else "–"))
        return rows

    def spread_of(self, key: str) -> float:
        """Largest over the data sets of best minus worst mean of a setting's values (points); 0 where not varied."""
        values, effects = self.effects(key)
        numbers, _ = ordinal(values)
        means = [trend(np.array(numbers, float), effect)[1] for effect in effects.values()]
        return max((float(found.max() - found.min()) for found in means), default=0.0)

    def moved(self, key: str) -> bool:
        """Whether accuracy differs between the values of a setting (or thirds of them) by more than chance, on any data
        set: Kruskal and Wallis's rank test at 5 %."""
        from scipy.stats import kruskal

        values, effects = self.effects(key)
        numbers = np.array(ordinal(values)[0], float)
        for effect in effects.values():
            groups = parts_of(numbers, effect)
            if len(groups) > 1 and np.ptp(effect) > 0 and kruskal(*groups).pvalue < CHANCE:
                return True
        return False

    def matters(self) -> str:
        """Which settings moved accuracy by more than chance, and which did not, in words."""
        spreads = {key: self.spread_of(key) for key in self.sensitivity_keys()}
        moved = sorted((key for key in spreads if self.moved(key)), key=lambda key: -spreads[key])
        still = [key for key in spreads if key not in moved]
        said = [f"{key} moved accuracy by {spreads[key]:.1f} points" for key in moved]
        if still:
            *some, last = still
            names = f"{', '.join(some)} and {last}" if some else last
            said.append(f"{names} moved accuracy by no more than chance")
        return ", ".join(said) or "no setting was varied"

    def pareto(self, dataset: str) -> list[tuple[int, float]]:
        """(labels, accuracy) of every round of every trial that no other beats with as few labels."""
        points = sorted(
            {(row["labels"][dataset], row["accuracy"][dataset]) for trial in self.trials for row in trial.rounds},
            key=lambda point: (point[0], -point[1]),
        )
        front: list[tuple[int, float]] = []
        for labels, accuracy in points:
            if not front or accuracy > front[-1][1]:
                front.append((labels, accuracy))
        return front


def ordinal(values: list[Any]) -> tuple[list[float], list[str] | None]:
    """Values as numbers, or as places in their sorted list with the names of these places."""
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return [float(value) for value in values], None
    names = sorted({str(value) for value in values})
    return [float(names.index(str(value))) for value in values], names


def trend(values: np.ndarray, effect: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of `effect` at each value where there are few, else in thirds of the values (at their medians)."""
    few = np.unique(values)
    centers = few if len(few) <= FEW else np.array([np.median(values[part]) for part in _thirds(values)])
    return centers, np.array([part.mean() for part in parts_of(values, effect)])


def parts_of(values: np.ndarray, effect: np.ndarray) -> list[np.ndarray]:
    """`effect` at each value where there are few, else in thirds of the values."""
    few = np.unique(values)
    if len(few) <= FEW:
        return [effect[values == value] for value in few]
    return [effect[part] for part in _thirds(values)]


def _thirds(values: np.ndarray) -> list[np.ndarray]:
    return np.array_split(np.argsort(values, kind="stable"), 3)

"""What a sweep found: `python -m tuning.report DIR` prints and writes report.md, report.csv and two pictures.

Everything is computed from `DIR/trials/*/result.json`, so it works on a sweep that is still running. All accuracies
are on `val`; scores are normalized (0 = random, 1 = full) and averaged over the data sets.
"""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

from psp_ray.core.errors import OutputError
from psp_ray.core.exit_codes import exit_code
from psp_ray.core.files import write_text
from tuning.plan import DONE, Plan, References, TrialResult, load_plan, load_references, load_trials
from tuning.progress import shown
from tuning.space import BUDGET

CORE = ("beta", "tau", "gamma")


class Report:
    """The trials of a sweep, looked at from all sides."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.plan: Plan = load_plan(folder)
        self.references: dict[str, References] = load_references(folder, self.plan)
        self.trials: list[TrialResult] = load_trials(folder)
        self.full_length = [t for t in self.trials if t.status == "finished"]
        """Trials with all rounds: only they may be called best; an early-stopped one is judged by its early rounds."""
        if not self.full_length:
            raise OutputError(f"{folder}: no trial has finished yet; go on with `python -m tuning.sweep ... --resume`")
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
        """beta, tau, gamma and what else took more than one value."""
        values = list(self.values.values())
        return [key for key in values[0] if key != BUDGET and (key in CORE or len({str(v[key]) for v in values}) > 1)]

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

    # -- files ---------------------------------------------------------------------------------------------------------

    def csv_text(self) -> str:
        """A line for every round of every trial."""
        text = io.StringIO()
        keys = [*CORE, BUDGET, *(key for key in self.plan.space if key not in CORE)]
        names = [f"{kind}_{dataset}" for dataset in self.plan.datasets for kind in ("labels", "accuracy")]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["trial", "status", *keys, "round", "score", *names, "seconds", "error"])
        for trial in self.trials:
            head = [trial.name, trial.status, *(self.values[trial.name][key] for key in keys)]
            rows: list[Any] = list(trial.rounds) or [None]
            for row in rows:
                cells = (
                    [] if row is None else [row[kind][d] for d in self.plan.datasets for kind in ("labels", "accuracy")]
                )
                score = ["", ""] if row is None else [row["round"], row["score"]]
                writer.writerow([*head, *score, *(cells or [""] * len(names)), round(trial.seconds, 1), trial.error])
        return text.getvalue()

    def markdown(self) -> str:
        plan, counts = self.plan, [trial.status for trial in self.trials]
        by_status = ", ".join(f"{counts.count(s)} {s}" for s in (*DONE, "failed", "running") if s in counts)
        parts = [
            "# Sweep",
            "",
            "```text",
            *self.best_lines(),
            "```",
            *self.tie_lines(),
            "",
            f"Trials: {by_status}; {plan.rounds} rounds each; searcher {plan.searcher}, scheduler {plan.scheduler}, "
            f"seed {plan.seed}. Accuracies are on the validation part; a score is the mean over the data sets of the "
            "accuracy on the scale 0 = random, 1 = full. The best of many trials is a lucky one too: confirm it with "
            "other seeds before you rely on it.",
            "",
            "| data set | zero-shot | random (score 0) | full (score 1) |",
            "|---|---|---|---|",
        ]
        for name, found in self.references.items():
            parts.append(f"| {name} | {found.zero_shot:.1%} | {found.random:.1%} | {found.full:.1%} |")
        narrow = [name for name, found in self.references.items() if found.full - found.random < 0.02]
        if narrow:
            parts += ["", f"On {', '.join(narrow)} full is hardly above random: its scores say little."]
        parts += [
            "",
            "## Best for each budget",
            "",
            "| labels per class | data set | best | accuracy |",
            "|---|---|---|---|",
        ]
        for budget in plan.labels_per_class:
            for dataset in plan.datasets:
                trial = self.best(dataset, budget)
                if trial is not None:
                    parts.append(
                        f"| {budget} | {dataset} | {self.describe(trial)} | {self.accuracy(trial, dataset):.1%} |"
                    )
        parts += ["", "## Accuracy against budget", "", "![accuracy against labels](pareto.png)", ""]
        for dataset in plan.datasets:
            front = ", ".join(f"{accuracy:.1%} with {labels:,}" for labels, accuracy in self.pareto(dataset))
            parts.append(f"- {dataset}: {front} labels")
        parts += [
            "",
            "## Sensitivity",
            "",
            "![accuracy against each setting](sensitivity.png)",
            "",
            "Accuracy less the mean of the trials with the same budget; lines join the means at each value, or of "
            "thirds of the trials where there are many values. Rank correlation near 0 and a small spread: the "
            "setting hardly matters in this range.",
            "",
            "| setting | data set | rank correlation | spread of means (points) |",
            "|---|---|---|---|",
            *[f"| {' | '.join(row)} |" for row in self.sensitivity_rows()],
            "",
            "## Trials",
            "",
            "| trial | status | settings | score | labels | seconds |",
            "|---|---|---|---|---|---|",
        ]
        order = sorted(self.trials, key=lambda t: (t.score is None, -(t.score or 0.0), t.name))
        for trial in order:
            score = "–" if trial.score is None else f"{trial.score:.3f}"
            labels = f"{self.labels(trial):,}" if trial.rounds else "–"
            status = trial.status if trial.status != "stopped" else f"stopped after round {len(trial.rounds)}"
            parts.append(
                f"| {trial.name} | {status} | {self.describe(trial)} | {score} | {labels} | {trial.seconds:.0f} |"
            )
        failed = [trial for trial in self.trials if trial.status == "failed"]
        if failed:
            parts += ["", "## Failed", "", *[f"- {trial.name}: {trial.error}" for trial in failed]]
        return "\n".join(parts) + "\n"

    def write(self) -> None:
        """report.md, report.csv, pareto.png and sensitivity.png in the sweep's folder."""
        from tuning.pictures import draw_pareto, draw_sensitivity

        write_text(self.folder / "report.md", self.markdown())
        write_text(self.folder / "report.csv", self.csv_text())
        draw_pareto(self, self.folder / "pareto.png")
        draw_sensitivity(self, self.folder / "sensitivity.png")


def ordinal(values: list[Any]) -> tuple[list[float], list[str] | None]:
    """Values as numbers, or as places in their sorted list with the names of these places."""
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return [float(value) for value in values], None
    names = sorted({str(value) for value in values})
    return [float(names.index(str(value))) for value in values], names


def trend(values: np.ndarray, effect: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of `effect` at each value where there are few, else in thirds of the values (at their medians)."""
    few = np.unique(values)
    if len(few) <= 5:
        return few, np.array([effect[values == value].mean() for value in few])
    parts = np.array_split(np.argsort(values, kind="stable"), 3)
    return np.array([np.median(values[part]) for part in parts]), np.array([effect[part].mean() for part in parts])


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
def report(folder: Path) -> None:
    """Write and print the report of the sweep in DIR."""
    made = Report(folder)
    made.write()
    click.echo(made.markdown(), nl=False)


def main(arguments: list[str] | None = None) -> None:
    """Entry point; exit code 2 where the folder holds no finished trial."""
    code = exit_code(lambda: report.main(args=arguments, prog_name="python -m tuning.report", standalone_mode=False))
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()

"""The report of a sweep: report.md, report.csv and two pictures, from `DIR/trials/*/result.json` alone.

So it works on a sweep that is still running.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psp_ray.core.files import write_text
from psp_ray.core.tables import csv_text
from psp_ray.core.words import counted
from psp_ray.studies.sweep.analysis import CORE, Analysis
from psp_ray.studies.sweep.pictures import draw_pareto, draw_sensitivity
from psp_ray.studies.sweep.plan import DONE
from psp_ray.studies.sweep.references import SMALLEST_SPAN
from psp_ray.studies.sweep.space import BUDGET

NARROW = 0.02
"""Distance of full and random below which scores say little."""


def write_report(analysis: Analysis) -> str:
    """Write report.md, report.csv, pareto.png and sensitivity.png into the sweep's folder; returns report.md's text."""
    folder, text = analysis.folder, markdown(analysis)
    write_text(folder / "report.md", text)
    write_text(folder / "report.csv", table(analysis))
    draw_pareto(analysis, folder / "pareto.png")
    if analysis.sensitivity_keys():
        draw_sensitivity(analysis, folder / "sensitivity.png")
    return text


def table(analysis: Analysis) -> str:
    """A line for every round of every trial, as CSV."""
    datasets = list(analysis.plan.datasets)
    keys = [*CORE, BUDGET, *(key for key in analysis.plan.space if key not in CORE)]
    names = [f"{kind}_{dataset}" for dataset in datasets for kind in ("labels", "accuracy")]
    rows: list[list[Any]] = [["trial", "status", *keys, "round", "score", *names, "seconds", "error"]]
    for trial in analysis.trials:
        head = [trial.name, trial.status, *(analysis.values[trial.name][key] for key in keys)]
        tail = [round(trial.seconds, 1), trial.error]
        for row in trial.rounds:
            cells = [value for name in datasets for value in (row["labels"][name], row["accuracy"][name])]
            rows.append([*head, row["round"], row["score"], *cells, *tail])
        if not trial.rounds:
            rows.append([*head, "", "", *([""] * len(names)), *tail])
    return csv_text(rows)


def markdown(analysis: Analysis) -> str:
    """The whole report."""
    parts = [*_head(analysis), *_references(analysis), *_budgets(analysis), *_sensitivity(analysis), *_trials(analysis)]
    return "\n".join(parts) + "\n"


def _head(analysis: Analysis) -> Iterator[str]:
    plan, counts = analysis.plan, [trial.status for trial in analysis.trials]
    by_status = ", ".join(f"{counts.count(s)} {s}" for s in (*DONE, "failed", "running") if s in counts)
    yield from ("# Sweep", "", "```text", *analysis.best_lines(), "```", *analysis.tie_lines(), "")
    yield (
        f"Trials: {by_status}; {counted(plan.rounds, 'round')} each; searcher {plan.searcher}, "
        f"scheduler {plan.scheduler}, "
        f"seed {plan.seed}. Accuracies are on the validation part; a score is the mean over the data sets of the "
        "accuracy on the scale 0 = random, 1 = full (where that is above random). The best of many trials is a lucky "
        "one too: confirm it with other seeds before you rely on it."
    )


def _references(analysis: Analysis) -> Iterator[str]:
    yield from ("", "| data set | zero-shot | random (score 0) | full | score 1 |", "|---|---|---|---|---|")
    for name, found in analysis.references.items():
        yield f"| {name} | {found.zero_shot:.1%} | {found.random:.1%} | {found.full:.1%} | {found.one_told} |"
    for name, found in analysis.references.items():
        if found.full - found.random < NARROW:
            scale = f"; its score 1 is {100 * SMALLEST_SPAN:g} point above random" if found.tied else ""
            yield from ("", f"On {name} full is hardly above random, so its scores say little{scale}.")


def _budgets(analysis: Analysis) -> Iterator[str]:
    yield from ("", "## Best for each budget", "", "| labels per class | data set | best | accuracy |")
    yield "|---|---|---|---|"
    for budget in analysis.plan.labels_per_class:
        for dataset in analysis.plan.datasets:
            trial = analysis.best(dataset, budget)
            if trial is not None:
                reached = analysis.accuracy(trial, dataset)
                yield f"| {budget} | {dataset} | {analysis.describe(trial)} | {reached:.1%} |"
    yield from ("", "## Accuracy against budget", "", "![accuracy against labels](pareto.png)", "")
    for dataset in analysis.plan.datasets:
        front = ", ".join(f"{accuracy:.1%} with {labels:,}" for labels, accuracy in analysis.pareto(dataset))
        yield f"- {dataset}: {front} labels"


def _sensitivity(analysis: Analysis) -> Iterator[str]:
    yield from ("", "## What mattered", "", f"{analysis.matters()[:1].upper()}{analysis.matters()[1:]}.", "")
    if not analysis.sensitivity_keys():
        return
    yield from ("![accuracy against each setting](sensitivity.png)", "")
    yield (
        "Accuracy less the mean of the trials with the same budget; lines join the means at each value, or of "
        "thirds of the trials where there are many values. By chance: the rank test of Kruskal and Wallis at 5 %."
    )
    rows = [row for row in analysis.sensitivity_rows() if analysis.moved(row[0])]
    if rows:
        yield from ("", "| setting | data set | rank correlation | spread of means (points) |", "|---|---|---|---|")
        yield from (f"| {' | '.join(row)} |" for row in rows)


def _trials(analysis: Analysis) -> Iterator[str]:
    yield from (
        "",
        "## Trials",
        "",
        "| trial | status | settings | score | labels | seconds |",
        "|---|---|---|---|---|---|",
    )
    for trial in sorted(analysis.trials, key=lambda t: (t.score is None, -(t.score or 0.0), t.name)):
        score = "–" if trial.score is None else f"{trial.score:.3f}"
        labels = f"{analysis.labels(trial):,}" if trial.rounds else "–"
        status = trial.status if trial.status != "stopped" else f"stopped after round {len(trial.rounds)}"
        yield f"| {trial.name} | {status} | {analysis.describe(trial)} | {score} | {labels} | {trial.seconds:.0f} |"
    failed = [trial for trial in analysis.trials if trial.status == "failed"]
    if failed:
        yield from ("", "## Failed", "", *(f"- {trial.name}: {trial.error}" for trial in failed))

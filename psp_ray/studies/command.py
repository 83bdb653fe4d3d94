"""`psp-ray compare`: plan, check, encode once, run, and write what came out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from psp_ray.config.config import Config
from psp_ray.core.errors import ConfigError, Interrupted
from psp_ray.core.files import alone, write_text
from psp_ray.core.ours import mark
from psp_ray.core.threads import limit_threads
from psp_ray.core.words import counted
from psp_ray.report.progress import Reporter
from psp_ray.report.tracking import TRACKERS
from psp_ray.run.folder import finished_summary
from psp_ray.run.resolve import resolve
from psp_ray.studies.board import Board
from psp_ray.studies.collect import CURVES, RESULTS, collect, summary_rounds, unlisted, unlisted_text, write_csv
from psp_ray.studies.dry_run import DryRun
from psp_ray.studies.execute import Outcome, encode_features, execute
from psp_ray.studies.names import with_own
from psp_ray.studies.plan import STUDY_FILE, Cell, Plan, check_study_out, make_plan, set_aside
from psp_ray.studies.settings import make_study, parse_pair, shown_command
from psp_ray.studies.tracking import StudyTracker

WHERE = ("runner", "ray_address", "threads", "timeout", "workers", "cache", "device", "model", "memory_mib")
"""Settings of a run that also say how the comparison itself is executed."""


@dataclass(frozen=True)
class Request:
    """Everything the command line says."""

    study: dict[str, Any]
    """Keys of `StudySettings`."""
    run: dict[str, Any]
    """Settings of all runs, and `out`, `resume`, `runner`."""
    study_file: str | None = None
    pairs: tuple[str, ...] = ()
    """`--set key=value`."""
    parallel: int | None = None
    replace_changed: bool = False
    report: str | None = None
    dry_run: bool = False
    track: str | None = None
    """A tracking tool of `--track`."""


def compare(request: Request, console: Console | None = None) -> int:
    """Do what is asked; returns the exit code: 0, or 1 where a run failed.

    Raises:
        UserError: before anything is run, for the first thing that is wrong.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    own = {key: value for key, value in request.run.items() if value is not None}
    out, resume = own.pop("out", None), bool(own.pop("resume", False))
    pairs = [parse_pair(text) for text in request.pairs]
    own.update((key, value) for owner, key, value in pairs if not owner)
    study = make_study(request.study, own, request.study_file)
    study = with_own(study, [pair for pair in pairs if pair[0]])
    if out is None and not request.dry_run:
        raise ConfigError("--out is missing; name the folder for the runs, the tables and the pictures")
    plan = make_plan(study, Path(out or "runs/comparison"))
    given = {**{key: value for key, value in request.study.items() if value is not None}, **own}
    command = shown_command(study, request.study_file, given)
    if request.dry_run:
        found = DryRun(plan, out, resume, request.replace_changed)
        check_outlets(request)
        for line in found.lines():
            console.print(line, markup=False)
        left_out = unlisted_text(unlisted(plan.out, {cell.id for cell in plan.cells})) if out is not None else ""
        if left_out:
            console.print(left_out, markup=False)
        console.print(f"{found.sums()}; nothing was started", markup=False)
        return 0
    return carry_out(plan, command, request, resume, console)


Extra = Callable[[pd.DataFrame], list[str]]
"""Paragraphs for the tables' document, from the results."""


def carry_out(
    plan: Plan, command: str, request: Request, resume: bool, console: Console, extra: Extra | None = None
) -> int:
    """Run a plan into its folder and write tables and pictures; returns the exit code."""
    changed = check_study_out(plan, resume, request.replace_changed)
    where = resolve({key: value for key, value in plan.study.run.items() if key in WHERE})
    limit_threads(where.runtime.threads)
    check_outlets(request)
    warn = Reporter(where.labels.rounds, console).warn
    tracker = StudyTracker(request.track, plan.out, plan.study.settings.model_dump(mode="json"), warn)
    with alone(plan.out):
        set_aside(plan, changed)
        mark(plan.out)
        write_text(plan.out / STUDY_FILE, plan.study.to_yaml())
        try:
            failed = _run(plan, where, request.parallel, console, tracker)
        except BaseException as error:
            if isinstance(error, (KeyboardInterrupt, Interrupted)):
                write_csv(plan.out, *collect(plan))
                console.print(f"interrupted; go on with the same command and --resume; so far: {plan.out / RESULTS}")
            tracker.end(finished=False)
            raise
        _write(plan, command, request.report, console, extra)
        tracker.end(finished=True)
    return 1 if failed else 0


def check_outlets(request: Request) -> None:
    """Raise a UserError where `--report` can't be written, or `--track` is no tool."""
    if request.report is not None:
        from psp_ray.studies.report import check_report

        check_report(Path(request.report))
    if request.track is not None:
        TRACKERS.find(request.track)


def _track(tracker: StudyTracker, cell: Cell) -> None:
    """A run that has finished, from its own summary; of one that has failed there is nothing to say."""
    summary = finished_summary(cell.folder)
    if summary is None:
        return
    rows = [{key: float(value) for key, value in row.items() if value is not None} for row in summary_rounds(summary)]
    steps = {int(row.pop("round")): row for row in rows}
    tracker.child(cell.id, cell.folder, cell.config.flat(), steps, ended=True)


def _run(plan: Plan, where: Config, parallel: int | None, console: Console, tracker: StudyTracker) -> int:
    reporter = Reporter(where.labels.rounds, console)
    cells = plan.to_do()
    finished = len(plan.cells) - len(cells)
    already = f", {finished} of them finished earlier" if finished else ""
    runs = counted(len(plan.cells), "run")
    console.print(f"psp-ray: {runs}{already} -> {plan.out}", markup=False)
    if not cells:
        return 0
    encode_features(plan.features, where.runtime.runner, reporter)
    with Board(console, cells, finished) as board:

        def watch(cell: Cell, outcome: Outcome | None) -> None:
            board.watch(cell, outcome)
            if outcome is not None:
                write_csv(plan.out, *collect(plan))
                _track(tracker, cell)

        execute(plan, cells, where, parallel, watch)
        return board.failed


def _write(plan: Plan, command: str, report: str | None, console: Console, extra: Extra | None) -> None:
    from psp_ray.studies.report import write_documents

    results, curves = collect(plan)
    write_csv(plan.out, results, curves)
    paragraphs = extra(results) if extra else []
    paths = write_documents(plan, results, curves, command, Path(report) if report else None, paragraphs)
    console.print(f"results: {plan.out / RESULTS}, {plan.out / CURVES}", markup=False)
    console.print(f"tables and pictures: {', '.join(map(str, paths))}", markup=False)
    if (results.status == "finished").any():
        from psp_ray.studies.page import write_comparison_page

        console.print(f"report: {write_comparison_page(plan.out)}", markup=False)
    left_out = unlisted_text(unlisted(plan.out, {cell.id for cell in plan.cells}))
    if left_out:
        console.print(left_out, markup=False)
    bad = results[results.status != "finished"]
    for row in bad.itertuples():
        said = f"{row.status}: {row.dataset} {row.strategy}:{row.self_training} seed {row.seed}: {row.error}"
        console.print(said, style="red", markup=False)

"""Running a plan on Ray Tune: what the trials share first, then the trials, several at a time."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path

import click
import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from rich.console import Console

from psp_ray.actors.cluster import start_ray
from psp_ray.actors.opening import open_runtime
from psp_ray.core.errors import UserError
from psp_ray.core.words import counted
from psp_ray.report.progress import Reporter, duration
from psp_ray.run.featurizing import featurize_only
from psp_ray.studies.sweep.halving import HalvingByBudget
from psp_ray.studies.sweep.plan import (
    DONE,
    Plan,
    TrialResult,
    check_sweep_out,
    listed_points,
    load_trials,
    save_plan,
    varied,
    with_former_names,
)
from psp_ray.studies.sweep.progress import TrialLines
from psp_ray.studies.sweep.references import make_references, references_file
from psp_ray.studies.sweep.resources import check_trial_fits, trial_bundles
from psp_ray.studies.sweep.search import ListSource, OptunaSource, PointSearcher, Source
from psp_ray.studies.sweep.signals import catch_sigterm
from psp_ray.studies.sweep.trial import SweepTrial
from psp_ray.studies.tracking import StudyTracker


def run_sweep(
    plan: Plan,
    out: Path,
    resume: bool,
    num_samples: int,
    resources: dict[str, float],
    concurrent: int | None,
    address: str | None,
    tracker: StudyTracker | None = None,
) -> int:
    """Run or resume a sweep; returns the exit code: 0, or 1 where no trial succeeded."""
    plan = with_former_names(out, plan)
    check_sweep_out(out, plan, resume)
    earlier = load_trials(out)
    source, pending = _source(plan, num_samples, earlier)
    started_here = start_ray(address)
    catch_sigterm()  # again: Ray put a handler of its own in its place
    try:
        bundles = trial_bundles(plan, resources)
        room = check_trial_fits(bundles)
        save_plan(out, plan, resume)
        kept = sum(trial.status in DONE for trial in earlier)
        together = min(concurrent or room, room, max(pending, 1))
        click.echo(
            f"sweep of {', '.join(plan.datasets)} in {out}: {counted(pending, 'trial')} to run, {kept} done before, "
            f"{together} at a time ({_needs(bundles)} each); varied: {varied(plan)}"
        )
        if pending:
            _prepare_shared(plan, out, resources)
            click.echo(f"{together} {'process starts' if together == 1 else 'processes start'} for the trials ...")
            _tune(plan, out, source, earlier, pending, bundles, TrialLines(out, plan, pending, tracker), together)
    finally:
        if tracker is not None:
            tracker.end(finished=sys.exc_info()[0] is None)
        if started_here:
            ray.shutdown()
    return _say_results(out)


def _needs(bundles: list[dict[str, float]]) -> str:
    cpus, gpus = (sum(bundle.get(kind, 0.0) for bundle in bundles) for kind in ("CPU", "GPU"))
    return f"{cpus:g} CPU" + (f", {gpus:g} GPU" if gpus else "")


def _source(plan: Plan, num_samples: int, earlier: list[TrialResult]) -> tuple[Source, int]:
    if plan.searcher == "optuna":
        optuna = OptunaSource(plan.dimensions, plan.labels_per_class, num_samples, plan.seed, earlier)
        return optuna, optuna.pending_count
    points = listed_points(plan, num_samples)
    if plan.searcher == "random" and len(points) < num_samples:
        click.echo(f"the space holds {len(points)} different points, fewer than --num-samples {num_samples}")
    listed = ListSource(points, {trial.name for trial in earlier if trial.status in DONE})
    return listed, len(listed.pending)


class _Once(Reporter):
    """Says what holds for several data sets once."""

    def __init__(self, rounds: int, console: Console) -> None:
        super().__init__(rounds, console)
        self._said: set[str] = set()

    def note(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            super().note(text)


def _prepare_shared(plan: Plan, out: Path, resources: dict[str, float]) -> None:
    """Features of every data set into the cache, and its two reference runs: once, before the first trial."""
    told = _Once(plan.rounds, Console(highlight=False, soft_wrap=True, stderr=True))
    for name in plan.datasets:
        point = {dimension.key: dimension.bounds[0] for dimension in plan.dimensions}
        featurize_only(plan.config(name, point, runner="ray"), told, open_runtime)
    missing = [name for name in plan.datasets if not references_file(out, name).exists()]
    if missing:
        click.echo(f"reference runs (random and full) of {', '.join(missing)} ...")
        remote = ray.remote(num_cpus=resources["CPU"], num_gpus=resources["GPU"], max_retries=0)(make_references)
        try:
            ray.get([remote.remote(out, plan, name) for name in missing])
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, UserError) else error) from None
    for name in plan.datasets:
        click.echo(f"{name}: {make_references(out, plan, name).told()}")


def _tune(
    plan: Plan,
    out: Path,
    source: Source,
    earlier: list[TrialResult],
    pending: int,
    bundles: list[dict[str, float]],
    lines: TrialLines,
    together: int,
) -> None:
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", str(together))
    os.environ.setdefault("TUNE_RESULT_BUFFER_LENGTH", "0")
    for name in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # TrialLines says what failed, in a line
    scheduler = HalvingByBudget(plan, earlier) if plan.scheduler == "asha" else FIFOScheduler()
    session = time.strftime("%Y%m%d-%H%M%S") + f"-{os.getpid()}"
    tuner = tune.Tuner(
        tune.with_resources(SweepTrial, tune.PlacementGroupFactory(bundles)),
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max",
            search_alg=PointSearcher(out, source),
            scheduler=scheduler,
            num_samples=pending,
            max_concurrent_trials=together,
            reuse_actors=True,
            trial_name_creator=lambda trial: str(trial.config["name"]),
            trial_dirname_creator=lambda trial: str(trial.config["name"]),
        ),
        run_config=tune.RunConfig(
            name=session,
            storage_path=str(out / "tune"),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # runs keep their own
            failure_config=tune.FailureConfig(max_failures=0),
            callbacks=[lines],
        ),
    )
    tuner.fit()  # Ctrl-C makes it stop its trials and return
    if lines.ended < pending:
        raise KeyboardInterrupt


def _say_results(out: Path) -> int:
    trials = load_trials(out)
    done = [trial for trial in trials if trial.status in DONE]
    failed = [trial for trial in trials if trial.status == "failed"]
    early = sum(trial.status == "stopped" for trial in done)
    click.echo(
        f"{counted(len(done), 'trial')} done ({early} stopped early), {len(failed)} failed, "
        f"{duration(sum(trial.seconds for trial in trials))} of trial time"
    )
    for trial in failed:
        click.echo(f"failed {trial.name}: {trial.error}; see {out / 'trials' / trial.name / 'error.txt'}", err=True)
    click.echo(f"report:      psp-ray report {out}   (a page; as text: psp-ray sweep-report {out})")
    click.echo(f"TensorBoard: tensorboard --logdir {out / 'tune'}")
    return 0 if done else 1

"""Sweeps on Ray Tune: `python -m tuning.sweep --datasets a,b --labels-per-class 1,2,4 --num-samples N --out DIR`.

beta, tau, gamma, the budget and any other setting by name, across data sets. Features are encoded once before the
first trial and labels are bought once in the sweep's ledger, so a trial costs prompt learning and policy updates only.
Accuracies are those on `val`; `test` stays untouched. `python -m tuning.report DIR` says what came of it.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from psp_ray.core.errors import ConfigError, UserError
from psp_ray.core.exit_codes import exit_code
from psp_ray.report.progress import duration
from tuning.plan import DONE, LEDGER_VARIABLE, Plan, TrialResult, load_trials, parse_settings, save_plan
from tuning.space import BUDGET, Dimension, Point, grid_points, random_points

DEFAULT_SPACE = {"beta": "0..1", "tau": "0.01..0.5:log", "gamma": "0.5..0.99"}
NOT_VARIED = ("out", "resume", "dataset", "evaluate_on", "runner", "ledger", "cache", "rounds", "labels_per_round")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--datasets", required=True, help="data sets, parted by commas: names or folders")
@click.option("--labels-per-class", default="1", show_default=True, help="budgets k: k x C labels a round")
@click.option("--beta", help=f"values or an interval of beta [{DEFAULT_SPACE['beta']}]")
@click.option("--tau", help=f"the same for tau [{DEFAULT_SPACE['tau']}]")
@click.option("--gamma", help=f"the same for gamma [{DEFAULT_SPACE['gamma']}]")
@click.option(
    "--vary", multiple=True, metavar="KEY=VALUES", help="another setting: A,B,C or LOW..HIGH or LOW..HIGH:log"
)
@click.option("--set", "fixed", multiple=True, metavar="KEY=VALUE", help="a setting of all trials; DATASET:KEY=VALUE")
@click.option("--num-samples", default=12, show_default=True, type=click.IntRange(min=1), help="trials in all")
@click.option("--searcher", type=click.Choice(["random", "grid", "optuna"]), default="random", show_default=True)
@click.option("--scheduler", type=click.Choice(["none", "asha"]), default="none", show_default=True,
              help="asha: stop the weaker half of each budget early")  # fmt: skip
@click.option(
    "--grace-rounds", default=2, show_default=True, type=click.IntRange(min=1), help="rounds before asha stops"
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="seed of the search")
@click.option("--concurrent", type=click.IntRange(min=1), help="most trials at a time; default: what the cluster holds")
@click.option("--cpus-per-trial", default=1.0, show_default=True, type=click.FloatRange(min=0.1))
@click.option(
    "--gpus-per-trial", default=0.0, show_default=True, type=click.FloatRange(min=0), help="may be a fraction"
)
@click.option("--runner", type=click.Choice(["inline", "ray"]), default="inline", show_default=True,
              help="a trial in one process, or with actors of its own")  # fmt: skip
@click.option("--ray-address", help="Ray cluster to join; default: RAY_ADDRESS, else a local one")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="folder of the sweep")
@click.option("--resume", is_flag=True, help="go on with the sweep in DIR, or start it; finished trials are kept")
def sweep(out: Path, resume: bool, num_samples: int, **given: Any) -> None:
    """Try settings across data sets, several trials at a time."""
    plan = make_plan(given)
    resources = {"CPU": given["cpus_per_trial"], "GPU": given["gpus_per_trial"]}
    code = run_sweep(plan, out.absolute(), resume, num_samples, resources, given["concurrent"], given["ray_address"])
    raise SystemExit(code)


def make_plan(given: dict[str, Any]) -> Plan:
    """The plan that the options describe, checked against the data sets: what could fail later fails here.

    Raises:
        UserError: an unknown setting or data set, a value out of range, a pool too small for the budget.
    """
    from psp_ray.run.command import prepare

    datasets = name_datasets(given["datasets"])
    budgets = [int(item) for item in given["labels_per_class"].split(",") if item.strip().isdigit() and int(item) > 0]
    if not budgets or len(budgets) != len(given["labels_per_class"].split(",")):
        raise ConfigError(f"--labels-per-class {given['labels_per_class']}: give whole numbers of at least 1")
    space = {key: given[key] or default for key, default in DEFAULT_SPACE.items()}
    for item in given["vary"]:
        key, _, text = item.partition("=")
        dimension = Dimension.parse(key, text)
        if dimension.key in (*NOT_VARIED, BUDGET):
            raise ConfigError(f"--vary {key}: can't be varied by a sweep; --datasets, --labels-per-class and --set do")
        space[dimension.key] = text
    settings, own = parse_settings(given["fixed"], list(datasets))
    for key in settings:
        space.pop(key, None)  # a fixed setting is not searched
    settings = {"threads": 1, **settings, "runner": given["runner"]}
    for key in ("cache", "ledger"):
        if key in settings and "://" not in str(settings[key]):
            settings[key] = os.path.abspath(settings[key])
    space = {key: Dimension.parse(key, text).text() for key, text in space.items()}
    plan = Plan(
        {name: own[name] | {"dataset": path} for name, path in datasets.items()},
        sorted(set(budgets)),
        space,
        settings,
        given["searcher"],
        given["scheduler"],
        given["grace_rounds"],
        given["seed"],
        ledger_from_environment="ledger" not in settings and bool(os.environ.get(LEDGER_VARIABLE)),
    )
    middle = {dimension.key: dimension.bounds[0] for dimension in plan.dimensions}
    classes = {name: len(prepare(plan.config(name, middle)).dataset.classes) for name in datasets}
    plan = replace(plan, classes=classes)
    for name in datasets:
        prepare(plan.config(name, middle | {BUDGET: max(budgets)}))
        for dimension in plan.dimensions:
            for value in dimension.bounds:
                plan.config(name, middle | {dimension.key: value, BUDGET: budgets[0]})
    return plan


def name_datasets(text: str) -> dict[str, str]:
    """Short names for data sets: a folder's last part, with a number behind it where that is taken."""
    names: dict[str, str] = {}
    for item in (part.strip() for part in text.split(",")):
        if not item:
            continue
        path = os.path.abspath(item) if os.sep in item else item
        base = Path(item.partition(":")[0]).name or "data"
        name, number = base, 1
        while name in names:
            number += 1
            name = f"{base}-{number}"
        names[name] = path
    if not names:
        raise ConfigError("--datasets: name at least one")
    return names


def run_sweep(
    plan: Plan,
    out: Path,
    resume: bool,
    num_samples: int,
    resources: dict[str, float],
    concurrent: int | None,
    address: str | None,
) -> int:
    """Run or resume a sweep; returns the exit code: 0, or 1 where no trial succeeded."""
    import ray

    from psp_ray.actors.cluster import start_ray
    from tuning.resources import check_trial_fits, trial_bundles

    started_here = start_ray(address)
    _catch_sigterm()  # again: Ray put a handler of its own in its place
    try:
        bundles = trial_bundles(plan, resources)
        room = check_trial_fits(bundles)
        save_plan(out, plan, resume)
        earlier = load_trials(out)
        source, pending = _source(plan, num_samples, earlier)
        kept = sum(trial.status in DONE for trial in earlier)
        together = min(concurrent or room, room, max(pending, 1))
        click.echo(
            f"sweep of {', '.join(plan.datasets)} in {out}: {pending} trials to run, {kept} done before, "
            f"{together} at a time ({_needs(bundles)} each)"
        )
        if pending:
            _prepare_shared(plan, out, resources)
            _tune(plan, out, source, earlier, pending, bundles, together)
    finally:
        if started_here:
            ray.shutdown()
    return _say_results(out)


def _needs(bundles: list[dict[str, float]]) -> str:
    cpus, gpus = (sum(bundle.get(kind, 0.0) for bundle in bundles) for kind in ("CPU", "GPU"))
    return f"{cpus:g} CPU" + (f", {gpus:g} GPU" if gpus else "")


def _source(plan: Plan, num_samples: int, earlier: list[TrialResult]) -> tuple[Any, int]:
    from tuning.search import ListSource, OptunaSource

    if plan.searcher == "optuna":
        optuna = OptunaSource(plan.dimensions, plan.labels_per_class, num_samples, plan.seed, earlier)
        return optuna, optuna.pending_count
    points: list[Point]
    if plan.searcher == "grid":
        points = grid_points(plan.dimensions, plan.labels_per_class)
    else:
        points = random_points(plan.dimensions, plan.labels_per_class, num_samples, plan.seed)
        if len(points) < num_samples:
            click.echo(f"the space holds {len(points)} different points, fewer than --num-samples {num_samples}")
    listed = ListSource(points, {trial.name for trial in earlier if trial.status in DONE})
    return listed, len(listed.pending)


def _prepare_shared(plan: Plan, out: Path, resources: dict[str, float]) -> None:
    """Features of every data set into the cache, and its two reference runs: once, before the first trial."""
    import ray
    from rich.console import Console

    from psp_ray.report.progress import Reporter
    from psp_ray.run.command import featurize_only
    from tuning.plan import make_references, references_file

    for name in plan.datasets:
        point = {dimension.key: dimension.bounds[0] for dimension in plan.dimensions}
        config = plan.config(name, point, runner="ray")
        featurize_only(config, Reporter(config.labels.rounds, Console(highlight=False, soft_wrap=True, stderr=True)))
    missing = [name for name in plan.datasets if not references_file(out, name).exists()]
    if missing:
        click.echo(f"reference runs (random and full) of {', '.join(missing)} ...")
        remote = ray.remote(num_cpus=resources["CPU"], num_gpus=resources["GPU"], max_retries=0)(make_references)
        try:
            ray.get([remote.remote(out, plan, name) for name in missing])
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, UserError) else error) from None
    for name in plan.datasets:
        found = make_references(out, plan, name)
        click.echo(f"{name}: zero-shot {found.zero_shot:.1%}, random {found.random:.1%} = 0, full {found.full:.1%} = 1")


def _tune(
    plan: Plan,
    out: Path,
    source: Any,
    earlier: list[TrialResult],
    pending: int,
    bundles: list[dict[str, float]],
    together: int,
) -> None:
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", str(together))
    os.environ.setdefault("TUNE_RESULT_BUFFER_LENGTH", "0")
    for name in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # TrialLines says what failed, in a line
    from ray import tune
    from ray.tune.schedulers import FIFOScheduler

    from tuning.halving import HalvingByBudget
    from tuning.progress import TrialLines
    from tuning.search import PointSearcher
    from tuning.trial import SweepTrial

    scheduler = HalvingByBudget(plan, earlier) if plan.scheduler == "asha" else FIFOScheduler()
    session = time.strftime("%Y%m%d-%H%M%S") + f"-{os.getpid()}"
    lines = TrialLines(out, plan, pending)
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
        f"{len(done)} trials done ({early} stopped early), {len(failed)} failed, "
        f"{duration(sum(trial.seconds for trial in trials))} of trial time"
    )
    for trial in failed:
        click.echo(f"failed {trial.name}: {trial.error}; see {out / 'trials' / trial.name / 'error.txt'}", err=True)
    click.echo(f"report:      python -m tuning.report {out}")
    click.echo(f"TensorBoard: tensorboard --logdir {out / 'tune'}")
    return 0 if done else 1


def _catch_sigterm() -> None:
    """Let SIGTERM do what Ctrl-C does, whatever that is at the time: Ray Tune has an orderly way of its own."""

    def interrupt(signum: int, frame: Any) -> None:
        signal.signal(signum, signal.SIG_IGN)  # once is enough
        signal.raise_signal(signal.SIGINT)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, interrupt)


def main(arguments: list[str] | None = None) -> None:
    """Entry point; exit codes 0, 1 (no trial succeeded), 2 (a setting is wrong), 130 (interrupted: --resume)."""
    _catch_sigterm()
    command = partial(sweep.main, args=arguments, prog_name="python -m tuning.sweep", standalone_mode=False)
    sys.exit(exit_code(command, "interrupted; go on with the same command and --resume"))


if __name__ == "__main__":
    main()

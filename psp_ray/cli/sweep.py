"""`psp-ray sweep`: settings tried across data sets on Ray Tune, and `psp-ray sweep-report` on what came of it.

beta, tau, gamma, the budget and any other setting by name. Features are encoded once before the first trial and labels
are bought once in the sweep's ledger, so a trial costs prompt learning and policy updates only. Accuracies are those on
`val`; `test` stays untouched.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from psp_ray.cli.options import HIDDEN_KEYS, HintingCommand, track_option
from psp_ray.studies.sweep.space import DEFAULT_SPACE

DEFAULTS = ", ".join(f"{key} {values}" for key, values in DEFAULT_SPACE.items())
INTERRUPTED = 130
INSTEAD = "--searcher optuna --scheduler asha"
NOT_HAD = {
    "bohb": f"it rests on hpbandster, which nobody keeps; take {INSTEAD}, a Parzen estimator over successive halving",
    "pb2": f"it changes settings between the rounds of a trial, which a run refuses; take {INSTEAD}",
}
NOT_HAD |= {"hyperband": NOT_HAD["bohb"], "pbt": NOT_HAD["pb2"]}
"""What others call their ways of searching, and what to take here."""


class Known(click.Choice[str]):
    """A choice that says what to take in place of ways of searching that are not among it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if str(value).lower() in NOT_HAD:
            self.fail(f"{value}: {NOT_HAD[str(value).lower()]}", param, ctx)
        return super().convert(value, param, ctx)


def instead(key: str) -> str | None:
    """How a sweep is given what an option of `psp-ray run` says that it lacks; None for any other."""
    from psp_ray.config.config import RUN_ONLY, fields
    from psp_ray.studies.sweep.plan import CHOSEN, TOGETHER

    if key in CHOSEN:
        return CHOSEN[key]
    if key == "config":
        return "give its lines by --set KEY=VALUE"
    if key == "html":
        return "`psp-ray report DIR` writes the page"
    if key not in fields() or key in HIDDEN_KEYS:
        return None
    return f"give --set {key}=VALUE" + (
        "" if key in RUN_ONLY.union(TOGETHER) else f", or --vary {key}=VALUES to try several"
    )


@click.command(
    cls=HintingCommand,
    instead=instead,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option(
    "--datasets", required=True, help="data sets, parted by commas: names or folders, each with :key=value of its own"
)
@click.option("--labels-per-class", default="1", show_default=True, help="budgets k: k x C labels a round")
@click.option("--space", metavar="FILE", help=f"YAML file of settings and values; if nothing is named: {DEFAULTS}")
@click.option("--beta", metavar="VALUES", help="values or an interval of beta")
@click.option("--tau", metavar="VALUES", help="the same for tau")
@click.option("--gamma", metavar="VALUES", help="the same for gamma")
@click.option(
    "--vary", multiple=True, metavar="KEY=VALUES", help="another setting: A,B,C or LOW..HIGH or LOW..HIGH:log"
)
@click.option("--set", "fixed", multiple=True, metavar="KEY=VALUE", help="a setting of all trials; DATASET:KEY=VALUE")
@click.option("--num-samples", default=12, show_default=True, type=click.IntRange(min=1), help="trials in all")
@click.option("--searcher", type=Known(["random", "grid", "optuna"]), default="random", show_default=True)
@click.option(
    "--scheduler",
    type=Known(["none", "asha"]),
    default="none",
    show_default=True,
    help="asha: stop the weaker trials of each budget early",
)
@click.option(
    "--grace-rounds", default=2, show_default=True, type=click.IntRange(min=1), help="rounds before asha stops"
)
@click.option(
    "--keep-one-of",
    default=2,
    show_default=True,
    type=click.IntRange(min=2),
    help="asha lets one trial in so many go on, at rounds that grow by this factor",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="seed of the search")
@click.option("--concurrent", type=click.IntRange(min=1), help="most trials at a time; default: what the cluster holds")
@click.option("--cpus-per-trial", default=1.0, show_default=True, type=click.FloatRange(min=0.1))
@click.option(
    "--gpus-per-trial", default=0.0, show_default=True, type=click.FloatRange(min=0), help="may be a fraction"
)
@click.option(
    "--runner",
    type=click.Choice(["inline", "ray"]),
    default="inline",
    show_default=True,
    help="a trial in one process, or with actors of its own",
)
@click.option("--ray-address", help="Ray cluster to join; default: RAY_ADDRESS, else a local one")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="folder of the sweep")
@click.option("--resume", is_flag=True, help="go on with the sweep in DIR, or start it; finished trials are kept")
@click.option("--dry-run", is_flag=True, help="check everything, list the trials, start nothing")
@track_option
def sweep(
    out: Path | None,
    resume: bool,
    dry_run: bool,
    num_samples: int,
    concurrent: int | None,
    cpus_per_trial: float,
    gpus_per_trial: float,
    ray_address: str | None,
    track: str | None,
    **given: Any,
) -> None:
    """Try settings across data sets, several trials at a time.

    Varied is what --space, --beta, --tau, --gamma and --vary name, and nothing else.

    Exit codes: 0, 1 (no trial succeeded), 2 (a setting is wrong), 130 (interrupted: --resume).
    """
    from psp_ray.studies.sweep.request import SweepRequest, make_plan
    from psp_ray.studies.sweep.signals import catch_sigterm

    catch_sigterm()
    if out is None and not dry_run:
        raise click.UsageError("--out is missing; name the folder of the sweep")
    out = (out or Path("runs/sweep")).absolute()
    try:
        plan = make_plan(SweepRequest(**given))
        if dry_run:
            from psp_ray.studies.sweep.dry_run import planned

            for line in planned(plan, out, resume, num_samples):
                click.echo(line)
            return
        from psp_ray.actors.tokens import want_token

        want_token(ray_address)
        from psp_ray.studies.sweep.run import run_sweep
        from psp_ray.studies.tracking import StudyTracker

        resources = {"CPU": cpus_per_trial, "GPU": gpus_per_trial}
        tracker = StudyTracker(track, out, dict(given), lambda text: click.echo(f"warning: {text}", err=True))
        code = run_sweep(plan, out, resume, num_samples, resources, concurrent, ray_address, tracker)
    except KeyboardInterrupt:
        click.echo("interrupted; go on with the same command and --resume", err=True)
        code = INTERRUPTED
    raise SystemExit(code)


@click.command("sweep-report", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
def sweep_report(folder: Path) -> None:
    """Write and print the report of the sweep in DIR, finished or not: what was best, and what mattered."""
    from psp_ray.studies.sweep.analysis import Analysis
    from psp_ray.studies.sweep.report import write_report

    click.echo(write_report(Analysis(folder)), nl=False)

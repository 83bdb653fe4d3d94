"""`psp-ray oracle`: one oracle for many experiments, and the accounts of any ledger."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from psp_ray.cli.oracle_tables import each_label, each_round, shown
from psp_ray.cli.pages import page_options
from psp_ray.core.errors import ConfigError
from psp_ray.core.words import counted, printable

if TYPE_CHECKING:
    import pyarrow as pa

    from psp_ray.labels.accounting import Accounting


@click.group()
def oracle() -> None:
    """One oracle for many experiments: start and stop it, see who paid for what, move labels in and out.

    Commands other than start and stop also work on a ledger without an oracle: give --ledger in place of --name.
    """


def _which(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--ray-address", help="Ray cluster; default: RAY_ADDRESS, else the one on this machine"),
        click.option("--ledger", metavar="URL", help="a ledger itself: SQLite file or database URL"),
        click.option("--name", metavar="N", help="a running oracle  [default]"),
    ):
        command = option(command)
    return command


def _cap(kind: click.IntRange | click.FloatRange) -> Callable[[str], float]:
    """Reads a number of a kind, or none (infinity) to lift a cap."""

    def read(text: str) -> float:
        return math.inf if text.strip().lower() == "none" else float(cast(Any, kind).convert(text, None, None))

    return read


@oracle.command()
@click.option("--name", default="default", show_default=True, help="its name; runs give it as --oracle-name")
@click.option(
    "--ledger",
    required=True,
    envvar="PSP_RAY_LEDGER",
    metavar="URL",
    help="default: PSP_RAY_LEDGER; SQLite file (on the node of the actor) or database URL",
)
@click.option(
    "--label-cap",
    type=_cap(click.IntRange(min=0)),
    metavar="N|none",
    help="most labels that all experiments together may buy; none lifts it",
)
@click.option("--cost-cap", type=_cap(click.FloatRange(min=0)), metavar="X|none", help="most that these may cost")
@click.option("--annotators", metavar="FILE", help="YAML file of simulated annotators; default: the true labels")
@click.option("--ray-address", help="Ray cluster; default: RAY_ADDRESS, else the one on this machine")
def start(
    name: str,
    ledger: str,
    label_cap: float | None,
    cost_cap: float | None,
    annotators: str | None,
    ray_address: str | None,
) -> None:
    """Start an oracle that outlives this command. A running one gets the caps that are given and keeps the others."""
    from psp_ray.labels import resolve_ledger_url
    from psp_ray.labels.annotators.simulated import load_group

    group = load_group(annotators) if annotators else None
    resolve_ledger_url(ledger)
    path = ledger if "://" in ledger else str(Path(ledger).expanduser().absolute())
    with _cluster(ray_address) as actors:
        found = actors.start_oracle(name, path, group, label_cap, cost_cap)
    click.echo(f"oracle {name} runs with ledger {found['ledger']}; use it with --oracle shared --oracle-name {name}")


@oracle.command()
@click.option("--name", default="default", show_default=True)
@click.option("--ray-address", help="Ray cluster; default: RAY_ADDRESS, else the one on this machine")
def stop(name: str, ray_address: str | None) -> None:
    """Stop an oracle. Its ledger keeps every label."""
    with _cluster(ray_address) as actors:
        actors.stop_oracle(name)
    click.echo(f"oracle {name} is stopped; its ledger stays")


@oracle.command()
@_which
@click.option("--json", "as_json", is_flag=True, help="the same as JSON")
def status(name: str | None, ledger: str | None, ray_address: str | None, as_json: bool) -> None:
    """Labels bought, caps, and what each experiment used and paid."""
    with _accounting(name, ledger, ray_address) as accounting:
        found = accounting.status()
    click.echo(json.dumps(found, indent=2) if as_json else printable(shown(found), 1 << 20))


@oracle.command()
@_which
@click.option("--experiment", help="only what this experiment paid for")
@click.option("--each", is_flag=True, help="a line for each label in place of each round")
def account(name: str | None, ledger: str | None, ray_address: str | None, experiment: str | None, each: bool) -> None:
    """Who paid for what, and when: a line for each experiment, round and annotator."""
    with _accounting(name, ledger, ray_address) as accounting:
        table = accounting.account(experiment)
    click.echo("\n".join(map(printable, each_label(table) if each else each_round(table))))


@oracle.command("export")
@_which
@click.option("--experiment", help="only what this experiment paid for")
@click.option("--corrections", is_flag=True, help="the history of corrected labels instead")
@click.argument("file", type=click.Path(path_type=Path))
def export_command(
    name: str | None,
    ledger: str | None,
    ray_address: str | None,
    experiment: str | None,
    corrections: bool,
    file: Path,
) -> None:
    """Write every purchase to FILE (.parquet or .csv): image, class, annotator, cost, who paid, round, time."""
    from psp_ray.labels.accounting import check_export, write_account

    check_export(file)
    if corrections and experiment is not None:
        raise ConfigError("--corrections and --experiment: give one of them")
    with _accounting(name, ledger, ray_address) as accounting:
        table = accounting.correction_history() if corrections else accounting.account(experiment)
    write_account(table, file)
    click.echo(f"{table.num_rows:,} {'correction' if corrections else 'label'}{'s'[: table.num_rows != 1]} in {file}")


@oracle.command("import")
@_which
@click.argument("file", type=click.Path(path_type=Path))
def import_command(name: str | None, ledger: str | None, ray_address: str | None, file: Path) -> None:
    """Take the labels of an exported FILE into the ledger; what it holds already stays."""
    from psp_ray.labels.accounting import read_account

    table: pa.Table = read_account(file)
    with _accounting(name, ledger, ray_address) as accounting:
        new, known, differing = accounting.import_labels(table, file.name)
    click.echo(f"{new:,} new labels, {known:,} known already")
    if differing:
        click.echo(f"warning: the ledger's labels stay where they differ ({differing:,})", err=True)


@oracle.command("drop-claims")
@_which
@click.option("--experiment", help="only what this experiment claimed")
def drop_claims_command(name: str | None, ledger: str | None, ray_address: str | None, experiment: str | None) -> None:
    """Drop the stale claims that `status` names: of clients that died while they were buying labels.

    Until then they count against the caps of all experiments. A client that was only slow and still brings its labels
    overruns a cap by them, so make sure that it is dead.
    """
    with _accounting(name, ledger, ray_address) as accounting:
        dropped = accounting.drop_claims(experiment)
    click.echo(f"dropped {dropped:,} stale claim{'s'[: dropped != 1]}")


@oracle.command("correct")
@_which
@click.option("--by", default="oracle correct", show_default=True, help="who says so, for the history")
@click.argument("file", type=click.Path(path_type=Path))
def correct_command(name: str | None, ledger: str | None, ray_address: str | None, by: str, file: Path) -> None:
    """Make labels what FILE says: an exported account whose column `class` was edited; other rows may be left out.

    Every experiment that uses such an image is told with its next request; `export --corrections` has the history.
    """
    from psp_ray.labels.accounting import read_account

    table: pa.Table = read_account(file)
    with _accounting(name, ledger, ray_address) as accounting:
        changed, right = accounting.correct_labels(table, file.name, by)
    click.echo(f"corrected {changed:,} of {counted(changed + right, 'label')}, the others were so already")


@oracle.command("backup")
@_which
@click.argument("file", type=click.Path(path_type=Path))
def backup_command(name: str | None, ledger: str | None, ray_address: str | None, file: Path) -> None:
    """Copy the whole ledger to FILE, a SQLite ledger in its own right."""
    from psp_ray.core.files import write_bytes

    if file.exists() or not file.absolute().parent.is_dir():
        raise ConfigError(f"{file}: exists already, or its folder does not; choose another name")
    with _accounting(name, ledger, ray_address) as accounting:
        write_bytes(file, accounting.backup())
    click.echo(f"{file}: {file.stat().st_size / 2**20:.1f} MiB; go on with it as --ledger {file}")


@oracle.command("check")
@_which
@click.option(
    "--run",
    "runs",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="does the ledger have every answer that DIR's checkpoints know? (default: of the run "
    "that --ledger lies in; without --ledger: that of DIR)",
)
def check_command(name: str | None, ledger: str | None, ray_address: str | None, runs: tuple[Path, ...]) -> None:
    """Look whether the ledger is whole: its file, and what its tables say of each other and of runs.

    What a run lost is put back when it is resumed, from its checkpoints.
    """
    from psp_ray.core.errors import OracleError
    from psp_ray.run.folder import has_run
    from psp_ray.run.ledger_check import lost_answers
    from psp_ray.run.remains import require_run

    for run in runs:
        require_run(run)
    if runs and ledger is None and name is None:
        ledger = _ledger_of_runs(runs)
    with _accounting(name, ledger, ray_address) as accounting:
        lines, found = accounting.check(), accounting.status()
    if ledger is not None:
        beside = Path(found["ledger"]).parent
        known = runs or ((beside,) if has_run(beside) else ())
        lines += [line for run in known for line in lost_answers(run, ledger)]
    for line in lines:
        click.echo(line)
    if lines:
        raise OracleError(
            f"ledger {found['ledger']}: {len(lines):,} problem{'s'[: len(lines) != 1]}; put a backup in its place, or "
            "move it away and resume the runs that use it"
        )
    count = len(found["experiments"])
    if not count and not found["labels_bought"] + found["labels_imported"]:
        click.echo(f"ledger {found['ledger']}: empty; where it held labels, put a backup in its place")
        return
    click.echo(
        f"ledger {found['ledger']}: whole ({counted(found['labels_bought'] + found['labels_imported'], 'label')}, "
        f"{count:,} experiment{'s'[: count != 1]})"
    )


def _ledger_of_runs(runs: Sequence[Path]) -> str:
    """The one ledger that runs use. Raises ConfigError where there are several, or its address lacks a password."""
    from psp_ray.core.words import MASK
    from psp_ray.run.asking import ledger_of
    from psp_ray.run.remains import settings_in
    from psp_ray.run.resolve import resolve

    found = {ledger_of(resolve({}, settings_in(run)).labels, run): run for run in runs}
    if len(found) > 1:
        one, other = list(found.values())[:2]
        raise ConfigError(f"--run: {one} and {other} use different ledgers; give --ledger, or one run at a time")
    ledger = next(iter(found))
    if MASK in ledger:
        raise ConfigError(f"--run {runs[0]}: its ledger is {ledger}; give --ledger, with the password")
    return ledger


@oracle.command("page")
@_which
@partial(page_options, port="port to listen on [8420, with --here the first free one from there on]")
@click.option("--here", is_flag=True, help="host it in this process, without a cluster, until Ctrl-C")
@click.option("--stop", "stopping", is_flag=True, help="stop the page; answers are in the ledger")
@click.option("--forget", metavar="EXPERIMENT", help="take a run that won't come back off the page; answers are kept")
def page_command(
    name: str | None,
    ledger: str | None,
    ray_address: str | None,
    crew: str,
    host: str,
    port: int | None,
    second_opinions: float,
    here: bool,
    stopping: bool,
    forget: str | None,
) -> None:
    """The page on which people label for every run that waits on a ledger (`--oracle people --label-wait SECONDS`).

    On a cluster it is a Ray Serve deployment beside the oracle of that --name, and outlives this command (psp-ray needs
    the extra `serve`). Without --name the ledger is --ledger, or PSP_RAY_LEDGER. Given again it says everybody's link.
    """
    from psp_ray.web import hosting
    from psp_ray.web.crew import read_people
    from psp_ray.web.desk import Rules

    if (here or forget) and (name or stopping):
        raise ConfigError("--here, --forget: are about a ledger, not a cluster; leave --name and --stop out")
    if name is not None and ledger is not None:
        raise ConfigError("--name and --ledger: give one of them")
    people, rules = read_people(crew), Rules(second_share=second_opinions)
    if forget:
        hosting.forget(hosting.ledger_here(ledger), forget)
        click.echo(f"{forget} asks no more; its answers stay in the ledger")
        return
    if here:
        found = hosting.ledger_here(ledger)
        links = hosting.invite(found, people)
        hosting.host_here(found, host, port, rules, lambda address: hosting.say_links(links, address, host, click.echo))
        return
    hosting.serve_api()
    with _cluster(ray_address) as actors:
        if stopping:
            hosting.withdraw(name or "default")
            click.echo(f"page {name or 'default'} is stopped; answers stay in the ledger")
            return
        of_oracle = None if name is None else actors.RemoteAccounting(name).status()["ledger"]
        place = hosting.ledger_for(ledger, of_oracle)
        links = hosting.invite(hosting.ledger_here(place), people)
        address = hosting.deploy(name or "default", place, host, port, rules)
        hosting.say_links(links, address, host, click.echo)
    click.echo("it goes on without this command; stop it with the same --name and --stop")


@contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """The actors' module, with the cluster joined."""
    import ray

    from psp_ray.actors import oracle as actors

    joined = ray.is_initialized()
    actors.join_cluster(address)
    try:
        yield actors
    finally:
        if not joined:
            ray.shutdown()


@contextmanager
def _accounting(name: str | None, ledger: str | None, address: str | None) -> Iterator[Accounting]:
    """The accounts of a ledger, or of the one that a running oracle has open."""
    if name is not None and ledger is not None:
        raise ConfigError("--name and --ledger: give one of them")
    if ledger is None:
        with _cluster(address) as actors:
            yield actors.RemoteAccounting(name or "default")
        return
    from psp_ray.labels.accounting import LedgerAccounting

    _must_exist(ledger)
    with LedgerAccounting(ledger) as accounting:
        yield accounting


def _must_exist(ledger: str) -> None:
    """A mistyped path must not become a new, empty ledger."""
    from psp_ray.labels import resolve_ledger_url

    url = resolve_ledger_url(ledger)
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).is_file():
        raise ConfigError(f"--ledger {ledger}: no such file")

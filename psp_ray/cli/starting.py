"""What `psp-ray run` and `psp-ray continue` have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from psp_ray.cli.options import F, track_option
from psp_ray.core.exit_codes import AWAITING

if TYPE_CHECKING:
    from psp_ray.config.config import Config
    from psp_ray.run.watching import Watcher


def run_options(command: F) -> F:
    """Decorator: the options that are no settings of a run."""
    command = click.option(
        "--html/--no-html", default=True, help="keep report.html, a page on the run, in its folder  [html]"
    )(command)
    return track_option(command)


def start_run(config: Config, *, html: bool, track: str | None, continuing: bool = False) -> None:
    """Run, or go on; ends the program with exit code 3 where labels are waited for."""
    from psp_ray.run.typed import look_at_typed

    loaded = look_at_typed(config)  # before what takes seconds to import
    from psp_ray.actors.opening import open_runtime
    from psp_ray.run.command import run
    from psp_ray.run.folder import FINISHED, KEPT

    watchers = watchers_of(config, html=html, track=track)
    out = Path(config.output.out) if config.output.out else None
    had_finished = out is not None and (out / KEPT / FINISHED).is_file()
    summary = run(config, open_runtime=open_runtime, watchers=watchers, continuing=continuing, loaded=loaded)
    if html and out is not None and had_finished:
        _mend_page(out)
    if summary["status"] == "awaiting_labels":
        raise SystemExit(AWAITING)


def _mend_page(out: Path) -> None:
    """The page of a run that had finished before, where it is gone."""
    from psp_ray.run.page import PAGE, write_page

    if not (out / PAGE).is_file() or not (out / PAGE).stat().st_size:
        click.echo(f"report: {write_page(out)}, written anew")


def watchers_of(config: Config, *, html: bool, track: str | None) -> list[Watcher]:
    """Who is told of every round: the page that is kept, and what `--track` names. Raises UserError where that can't
    be had."""
    from psp_ray.run.folder import default_out
    from psp_ray.run.page import KeptPage
    from psp_ray.run.watching import RunTracker

    watchers: list[Watcher] = [KeptPage()] if html else []
    if track is not None:
        tracker = RunTracker(track)
        tracker.check(Path(config.output.out) if config.output.out else default_out(config))
        watchers.append(tracker)
    return watchers

"""What `psp-ray run` and `psp-ray continue` have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from psp_ray.cli.options import F
from psp_ray.core.exit_codes import AWAITING

if TYPE_CHECKING:
    from psp_ray.config.config import Config


def run_options(command: F) -> F:
    """Decorator: the options that are no settings of a run."""
    command = click.option(
        "--html/--no-html", default=True, help="keep report.html, a page on the run, in its folder  [html]"
    )(command)
    return click.option(
        "--track", metavar="TOOL", help="also log to mlflow, tensorboard or wandb (needs psp-ray[track])"
    )(command)


def start_run(config: Config, *, html: bool, track: str | None, continuing: bool = False) -> None:
    """Run, or go on; ends the program with exit code 3 where labels are waited for."""
    from psp_ray.actors.opening import open_runtime
    from psp_ray.run.command import run
    from psp_ray.run.page import KeptPage

    page = KeptPage() if html else None
    if run(config, open_runtime=open_runtime, page=page, continuing=continuing)["status"] == "awaiting_labels":
        raise SystemExit(AWAITING)

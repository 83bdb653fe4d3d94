"""`psp-ray run`: rounds of query, labels and prompt learning."""

from __future__ import annotations

from typing import Any

import click

from psp_ray.cli.options import SettingsCommand, config_option, setting_options
from psp_ray.core.exit_codes import AWAITING
from psp_ray.run.resolve import resolve


@click.command(cls=SettingsCommand)
@config_option
@click.option("--dry-run", is_flag=True, help="check every setting, print the resolved configuration, buy nothing")
@setting_options
def run(config_file: str | None, dry_run: bool, **given: Any) -> None:
    """Run rounds of query, labels and prompt learning (the default command)."""
    config = resolve(given, config_file)
    from psp_ray.actors.opening import open_runtime
    from psp_ray.run.command import dry_run as check
    from psp_ray.run.command import run as start
    from psp_ray.run.page import KeptPage
    from psp_ray.run.references import ZERO_SHOT, run_zero_shot

    if dry_run:
        click.echo(check(config), nl=False)
    elif config.policy.preset == ZERO_SHOT:
        summary = run_zero_shot(config)
        click.echo(f"zero-shot accuracy {100 * summary['zero_shot_accuracy']:.1f} % on {summary['evaluate_on']}")
    elif start(config, open_runtime=open_runtime, page=KeptPage())["status"] == "awaiting_labels":
        raise SystemExit(AWAITING)

"""`psp-ray run`: rounds of query, labels and prompt learning."""

from __future__ import annotations

from typing import Any

import click

from psp_ray.cli.options import SettingsCommand, config_option, setting_options
from psp_ray.cli.starting import run_options, start_run
from psp_ray.config.presets import ZERO_SHOT
from psp_ray.core.light import spare_pandas
from psp_ray.run.resolve import resolve


@click.command(cls=SettingsCommand)
@config_option
@click.option("--dry-run", is_flag=True, help="check every setting, print the resolved configuration, buy nothing")
@run_options
@setting_options
def run(config_file: str | None, dry_run: bool, html: bool, track: str | None, **given: Any) -> None:
    """Choose images, have them labeled, learn from them, again and again (the default command).

    Every round asks for the labels that help most. The classifier and a page on the run are in its output folder.
    """
    spare_pandas()
    config = resolve(given, config_file)
    if dry_run:
        from psp_ray.run.dry_run import dry_run as check

        click.echo(check(config), nl=False)
    elif config.policy.preset == ZERO_SHOT:
        from psp_ray.run.references import run_zero_shot

        summary = run_zero_shot(config)
        click.echo(f"zero-shot accuracy {100 * summary['zero_shot_accuracy']:.1f} % on {summary['evaluate_on']}")
    else:
        start_run(config, html=html, track=track)

"""`psp-ray check-data`: a data set, looked through before a label is bought."""

from __future__ import annotations

from typing import Any

import click

from psp_ray.cli.options import SettingsCommand, config_option, setting_options
from psp_ray.core.light import spare_pandas
from psp_ray.core.words import printable
from psp_ray.run.resolve import resolve


@click.command("check-data", cls=SettingsCommand)
@config_option
@click.option("--with-model", is_flag=True, help="load the model, too: names it confuses, guessed balance, time")
@setting_options
def check_data(config_file: str | None, with_model: bool, **given: Any) -> None:
    """Look through a data set before labeling: classes, bad and double images, cost, and names the model confuses.

    Takes the options of `run`. Writes nothing but the cache's list of content hashes, and buys nothing.
    """
    spare_pandas()
    from psp_ray.run.check_data import check

    for line in check(resolve(given, config_file), with_model):
        click.echo(printable(line))

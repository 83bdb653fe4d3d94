"""`psp-ray featurize`: images into the feature cache."""

from __future__ import annotations

from typing import Any

import click

from psp_ray.cli.options import SettingsCommand, config_option, setting_options
from psp_ray.run.resolve import resolve


@click.command(cls=SettingsCommand)
@config_option
@setting_options
def featurize(config_file: str | None, **given: Any) -> None:
    """Encode a data set's images into the feature cache, ahead of runs."""
    from psp_ray.run.command import featurize_only

    featurize_only(resolve(given, config_file))

"""`psp-ray compare`: strategies over data sets and seeds."""

from __future__ import annotations

from typing import Any

import click

from psp_ray.cli.options import SettingsCommand
from psp_ray.cli.study import instead, study_options, study_request


@click.command(cls=SettingsCommand, instead=instead)
@study_options
def compare(**given: Any) -> None:
    """Run strategies over data sets and seeds, and write results.csv, curves.csv, table.md and learning curves.

    Exit code 1 where a run failed (it is named in the results, and --resume tries it again).
    """
    from psp_ray.studies.command import compare as start

    raise SystemExit(start(study_request(given)))

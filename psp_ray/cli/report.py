"""`psp-ray report`: a run, a comparison or a sweep on one page."""

from __future__ import annotations

from pathlib import Path

import click

from psp_ray.cli.options import either_folder


@click.command()
@either_folder
def report(folder: Path) -> None:
    """Write report.html into DIR, the output folder of a run, a comparison or a sweep, whether it has ended or not.

    The page needs nothing beside itself: no network, no scripts. `run` writes it by itself when it ends or rests, and
    after rounds that take long enough.
    """
    from psp_ray.studies.page import write_report_page

    click.echo(write_report_page(folder))

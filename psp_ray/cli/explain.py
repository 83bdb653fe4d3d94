"""`psp-ray explain`: why a run asked about its images."""

from __future__ import annotations

import json
from pathlib import Path

import click

from psp_ray.cli.options import either_folder
from psp_ray.core.words import printable


@click.command()
@either_folder
@click.option("--round", "number", type=click.IntRange(min=1), metavar="N", help="a round; default: the newest")
@click.option("--sample-id", metavar="ID", help="one image, in sentences")
@click.option("--json", "as_json", is_flag=True, help="for programs: every number, null where it isn't known")
def explain(folder: Path, number: int | None, sample_id: str | None, as_json: bool) -> None:
    """Say why a run asked about its images: plan, policy or chance, what lay around them, how sure anybody was.

    It reads what the run left in its folder, and features that are in the cache; nothing is encoded or bought.
    """
    from psp_ray.run.explaining import explain as explained

    found = explained(folder, number, sample_id)
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2))
        return
    for line in found.lines():
        click.echo(printable(line))

"""`psp-ray reproduce`: the paper's protocol beside the paper's figures."""

from __future__ import annotations

from typing import Any

import click

from psp_ray.cli.options import SettingsCommand
from psp_ray.cli.study import instead, study_options, study_request


@click.command(cls=SettingsCommand, instead=instead)
@click.option("--description-folder", metavar="FOLDER", help="GPT-3 descriptions: descriptors_NAME.json for a data set")
@study_options
def reproduce(description_folder: str | None, **given: Any) -> None:
    """The paper's protocol on what there is, beside the paper's figures.

    Seven data sets (under --data-root), ViT-B/32, 8 rounds of one label per class, 3 seeds. What is missing is named
    with its remedy; the rest runs. Options as for `compare`, whose files it writes.
    """
    from psp_ray.studies.paper import reproduce as start

    raise SystemExit(start(study_request(given), description_folder))

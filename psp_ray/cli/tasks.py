"""`psp-ray tasks`: query sets to Label Studio, and annotations back."""

from __future__ import annotations

import click

from psp_ray.cli.options import run_option
from psp_ray.core.words import printable


@click.group()
def tasks() -> None:
    """Take a round's query set to Label Studio and its annotations back."""


@tasks.command("export")
@run_option
@click.option("--url", metavar="PREFIX", help="where Label Studio finds the images; default: inside the task file")
@click.option("--out", type=click.Path(), metavar="FILE", help="JSON file to write; default: beside query.csv")
def tasks_export(run_folder: str, url: str | None, out: str | None) -> None:
    """Write the open round's images as Label Studio tasks, and the labeling interface that goes with them."""
    from psp_ray.export.files import classes_of_run, name_of_run
    from psp_ray.labels.label_studio import export_tasks

    name = name_of_run(run_folder)
    for line in export_tasks(run_folder, classes_of_run(run_folder), url=url, out=out, name=name):
        click.echo(printable(line))


@tasks.command("import")
@run_option
@click.argument("annotations", type=click.Path())
def tasks_import(run_folder: str, annotations: str) -> None:
    """Fill ANNOTATIONS, Label Studio's JSON export, into the query files of a run."""
    from psp_ray.export.files import classes_of_run
    from psp_ray.labels.label_studio import import_annotations

    for line in import_annotations(run_folder, classes_of_run(run_folder), annotations):
        click.echo(printable(line))


@tasks.command("push")
@run_option
@click.option("--server", metavar="URL", help="where Label Studio is; default: where the run's tasks are")
@click.option("--project", type=click.IntRange(1), metavar="N", help="a project that is there; default: one is made")
@click.option("--url", metavar="PREFIX", help="where Label Studio finds the images; default: inside the tasks")
def tasks_push(run_folder: str, server: str | None, project: int | None, url: str | None) -> None:
    """Bring the open round's images into a project of a running Label Studio.

    Needs pip install 'psp-ray[label-studio]' and an access token in LABEL_STUDIO_API_KEY.
    """
    from psp_ray.export.files import classes_of_run, name_of_run
    from psp_ray.labels.label_studio_live import push

    classes, name = classes_of_run(run_folder), name_of_run(run_folder)
    for line in push(run_folder, classes, server, project=project, url=url, name=name):
        click.echo(printable(line))


@tasks.command("pull")
@run_option
def tasks_pull(run_folder: str) -> None:
    """Fill what was annotated in the run's project of Label Studio into the query files of the run."""
    from psp_ray.export.files import classes_of_run
    from psp_ray.labels.label_studio_live import pull

    for line in pull(run_folder, classes_of_run(run_folder)):
        click.echo(printable(line))

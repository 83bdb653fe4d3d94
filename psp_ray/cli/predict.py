"""`psp-ray predict`: images classified with the prompts of a run."""

from __future__ import annotations

import sys

import click
from rich.console import Console

from psp_ray.cli.options import checkpoint_option, hub_option, run_option
from psp_ray.core.paths import exists, local_path
from psp_ray.core.words import printable, short


@click.command()
@run_option
@click.option("--out", type=click.Path(), metavar="FILE", help="CSV file to write; default: standard output")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N")
@click.option("--batch-size", default=64, show_default=True, type=click.IntRange(min=1), help="images at a time")
@checkpoint_option
@hub_option
@click.argument("images", nargs=-1, required=True, type=click.Path())
def predict(
    run_folder: str,
    out: str | None,
    device: str,
    batch_size: int,
    checkpoint: str | None,
    allow_hub: bool,
    images: tuple[str, ...],
) -> None:
    """Classify IMAGES (files or folders), or tables of embeddings, with the prompts of a run.

    The result is a CSV of path (of embeddings: sample_id), class, probability, error.
    """
    from psp_ray.data.embedded.layouts import has_embeddings
    from psp_ray.export.classifier import Classifier, Prediction, predictions_csv
    from psp_ray.report.progress import Reporter, counting

    tables = [name for name in images if exists(name) and has_embeddings(name)]
    predictions: list[Prediction] = []
    if len(tables) == len(images):
        classifier = Classifier.load(run_folder, images=False)
        for name in tables:
            predictions += classifier.predict_embeddings(name)
    elif tables:
        raise click.UsageError(f"{short(tables[0])} holds embeddings, others are images; give them one after the other")
    else:
        classifier = Classifier.load(run_folder, device=device, checkpoint=checkpoint, allow_hub=allow_hub)
        reporter = Reporter(0, Console(stderr=True, highlight=False, soft_wrap=True))
        notes: list[str] = []
        told = counting(reporter, "classifying")
        predictions += classifier.predict(list(images), batch_size=batch_size, progress=told, notes=notes)
        reporter.stop()
        for note in notes:
            click.echo(printable(note), err=True)
    _write(predictions_csv(predictions), len(predictions), out)
    unreadable = [item for item in predictions if item.error]
    if unreadable:
        what = "rows can't be classified" if tables else "images can't be read"
        click.echo(f"warning: {len(unreadable):,} of {len(predictions):,} {what}; see column error", err=True)


def _write(text: str, count: int, out: str | None) -> None:
    if out is None:
        # A terminal would obey what is hidden in names; a program that reads on gets them as they are.
        click.echo(printable(text, len(text) * 6) if sys.stdout.isatty() else text, nl=False)
        return
    from psp_ray.run.folder import write_user_file

    write_user_file(local_path(out), text)
    click.echo(printable(f"{count:,} predictions in {out}"), err=True)

"""`psp-ray predict`: images classified with the prompts of a run."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

from psp_ray.cli.options import checkpoint_option, run_option
from psp_ray.core.words import printable


@click.command()
@run_option
@click.option("--out", type=click.Path(), metavar="FILE", help="CSV file to write; default: standard output")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N")
@click.option("--batch-size", default=64, show_default=True, type=click.IntRange(min=1), help="images at a time")
@checkpoint_option
@click.argument("images", nargs=-1, required=True, type=click.Path())
def predict(
    run_folder: str, out: str | None, device: str, batch_size: int, checkpoint: str | None, images: tuple[str, ...]
) -> None:
    """Classify IMAGES (files or folders) with the prompts of a run, into a CSV of path, class, probability."""
    from psp_ray.export.classifier import Classifier, predictions_csv
    from psp_ray.report.progress import Reporter, counting

    classifier = Classifier.load(run_folder, device=device, checkpoint=checkpoint)
    reporter = Reporter(0, Console(stderr=True, highlight=False, soft_wrap=True))
    notes: list[str] = []
    told = counting(reporter, "classifying")
    predictions = classifier.predict(list(images), batch_size=batch_size, progress=told, notes=notes)
    reporter.stop()
    for note in notes:
        click.echo(printable(note), err=True)
    text = predictions_csv(predictions)
    if out is None:
        # A terminal would obey what is hidden in names; a program that reads on gets them as they are.
        click.echo(printable(text, len(text) * 6) if sys.stdout.isatty() else text, nl=False)
    else:
        from psp_ray.run.folder import write_user_file

        write_user_file(Path(out), text)
        click.echo(f"{len(predictions)} predictions in {out}", err=True)
    unreadable = [item for item in predictions if item.error]
    if unreadable:
        click.echo(f"warning: {len(unreadable)} of {len(predictions)} images can't be read; see column error", err=True)

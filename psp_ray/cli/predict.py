"""`psp-ray predict`: images classified with the prompts of a run."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain

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
    from psp_ray.core.errors import DatasetError
    from psp_ray.data.embedded.layouts import has_embeddings
    from psp_ray.export.classifier import Classifier, Prediction, predictions_csv
    from psp_ray.report.progress import Reporter, counting

    for name in images:
        if not exists(name):
            raise DatasetError(f"{short(name)}: no such file or folder; give images, folders of them or embeddings")
    tables = [name for name in images if has_embeddings(name)]
    predictions: Iterable[Prediction]
    if len(tables) == len(images):
        classifier = Classifier.load(run_folder, images=False)
        predictions = chain.from_iterable(classifier.predict_embeddings(name) for name in tables)
    elif tables:
        raise click.UsageError(f"{short(tables[0])} holds embeddings, others are images; give them one after the other")
    else:
        classifier = Classifier.load(run_folder, device=device, checkpoint=checkpoint, allow_hub=allow_hub)
        reporter = Reporter(0, Console(stderr=True, highlight=False, soft_wrap=True))
        notes: list[str] = []
        told = counting(reporter, "classifying")
        predictions = classifier.predict(list(images), batch_size=batch_size, progress=told, notes=notes)
        reporter.stop()
        for note in notes:
            click.echo(printable(note), err=True)
    counts: Counter[bool] = Counter()

    def counted() -> Iterator[Prediction]:
        for item in predictions:
            counts[bool(item.error)] += 1
            yield item

    _write(predictions_csv(counted()), out)
    total = counts.total()
    if out is not None:
        click.echo(printable(f"{total:,} predictions in {out}"), err=True)
    if classifier.caution:
        click.echo(f"note: {classifier.caution}", err=True)
    if counts[True]:
        what = "rows can't be classified" if tables else "images can't be read"
        click.echo(f"warning: {counts[True]:,} of {total:,} {what}; see column error", err=True)


def _write(lines: Iterable[str], out: str | None) -> None:
    if out is None:
        # A terminal would obey what is hidden in names; a program that reads on gets them as they are.
        shown = sys.stdout.isatty()
        for line in lines:
            click.echo(printable(line, len(line) * 6) if shown else line, nl=False)
        return
    from psp_ray.run.folder import write_user_file

    write_user_file(local_path(out), lines)

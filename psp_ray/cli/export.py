"""`psp-ray export`: a finished run's results in the forms that other programs read."""

from __future__ import annotations

from pathlib import Path

import click

from psp_ray.cli.options import checkpoint_option, hub_option, run_option
from psp_ray.core.words import counted, printable, short


@click.command()
@run_option
@click.option("--folders", type=click.Path(), metavar="DIR", help="sort the pool's images into a folder a class")
@click.option("--csv", "csv_file", type=click.Path(), metavar="FILE", help="the pool's predictions as a CSV")
@click.option("--onnx", type=click.Path(), metavar="DIR", help="image tower and class embeddings for onnxruntime")
@click.option("--open-clip", type=click.Path(), metavar="DIR", help="model, class embeddings and prompts for open_clip")
@click.option("--min-probability", default=0.0, type=click.FloatRange(0, 1), help="with --folders: the rest is _unsure")
@click.option("--copy", is_flag=True, help="with --folders: copy images instead of linking them")
@checkpoint_option
@hub_option
def export(
    run_folder: str,
    folders: str | None,
    csv_file: str | None,
    onnx: str | None,
    open_clip: str | None,
    min_probability: float,
    copy: bool,
    checkpoint: str | None,
    allow_hub: bool,
) -> None:
    """Hand a finished run's results to other programs: sorted folders, a CSV, ONNX, open_clip."""
    from psp_ray.export import files as to
    from psp_ray.export import models

    if not any((folders, csv_file, onnx, open_clip)):
        raise click.UsageError("say what to export: --folders DIR, --csv FILE, --onnx DIR or --open-clip DIR")
    if csv_file:
        click.echo(f"{to.export_csv(run_folder, csv_file):,} predictions in {csv_file}")
    if folders:
        gone: list[str] = []
        counts = to.export_folders(run_folder, folders, min_probability=min_probability, copy=copy, gone=gone)
        click.echo("\n".join(printable(f"{count:7,}  {Path(folders) / name}") for name, count in counts.items()))
        if gone:
            what = counted(len(gone), "image is", "images are")
            click.echo(f"warning: {what} not there any more, and left out, such as {short(gone[0])}", err=True)
    if onnx:
        file = models.export_onnx(run_folder, onnx, checkpoint=checkpoint, allow_hub=allow_hub)
        click.echo(f"{file}; try: python {Path(onnx)}/predict.py IMAGE")
    if open_clip:
        models.export_open_clip(run_folder, open_clip, checkpoint=checkpoint, allow_hub=allow_hub)
        click.echo(f"{open_clip}; try: python {Path(open_clip)}/predict.py IMAGE")
    shows_probabilities = csv_file or onnx or open_clip or min_probability
    caution = to.caution_of_run(run_folder) if shows_probabilities else ""
    if caution:
        click.echo(f"note: {caution}", err=True)

"""The command line: `python -m psp_ray.main COMMAND` (see `COMMANDS`), also installed as `psp-ray`.

Without a sub-command it runs. Options are the keys of `Config`. Exit codes: 0 finished, 1 a run of a comparison failed,
2 a setting or file is wrong (one line says which), 3 waiting for labels (fill them in), 130 and 143
interrupted; after the last three the same command with --resume continues.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click

from psp_ray.cli.oracle import oracle
from psp_ray.config.base import option_name
from psp_ray.config.config import fields
from psp_ray.core.exit_codes import exit_code
from psp_ray.core.version import __version__
from psp_ray.run.resolve import resolve
from psp_ray.studies.settings import OWN_KEYS, StudySettings

HIDDEN_KEYS = frozenset({"preset"})
AWAITING = 3
"""Exit code of a run that waits for labels."""
COMMANDS = (
    "run",
    "featurize",
    "predict",
    "compare",
    "reproduce",
    "export",
    "check-data",
    "cache",
    "oracle",
    "tasks",
    "doctor",
)


class Interrupted(BaseException):
    """SIGTERM arrived: end cleanly, as Ctrl-C does."""


def setting_options(command: Callable[..., Any], hidden: frozenset[str] = HIDDEN_KEYS) -> Callable[..., Any]:
    """Decorator: one option for every key of the configuration, in its order."""
    for key, info in reversed(list(fields().items())):
        if key in hidden:
            continue
        description = info.description or ""
        if info.annotation is bool:
            declaration = f"{option_name(key)}/--no-{key.replace('_', '-')}"
            command = click.option(declaration, key, default=None, help=f"{description} [{info.default}]")(command)
            continue
        shown = "" if info.default is None else f" [{info.default}]"
        metavar = _metavar(info.annotation)
        command = click.option(option_name(key), key, default=None, metavar=metavar, help=description + shown)(command)
    return command


def _metavar(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return "|".join(str(choice) for choice in get_args(annotation))
    if get_origin(annotation) is Annotated:
        return _metavar(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return "|".join(_metavar(kind) for kind in get_args(annotation) if kind is not type(None))
    return {int: "N", float: "X"}.get(annotation, "TEXT")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="psp-ray")
def cli() -> None:
    """Active prompt learning for CLIP: choose images worth labeling, learn prompts, hand back a classifier.

    Without a command, `run` is meant: `psp-ray --dataset FOLDER` is `psp-ray run --dataset FOLDER`.
    """


@cli.command()
@click.option("--config", "config_file", type=click.Path(), metavar="FILE", help="YAML file of settings; options win")
@click.option("--dry-run", is_flag=True, help="check every setting, print the resolved configuration, buy nothing")
@setting_options
def run(config_file: str | None, dry_run: bool, **given: Any) -> None:
    """Run rounds of query, labels and prompt learning (the default command)."""
    config = resolve(given, config_file)
    from psp_ray.run.command import dry_run as check
    from psp_ray.run.command import run as start

    if dry_run:
        click.echo(check(config), nl=False)
    elif start(config)["status"] == "awaiting_labels":
        raise SystemExit(AWAITING)


@cli.command()
@click.option("--config", "config_file", type=click.Path(), metavar="FILE", help="YAML file of settings; options win")
@setting_options
def featurize(config_file: str | None, **given: Any) -> None:
    """Encode a data set's images into the feature cache, ahead of runs."""
    from psp_ray.run.command import featurize_only

    featurize_only(resolve(given, config_file))


@cli.command()
@click.option("--run", "run_folder", required=True, type=click.Path(), metavar="DIR", help="output folder of a run")
@click.option("--out", type=click.Path(), metavar="FILE", help="CSV file to write; default: standard output")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N")
@click.option("--batch-size", default=64, show_default=True, type=click.IntRange(min=1), help="images at a time")
@click.option("--checkpoint", metavar="PATH", help="the model's weights, if they have moved since the run")
@click.argument("images", nargs=-1, required=True, type=click.Path())
def predict(
    run_folder: str, out: str | None, device: str, batch_size: int, checkpoint: str | None, images: tuple[str, ...]
) -> None:
    """Classify IMAGES (files or folders) with the prompts of a run, into a CSV of path, class, probability."""
    from rich.console import Console

    from psp_ray.export.classifier import Classifier, predictions_csv
    from psp_ray.report.progress import Reporter, counting

    classifier = Classifier.load(run_folder, device=device, checkpoint=checkpoint)
    reporter = Reporter(0, Console(stderr=True, highlight=False, soft_wrap=True))
    predictions = classifier.predict(list(images), batch_size=batch_size, progress=counting(reporter, "classifying"))
    reporter.stop()
    text = predictions_csv(predictions)
    if out is None:
        click.echo(text, nl=False)
    else:
        from psp_ray.run.command import write_user_file

        write_user_file(Path(out), text)
        click.echo(f"{len(predictions)} predictions in {out}", err=True)
    unreadable = [item for item in predictions if item.error]
    if unreadable:
        click.echo(f"warning: {len(unreadable)} of {len(predictions)} images can't be read; see column error", err=True)


def study_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: options of comparisons, and every setting of a run that they don't choose themselves."""
    command = functools.partial(setting_options, hidden=OWN_KEYS)(command)
    for key, info in reversed(StudySettings.model_fields.items()):
        default = ",".join(map(str, info.default)) if isinstance(info.default, tuple) else info.default
        shown = f"{info.description}{f' [{default}]' if default else ''}"
        metavar = "N" if info.annotation is int else "LIST" if isinstance(info.default, tuple) else "TEXT"
        command = click.option(option_name(key), key, default=None, metavar=metavar, help=shown)(command)
    options = (
        click.option(
            "--study", "study_file", metavar="FILE", help="YAML file of these options; options given here win"
        ),
        click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="any setting of a run, for all runs"),
        click.option("--parallel", type=click.IntRange(min=1), metavar="N", help="most runs side by side (with Ray)"),
        click.option("--replace-changed", is_flag=True, help="with --resume: run again what had other settings"),
        click.option("--report", metavar="FILE.md", help="also write the table and pictures as a section of this file"),
        click.option("--dry-run", is_flag=True, help="check everything, list the runs, start nothing"),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _study_request(given: dict[str, Any]) -> Any:
    from psp_ray.studies.command import Request

    own = {key: given.pop(key) for key in StudySettings.model_fields}
    extra = {key: given.pop(key) for key in ("study_file", "pairs", "parallel", "replace_changed", "report", "dry_run")}
    return Request(study=own, run=given, **extra)


@cli.command()
@study_options
def compare(**given: Any) -> None:
    """Run strategies over data sets and seeds, and write results.csv, curves.csv, table.md and learning curves.

    Exit code 1 where a run failed (it is named in the results, and --resume tries it again).
    """
    from psp_ray.studies.command import compare as start

    raise SystemExit(start(_study_request(given)))


@cli.command()
@click.option("--description-folder", metavar="FOLDER", help="GPT-3 descriptions: descriptors_NAME.json for a data set")
@study_options
def reproduce(description_folder: str | None, **given: Any) -> None:
    """The paper's protocol on what there is, beside the paper's figures.

    Seven data sets (under --data-root), ViT-B/32, 8 rounds of one label per class, 3 seeds. What is missing is named
    with its remedy; the rest runs. Options as for `compare`, whose files it writes.
    """
    from psp_ray.studies.paper import reproduce as start

    raise SystemExit(start(_study_request(given), description_folder))


@cli.command()
@click.option("--run", "run_folder", required=True, type=click.Path(), metavar="DIR", help="output folder of a run")
@click.option("--folders", type=click.Path(), metavar="DIR", help="sort the pool's images into a folder a class")
@click.option("--csv", "csv_file", type=click.Path(), metavar="FILE", help="the pool's predictions as a CSV")
@click.option("--onnx", type=click.Path(), metavar="DIR", help="image tower and class embeddings for onnxruntime")
@click.option("--open-clip", type=click.Path(), metavar="DIR", help="model, class embeddings and prompts for open_clip")
@click.option("--min-probability", default=0.0, type=click.FloatRange(0, 1), help="with --folders: the rest is _unsure")
@click.option("--copy", is_flag=True, help="with --folders: copy images instead of linking them")
@click.option("--checkpoint", metavar="PATH", help="the model's weights, if they have moved since the run")
def export(
    run_folder: str,
    folders: str | None,
    csv_file: str | None,
    onnx: str | None,
    open_clip: str | None,
    min_probability: float,
    copy: bool,
    checkpoint: str | None,
) -> None:
    """Hand a finished run's results to other programs: sorted folders, a CSV, ONNX, open_clip."""
    from psp_ray.export import files as to

    if not any((folders, csv_file, onnx, open_clip)):
        raise click.UsageError("say what to export: --folders DIR, --csv FILE, --onnx DIR or --open-clip DIR")
    if csv_file:
        click.echo(f"{to.export_csv(run_folder, csv_file):,} predictions in {csv_file}")
    if folders:
        counts = to.export_folders(run_folder, folders, min_probability=min_probability, copy=copy)
        click.echo("\n".join(f"{count:7,}  {Path(folders) / name}" for name, count in counts.items()))
    if onnx:
        file = to.export_onnx(run_folder, onnx, checkpoint=checkpoint)
        click.echo(f"{file}; try: python {Path(onnx)}/predict.py IMAGE")
    if open_clip:
        to.export_open_clip(run_folder, open_clip, checkpoint=checkpoint)
        click.echo(f"{open_clip}; try: python {Path(open_clip)}/predict.py IMAGE")


@cli.command("check-data")
@click.option("--config", "config_file", type=click.Path(), metavar="FILE", help="YAML file of settings; options win")
@setting_options
def check_data(config_file: str | None, **given: Any) -> None:
    """Look through a data set before labeling: classes, bad and double images, names CLIP confuses, time and cost.

    Takes the options of `run`. Writes nothing but the cache's list of content hashes, and buys nothing.
    """
    from psp_ray.run.check_data import check

    for line in check(resolve(given, config_file)):
        click.echo(line)


@cli.group()
def cache() -> None:
    """Look at the feature cache, and make room in it."""


CACHE_OPTION = click.option("--cache", "folder", type=click.Path(), metavar="DIR", help="cache folder, as in run")


@cache.command("ls")
@CACHE_OPTION
def cache_ls(folder: str | None) -> None:
    """List what is in the cache: one line for each encoder's features and views."""
    from psp_ray.features.quota import entries, show

    for line in show(entries(folder)):
        click.echo(line)


@cache.command("prune")
@CACHE_OPTION
@click.option("--max-gib", type=click.FloatRange(min=0), help="remove the longest unused until the cache is this small")
@click.option("--older-than", type=click.FloatRange(min=0), metavar="DAYS", help="remove what was not used for so long")
@click.option("--dry-run", is_flag=True, help="say what would be removed")
def cache_prune(folder: str | None, max_gib: float | None, older_than: float | None, dry_run: bool) -> None:
    """Remove features that were not used for long; they are encoded again when they are needed."""
    from psp_ray.features.quota import prune

    if max_gib is None and older_than is None:
        raise click.UsageError("say what to remove: --max-gib N or --older-than DAYS")
    for line in prune(folder, max_gib=max_gib, older_than_days=older_than, dry_run=dry_run):
        click.echo(line)


@cli.group()
def tasks() -> None:
    """Take a round's query set to Label Studio and its annotations back."""


@tasks.command("export")
@click.option("--run", "run_folder", required=True, type=click.Path(), metavar="DIR", help="output folder of a run")
@click.option("--url", metavar="PREFIX", help="where Label Studio finds the images; default: inside the task file")
@click.option("--out", type=click.Path(), metavar="FILE", help="JSON file to write; default: beside query.csv")
def tasks_export(run_folder: str, url: str | None, out: str | None) -> None:
    """Write the open round's images as Label Studio tasks, and the labeling interface that goes with them."""
    from psp_ray.export.files import classes_of_run
    from psp_ray.labels.label_studio import export_tasks

    for line in export_tasks(run_folder, classes_of_run(run_folder), url=url, out=out):
        click.echo(line)


@tasks.command("import")
@click.option("--run", "run_folder", required=True, type=click.Path(), metavar="DIR", help="output folder of a run")
@click.argument("annotations", type=click.Path())
def tasks_import(run_folder: str, annotations: str) -> None:
    """Fill ANNOTATIONS, Label Studio's JSON export, into the query files of a run."""
    from psp_ray.export.files import classes_of_run
    from psp_ray.labels.label_studio import import_annotations

    for line in import_annotations(run_folder, classes_of_run(run_folder), annotations):
        click.echo(line)


@cli.command()
@click.option("--ray/--no-ray", "with_ray", default=True, help="also start Ray and an actor")
def doctor(with_ray: bool) -> None:
    """Check this machine: versions, bundled model, cache folder, devices, Ray. For bug reports."""
    from psp_ray.cli.doctor import examine

    if not examine(with_ray):
        raise SystemExit(2)


cli.add_command(oracle)


def arguments_with_command(arguments: Sequence[str]) -> list[str]:
    """Put `run` in front where no command is named."""
    words = list(arguments)
    if words and (words[0] in COMMANDS or words[0] in ("-h", "--help", "--version")):
        return words
    if words and not words[0].startswith("-"):
        return words  # a mistyped command: click names it
    return ["run", *words]


def _terminate(signum: int, frame: Any) -> None:
    signal.signal(signum, signal.SIG_IGN)  # once is enough; what follows writes files
    raise Interrupted


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; ends the process with the exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    words = arguments_with_command(sys.argv[1:] if arguments is None else arguments)
    try:
        code = exit_code(lambda: cli.main(args=words, prog_name="psp-ray", standalone_mode=False))
    except Interrupted:
        click.echo("terminated", err=True)
        code = 143
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)

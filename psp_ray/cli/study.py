"""Options of `psp-ray compare` and `psp-ray reproduce`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from psp_ray.cli.options import HIDDEN_KEYS, F, setting_options, track_option
from psp_ray.config.base import option_name
from psp_ray.studies.settings import CHOSEN, StudySettings

if TYPE_CHECKING:
    from psp_ray.studies.command import Request

_OTHERS = {
    "config": "give its lines in a --study file, beside datasets and strategies, or as options",
    "html": "report.html is written for the whole; `psp-ray report RUN` writes that of a run",
}


def study_options(command: F) -> F:
    """Decorator: options of comparisons, and every setting of a run that they don't choose themselves."""
    command = setting_options(command, hidden=HIDDEN_KEYS | CHOSEN.keys())
    for key, info in reversed(StudySettings.model_fields.items()):
        default = ",".join(map(str, info.default)) if isinstance(info.default, tuple) else info.default
        shown = f"{info.description}{f' [{default}]' if default else ''}"
        metavar = "N" if info.annotation is int else "LIST" if isinstance(info.default, tuple) else "TEXT"
        command = click.option(option_name(key), key, default=None, metavar=metavar, help=shown)(command)
    options = (
        click.option(
            "--study", "study_file", metavar="FILE", help="YAML file of these options; options given here win"
        ),
        click.option(
            "--set",
            "pairs",
            multiple=True,
            metavar="KEY=VALUE",
            help="any setting of a run, for all runs; DATASET:KEY=VALUE",
        ),
        click.option("--parallel", type=click.IntRange(min=1), metavar="N", help="most runs side by side (with Ray)"),
        click.option("--replace-changed", is_flag=True, help="with --resume: run again what had other settings"),
        click.option("--report", metavar="FILE.md", help="also write the table and pictures as a section of this file"),
        click.option("--dry-run", is_flag=True, help="check everything, list the runs, start nothing"),
        track_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


def instead(key: str) -> str | None:
    """How a comparison is given what an option of `psp-ray run` says that it lacks; None for any other."""
    return {**CHOSEN, **_OTHERS}.get(key)


def study_request(given: dict[str, Any]) -> Request:
    """What the options of `study_options` say."""
    from psp_ray.studies.command import Request

    own = {key: given.pop(key) for key in StudySettings.model_fields}
    extra = {
        key: given.pop(key)
        for key in ("study_file", "pairs", "parallel", "replace_changed", "report", "dry_run", "track")
    }
    return Request(study=own, run=given, **extra)

"""The command line: `python -m psp_ray.main COMMAND` (see `COMMANDS`), also installed as `psp-ray`.

Without a sub-command it runs. Options are the keys of `Config`. Exit codes: 0 finished, 1 a run of a comparison (or
every trial of a sweep) failed, 2 a setting or file is wrong (one line says which), 3 waiting for labels (fill them in),
130 and 143 interrupted; after the last three the same command with --resume continues.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

import click

from psp_ray.core import interrupts
from psp_ray.core.errors import Interrupted
from psp_ray.core.exit_codes import exit_code
from psp_ray.core.version import __version__


@dataclass(frozen=True)
class Place:
    """Where a command is: `name` in the module `psp_ray.cli.<module>`, and the line that lists it."""

    module: str
    name: str
    summary: str


COMMANDS = {
    "run": Place("run", "run", "Choose images, have them labeled, learn from them, again and again (the default)."),
    "continue": Place("continuing", "continue_command", "Go on with a run, with the settings it was started with."),
    "label": Place("label", "label", "Label in the browser: images, or a run that is there; one command, no file."),
    "featurize": Place("featurize", "featurize", "Encode a data set's images into the feature cache, ahead of runs."),
    "predict": Place("predict", "predict", "Classify images, or tables of embeddings, with the prompts of a run."),
    "compare": Place("compare", "compare", "Run strategies over data sets and seeds: tables and learning curves."),
    "reproduce": Place("reproduce", "reproduce", "The paper's protocol on what there is, beside the paper's figures."),
    "sweep": Place("sweep", "sweep", "Try settings across data sets, several trials at a time."),
    "sweep-report": Place("sweep", "sweep_report", "Write and print the report of a sweep, finished or not."),
    "report": Place("report", "report", "A page on a run, a comparison or a sweep, whether it has ended or not."),
    "explain": Place(
        "explain", "explain", "Why a run asked about its images: plan, policy or chance, and what lay near."
    ),
    "export": Place("export", "export", "Hand a run's results on: sorted folders, a CSV, ONNX, open_clip."),
    "check-data": Place("check_data", "check_data", "Look through images and class names before labeling."),
    "list": Place("listing", "list_command", "Names that can be chosen: strategies, heads, models, presets, ..."),
    "cache": Place("cache", "cache", "Look at the feature cache, and make room in it."),
    "oracle": Place("oracle", "oracle", "One oracle for many experiments: who paid for what, labels in and out."),
    "tasks": Place("tasks", "tasks", "Take a round's query set to Label Studio and its annotations back."),
    "doctor": Place("doctor", "doctor", "Check this machine: versions, bundled model, cache folder, devices, Ray."),
}
"""A file of this folder is imported when its command is meant: a list of commands needs none of them."""


class Commands(click.Group):
    """The group of `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        found = getattr(import_module(f"psp_ray.cli.{place.module}"), place.name)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.summary) for name, place in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="psp-ray")
def cli() -> None:
    """Active prompt learning for CLIP: choose images worth labeling, learn prompts, hand back a classifier.

    Without a command, `run` is meant: `psp-ray --dataset FOLDER` is `psp-ray run --dataset FOLDER`.
    """


def arguments_with_command(arguments: Sequence[str]) -> list[str]:
    """Put `run` in front where no command is named."""
    words = list(arguments)
    if words and (words[0] in COMMANDS or words[0] in ("-h", "--help", "--version")):
        return words
    if words and not words[0].startswith("-"):
        return words  # a mistyped command: click names it
    return ["run", *words]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; ends the process with the exit code."""
    interrupts.listen()
    words = arguments_with_command(sys.argv[1:] if arguments is None else arguments)
    try:
        code = exit_code(lambda: cli.main(args=words, prog_name="psp-ray", standalone_mode=False))
    except Interrupted:
        code = _ended("terminated")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception:
        if interrupts.heard() is None:
            raise
        code = _ended("terminated" if interrupts.heard() == signal.SIGTERM else "interrupted")
    sys.exit(code)


def _ended(how: str) -> int:
    click.echo(how, err=True)
    return 143 if how == "terminated" else 130

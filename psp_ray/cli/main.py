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
from types import FrameType

import click

from psp_ray.cli.cache import cache
from psp_ray.cli.check_data import check_data
from psp_ray.cli.compare import compare
from psp_ray.cli.continuing import continue_command
from psp_ray.cli.doctor import doctor
from psp_ray.cli.export import export
from psp_ray.cli.featurize import featurize
from psp_ray.cli.listing import list_command
from psp_ray.cli.oracle import oracle
from psp_ray.cli.predict import predict
from psp_ray.cli.report import report
from psp_ray.cli.reproduce import reproduce
from psp_ray.cli.run import run
from psp_ray.cli.sweep import sweep, sweep_report
from psp_ray.cli.tasks import tasks
from psp_ray.core.errors import Interrupted
from psp_ray.core.exit_codes import exit_code
from psp_ray.core.version import __version__

COMMANDS: tuple[click.Command, ...] = (
    run,
    continue_command,
    featurize,
    predict,
    compare,
    reproduce,
    sweep,
    sweep_report,
    report,
    export,
    check_data,
    list_command,
    cache,
    oracle,
    tasks,
    doctor,
)
"""One file of this folder each; they import what they need when they are called, so that mistakes are found at once."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="psp-ray")
def cli() -> None:
    """Active prompt learning for CLIP: choose images worth labeling, learn prompts, hand back a classifier.

    Without a command, `run` is meant: `psp-ray --dataset FOLDER` is `psp-ray run --dataset FOLDER`.
    """


for _command in COMMANDS:
    cli.add_command(_command)


def arguments_with_command(arguments: Sequence[str]) -> list[str]:
    """Put `run` in front where no command is named."""
    words = list(arguments)
    if words and (words[0] in cli.commands or words[0] in ("-h", "--help", "--version")):
        return words
    if words and not words[0].startswith("-"):
        return words  # a mistyped command: click names it
    return ["run", *words]


def _terminate(signum: int, frame: FrameType | None) -> None:
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

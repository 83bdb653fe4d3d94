"""How the command lines end: every mistake one line, and one code for each kind of end."""

from __future__ import annotations

import errno
from collections.abc import Callable

import click

from psp_ray.core.errors import UserError
from psp_ray.core.words import printable, short
from psp_ray.core.writing import WRITE_FAULTS, unwritable

AWAITING = 3
"""Exit code of a run that waits for labels."""


def exit_code(command: Callable[[], object], interrupted: str = "interrupted") -> int:
    """Call a click command that is not in standalone mode; returns 0, 2 (a mistake of the user) or 130 (Ctrl-C).

    `interrupted` is what an interrupt says. An exit that the command asks for itself passes through.
    """
    try:
        command()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
    except click.ClickException as error:
        return _mistake(error.format_message())
    except UserError as error:
        return _mistake(str(error))
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            return _mistake(f"{short(str(error.filename))}: {error.strerror}; check the path")
        if error.errno not in WRITE_FAULTS:
            raise
        return _mistake(unwritable(error.filename2 or error.filename or "a file", error))
    except (KeyboardInterrupt, click.Abort):
        click.echo(interrupted, err=True)
        return 130
    return 0


def _mistake(message: str) -> int:
    click.echo(f"error: {' '.join(printable(message).split())}", err=True)
    return 2

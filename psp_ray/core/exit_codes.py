"""How the command lines end: every mistake one line, and one code for each kind of end."""

from __future__ import annotations

import errno
from collections.abc import Callable

import click

from psp_ray.core import interrupts
from psp_ray.core.errors import UserError
from psp_ray.core.others import fault_of
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
        return _mistake(_told(error))
    except (KeyboardInterrupt, click.Abort):
        click.echo(interrupted, err=True)
        return 130
    except Exception as error:
        line = _line_of(error)
        if line is None:
            raise
        return _mistake(line)
    return 0


def _line_of(error: Exception) -> str | None:
    """What an error of the machine or of another package comes to in one line; None for one of ours."""
    if isinstance(error, OSError):
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            return f"{short(str(error.filename))}: {error.strerror}; check the path"
        if error.errno in WRITE_FAULTS:
            return unwritable(error.filename2 or error.filename or "a file", error)
    found = None if interrupts.heard() is not None else fault_of(error)
    return None if found is None else _told(found)


def _told(error: BaseException) -> str:
    """What an error says, with what was noted on its way."""
    return " ".join([str(error), *getattr(error, "__notes__", ())])


def _mistake(message: str) -> int:
    click.echo(f"error: {' '.join(printable(message).split())}", err=True)
    return 2

"""Errors that a user can cause and mend.

Every one is shown as a single line that names the file or the setting and the remedy; the command line then ends
with exit code 2, before anything is bought. Anything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

from typing import Any


class UserError(Exception):
    """Base of all errors that the command line turns into one line and exit code 2."""


class ConfigError(UserError):
    """A setting is unknown, malformed, out of range or contradicts another one."""


class DatasetError(UserError):
    """A folder, manifest or split file is missing, empty or unusable."""


class ModelError(UserError):
    """A model name, a checkpoint or a text tower can't be used."""


class OracleError(UserError):
    """The ledger can't be opened, or holds labels of another label space."""


class LedgerError(OracleError):
    """The ledger can't be read or written now. Nothing is wrong with what was asked of it, which may be asked again."""


class BudgetError(OracleError):
    """A label cap or a cost cap would be overrun."""


class OutputError(UserError):
    """The output folder is not writable, already used, or holds another run."""


class ResourceError(UserError):
    """The cluster can't satisfy what the run needs, or an actor did not answer in time."""


class OthersError(UserError):
    """What another package added (a strategy, a head, ...) failed; `details` is the traceback."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.details)


class Interrupted(BaseException):
    """The process was asked to end (SIGTERM): what is under way ends cleanly, as after Ctrl-C, and can be resumed."""

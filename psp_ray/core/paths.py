"""Paths as people give them: with `~`, as `file://` addresses, too long, or no path at all.

`pathlib` raises where a text can't be a path (too long, a NUL, a lone surrogate, an unknown `~user`). What is asked
here is only whether something lies there, so the answer to such a text is no.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

FILE_SCHEME = "file://"


def is_file_address(text: str) -> bool:
    """Whether a text is a `file://` address: a path on this machine, however it is written."""
    return text[: len(FILE_SCHEME)].lower() == FILE_SCHEME


def local_text(given: str | os.PathLike[str]) -> str:
    """A path on this machine as the text that the system takes: `~` expanded, `file:///a%20b` as `/a b`."""
    text = os.fspath(given)
    if is_file_address(text):
        address = urlsplit(text)
        # A # or ? in a file's address is part of the name where nobody escaped it.
        name = unquote(address.path, errors="surrogateescape")
        name += f"?{address.query}" if address.query else ""
        name += f"#{address.fragment}" if address.fragment else ""
        host = "" if address.netloc in ("", "localhost") else f"//{address.netloc}"
        return host + name
    return os.path.expanduser(text)


def local_path(given: str | os.PathLike[str]) -> Path:
    """`local_text` as a Path. Nothing is looked up."""
    return Path(local_text(given))


def is_file(given: str | os.PathLike[str]) -> bool:
    """Whether a file lies there; False, not an error, for a text that can't be a path."""
    return os.path.isfile(local_text(given))


def is_folder(given: str | os.PathLike[str]) -> bool:
    """Whether a folder lies there; False, not an error, for a text that can't be a path."""
    return os.path.isdir(local_text(given))


def exists(given: str | os.PathLike[str]) -> bool:
    """Whether anything lies there; False, not an error, for a text that can't be a path."""
    return os.path.exists(local_text(given))


def why_not(error: OSError | ValueError) -> str:
    """Why a file couldn't be read, in a few words."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "it can't be a path" if isinstance(error, UnicodeEncodeError) or "null" in str(error) else str(error)

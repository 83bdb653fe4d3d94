"""Class names that the user gives: `--classes FILE` or `--classes a,b,c`, with descriptions where there are some."""

from __future__ import annotations

import re
from dataclasses import dataclass

from psp_ray.core.errors import DatasetError
from psp_ray.core.paths import is_file, local_path, why_not
from psp_ray.core.tables import read_text
from psp_ray.core.words import normalize_name, short


@dataclass(frozen=True)
class ClassList:
    """Names in the order given; `descriptions` by name, only of classes that have some; `source` for messages."""

    names: list[str]
    descriptions: dict[str, list[str]]
    source: str


def read_classes(given: str) -> ClassList:
    """A file with a class a line, or the names themselves with commas between them.

    A line is `name` or `name: description, description`; empty lines and lines that begin with # don't count. What
    looks like a file (a separator, or an ending of at most four letters, without a comma) must be one.

    Raises:
        DatasetError: the file can't be read; fewer than two names; a name twice.
    """
    if is_file(given) or (not re.search(r"[,\r\n]", given) and re.search(r"[/\\]|\.\w{1,4}$", given)):
        try:
            lines = read_text(local_path(given).read_bytes()).splitlines()
        except (OSError, ValueError) as error:
            raise DatasetError(
                f"--classes {short(given)}: can't be read ({why_not(error)}); give a text file or a,b,c"
            ) from None
        source = str(given)
        entries = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and line.lstrip()[0] != "#"]
    else:
        source = "--classes"
        entries = [(0, part) for part in re.split(r"[,\r\n]", given) if part.strip()]
    names: list[str] = []
    descriptions: dict[str, list[str]] = {}
    seen: dict[str, str] = {}
    for number, line in entries:
        where = f"{source}:{number}" if number else source
        name, colon, phrases = (line, "", "") if not number else line.partition(":")
        name = " ".join(name.split())
        if not name:
            raise DatasetError(f"{where}: no class name before the colon; write name: description, description")
        twin = seen.setdefault(normalize_name(name), name)
        if twin is not name:
            raise DatasetError(f"{where}: class {name!r} is there already (as {twin!r}); keep one of them")
        names.append(name)
        found = [" ".join(phrase.split()) for phrase in phrases.split(",") if phrase.strip()] if colon else []
        if found:
            descriptions[name] = found
    if len(names) < 2:
        raise DatasetError(f"{source}: {len(names)} class names; at least two are needed, one a line or as a,b,c")
    return ClassList(names, descriptions, source)

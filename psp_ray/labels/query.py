"""Tables that people fill in: a round's query.csv and the run's corrections.csv."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_ray.core.answers import AnswerReader, UnknownLabel
from psp_ray.core.errors import OracleError
from psp_ray.core.files import write_text
from psp_ray.core.names import ABSENT, Names
from psp_ray.core.noise import sample_keys
from psp_ray.core.records import UInt64Array
from psp_ray.core.tables import TableError, csv_text
from psp_ray.core.tables import read_table as read_csv
from psp_ray.core.tables import read_text as decoded
from psp_ray.core.words import is_utf8, short

QUERY = "query.csv"
CORRECTIONS = "corrections.csv"
MANY = 50_000
"""Names that are too many for a set of them."""


def round_folder(folder: Path, number: int) -> Path:
    """Where a round's images are laid out."""
    return folder / f"round_{number:02d}"


def number_of(folder: Path) -> int:
    """Which round's folder it is."""
    return int(folder.name.removeprefix("round_"))


def query_files(folder: Path) -> list[Path]:
    """All rounds' query.csv, oldest first."""
    found = [(re.fullmatch(r"round_(\d+)", file.parent.name), file) for file in folder.glob(f"round_*/{QUERY}")]
    return [file for _, file in sorted((int(match[1]), file) for match, file in found if match)]


@dataclass(frozen=True)
class Line:
    """An answer in a file: `label` is a class index or code, None where nothing is filled in."""

    file: Path
    number: int
    sample_id: str
    label: int | None


class SampleNames:
    """Which sample a cell means: its exact name, else the only one that a spreadsheet would turn into that cell.

    `rest`: samples that are meant where none of `names` is. (A table that asks for 007 and comes back with 7 means 007,
    also where the pool has a 7.) Of `MANY` names no more is kept than 12 bytes each, and that once one isn't exact.
    """

    def __init__(self, names: Iterable[str], rest: SampleNames | None = None) -> None:
        self._rest = rest
        self._many = names if isinstance(names, Names) and len(names) >= MANY and names.rising else None
        self._exact = set() if self._many is not None else set(names)

    def __contains__(self, name: str) -> bool:
        return name in self._exact if self._many is None else self._many.position(name) != ABSENT

    def find(self, cell: str) -> str | None:
        """The sample that `cell` means; None where none does, or several would."""
        if cell in self:
            return cell
        found = self._alike(_loose(cell))
        if not found and self._rest is not None:
            return self._rest.find(cell)
        return next(iter(found)) if len(found) == 1 else None

    def _alike(self, text: str) -> Collection[str]:
        """The names of which `text` is left."""
        if self._many is None:
            return self._loose.get(text, ())
        if not is_utf8(text):
            return ()
        keys, places = self._keys
        low, high = (int(np.searchsorted(keys, sample_keys([text])[0], side)) for side in ("left", "right"))
        return [name for name in self._many.at(places[low:high].astype(np.int64)) if _loose(name) == text]

    @cached_property
    def _loose(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for name in self._exact:
            found.setdefault(_loose(name), set()).add(name)
        return found

    @cached_property
    def _keys(self) -> tuple[UInt64Array, NDArray[np.uint32]]:
        """Rising keys (n,) of what is left of many names, and which names these are (n,)."""
        keys = sample_keys(_loose(name) for name in self._many or ())
        order = np.argsort(keys, kind="stable").astype(np.uint32)
        return keys[order], order


def _loose(text: str) -> str:
    """What is left of a name after editors and spreadsheets: no outer blanks and quotes, composed, numbers bare."""
    text = unicodedata.normalize("NFC", text).strip().strip('"\u201c\u201d').strip()
    if re.fullmatch(r"[+-]?\d{1,40}([.,]\d{1,40})?(e[+-]?\d{1,3})?", text, re.IGNORECASE):
        return f"{Decimal(text.replace(',', '.')).normalize():f}"
    return text


def read_answers(
    file: Path,
    class_names: Sequence[str],
    names: SampleNames | None = None,
    former: Mapping[str, int] | None = None,
) -> list[Line]:
    """The lines of a query or corrections file; delimiters as spreadsheets write them (comma, semicolon, tab).

    With `names`, a cell that a spreadsheet has changed is found again; one that means none of them stays as it is.
    `former`: names of classes before they were renamed, {name: class index}.

    Raises:
        OracleError: in one line with file and line number: unreadable, a column missing, a name that is no class, a
            sample with two answers, more cells than columns.
    """
    _, header, records = read_table(file)
    place, answer = header.index("sample_id"), header.index("label")
    found: dict[str, Line] = {}
    read = AnswerReader(class_names, former)
    for number, record in records:
        cell = record[place] if place < len(record) else ""
        text = record[answer] if answer < len(record) else ""
        sample = (names.find(cell) if names is not None else None) or cell.strip()
        if any(extra.strip() for extra in record[len(header) :]):
            raise OracleError(
                f"{file}:{number}: {len(record)} cells for {len(header)} columns; put quotes around what holds a "
                "separator, or clear the last cells"
            )
        if not sample:
            if text.strip():
                raise OracleError(f"{file}:{number}: a label without a sample_id; fill it in or clear the line")
            continue
        try:
            label = read(text)
        except UnknownLabel as error:
            raise OracleError(f"{file}:{number}: {error}; write a class, skip or ignore, or leave it empty") from None
        before = found.get(sample)
        if before is not None and None not in (before.label, label) and before.label != label:
            raise OracleError(f"{file}:{number}: {sample!r} has another label on line {before.number}; keep one")
        if before is None or label is not None:
            found[sample] = Line(file, number, sample, label)
    return list(found.values())


def read_text(file: Path) -> str:
    """A table's text: UTF-8, or UTF-16 as spreadsheets save it. Raises OracleError where it is neither."""
    try:
        return decoded(file.read_bytes())
    except (OSError, TableError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise OracleError(f"{file}: can't be read ({reason}); save it as CSV in UTF-8") from None


def read_table(file: Path) -> tuple[str, list[str], list[tuple[int, list[str]]]]:
    """(delimiter, header, (line number, record) of each line that is not empty) of a query or corrections file."""
    try:
        table = read_csv(read_text(file))
    except TableError as error:
        raise OracleError(f"{file}:{error.line}: {error}") from None
    delimiter, header, records = table.delimiter, table.header, table.records
    for column in ("sample_id", "label"):
        if column not in header:
            shown = short(" ".join(", ".join(header).split()) or "none", 120)
            raise OracleError(f"{file}: no column {column!r} (columns: {shown}); put it back")
        if header.count(column) > 1:
            raise OracleError(f"{file}: two columns {column!r}; keep one")
    return delimiter, header, records


def write_table(file: Path, rows: Iterable[Sequence[Any]], delimiter: str = ",") -> None:
    write_text(file, csv_text(rows, delimiter))


def line_of(header: Sequence[str], sample_id: str, label: str = "") -> list[str]:
    """A line of a table of people's that says no more than an answer."""
    return [{"sample_id": sample_id, "label": label}.get(name, "") for name in header]

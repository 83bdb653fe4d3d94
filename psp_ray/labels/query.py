"""Tables that people fill in: a round's query.csv and the run's corrections.csv."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psp_ray.core.answers import AnswerReader, UnknownLabel
from psp_ray.core.errors import OracleError
from psp_ray.core.files import write_text
from psp_ray.core.tables import csv_text, plain_cell

QUERY = "query.csv"
CORRECTIONS = "corrections.csv"


def round_folder(folder: Path, number: int) -> Path:
    """Where a round's images are laid out."""
    return folder / f"round_{number:02d}"


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


def read_answers(file: Path, class_names: Sequence[str]) -> list[Line]:
    """The lines of a query or corrections file; delimiters as spreadsheets write them (comma, semicolon, tab).

    Raises:
        OracleError: in one line with file and line number: unreadable, a column missing, a name that is no class, a
            sample with two answers.
    """
    _, header, records = read_table(file)
    place, answer = header.index("sample_id"), header.index("label")
    found: dict[str, Line] = {}
    read = AnswerReader(class_names)
    for number, record in records:
        sample = plain_cell(record[place].strip()) if place < len(record) else ""
        text = plain_cell(record[answer]) if answer < len(record) else ""
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


def read_table(file: Path) -> tuple[str, list[str], list[tuple[int, list[str]]]]:
    """(delimiter, header, (line number, record) of each line that is not empty) of a query or corrections file."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise OracleError(f"{file}: can't be read ({reason}); save it as CSV in UTF-8") from None
    first = text.splitlines()[0] if text.strip() else ""
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    header: list[str] = []
    records: list[tuple[int, list[str]]] = []
    try:
        for record in reader:
            if not header:
                header = [cell.strip().lower() for cell in record]
            elif any(cell.strip() for cell in record):
                records.append((reader.line_num, record))
    except csv.Error as error:
        raise OracleError(f"{file}:{reader.line_num}: not readable as CSV ({error}); repair the line") from None
    for column in ("sample_id", "label"):
        if column not in header:
            raise OracleError(f"{file}: no column {column!r} (columns: {', '.join(header) or 'none'}); put it back")
    return delimiter, header, records


def write_table(file: Path, rows: Iterable[Sequence[Any]], delimiter: str = ",") -> None:
    write_text(file, csv_text(rows, delimiter))

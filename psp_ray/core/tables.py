"""CSV as people and spreadsheets write it, and as no spreadsheet runs it: one reader and one writer for all tables.
JSON lines, too."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DELIMITERS = ",;\t|"
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_RUN = re.compile(r"'*[=+\-@\t\r＝＋－＠]")
"""What begins a cell that a spreadsheet would run as a formula, or that we have escaped before."""


class TableError(ValueError):
    """A text is no table; the message is a short reason, `line` where it is (0: nowhere in particular)."""

    def __init__(self, reason: str, line: int = 0) -> None:
        super().__init__(reason)
        self.line = line


@dataclass(frozen=True)
class TextTable:
    """A CSV: the names of its columns (lower case, no space around) and its records with the lines they begin on.

    A record may be shorter or longer than the header. Records without any text are left out.
    """

    delimiter: str
    header: list[str]
    records: list[tuple[int, list[str]]]

    def rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        """(line, cells by column), missing ones empty."""
        for line, record in self.records:
            cells = record + [""] * (len(self.header) - len(record))
            yield line, dict(zip(self.header, cells, strict=False))


def read_text(data: bytes) -> str:
    """The text of a file: UTF-8, or what its byte order mark says.

    Raises:
        TableError: another encoding.
    """
    encoding = next((name for mark, name in _BOMS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        raise TableError("it is not UTF-8 text") from None


def read_table(data: bytes | str, delimiter: str | None = None) -> TextTable:
    """A CSV with a header; `delimiter`: by default the one that the header line has most of (comma, semicolon, tab, |).

    Cells that `cell` escaped come back as they were.

    Raises:
        TableError: not text, or not CSV, as behind a quote that is never closed.
    """
    text = data if isinstance(data, str) else read_text(data)
    first = re.match(r"(?i)sep=(.)\r?\n", text)  # Excel's own line
    if first is not None:
        delimiter, text = first.group(1), "\n" + text[first.end() :]
    delimiter = delimiter or _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    records: list[tuple[int, list[str]]] = []
    start = 1
    try:
        for record in reader:
            cells = [plain_cell(value) for value in record]
            if any(value.strip() for value in cells):
                if header:
                    records.append((start, cells))
                else:
                    header = [value.strip().lower() for value in cells]
            start = reader.line_num + 1
    except csv.Error as error:
        raise TableError(
            f"not readable as CSV ({error}); repair the line, a quote may lack its other half", start
        ) from None
    return TextTable(delimiter, header, records)


def read_json_lines(lines: Iterable[bytes | str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object) of JSON lines; empty lines are passed over.

    Raises:
        TableError: a line is no JSON object.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TableError(f"not JSON ({error})", number) from None
        if not isinstance(record, dict):
            raise TableError("holds no JSON object", number)
        yield number, record


def _delimiter(text: str) -> str:
    """The delimiter of the first line that isn't empty; those inside quotes don't count."""
    line = next((line for line in io.StringIO(text) if line.strip()), "")
    bare = re.sub(r'"[^"]*"', "", line)
    return max(DELIMITERS, key=bare.count)


def cell(value: Any) -> Any:
    """A cell that no spreadsheet runs: text that begins like a formula gets an apostrophe in front."""
    if not isinstance(value, str) or not _RUN.match(value) or _is_number(value):
        return value
    return f"'{value}"


def plain_cell(text: str) -> str:
    """What `cell` made of a text, as it was before."""
    return text[1:] if text.startswith("'") and _RUN.match(text) else text


def csv_text(rows: Iterable[Sequence[Any]], delimiter: str = ",") -> str:
    """Rows as CSV, cells escaped by `cell`. What is no UTF-8 (names of files) is written with backslashes."""
    return "".join(csv_lines(rows, delimiter))


def csv_lines(rows: Iterable[Sequence[Any]], delimiter: str = ",") -> Iterator[str]:
    """The same, line by line."""
    return (delimiter.join(_quoted(cell(value), delimiter) for value in row) + "\n" for row in rows)


def csv_of(rows: Sequence[Mapping[str, Any]], header: Sequence[str] | None = None) -> str:
    """Records as CSV with a header; the columns are those of the first record unless they are given."""
    names = list(header if header is not None else rows[0])
    return csv_text([names, *([row.get(name, "") for name in names] for row in rows)])


def _quoted(value: Any, delimiter: str) -> str:
    """A cell in quotes where it needs some. (csv.writer leaves a carriage return bare where lines end with \\n.)"""
    text = "" if value is None else str(value).encode("utf-8", "backslashreplace").decode()
    if not any(mark in text for mark in (delimiter, '"', "\n", "\r")):
        return text
    return '"' + text.replace('"', '""') + '"'


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "\t" not in text and "\r" not in text

"""Labels by file: a round's images are laid out for people, who fill in a table whenever they like.

    OUT/round_03/query.csv            sample_id, path, image, (suggestion,) label: the last column is theirs
    OUT/round_03/images/001_name.jpg  the same images, linked and numbered
    OUT/round_03/contact_sheet.png    the same images at a glance
    OUT/corrections.csv               sample_id, label: second thoughts, if they aren't written into the old query.csv
    OUT/answers_taken.json            sample_id, label: what these files said when they were last taken up

What is filled in is taken up by the next request; what is not is waited for. An answer that is changed in a file, or a
correction that is taken out again, changes the label, and the ledger keeps the history. Where a label was changed
elsewhere (`psp-ray oracle correct`, another run on the same ledger), a file that still says what it said changes
nothing.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from psp_ray.core.answers import AnswerReader, UnknownLabel
from psp_ray.core.errors import OracleError, OutputError
from psp_ray.core.files import read_json, write_bytes, write_json, write_text
from psp_ray.labels.annotators.base import Item, register_annotator

QUERY = "query.csv"
CORRECTIONS = "corrections.csv"
TAKEN = "answers_taken.json"
IMAGES = "images"


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


@register_annotator("file")
class FileAnnotator:
    """Asks through `query.csv` files below `folder`.

    `manifest` has the pool's images (`sample_id`, `path`, `image`); `class_names` are what people may write.
    """

    batch_size: int | None = None

    def __init__(
        self,
        folder: str | os.PathLike[str],
        class_names: Sequence[str],
        manifest: pa.Table,
        *,
        cost: float = 1.0,
        name: str = "file",
    ) -> None:
        self.name = name
        self.cost = float(cost)
        self.place = ""
        self._folder, self._classes, self._manifest = Path(folder), list(class_names), manifest
        self._rows: dict[str, int] | None = None
        self._revised: dict[str, int | None] = {}

    def annotate(self, items: Sequence[Item]) -> list[int | None]:
        """Answers that are filled in; lays the query set out where that has not been done.

        Raises OracleError, with file and line, for a name that is no class; OutputError where nothing can be written.
        """
        number = items[0].round if items else 0
        folder = round_folder(self._folder, number)
        file = folder / QUERY
        self.place = str(file)
        if not file.exists():
            try:
                self._lay_out(folder, items)
            except OSError as error:
                raise OutputError(
                    f"{folder}: can't be written ({error.strerror}); make room or free the folder"
                ) from None
        given = {line.sample_id: line.label for line in read_answers(file, self._classes)}
        lost = [item for item in items if item.sample_id not in given]
        if lost:
            self._restore_lines(file, lost)
        answers = [given.get(item.sample_id) for item in items]
        self._take({item.sample_id: answer for item, answer in zip(items, answers, strict=True) if answer is not None})
        return answers

    def revisions(self, told: Mapping[str, int]) -> dict[str, int]:
        """Answers that were changed in the files since they were taken up; `corrections.csv` has the last word.

        Raises OracleError for a correction of a sample that was never asked.
        """
        now: dict[str, int] = {}
        for file in query_files(self._folder):
            now.update(
                {line.sample_id: line.label for line in read_answers(file, self._classes) if line.label is not None}
            )
        file = self._folder / CORRECTIONS
        for line in read_answers(file, self._classes) if file.exists() else ():
            if line.sample_id not in told and line.sample_id not in now:
                raise OracleError(f"{file}:{line.number}: {line.sample_id!r} was never asked; correct the sample_id")
            if line.label is not None:
                now[line.sample_id] = line.label
        taken = self._taken()
        # A sample that isn't told yet may be answered already: then the answer first taken up is what it is told next.
        self._revised = {sample: now.get(sample) for sample in told if taken.get(sample) != now.get(sample)}
        return {sample: label for sample, label in self._revised.items() if label is not None and told[sample] != label}

    def settled(self) -> None:
        """What `revisions` said last is in the ledger: from here on, it is what the files said before."""
        self._take(self._revised)
        self._revised = {}

    def _taken(self) -> dict[str, int]:
        file = self._folder / TAKEN
        try:
            return {str(sample): int(label) for sample, label in read_json(file).items()} if file.exists() else {}
        except (OSError, ValueError, TypeError, AttributeError):
            raise OracleError(
                f"{file}: can't be read; restore or remove it (then the files replace all corrections)"
            ) from None

    def _take(self, answers: Mapping[str, int | None]) -> None:
        """Remember what the files say, durably; None where an answer was taken out."""
        taken = self._taken()
        new: dict[str, int | None] = {**taken, **answers}
        kept = {sample: label for sample, label in sorted(new.items()) if label is not None}
        if kept == taken:
            return
        try:
            write_json(self._folder / TAKEN, kept)
        except OSError as error:
            raise OutputError(
                f"{self._folder / TAKEN}: can't be written ({error.strerror}); make room or free the folder"
            ) from None

    # ---- laying out ------------------------------------------------------------------------------------------------

    def _lay_out(self, folder: Path, items: Sequence[Item]) -> None:
        """Images and contact sheets first, `query.csv` last: where it is, all is."""
        shutil.rmtree(folder / IMAGES, ignore_errors=True)
        (folder / IMAGES).mkdir(parents=True)
        width = max(3, len(str(len(items))))
        lines, pictures = [], []
        for number, item in enumerate(items, 1):
            link, path = self._show(folder / IMAGES, f"{number:0{width}d}", item)
            lines.append([item.sample_id, path, f"{IMAGES}/{link.name}"])
            pictures.append((f"{number:0{width}d}", link))
        from psp_ray.labels.contact_sheet import write_contact_sheets

        write_contact_sheets(folder, pictures)
        suggested = any(item.suggestion for item in items)
        header = ["sample_id", "path", "image", *(["suggestion"] if suggested else []), "label"]
        ends = [[item.suggestion, ""] if suggested else [""] for item in items]
        _write(folder / QUERY, [header, *([*line, *end] for line, end in zip(lines, ends, strict=True))])

    def _show(self, folder: Path, number: str, item: Item) -> tuple[Path, str]:
        """Link the image (or write its bytes) as `NUMBER_name`; returns the new path and the original one."""
        from psp_ray.data.images import is_url, read_file

        if self._rows is None:
            self._rows = {name: row for row, name in enumerate(self._manifest["sample_id"].to_pylist())}
        row = self._rows[item.sample_id]
        path: str | None = self._manifest["path"][row].as_py()
        stem = re.sub(r"[^\w.-]+", "_", os.path.basename(path or item.sample_id))[-80:]
        target = folder / f"{number}_{stem}"
        if path is None or is_url(path):
            data: bytes = self._manifest["image"][row].as_py() if path is None else read_file(path)
            if not target.suffix or target.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"):
                target = target.with_name(target.name + _suffix(data))
            write_bytes(target, data)
            return target, path or str(target)
        try:
            target.symlink_to(path)
        except OSError:  # no links on this file system
            shutil.copyfile(path, target)
        return target, path

    def _restore_lines(self, file: Path, lost: Sequence[Item]) -> None:
        """Put lines back that somebody deleted, or they could never be answered."""
        delimiter, header, records = read_table(file)
        width = len(header)
        place = header.index("sample_id")
        for item in lost:
            line = [""] * width
            line[place] = item.sample_id
            if "path" in header:
                line[header.index("path")] = self._path_of(item)
            records.append((0, line))
        _write(file, [header, *(record for _, record in records)], delimiter)

    def _path_of(self, item: Item) -> str:
        ids = self._manifest["sample_id"].to_pylist()
        return str(self._manifest["path"][ids.index(item.sample_id)].as_py() or "")


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
        sample = record[place].strip() if place < len(record) else ""
        text = record[answer] if answer < len(record) else ""
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


def _write(file: Path, rows: Sequence[Sequence[Any]] | Iterator[Sequence[Any]], delimiter: str = ",") -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", delimiter=delimiter).writerows(rows)
    write_text(file, text.getvalue())


def _suffix(data: bytes) -> str:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return "." + (image.format or "png").lower()

"""People's tables on storage: written once and never again by psp-ray, read whenever a run is taken up.

Whoever labels may fill in the tables in the run's folder or their copies on storage (the desk). What was typed there
since it was last taken up goes into the folder's tables, cell by cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from psp_ray.core.errors import OracleError
from psp_ray.core.words import normalize_name
from psp_ray.labels.layout import asked_for
from psp_ray.labels.query import CORRECTIONS, QUERY, SampleNames, line_of, query_files, read_table, write_table

Cells = dict[str, str]
"""{sample_id: what stands in column `label`}."""


def cells_of(file: Path, origin: str = "") -> Cells:
    """What a query or corrections file says. Raises OracleError as `read_table`; with `origin`, which names the file in
    the message, also where two lines answer differently for one sample."""
    _, header, records = read_table(file)
    place, answer = header.index("sample_id"), header.index("label")
    found: Cells = {}
    for number, record in records:
        if place < len(record) and record[place].strip():
            sample, text = record[place], record[answer].strip() if answer < len(record) else ""
            before = found.get(sample, "")
            if origin and text and before and normalize_name(text) != normalize_name(before):
                raise OracleError(f"{origin}:{number}: {sample!r} is {before!r} on an earlier line; keep one answer")
            found[sample] = text or before
    return found


def typed(now: Mapping[str, str], before: Sequence[Mapping[str, str]]) -> Cells:
    """Cells that were filled in, changed or cleared since: none of the states `before` holds them."""
    return {sample: text for sample, text in now.items() if all(text != base.get(sample, "") for base in before)}


def take_up(
    folder: Path, table: str, changes: Mapping[str, str], before: Sequence[Mapping[str, str]], origin: str
) -> int:
    """Write changed cells of the desk's `table` (`round_03/query.csv`, `corrections.csv`) into the folder's own one.

    `before`: what it said when it was last taken up; `origin` names it in messages. Returns how many changed.

    Raises:
        OracleError: a cell was typed otherwise here and there; then nothing is written. OutputError.
    """
    file = folder / table
    if not file.exists():
        if table == CORRECTIONS:
            write_table(file, [["sample_id", "label"], *([name, text] for name, text in sorted(changes.items()))])
            return len(changes)
        raise OracleError(f"{origin}: holds answers, but {file} is gone; restore it, or clear them there")
    delimiter, header, records = read_table(file)
    place, answer = header.index("sample_id"), header.index("label")
    rows = {record[place]: (number, record) for number, record in records if place < len(record)}
    names, once = SampleNames(rows), SampleNames(asked_for(file.parent))
    done = 0
    for cell, text in changes.items():
        sample = names.find(cell)
        if sample is None and not text:
            continue
        if sample is None:
            # What is not asked any more may have been answered there: no answer is dropped.
            meant = cell if table == CORRECTIONS else once.find(cell)
            if meant is None:
                raise OracleError(f"{origin}: an answer for {cell!r}, which {file} doesn't ask for; clear it there")
            records.append((0, line_of(header, meant, text)))
            done += 1
            continue
        number, record = rows[sample]
        record += [""] * (answer + 1 - len(record))
        mine = record[answer].strip()
        if mine == text:
            continue
        if mine and all(mine != base.get(cell, "") for base in before):
            raise OracleError(f"{file}:{number}: {sample!r} is {mine!r} here and {text!r} in {origin}; make them agree")
        record[answer] = text
        done += 1
    if done:
        write_table(file, [header, *(record for _, record in records)], delimiter)
    return done


def tables_of(folder: Path) -> list[str]:
    """The tables of a run's folder that people fill in, by their names in it."""
    found = [f"{file.parent.name}/{QUERY}" for file in query_files(folder)]
    return found + ([CORRECTIONS] if (folder / CORRECTIONS).exists() else [])

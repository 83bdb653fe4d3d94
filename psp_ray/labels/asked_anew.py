"""A round that asks for other images than it did: its table, pictures and contact sheet show what is asked now.

What has been typed stays, whatever is asked: only empty lines go. In each step the table comes last, so that what was
cut off is done again.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from psp_ray.core.words import same_text
from psp_ray.core.writing import writing
from psp_ray.labels.annotators.base import Item
from psp_ray.labels.contact_sheet import write_contact_sheets
from psp_ray.labels.layout import IMAGES, Layout, asked_for, laid_out, note_scores, note_shown
from psp_ray.labels.query import QUERY, SampleNames, read_table, write_table


def keep_to(folder: Path, asked: Collection[str], names: SampleNames) -> None:
    """Take the empty lines of samples that are not `asked` out of a round's table, with their pictures.

    `names`: what a cell may mean. A line that means none of them is left alone. Raises OracleError as `read_table`;
    OutputError.
    """
    file = folder / QUERY
    delimiter, header, records = read_table(file)
    place, answer = header.index("sample_id"), header.index("label")
    kept, gone = [], set()
    for _, record in records:
        sample = names.find(record[place]) if place < len(record) else None
        if sample is None or sample in asked or "".join(record[answer:]).strip():
            kept.append(record)
        else:
            gone.add(sample)
    if not gone:
        return
    shown = laid_out(folder)
    write_contact_sheets(folder, _captioned(path for sample, path in shown.items() if sample in asked))
    gone -= {names.find(record[place]) for record in kept if place < len(record)}
    note_shown(folder, dict.fromkeys(sorted(gone)))
    for path in [shown[sample] for sample in gone if sample in shown]:
        with writing(path):
            path.unlink(missing_ok=True)
    write_table(file, [header, *kept], delimiter)


def ask_also(folder: Path, asked: Collection[str], items: Sequence[Item], layout: Layout, names: SampleNames) -> None:
    """Let a round's table have a line for each of `items`, which nobody has answered yet, with what is suggested now.

    Lines that somebody deleted come back, or they could never be answered. `asked`: all of the query set. Raises
    OracleError as `read_table`; OutputError.
    """
    file = folder / QUERY
    delimiter, header, records = read_table(file)
    place = header.index("sample_id")
    lines = {names.find(record[place]): record for _, record in records if place < len(record)}
    new = [item for item in items if item.sample_id not in lines]
    shown, old = laid_out(folder), [item for item in items if item.sample_id in lines]
    bare = [item for item in old if layout.pictured(item.sample_id) and not _there(shown.get(item.sample_id))]
    changed = _suggest(old, lines, header)
    if new or bare:
        _show(folder, asked, [*new, *bare], layout)
    if new or bare or changed:
        shown = laid_out(folder)
        for item in bare:
            _write(lines[item.sample_id], header, "image", _cell(shown.get(item.sample_id)))
        note_scores(folder, items)
        rows = [_line(item, header, layout, shown.get(item.sample_id)) for item in new]
        write_table(file, [header, *(record for _, record in records), *rows], delimiter)


def dropped(folder: Path) -> list[str]:
    """Samples that a round's table asked for once and has no line for any more. Raises OracleError."""
    _, header, records = read_table(folder / QUERY)
    place, once = header.index("sample_id"), asked_for(folder)
    names = SampleNames(once)
    there = {names.find(record[place]) for _, record in records if place < len(record)}
    return [sample for sample in once if sample not in there]


def _suggest(items: Sequence[Item], lines: Mapping[str | None, list[str]], header: Sequence[str]) -> bool:
    """Write what is suggested into the items' lines; whether it was something else."""
    suggested = [item for item in items if item.suggestion]
    return sum(_write(lines[item.sample_id], header, "suggestion", item.suggestion) for item in suggested) > 0


def _write(line: list[str], header: Sequence[str], column: str, text: str) -> bool:
    """Let a line say `text` in a column, where the table has that one; whether it said something else."""
    if column not in header:
        return False
    at = header.index(column)
    line += [""] * (at + 1 - len(line))
    same = same_text(line[at]) == same_text(text)
    line[at] = line[at] if same else text
    return not same


def _show(folder: Path, asked: Collection[str], items: Sequence[Item], layout: Layout) -> None:
    """Pictures of samples that have none yet, numbered behind those that were ever there."""
    shown = laid_out(folder)
    there = [_number(path) for path in (folder / IMAGES).glob("*")]  # more than are noted, where one was cut off
    width = max([3, *map(len, there)])
    number = max([len(asked_for(folder)), *(int(text) for text in there if text)])
    links = {}
    for item in items:
        if not _there(shown.get(item.sample_id)):
            number += 1
            links[item.sample_id], _ = layout.show(folder, f"{number:0{width}d}", item.sample_id)
    note_shown(folder, links)
    write_contact_sheets(folder, _captioned(path for sample, path in laid_out(folder).items() if sample in asked))


def _line(item: Item, header: Sequence[str], layout: Layout, shown: Path | None) -> list[str]:
    cells = {
        "sample_id": item.sample_id,
        "path": layout.path_of(item.sample_id) or (str(shown) if shown is not None else ""),
        "image": _cell(shown),
        "suggestion": item.suggestion,
    }
    return [cells.get(name, "") for name in header]


def _cell(shown: Path | None) -> str:
    """What a table says of where the picture is."""
    return "" if shown is None else f"{IMAGES}/{shown.name}"


def _there(path: Path | None) -> bool:
    return path is not None and path.exists()


def _captioned(paths: Iterable[Path]) -> list[tuple[str, Path]]:
    return [(_number(path), path) for path in sorted(paths, key=lambda path: path.name) if path.exists()]


def _number(path: Path) -> str:
    """By which number the contact sheet calls a picture."""
    found = re.match(r"\d+(?=_)", path.name)
    return found[0] if found else ""

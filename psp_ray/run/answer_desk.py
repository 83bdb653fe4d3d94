"""A run's query sets on storage, for people: pictures and tables, written once; see `psp_ray.labels.desk_files`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from psp_ray.core.tables import csv_text
from psp_ray.core.words import counted
from psp_ray.labels.contact_sheet import SHEET
from psp_ray.labels.desk_files import Cells, cells_of, tables_of, take_up, typed
from psp_ray.labels.query import CORRECTIONS, read_table
from psp_ray.storage.remote import Storage


@dataclass(frozen=True)
class AnswerDesk:
    """The desk of the run in `out`, at `place` on storage.

    A round's table there may have several files (`query.csv`, `query-2.csv`: lines that came later); together they are
    one table.
    """

    storage: Storage
    place: str
    out: Path

    def read(self, strict: bool = False) -> dict[str, Cells]:
        """The cells of each table (`round_03/query.csv`, `corrections.csv`). Raises OracleError, with `strict` also for
        two answers for one sample in a file; OutputError."""
        found: dict[str, Cells] = {}
        with TemporaryDirectory(prefix="psp-ray-") as scratch:
            for name in sorted(self.storage.list(self.place)):
                match = re.fullmatch(r"(round_\d+/)?(query|corrections)(-\d+)?\.csv", name)
                if not match:
                    continue
                copy = Path(scratch) / name.replace("/", "_")
                self.storage.pull(f"{self.place}/{name}", copy)
                said = cells_of(copy, f"{self.storage.uri}/{self.place}/{name}" if strict else "")
                cells = found.setdefault(f"{match[1] or ''}{match[2]}.csv", {})
                cells.update({sample: text or cells.get(sample, "") for sample, text in said.items()})
        return found

    def take_up(self, now: Mapping[str, Cells], before: Sequence[Mapping[str, Mapping[str, str]]]) -> int:
        """Write what was typed since into the folder's tables; `before`: what was known of the desk, by any machine.

        Returns how many cells changed. Raises OracleError, OutputError as `take_up` of the tables.
        """
        done = 0
        for table, cells in sorted(now.items()):
            bases = [base.get(table, {}) for base in before]
            changes = typed(cells, bases)
            if changes:
                done += take_up(self.out, table, changes, bases, f"{self.storage.uri}/{self.place}/{table}")
        return done

    def publish(
        self,
        files: Mapping[str, Path],
        known: Mapping[str, Mapping[str, str]],
        told: Callable[[str], None] = lambda text: None,
    ) -> dict[str, Cells]:
        """Lay out the query sets that are not there yet; returns what is known of their tables now. `told` hears of
        open lines there that are not asked about any more: they stay, since somebody may have the table open.

        Raises:
            OutputError: the storage fails.
        """
        tables = [name for name in tables_of(self.out) if name != CORRECTIONS]
        mine = {table: cells_of(self.out / table) for table in tables}
        if all(set(cells) <= set(known.get(table, {})) for table, cells in mine.items()):
            return {}
        there, present, said = self.read(), self.storage.list(self.place), {}
        for table, cells in mine.items():
            new = sorted(set(cells) - set(there.get(table, {})))
            folder = table.rsplit("/", 1)[0]
            fresh: Cells = {}
            if new:
                for name, path in files.items():
                    shown = name not in present or Path(name).name.startswith(SHEET)  # a sheet shows what is asked now
                    if name.startswith(f"{folder}/") and not name.endswith(".csv") and shown:
                        self.storage.push(path, f"{self.place}/{name}")
                fresh = self._lay_out(table, cells, new, sum(name.startswith(f"{folder}/query") for name in present))
            said[table] = {**known.get(table, {}), **fresh}
            left = sum(not text and sample not in cells for sample, text in said[table].items())
            if left:
                lines = counted(left, "open line is", "open lines are")
                told(f"{self.storage.uri}/{self.place}/{table}: {lines} not asked about any more; leave them empty")
        return said

    def _lay_out(self, table: str, cells: Mapping[str, str], new: Sequence[str], count: int) -> Cells:
        """Write the lines `new`; returns what they say, nothing where another machine was quicker."""
        if not count:
            done = self.storage.create(f"{self.place}/{table}", (self.out / table).read_bytes())
            return {name: cells[name] for name in new} if done else {}
        _, header, records = read_table(self.out / table)
        place = header.index("sample_id")
        rows = [record for _, record in records if place < len(record) and record[place] in new]
        text = csv_text(
            [header, *(["" if at == header.index("label") else cell for at, cell in enumerate(row)] for row in rows)]
        )
        name = f"{table.removesuffix('.csv')}-{count + 1}.csv"
        return dict.fromkeys(new, "") if self.storage.create(f"{self.place}/{name}", text.encode()) else {}

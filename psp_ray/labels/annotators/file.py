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

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Self

import pyarrow as pa

from psp_ray.core.errors import OracleError
from psp_ray.core.files import read_json, write_json
from psp_ray.core.names import Names
from psp_ray.labels.annotators.base import ANNOTATORS, AnnotatorInput, Item, RevisingAnnotator
from psp_ray.labels.asked_anew import ask_also, keep_to
from psp_ray.labels.layout import Layout, asked_for
from psp_ray.labels.query import (
    CORRECTIONS,
    QUERY,
    Line,
    SampleNames,
    number_of,
    query_files,
    read_answers,
    round_folder,
)

TAKEN = "answers_taken.json"
SPREADSHEETS = (".xlsx", ".xls", ".ods", ".numbers")


@ANNOTATORS.register("file")
class FileAnnotator(RevisingAnnotator):
    """People, who fill in a query.csv for each round.

    Args:
        folder: the files lie below it. class_names: what people may write.
        manifest: the pool's images (`sample_id`, `path`, `image`).
        content_hashes: {sample_id: hash} of these images; without it an answer to what isn't asked now is refused.
        former: {name: class index} of names that classes bore before; older tables hold them.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        class_names: Sequence[str],
        manifest: pa.Table,
        *,
        cost: float = 1.0,
        name: str = "file",
        content_hashes: Mapping[str, str] | None = None,
        former: Mapping[str, int] | None = None,
    ) -> None:
        self.name = name
        self.cost = float(cost)
        self._folder, self._classes, self._layout = Path(folder), list(class_names), Layout(manifest)
        self._hashes = content_hashes or {}
        self._former = dict(former or {})
        self._pool = Names.of(manifest["sample_id"])
        self._names = SampleNames(self._pool)
        self._revised: dict[str, int | None] = {}
        self._asked: frozenset[str] = frozenset()

    @classmethod
    def of(cls, given: AnnotatorInput) -> Self:
        if given.pool is None:
            raise OracleError("--oracle file: the pool's images are not known here; start a run")
        return cls(given.folder, given.classes, given.pool, content_hashes=given.content_hashes, former=given.former)

    def begin(self, round: int, asked: Sequence[str]) -> None:
        """Empty lines of what the round doesn't ask about any more go."""
        self._asked = frozenset(asked)
        file = round_folder(self._folder, round) / QUERY
        if file.exists():
            self._keep_to(file, self._asked)

    def answer(self, items: Sequence[Item]) -> list[int | None]:
        """Answers that are filled in; lays the query set out where that has not been done.

        Raises OracleError, with file and line, for a name that is no class; OutputError where nothing can be written.
        """
        number = items[0].round if items else 0
        folder = round_folder(self._folder, number)
        file = folder / QUERY
        self.place = str(file)
        # An older table may hold the answer, or `corrections.csv` another word.
        said = {sample: line.label for sample, line in self._said().items()}
        left = [item for item in items if said.get(item.sample_id) is None]
        for later in query_files(self._folder) if left else ():
            if number_of(later.parent) > number:  # of rounds that were lost with their checkpoints
                self._keep_to(later, ())
        if left and not file.exists():
            self._layout.write(folder, left)
        elif left:
            asked = self._asked or {item.sample_id for item in items}
            ask_also(folder, asked, left, self._layout, self._meant(file, self._names))
        if left:
            self._refuse_spreadsheets(folder, file)
        answers = [said.get(item.sample_id) for item in items]
        self._take({item.sample_id: answer for item, answer in zip(items, answers, strict=True) if answer is not None})
        return answers

    def look(self) -> None:
        """Read all that was typed so far. Raises OracleError, with file and line, for the first that is no answer.

        Nor is what stands beside a name that the pool hasn't, that no table asked for, and that was never taken up.
        """
        said = self._said()
        known = {name for file in query_files(self._folder) for name in asked_for(file.parent)} | self._taken().keys()
        for line in said.values():
            if line.sample_id not in known and line.sample_id not in self._names:
                raise self._gone(line)

    def revisions(self, told: Mapping[str, int]) -> dict[str, int]:
        """Answers that were changed in the files since they were taken up; `corrections.csv` has the last word.

        Raises OracleError for a correction of a sample that was never asked.
        """
        said = self._said(told)
        for line in said.values():
            known = line.sample_id in told or line.sample_id in self._names
            if line.file.name == CORRECTIONS and not known:
                raise OracleError(
                    f"{line.file}:{line.number}: {line.sample_id!r} was never asked; correct the sample_id"
                )
        now = {sample: line.label for sample, line in said.items()}
        taken = self._taken()
        # A sample that isn't told yet may be answered already: then the answer first taken up is what it is told next.
        self._revised = {sample: now.get(sample) for sample in told if taken.get(sample) != now.get(sample)}
        return {sample: label for sample, label in self._revised.items() if label is not None and told[sample] != label}

    def volunteered(self, told: Mapping[str, int], asked: Sequence[str]) -> list[tuple[Item, int]]:
        """Answers to samples of the pool that an earlier query set had, or that `corrections.csv` names.

        Raises OracleError, with file and line, for an answer to what is no image of the pool.
        """
        known = {*told, *asked}
        found = []
        for line in self._said(told).values():
            if line.label is None or line.sample_id in known:
                continue
            content = self._hashes.get(line.sample_id)
            if content is None:
                raise self._gone(line)
            number = number_of(line.file.parent) if line.file.name == QUERY else 0
            found.append((Item(line.sample_id, content, number), line.label))
        return found

    def asked_in(self, round: int, samples: Sequence[str]) -> list[int]:
        """By the tables of all rounds, the newest one that asked. Raises OracleError."""
        found = {name: number_of(file.parent) for file in query_files(self._folder) for name in self._asked_by(file)}
        return [found.get(sample, 0) for sample in samples]

    def waiting(self, told: Mapping[str, int]) -> int:
        lines = [line for line in self._said(told).values() if line.sample_id not in told]
        for line in lines:
            if line.sample_id not in self._names:
                raise self._gone(line)
        return len(lines)

    @staticmethod
    def _gone(line: Line) -> OracleError:
        return OracleError(
            f"{line.file}:{line.number}: an answer for {line.sample_id!r}, but the pool has no such image now; "
            "correct the sample_id, restore the image or its name, or clear the line"
        )

    def settled(self) -> None:
        """What `revisions` said last is in the ledger: from here on, it is what the files said before."""
        self._take(self._revised)
        self._revised = {}

    def _said(self, told: Mapping[str, int] | None = None) -> dict[str, Line]:
        """What all files say now, the newest table's word before an older one's and `corrections.csv` last."""
        files = [*query_files(self._folder), self._folder / CORRECTIONS]
        more = [name for name in told or () if name not in self._names]
        names = SampleNames([*self._pool, *more]) if more else self._names
        lines = [line for file in files if file.exists() for line in self._read(file, names)]
        return {line.sample_id: line for line in lines if line.label is not None}

    def _read(self, file: Path, names: SampleNames) -> list[Line]:
        """Answers in a file, for what its table asks, else for samples of `names`."""
        return read_answers(file, self._classes, self._meant(file, names), self._former)

    def _asked_by(self, file: Path) -> list[str]:
        """What a table ever asked for; where we have no record of it, what it holds now."""
        return asked_for(file.parent) or [line.sample_id for line in self._read(file, self._names)]

    def _keep_to(self, file: Path, asked: Collection[str]) -> None:
        keep_to(file.parent, asked, self._meant(file, self._names))

    @staticmethod
    def _meant(file: Path, names: SampleNames) -> SampleNames:
        """What a cell of the file may mean."""
        return SampleNames(asked_for(file.parent), names) if file.name == QUERY else names

    def _refuse_spreadsheets(self, folder: Path, file: Path) -> None:
        """Answers saved beside the table, in a spreadsheet's own form, would be waited for for ever."""
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in SPREADSHEETS and not path.name.startswith((".", "~")):
                raise OracleError(f"{path}: is not read; save it as CSV in UTF-8 with the name {file}, and remove it")

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
        write_json(self._folder / TAKEN, kept)

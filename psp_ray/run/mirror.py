"""The copies of a run's output folder on remote storage, from which `--resume` goes on on any machine.

    runs/NAME/EXPERIMENT/generations, objects    the folder after every round (`psp_ray.storage.generations`)
    runs/NAME/EXPERIMENT/answers/...             the query sets for people: images, contact sheets, tables to fill in

What is guaranteed, whatever machines do at the same time and wherever they are killed:

- a generation is whole or absent; what is restored is one of them, whole;
- nothing that is newer is overwritten or removed: a machine whose folder is older takes up what is there first, and
  one that was overtaken stops before it writes;
- purchases, answers and corrections of all copies are merged, none is lost; where two people typed different answers
  for one image, a line names both and nothing is written;
- tables under `answers/` are written once; only people change them.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import Field

from psp_ray.core.errors import OutputError
from psp_ray.core.files import LOCK, files_under, make_folder, remove_tree, sync_folder
from psp_ray.core.sealed import DamagedFile, Document, file_digest, fitting, parse_object, read_document, write_sealed
from psp_ray.core.words import counted
from psp_ray.core.writing import writing
from psp_ray.labels.desk_files import cells_of, tables_of, take_up, typed
from psp_ray.labels.ledger import Ledger
from psp_ray.labels.merge import merge
from psp_ray.labels.query import CORRECTIONS, QUERY
from psp_ray.run.answer_desk import AnswerDesk
from psp_ray.run.asking import LEDGER
from psp_ray.run.checkpoint import MARKER, latest_round
from psp_ray.run.folder import KEPT, RUN_FILE, RunRecord, differences, has_run, read_run
from psp_ray.storage.generations import Generation, Generations
from psp_ray.storage.remote import Storage

STATE = ".mirror.json"
_LOGS = ("-wal", "-shm", "-journal")


class MirrorState(Document):
    """`OUT/.mirror.json`: which generation the folder goes on from, and what it held then: files by digest,
    people's tables here and on the desk by cell."""

    experiment: str
    number: int = 0
    files: dict[str, str] = Field(default_factory=dict)
    desk: dict[str, dict[str, str]] = Field(default_factory=dict)
    tables: dict[str, dict[str, str]] = Field(default_factory=dict)


@dataclass
class RunMirror:
    """Keeps the copies of the run in `out`."""

    storage: Storage
    out: Path
    told: Callable[[str], None] = field(default=lambda text: None)

    @property
    def place(self) -> str:
        """Where all runs of the folder's name are."""
        return f"runs/{self.out.name}"

    def restore(self, resume: bool, identity: Mapping[str, Any] | None = None) -> bool:
        """Bring the run here where this machine doesn't have it: whole, or after a kill not at all. True if it did.

        Of several runs of that name, the one with the settings `identity`.

        Raises:
            OutputError: there is a run already and it is not resumed, or several; or it can't be put in place.
        """
        names = sorted({name.split("/")[0] for name in self.storage.list(self.place)})
        if not names:
            return False
        if not resume:
            raise OutputError(
                f"--storage {self.storage.uri}: holds a run {self.place} already; add --resume to go on with it, or "
                "choose another --out name"
            )
        if has_run(self.out):
            return False
        if RUN_FILE in names:
            raise OutputError(
                f"--storage {self.storage.uri}: an older psp-ray wrote {self.place}; copy that folder to {self.out}, "
                "remove it there and run the same command again"
            )
        found = self._choose(names, identity)
        if found is None:
            return False
        generations, newest = found
        target = self.out.absolute()
        aside = target.with_name(f".{target.name}.restoring")
        remove_tree(aside)  # of a restore that was killed
        make_folder(aside)
        for name in sorted(newest.files):
            generations.fetch(newest, name, aside / name)
        experiment = read_run(aside).experiment
        self._remember(aside, experiment, newest)
        with writing(f"--out {self.out}", "empty the folder or choose another place"):
            if target.is_dir() and [path.name for path in target.iterdir()] == [LOCK]:
                (target / LOCK).unlink()  # of a start that was killed before it wrote anything
            os.replace(aside, target)
            sync_folder(target.parent)
        return True

    def take_up(self) -> None:
        """Bring what is newer on storage into the folder, and what people typed there. To be called alone in it.

        Raises:
            OutputError: the storage, or the folder, fails. OracleError: an answer was typed otherwise here and there.
        """
        experiment = read_run(self.out).experiment
        state, generations = self._state(experiment), self._generations(experiment)
        newest = generations.newest()
        if newest is not None and newest.number != state.number:
            self._merge(generations, newest, state)
            self.told(f"took up generation {newest.number} of {self.place} from {self.storage.uri}")
            state = self._remember(self.out, experiment, newest, state.desk)
        desk = self._desk(experiment)
        now = desk.read(strict=True)
        changed = desk.take_up(now, [state.desk, newest.desk if newest is not None else {}])
        if now != state.desk:
            write_sealed(self.out / STATE, {**state.model_dump(), "desk": {**state.desk, **now}})
        if changed:
            self.told(f"took up {counted(changed, 'answer')} typed in {self.storage.uri}")

    def save(self) -> None:
        """Write the folder as the next generation, and query sets for people that are not there yet.

        Raises:
            Moved: another machine went on with the run. OutputError: the storage or the folder fails.
        """
        experiment = read_run(self.out).experiment
        state, generations = self._state(experiment), self._generations(experiment)
        newest = generations.newest()
        base = newest if newest is not None and newest.number == state.number else None
        self.storage.mark()
        with self._to_push() as files:
            desk = {**state.desk, **self._desk(experiment).publish(files, state.desk, self.told)}
            if base is None or _differs(base, files, desk):
                made = generations.commit(base if base or not state.number else _gone(state), files, desk)
                self._remember(self.out, experiment, made, desk)

    # -- the folder ------------------------------------------------------------------------------------------------

    @contextmanager
    def _to_push(self) -> Iterator[dict[str, Path]]:
        """What belongs to a generation: whole checkpoints, and a copy of the ledger that may be in use now."""
        here = files_under(self.out)
        complete = {name.rsplit("/", 1)[0] for name in here if name.endswith(f"/{MARKER}")}
        files = {
            name: path
            for name, path in here.items()
            if not name.endswith(tuple(f"{LEDGER}{log}" for log in _LOGS))
            and (not name.startswith(f"{KEPT}/round_") or name.rsplit("/", 1)[0] in complete)
        }
        with TemporaryDirectory(prefix="psp-ray-") as folder:
            if LEDGER in files:
                copy = Path(folder) / LEDGER
                with closing(sqlite3.connect(files[LEDGER])) as source, closing(sqlite3.connect(copy)) as target:
                    source.backup(target)
                files[LEDGER] = copy
            yield files

    def _merge(self, generations: Generations, newest: Generation, state: MirrorState) -> None:
        """Three ways: what changed there since the folder's generation, what changed here, and what both did."""
        here = {name: path for name, path in files_under(self.out).items() if not name.endswith(_LOGS)}
        theirs = {name: stored.digest for name, stored in newest.files.items()}
        changed = [name for name, digest in theirs.items() if digest != state.files.get(name)]
        tables = {name for name in theirs if name == CORRECTIONS or name.endswith(f"/{QUERY}")}
        with TemporaryDirectory(prefix="psp-ray-") as scratch:
            for name in sorted(set(changed) & {*tables, LEDGER}):
                copy = Path(scratch) / name.replace("/", "_")
                generations.fetch(newest, name, copy)
                if name not in here:
                    generations.fetch(newest, name, self.out / name)
                elif name == LEDGER:
                    with Ledger(here[LEDGER]) as ours, Ledger(copy) as other:
                        merge(ours, other)
                else:
                    before = state.tables.get(name, {})
                    origin = f"{name} of generation {newest.number} in {self.storage.uri}"
                    take_up(self.out, name, typed(cells_of(copy, origin), [before]), [before], origin)
        if _newest_round(theirs) < latest_round(self.out / KEPT):
            return  # this folder is ahead: what is derived from its rounds stays
        rest = [name for name in theirs if name not in tables and name not in (LEDGER, RUN_FILE)]
        for name in sorted(rest, key=lambda name: (name.endswith(MARKER), name)):
            if name in changed or name not in here:
                generations.fetch(newest, name, self.out / name)
        rounds = {name.rsplit("/", 1)[0] for name in here if name.startswith(f"{KEPT}/round_")}
        for old in sorted(rounds - {name.rsplit("/", 1)[0] for name in theirs}):
            with writing(self.out / old):
                (self.out / old / MARKER).unlink(missing_ok=True)
            remove_tree(self.out / old)

    # -- which run, and from where it goes on ------------------------------------------------------------------------

    def _desk(self, experiment: str) -> AnswerDesk:
        return AnswerDesk(self.storage, f"{self.place}/{experiment}/answers", self.out)

    def _generations(self, experiment: str) -> Generations:
        return Generations(self.storage, f"{self.place}/{experiment}")

    def _choose(self, names: list[str], identity: Mapping[str, Any] | None) -> tuple[Generations, Generation] | None:
        found = []
        for name in names:
            generations = self._generations(name)
            newest = generations.newest()
            if newest is not None and RUN_FILE in newest.files:
                found.append((generations, newest))
        if len(found) < 2:
            return found[0] if found else None
        same = [place for place in found if identity is not None and self._is_of(*place, identity)]
        if len(same) == 1:
            return same[0]
        raise OutputError(
            f"--storage {self.storage.uri}: holds {len(found)} runs {self.place} "
            f"({', '.join(generations.prefix.rsplit('/', 1)[1] for generations, _ in found)}), and "
            f"{'several have' if same else 'none has'} the settings given; choose another --out name"
        )

    def _is_of(self, generations: Generations, newest: Generation, identity: Mapping[str, Any]) -> bool:
        path = Path(RUN_FILE)
        data = self.storage.read(f"{generations.prefix}/{newest.files[RUN_FILE].key}")
        try:
            return not differences(fitting(path, parse_object(path, data), RunRecord).identity, identity)
        except DamagedFile:
            return False

    def _state(self, experiment: str) -> MirrorState:
        try:
            state = read_document(self.out / STATE, MirrorState)
        except DamagedFile:  # never mirrored, or forgotten: then everything is compared
            return MirrorState(experiment=experiment)
        return state if state.experiment == experiment else MirrorState(experiment=experiment)

    def _remember(
        self, folder: Path, experiment: str, newest: Generation, desk: Mapping[str, Mapping[str, str]] | None = None
    ) -> MirrorState:
        state = MirrorState(
            experiment=experiment,
            number=newest.number,
            files={name: stored.digest for name, stored in newest.files.items()},
            desk={name: dict(cells) for name, cells in (newest.desk if desk is None else desk).items()},
            tables={name: cells_of(folder / name) for name in tables_of(folder)},
        )
        write_sealed(folder / STATE, state.model_dump())
        return state


def mirror_of(uri: str | None, out: Path, told: Callable[[str], None]) -> RunMirror | None:
    """Who keeps the copies of the run in `out` at `--storage`; None where it has none. Raises OutputError."""
    return None if uri is None else RunMirror(Storage(uri), out, told)


def _differs(base: Generation, files: Mapping[str, Path], desk: Mapping[str, Mapping[str, str]]) -> bool:
    if desk != base.desk or files.keys() != base.files.keys():  # after a round it is: no file need be read for that
        return True
    return any(file_digest(path) != base.files[name].digest for name, path in files.items())


def _gone(state: MirrorState) -> Generation:
    """Stands for a generation that is not the newest any more, so that the next one is refused."""
    return Generation(number=state.number, writer="", written_at=0.0, files={}, desk={})


def _newest_round(names: Mapping[str, str]) -> int:
    found = (re.fullmatch(rf"{KEPT}/round_(\d+)/{MARKER}", name) for name in names)
    return max((int(match[1]) for match in found if match), default=0)

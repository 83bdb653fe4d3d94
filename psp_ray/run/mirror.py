"""The copy of a run's output folder on remote storage, from which `--resume` restores it on another machine."""

from __future__ import annotations

import os
import shutil
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path

from psp_ray.core.errors import OutputError
from psp_ray.core.files import LOCK, files_under, sync_folder
from psp_ray.run.checkpoint import MARKER
from psp_ray.storage.remote import Storage

_DATABASE = ".sqlite"


class RunMirror:
    """Keeps the copy of a run's output folder."""

    def __init__(self, storage: Storage, out: Path) -> None:
        self.storage, self.out = storage, out
        self.prefix = f"runs/{out.name}"

    def restore(self, resume: bool) -> bool:
        """Bring the run here where this machine doesn't have it: whole, or after a kill not at all. True if it did.

        Raises:
            OutputError: there is a run already and it is not resumed, or its folder can't be put in place.
        """
        there = self.storage.list(self.prefix)
        if not there:
            return False
        if not resume:
            raise OutputError(
                f"--storage {self.storage.uri}: holds a run {self.prefix} already; add --resume to go on with it, or "
                "choose another --out name"
            )
        if (self.out / "run.json").exists():
            return False
        complete = {name.rsplit("/", 1)[0] for name in there if name.endswith(f"/{MARKER}")}
        target = self.out.absolute()
        aside = target.with_name(f".{target.name}.restoring")
        try:
            if aside.exists():
                shutil.rmtree(aside)  # of a restore that was killed
            aside.mkdir(parents=True)
            for name in sorted(there):
                if not name.startswith("checkpoints/") or name.rsplit("/", 1)[0] in complete:
                    self.storage.pull(f"{self.prefix}/{name}", aside / name)
            if target.is_dir() and [path.name for path in target.iterdir()] == [LOCK]:
                (target / LOCK).unlink()  # of a start that was killed before it wrote anything
            os.replace(aside, target)
        except OSError as error:
            raise OutputError(
                f"--out {self.out}: the run can't be restored there ({error.strerror}); empty the folder or choose "
                "another place"
            ) from None
        sync_folder(target.parent)
        return True

    def save(self) -> None:
        """Copy the folder there: checkpoints that are complete, their markers last, then drop old ones."""
        there = self.storage.list(self.prefix)
        here = files_under(self.out)
        complete = {name.rsplit("/", 1)[0] for name in here if name.endswith(f"/{MARKER}")}
        for name in sorted(here, key=lambda name: (name.endswith(MARKER), name)):
            is_checkpoint = name.startswith("checkpoints/")
            if is_checkpoint and (name.rsplit("/", 1)[0] not in complete or name in there):
                continue
            if name.endswith(_DATABASE):
                self._push_database(here[name], name)
            elif not name.endswith((f"{_DATABASE}-wal", f"{_DATABASE}-shm", f"{_DATABASE}-journal")):
                self.storage.push(here[name], f"{self.prefix}/{name}")
        old = [name for name in there if name.startswith("checkpoints/") and name not in here]
        for name in sorted(old, key=lambda name: (not name.endswith(MARKER), name)):
            self.storage.delete(f"{self.prefix}/{name}")

    def _push_database(self, path: Path, name: str) -> None:
        """A copy of a SQLite file that may be written to at this moment."""
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(aside)) as target:
                source.backup(target)
            self.storage.push(aside, f"{self.prefix}/{name}")
        finally:
            aside.unlink(missing_ok=True)

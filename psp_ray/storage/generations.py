"""Versions of a folder on storage: numbered generations, each whole or absent.

Under a prefix:

    objects/NUMBER-WRITER/FILE     contents, each written once by one writer and never changed
    generations/NUMBER.json        which objects make the folder; written last, and only by whoever is first

What a generation names is there, whole and unchanged, as long as the generation is. A writer has to name the
generation that it goes on from: where another writer was quicker, it is refused (`Moved`) and has to take up what is
there first. Of the generations before the newest `KEEP` the objects that no later one names are removed.
"""

from __future__ import annotations

import json
import platform
import re
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from pydantic import Field

from psp_ray.core.errors import OutputError
from psp_ray.core.sealed import DamagedFile, Document, file_digest, fitting, parse_object, sealed_bytes
from psp_ray.storage.remote import Storage

KEEP = 3


class Moved(OutputError):
    """Another machine wrote a generation in the meantime."""


class Stored(Document):
    """A file of a generation: where its content lies below the prefix, and its digest."""

    key: str
    digest: str


class Generation(Document):
    """A folder's files by name; `desk` are the cells of people's tables as they were last taken up."""

    number: int
    writer: str
    written_at: float
    files: dict[str, Stored]
    desk: dict[str, dict[str, str]] = Field(default_factory=dict)


class Generations:
    """The generations of one folder."""

    def __init__(self, storage: Storage, prefix: str) -> None:
        self.storage, self.prefix = storage, prefix

    def newest(self) -> Generation | None:
        """The newest generation that can be read, or None. Raises OutputError where the storage fails."""
        for number in sorted(self._numbers(), reverse=True):
            with suppress(DamagedFile):
                return self._read(number)
        return None

    def commit(
        self,
        base: Generation | None,
        files: Mapping[str, Path],
        desk: Mapping[str, Mapping[str, str]],
    ) -> Generation:
        """Write `files` as the generation after `base`; contents that `base` has already are not written again.

        Raises:
            Moved: `base` is not the newest. OutputError: the storage or a file can't be read or written.
        """
        number = (base.number if base else 0) + 1
        if max(self._numbers(), default=0) >= number:
            raise self._moved(number)
        folder = f"objects/{number:08d}-{uuid.uuid4().hex[:12]}"
        stored: dict[str, Stored] = {}
        for name, path in sorted(files.items()):
            digest = file_digest(path)
            if digest is None:
                raise OutputError(f"{path}: can't be read, so --storage {self.storage.uri} keeps the state before it")
            before = base.files.get(name) if base else None
            if before is not None and before.digest == digest:
                stored[name] = before
                continue
            self.storage.push(path, f"{self.prefix}/{folder}/{name}")
            stored[name] = Stored(key=f"{folder}/{name}", digest=digest)
        made = Generation(
            number=number,
            writer=platform.node(),
            written_at=time.time(),
            files=stored,
            desk={name: dict(cells) for name, cells in desk.items()},
        )
        data = sealed_bytes(json.loads(made.model_dump_json()))
        name = f"{self.prefix}/generations/{number:08d}.json"
        if not self.storage.create(name, data):
            raise self._moved(number)
        if max(self._numbers(), default=0) > number:  # the number was free because it is old and removed already
            self.storage.delete(name)
            raise self._moved(number)
        with suppress(DamagedFile):
            self._prune(made)
        return made

    def fetch(self, generation: Generation, name: str, target: Path) -> None:
        """Bring a file of a generation here. Raises OutputError where it is not what was written."""
        stored = generation.files[name]
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise OutputError(f"--storage {self.storage.uri}: generation {generation.number} names the file {name!r}")
        self.storage.pull(f"{self.prefix}/{stored.key}", target)
        if file_digest(target) != stored.digest:
            target.unlink(missing_ok=True)
            raise OutputError(f"--storage {self.storage.uri}: {self.prefix}/{stored.key} is damaged; restore it")

    def _numbers(self) -> list[int]:
        found = (re.fullmatch(r"(\d{8})\.json", name) for name in self.storage.list(f"{self.prefix}/generations"))
        return [int(match[1]) for match in found if match]

    def _read(self, number: int) -> Generation:
        name = f"{self.prefix}/generations/{number:08d}.json"
        path = Path(name)
        return fitting(path, parse_object(path, self.storage.read(name)), Generation)

    def _moved(self, number: int) -> Moved:
        return Moved(
            f"--storage {self.storage.uri}: another machine has written generation {number} of {self.prefix}; run the "
            "same command with --resume, which takes up what is there (nothing of this folder is lost)"
        )

    def _prune(self, newest: Generation) -> None:
        """Remove what only generations before the newest `KEEP` name: first their manifests, then the objects."""
        numbers = sorted(self._numbers())
        old = [number for number in numbers if number <= newest.number - KEEP]
        kept: set[str] = set()
        for number in numbers:
            if number > newest.number - KEEP:
                kept |= {stored.key for stored in self._read(number).files.values()}
        for number in old:
            self.storage.delete(f"{self.prefix}/generations/{number:08d}.json")
        for key in self.storage.list(f"{self.prefix}/objects"):
            number = int(key[:8]) if key[:8].isdigit() else newest.number
            if number <= newest.number - KEEP and f"objects/{key}" not in kept:
                self.storage.delete(f"{self.prefix}/objects/{key}")

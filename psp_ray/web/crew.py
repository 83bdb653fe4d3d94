"""The people who label on the page: a name, a role and a secret link each."""

from __future__ import annotations

import hmac
import os
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from psp_ray.core.errors import ConfigError, OutputError
from psp_ray.core.files import read_json, write_json
from psp_ray.core.writing import writing

FILE = ".people.json"
"""In the run's folder, readable by its owner alone; hidden, so that copies of the run don't carry the secrets."""
LABEL, REVIEW, LEAD = "label", "review", "lead"
ROLES = (LABEL, REVIEW, LEAD)
"""Each may what the ones before it may: answer; decide disagreements and doubts; steer the rounds and invite people."""
LONGEST_NAME = 40
FRESH_SECONDS = 2.0
"""For how long those that others may invite are taken for known."""


@dataclass(frozen=True)
class Person:
    """Somebody who labels."""

    name: str
    role: str
    token: str

    def may(self, role: str) -> bool:
        """Whether what `role` may is allowed to this person, too."""
        return ROLES.index(self.role) >= ROLES.index(role)


class PeopleStore(Protocol):
    """Where people are kept. `shared`: others may invite somebody meanwhile."""

    shared: bool

    def load(self) -> list[Person]:
        """In the order invited. Raises OutputError or OracleError where they can't be read."""
        ...

    def save(self, people: Sequence[Person]) -> None:
        """Keep all of them."""
        ...


class FolderPeople:
    """In a hidden file that its owner alone can read."""

    def __init__(self, file: Path, shared: bool = False) -> None:
        self._file, self.shared = file, shared

    def load(self) -> list[Person]:
        try:
            stored = read_json(self._file) if self._file.exists() else []
            return [Person(**entry) for entry in stored]
        except (OSError, ValueError, TypeError):
            raise OutputError(f"{self._file}: can't be read; remove it (links that were sent end then)") from None

    def save(self, people: Sequence[Person]) -> None:
        write_json(self._file, [asdict(person) for person in people])
        with writing(self._file):
            os.chmod(self._file, 0o600)


class Crew:
    """Everybody who has a link to a page. Safe for threads.

    Args:
        place: the run's folder, or another store.
    """

    def __init__(self, place: Path | PeopleStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = FolderPeople(place / FILE) if isinstance(place, Path) else place
        self._lock, self._clock = threading.Lock(), clock
        self._people, self._read_at = self._store.load(), clock()

    @property
    def people(self) -> list[Person]:
        """In the order invited."""
        with self._lock:
            if self._store.shared and self._clock() - self._read_at > FRESH_SECONDS:
                self._read()
            return list(self._people)

    def invite(self, name: str, role: str) -> Person:
        """Somebody new, or a known person whose role is `role` from now on; the link of a known one stays.

        Raises:
            ConfigError: no name, a longer one than is shown, no such role, or nobody left who leads.
        """
        name = checked(name, role)
        with self._lock:
            if self._store.shared:
                self._read()
            known = next((person for person in self._people if person.name == name), None)
            person = Person(name, role, known.token if known else secrets.token_urlsafe(24))
            people = [person if item is known else item for item in self._people] if known else [*self._people, person]
            if not any(item.role == LEAD for item in people) and any(item.role == LEAD for item in self._people):
                raise ConfigError(f"person {name}: nobody would lead any more; make somebody else lead first")
            if people != self._people:
                self._store.save(people)
                self._people = people
            return person

    def find(self, token: str) -> Person | None:
        """Whose token it is; takes the same time whoever's it is, and nobody's."""
        found = None
        for person in self.people:
            if hmac.compare_digest(person.token.encode(), token.encode()):
                found = person
        return found

    def _read(self) -> None:
        self._people, self._read_at = self._store.load(), self._clock()


def checked(name: str, role: str) -> str:
    """The name as it is kept. Raises ConfigError: no name, a longer one than is shown, or no such role."""
    name = " ".join(name.split())
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise ConfigError(f"person {name[:LONGEST_NAME]!r}: give a name of 1 to {LONGEST_NAME} letters")
    if role not in ROLES:
        raise ConfigError(f"person {name}: role {role!r} is none; choose {', '.join(ROLES)}")
    return name


def read_people(given: str) -> list[tuple[str, str]]:
    """`Ann,Bob:review` as (name, role); the role is `label` where none is said. Raises ConfigError as `checked`."""
    pairs = (part.rpartition(":") if ":" in part else (part, ":", LABEL) for part in given.split(",") if part.strip())
    return [(checked(name, role.strip()), role.strip()) for name, _, role in pairs]

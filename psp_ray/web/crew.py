"""The people who label on the page: a name, a role and a secret link each."""

from __future__ import annotations

import hmac
import os
import secrets
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from psp_ray.core.errors import ConfigError, OutputError
from psp_ray.core.files import read_json, write_json
from psp_ray.core.writing import writing

FILE = ".people.json"
"""In the run's folder, readable by its owner alone; hidden, so that copies of the run don't carry the secrets."""
LABEL, REVIEW, LEAD = "label", "review", "lead"
ROLES = (LABEL, REVIEW, LEAD)
"""Each may what the ones before it may: answer; decide disagreements and doubts; steer the rounds and invite people."""
LONGEST_NAME = 40


@dataclass(frozen=True)
class Person:
    """Somebody who labels."""

    name: str
    role: str
    token: str

    def may(self, role: str) -> bool:
        """Whether what `role` may is allowed to this person, too."""
        return ROLES.index(self.role) >= ROLES.index(role)


class Crew:
    """Everybody who has a link to the page of one run. Safe for threads."""

    def __init__(self, folder: Path) -> None:
        self._file, self._lock = folder / FILE, threading.Lock()
        try:
            stored = read_json(self._file) if self._file.exists() else []
            self._people = [Person(**entry) for entry in stored]
        except (OSError, ValueError, TypeError):
            raise OutputError(f"{self._file}: can't be read; remove it (links that were sent end then)") from None

    @property
    def people(self) -> list[Person]:
        """In the order invited."""
        with self._lock:
            return list(self._people)

    def invite(self, name: str, role: str) -> Person:
        """Somebody new, or a known person whose role is `role` from now on; the link of a known one stays.

        Raises:
            ConfigError: no name, a longer one than is shown, no such role, or nobody left who leads.
        """
        name = checked(name, role)
        with self._lock:
            known = next((person for person in self._people if person.name == name), None)
            person = Person(name, role, known.token if known else secrets.token_urlsafe(24))
            people = [person if item is known else item for item in self._people] if known else [*self._people, person]
            if not any(item.role == LEAD for item in people) and any(item.role == LEAD for item in self._people):
                raise ConfigError(f"person {name}: nobody would lead any more; make somebody else lead first")
            if people != self._people:
                self._write(people)
                self._people = people
            return person

    def find(self, token: str) -> Person | None:
        """Whose token it is; takes the same time whoever's it is, and nobody's."""
        found = None
        for person in self.people:
            if hmac.compare_digest(person.token.encode(), token.encode()):
                found = person
        return found

    def _write(self, people: Sequence[Person]) -> None:
        write_json(self._file, [asdict(person) for person in people])
        with writing(self._file):
            os.chmod(self._file, 0o600)


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

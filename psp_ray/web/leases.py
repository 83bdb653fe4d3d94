"""Who has which image before the eyes, so that nobody else is given it. A lease ends with silence."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable


class Leases:
    """Leases of images to people. Not safe for threads: whoever holds it locks.

    Args:
        seconds: how long an image is left to somebody who says nothing. clock: seconds, for tests.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._held: dict[int, tuple[str, float]] = {}

    def holder(self, position: int) -> str | None:
        """Who has the image now."""
        person, until = self._held.get(position, ("", 0.0))
        return person if until > self._clock() else None

    def free_for(self, person: str, position: int) -> bool:
        """Whether nobody else has it."""
        return self.holder(position) in (None, person)

    def take(self, person: str, positions: Iterable[int]) -> None:
        """Give images to a person."""
        until = self._clock() + self._seconds
        self._held.update((position, (person, until)) for position in positions)

    def renew(self, person: str) -> None:
        """The person is still there."""
        self.take(person, [position for position in self._held if self.holder(position) == person])

    def give_back(self, person: str, positions: Iterable[int] | None = None) -> None:
        """Take images from a person: those named, or all."""
        for position in list(self._held) if positions is None else positions:
            if self._held.get(position, ("", 0.0))[0] == person:
                del self._held[position]

    def people(self) -> set[str]:
        """Those who have an image now."""
        now = self._clock()
        return {person for person, until in self._held.values() if until > now}

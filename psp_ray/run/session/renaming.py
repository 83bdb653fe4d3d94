"""A class was forgotten, or has a wrong name: what a session does about it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from psp_ray.core.errors import UserError
from psp_ray.run.classes import RunClasses, classes_of
from psp_ray.run.command import Rounds
from psp_ray.run.session.given import vector_of


class Renaming:
    """The part of `psp_ray.Session` that changes classes."""

    rounds: Rounds
    _stack: ExitStack

    @property
    def out(self) -> Path:
        """The run's folder."""
        return self.rounds.out

    @property
    def over(self) -> bool:
        """Whether no round is left; `extend` adds some."""
        return self.rounds.experiment.over

    def add_class(self, name: str, *, embedding: Any = None, phrases: Sequence[str] = ()) -> None:
        """Add a class behind the others. All labels stay; the classifier is learned anew from them, and what was said
        to show none of the classes may be worth another look.

        Args:
            embedding: numbers (d,), where the classes' embeddings come from a file or array and it has none of it.
            phrases: that describe it, where the other classes have some.

        Raises UserError for a name that is none, or that a class has already; then nothing changes.
        """
        self._change(self.run_classes.added(name, embedding=vector_of(name, embedding), phrases=list(phrases)))

    def rename_class(self, old: str, new: str) -> None:
        """Call class `old` by another name. All labels stay, and files that say the old name are understood.

        Raises UserError where there is no class `old`, or a class has the new name already; then nothing changes.
        """
        self._change(self.run_classes.renamed(old, new))

    @property
    def run_classes(self) -> RunClasses:
        """The classes with the names that they had."""
        return classes_of(self.out) or RunClasses.begun(self.rounds.names.classes)

    def _change(self, classes: RunClasses) -> None:
        self._open_still()
        people = self.rounds.people
        if people is None:
            raise UserError(f"oracle {self.rounds.config.labels.oracle}: it has its own classes, which can't change")
        rounds = self.rounds.with_classes(classes)
        assert rounds.people is not None
        self._stack.callback(rounds.people.close)
        self._take(rounds)
        people.close()
        if self.over:
            rounds.finished()

    def _take(self, rounds: Rounds) -> None:
        raise NotImplementedError

    def _open_still(self) -> None:
        raise NotImplementedError

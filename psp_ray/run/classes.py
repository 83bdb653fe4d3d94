"""The classes of a run, in an order of its own: they may be renamed, and others added, while it goes on.

A label is the index of a class. So a class keeps its index for ever, whatever it is called later and wherever its name
stands in the data set or in a file of classes; new ones come behind. `classes.json` in the run's folder keeps that.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import Field

from psp_ray.core.errors import ConfigError
from psp_ray.core.files import make_folder
from psp_ray.core.sealed import DamagedFile, Document, read_document, write_sealed
from psp_ray.core.words import did_you_mean, normalize_name, short
from psp_ray.data.dataset import Dataset
from psp_ray.run.checkpoint import newest
from psp_ray.run.folder import KEPT

FILE = "classes.json"
LONGEST = 200
"""Characters of a class's name."""


class RunClass(Document):
    """A class: its name now, what it was called before (the newest first), and what the data set calls it.

    `given` is None of a class that was added on the way and that the data set doesn't name. Such a class may bring an
    `embedding` (d,) and phrases that describe it.
    """

    name: str
    given: str | None = None
    former: list[str] = Field(default_factory=list)
    embedding: list[float] | None = None
    phrases: list[str] = Field(default_factory=list)

    def renamed(self, name: str) -> RunClass:
        former = [self.name, *(old for old in self.former if old != self.name)]
        return self.model_copy(update={"name": name, "former": [old for old in former if old != name]})


class RunClasses(Document):
    """All classes in the order of the labels. `given`: the names that data set and settings had when last looked at.

    `added_at`: when the newest class was added on the way (seconds since the epoch; 0: none was). Who said before
    that an image shows none of the classes didn't know that one.
    """

    given: list[str]
    classes: list[RunClass]
    added_at: float = 0.0

    @classmethod
    def begun(cls, names: Sequence[str]) -> RunClasses:
        """Those of a run that begins."""
        return cls(given=list(names), classes=[RunClass(name=name, given=name) for name in names])

    @property
    def names(self) -> list[str]:
        return [item.name for item in self.classes]

    def with_given(self, given: Sequence[str]) -> RunClasses:
        """After the data set's names, or those of the settings, have become `given`.

        Raises ConfigError as `difference`.
        """
        renamed, added = difference(self.given, given)
        found = []
        for item in self.classes:
            new = renamed.get(item.given or "")
            if item.given is None and item.name in added:
                added.remove(item.name)
                item = item.model_copy(update={"given": item.name})
            elif new is not None:
                item = (item.renamed(new) if item.name == item.given else item).model_copy(update={"given": new})
            found.append(item)
        changed = self.model_copy(update={"given": list(given), "classes": found})
        for name in added:
            changed = changed.added(name, given=name)
        return changed

    def added(
        self,
        name: str,
        *,
        given: str | None = None,
        embedding: Sequence[float] | None = None,
        phrases: Sequence[str] = (),
    ) -> RunClasses:
        """With one more class behind the others. Raises ConfigError as `checked`."""
        name = self.checked(name)
        vector = None if embedding is None else [float(number) for number in embedding]
        item = RunClass(name=name, given=given, embedding=vector, phrases=list(phrases))
        return self.model_copy(update={"classes": [*self.classes, item], "added_at": time.time()})

    def renamed(self, old: str, new: str) -> RunClasses:
        """With class `old` called `new`. Raises ConfigError for no class `old`, or as `checked`."""
        if old not in self.names:
            raise ConfigError(f"class {short(old)!r}: there is none of that name{did_you_mean(old, self.names)}")
        new = self.checked(new, but=old)
        found = [item.renamed(new) if item.name == old else item for item in self.classes]
        return self.model_copy(update={"classes": found})

    def checked(self, name: str, but: str = "") -> str:
        """A new name as it is kept. Raises ConfigError for none, and for one that a class but `but` bears."""
        text = " ".join(name.split()) if isinstance(name, str) else ""
        if not text or not text.isprintable() or len(text) > LONGEST:
            raise ConfigError(f"class {short(str(name))!r}: give a name of 1 to {LONGEST} characters on one line")
        twin = next((other for other in self.names if normalize_name(other) == normalize_name(text)), None)
        if twin is not None and twin != but:
            raise ConfigError(f"class {text!r} is there already (as {twin!r}); give another name")
        return text

    def save(self, out: Path) -> None:
        """Write them into a run's folder, and a copy beside its checkpoints. Raises OutputError."""
        make_folder(out / KEPT)
        for path in (out / FILE, out / KEPT / FILE):
            write_sealed(path, self.model_dump())


def are_noted(out: Path, classes: RunClasses) -> bool:
    """Whether `classes.json` of the run in `out` and its copy are whole, and say `classes`."""
    try:
        return all(read_document(path, RunClasses) == classes for path in (out / FILE, out / KEPT / FILE))
    except DamagedFile:
        return False


def classes_of(out: Path | None) -> RunClasses | None:
    """Those of the run in `out`; None where no run has noted any.

    What is damaged is read from its copy; a run of before there was such a file has its newest checkpoint's names.
    """
    if out is None:
        return None
    for path in (out / FILE, out / KEPT / FILE):
        try:
            return read_document(path, RunClasses)
        except DamagedFile:
            continue
    checkpoint = newest(out / KEPT)
    names = None if checkpoint is None else checkpoint.state.get("classes")
    return RunClasses.begun(names) if isinstance(names, list) else None


def difference(old: Sequence[str], new: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """(renamed {old name: new name}, added names) where a list of classes became another one.

    A new name in the place of one that is gone is a rename, if all that stay keep their places up to there; without
    any gone, names may be added anywhere.

    Raises:
        ConfigError: a class is gone, or it can't be told which one got which name.
    """
    gone = [name for name in old if name not in new]
    fresh = [name for name in new if name not in old]
    if not gone:
        return {}, fresh
    lost = next((name for at, name in enumerate(old) if name in gone and (at >= len(new) or new[at] in old)), None)
    if lost is not None:
        raise ConfigError(
            f"class {lost!r} is gone, and labels say it; keep it, or put its new name in its place (they are: "
            f"{short(', '.join(old), 200)})"
        )
    moved = next((name for at, name in enumerate(old) if name not in gone and new[at] != name), None)
    if moved is not None:
        raise ConfigError(
            f"class {moved!r} has another place, and {gone[0]!r} is gone: it can't be told which name took which; keep "
            f"the order and put new classes behind it (they are: {short(', '.join(old), 200)})"
        )
    renamed = {name: new[at] for at, name in enumerate(old) if name in gone}
    return renamed, [name for name in fresh if name not in renamed.values()]


def arranged(dataset: Dataset, classes: RunClasses) -> Dataset:
    """A data set as it was loaded, with names `classes.given`, as the run knows it: its order, its names."""
    place = {item.given: index for index, item in enumerate(classes.classes) if item.given is not None}
    truth = dataset.ground_truth
    if truth is not None:
        here = np.array([place[name] for name in dataset.classes], np.int32)
        column = pa.array(here[truth["label"].to_numpy()], pa.int32())
        truth = truth.set_column(truth.schema.get_field_index("label"), "label", column)
    return with_names(replace(dataset, ground_truth=truth), classes)


def with_names(dataset: Dataset, classes: RunClasses) -> Dataset:
    """A data set whose labels are in the run's order already, with the names that its classes have now."""
    phrases = _phrases(dataset.descriptions, classes)
    return replace(
        dataset,
        classes=classes.names,
        descriptions=phrases,
        former_names={item.name: _former(item) for item in classes.classes if _former(item)},
        class_vectors={item.name: item.embedding for item in classes.classes if item.embedding is not None},
    )


def _former(item: RunClass) -> tuple[str, ...]:
    given = [item.given] if item.given not in (None, item.name, *item.former) else []
    return tuple(name for name in [*item.former, *given] if name is not None)


def _phrases(known: Mapping[str, list[str]], classes: RunClasses) -> dict[str, list[str]]:
    found = {}
    for item in classes.classes:
        named = next((known[name] for name in (item.name, *_former(item)) if name in known), None)
        if named or item.phrases:
            found[item.name] = named or list(item.phrases)
    return found


def told(before: Sequence[str], after: Sequence[str]) -> str:
    """What changed, for people: `class 'a' is called 'b' now; class 'c' is new`; empty for nothing."""
    parts = [f"class {old!r} is called {new!r} now" for old, new in zip(before, after, strict=False) if old != new]
    return "; ".join([*parts, *(f"class {name!r} is new" for name in after[len(before) :])])

"""Which folder each run of a comparison has: one that was begun is found by what it is, whatever its folder's name.

Names of runs depend on what else is listed: they only say what tells them apart. And versions named them otherwise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psp_ray.core.sealed import DamagedFile
from psp_ray.run.folder import differences, read_run

_EXACT = ("dataset", "seed", "self_training")
"""Settings by which runs are looked up before all are compared: none of them has a default that changes."""


@dataclass(frozen=True)
class Sought:
    """A run: names for its folder, the present one first, and the settings that its result depends on."""

    names: tuple[str, ...]
    identity: Mapping[str, Any]


def folders_of(runs: Path, sought: Sequence[Sought]) -> list[str]:
    """The name of each run's folder in `runs`, all of them different.

    It is that of the run with the same settings: under a name of its own or, failing that, under any other. A run that
    isn't there gets the first of its names; where a run with other settings lies under one, and is none of those
    sought, it gets that one, so that whoever resumes is told of the difference.
    """
    found: dict[int, str] = {}
    for place, run in enumerate(sought):
        for name in run.names:
            folder = runs / name
            if name not in found.values() and folder.is_dir() and _may_be(folder, run):
                found[place] = name
                break
    missing = [place for place in range(len(sought)) if place not in found]
    others = _others(runs, set(found.values())) if missing else {}
    for place in missing:
        among = others.get(_key(sought[place].identity), [])
        same = [item for item in among if not differences(item[1], sought[place].identity)]
        if same:
            found[place] = same[0][0]
            among.remove(same[0])
    taken = set(found.values())
    for place, run in enumerate(sought):
        if place not in found:
            there = (name for name in run.names if name not in taken and (runs / name).is_dir())
            found[place] = next(there, None) or _unlike(run.names[0], taken)
            taken.add(found[place])
    return [found[place] for place in range(len(sought))]


def _identity(folder: Path) -> Mapping[str, Any] | None:
    """Settings of the run in a folder; None where there is none, or where they can't be read."""
    try:
        return read_run(folder).identity
    except DamagedFile:
        return None


def _may_be(folder: Path, run: Sought) -> bool:
    """Whether a folder under a run's name may be the run's: where nothing says so, its name does."""
    identity = _identity(folder)
    return identity is None or not differences(identity, run.identity)


def _others(runs: Path, taken: set[str]) -> dict[tuple[str, ...], list[tuple[str, Mapping[str, Any]]]]:
    """Names and settings of the runs that are not `taken`, by `_key`."""
    found = defaultdict(list)
    for folder in sorted(runs.iterdir()) if runs.is_dir() else ():
        identity = None if folder.name in taken else _identity(folder)
        if identity is not None:
            found[_key(identity)].append((folder.name, identity))
    return found


def _key(identity: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(identity.get(key)) for key in _EXACT)


def _unlike(name: str, taken: set[str]) -> str:
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    return found

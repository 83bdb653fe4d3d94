"""What the data sets of a comparison or a sweep are called, in tables, in `--set DATASET:KEY=VALUE` and on disk."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

from psp_ray.config.paths import MAY_BE_PATHS, PATHS
from psp_ray.core.errors import ConfigError
from psp_ray.core.paths import is_folder, local_text
from psp_ray.data.registry import DATASETS
from psp_ray.studies.settings import Entry, Study, parse_dataset

LONGEST = 60
"""Characters of a name up to which it stands whole in a file's name."""
TABLES = (".csv", ".tsv", ".parquet", ".arrow", ".npz", ".jsonl")
"""Endings of data sets that are tables."""
_HEAD, _TAIL = 34, 18


def dataset_names(entries: Sequence[Entry], *, whole: bool = False) -> list[str]:
    """A name for each entry: its own, or the last part of its path, without the ending of a table.

    Where two are alike, folders stand in front that tell them apart, and the settings of an entry behind it, as
    `suffixes` has them, or (`whole`) as they were given.

    Raises:
        ConfigError: two entries are the same.
    """
    parts = {entry.name: _parts(entry.name) for entry in entries}
    shown = {name: "/".join(found[-_depth(name, parts) :]) for name, found in parts.items()}
    names = [shown[entry.name] for entry in entries]
    count = Counter(names)
    behind = [entry.suffix for entry in entries] if whole else suffixes(entries)
    names = [name + (suffix if count[name] > 1 else "") for name, suffix in zip(names, behind, strict=True)]
    for name, times in Counter(names).items():
        if times > 1:
            raise ConfigError(f"--datasets: {name} is listed twice; leave one of them out")
    return names


def suffixes(entries: Sequence[Entry]) -> list[str]:
    """The settings of each entry as they stand behind its name: of a path the file's name, without its ending.

    Where that would be alike for two that have different ones, they stand as they were given.
    """
    short = ["".join(f" {key}={_short(key, value)}" for key, value in entry.settings) for entry in entries]
    meant = defaultdict(set)
    for text, entry in zip(short, entries, strict=True):
        meant[text].add(entry.suffix)
    return [text if len(meant[text]) == 1 else entry.suffix for text, entry in zip(short, entries, strict=True)]


def _short(key: str, value: str) -> str:
    if key not in PATHS and not (key in MAY_BE_PATHS and "/" in value):
        return value
    path = PurePath(local_text(value))
    return (path.name if is_folder(value) else path.stem) or value


def former_names(entries: Sequence[Entry], own: Sequence[str]) -> list[str]:
    """What a comparison called data sets before, whose `own` names may be alike: then as they were given."""
    count = Counter(own)
    return [name if count[name] == 1 else entry.name + entry.suffix for name, entry in zip(own, entries, strict=True)]


def owner_of(name: str, names: Sequence[str], where: str) -> int:
    """Which of the data sets is meant by DATASET in `--set DATASET:KEY=VALUE`; a table may be called with its ending.

    Raises:
        ConfigError: none of that name.
    """
    path = PurePath(name)
    name = path.stem if name not in names and path.suffix.lower() in TABLES else name
    if name not in names:
        raise ConfigError(f"{where}: give KEY=VALUE or DATASET:KEY=VALUE with DATASET of {', '.join(names)}")
    return list(names).index(name)


def with_own(study: Study, pairs: Sequence[tuple[str, str, str]]) -> Study:
    """`study` whose data sets have settings of their own from (data set, key, value). Raises ConfigError."""
    if not pairs:
        return study
    texts = list(study.settings.datasets)
    names = dataset_names([parse_dataset(text) for text in texts])
    for owner, key, value in pairs:
        texts[owner_of(owner, names, f"--set {owner}:{key}={value}")] += f":{key}={value}"
    return replace(study, settings=study.settings.model_copy(update={"datasets": tuple(texts)}))


def file_name(text: str, whole: str | None = None) -> str:
    """A file name that says `text`, unlike that of any other text; a long one lacks its middle.

    `whole`: what `text` is short for, and what the file name is to be unlike others by.
    """
    plain, whole = _plain(text), text if whole is None else whole
    if plain in (whole, whole.replace(" ", "-")) and len(plain) <= LONGEST:
        return plain
    if len(plain) > LONGEST:
        plain = f"{plain[:_HEAD].rstrip('-.')}..{plain[-_TAIL:].lstrip('-.')}"
    return f"{plain}-{hashlib.blake2b(whole.encode(), digest_size=3).hexdigest()}"


def former_file_name(text: str) -> str:
    """What `file_name` gave before it kept the beginning of long names."""
    plain = _plain(text)
    if plain in (text, text.replace(" ", "-")):
        return plain
    return f"{plain[-60:].strip('-.')}-{hashlib.blake2b(text.encode(), digest_size=3).hexdigest()}"


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9+._-]+", "-", text).strip("-.") or "x"


def _parts(name: str) -> tuple[str, ...]:
    """The path of a data set, its last part being the data set's name; of a known one that alone."""
    if name in DATASETS:
        return (name,)
    folder, colon, split = name.rpartition(":")
    text = local_text(folder if colon and folder and split.lower().endswith(".json") else name)
    path = PurePath(text if "://" in text else os.path.abspath(text))
    last = path.stem if path.suffix.lower() in TABLES and not is_folder(text) else path.name
    return (*(part for part in path.parts[:-1] if part != "/"), last or "data")


def _depth(name: str, parts: dict[str, tuple[str, ...]]) -> int:
    """How many of the last parts of a path are like those of no other."""
    mine = parts[name]
    others = [found for other, found in parts.items() if other != name and found != mine]
    return next((n for n in range(1, len(mine)) if all(found[-n:] != mine[-n:] for found in others)), len(mine))

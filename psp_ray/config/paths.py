"""Which settings are paths, for those who work in another folder than the one that the paths were given in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from psp_ray.core.paths import exists, local_text

PATHS = frozenset(
    {"data_root", "split", "class_embeddings", "initial_labels", "exclude", "description_file", "checkpoint"}
)
"""Always paths."""
MAY_BE_PATHS = frozenset({"dataset", "classes", "test", "annotators"})
"""Paths where something lies there; else names, lists or addresses."""
PLACES = frozenset({"cache", "ledger", "storage"})
"""Paths of what may not be there yet, or addresses."""
_LOCAL = "local-dir:"


def absolute(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with every path absolute, as seen from the current folder; names, lists and addresses stay.

    A data set's registered name is taken for the folder of that name where there is one: ask for it before.
    """
    return {key: _absolute(key, value) if isinstance(value, str) else value for key, value in settings.items()}


def seen_from(folder: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` given in `folder`: relative paths of what is not here but there are absolute; all others stay."""

    def found(key: str, text: Any) -> Any:
        if not folder or key not in PATHS | MAY_BE_PATHS or not isinstance(text, str) or exists(text):
            return text
        name, colon, split = text.rpartition(":") if key == "dataset" and text.lower().endswith(".json") else ("",) * 3
        place = os.path.join(folder, local_text(name or text))
        return f"{place}{colon}{split}" if exists(place) and not exists(name or text) else text

    return {key: found(key, value) for key, value in settings.items()}


def _absolute(key: str, text: str) -> str:
    if key == "model" and text.startswith(_LOCAL):
        return _LOCAL + _place(text.removeprefix(_LOCAL))
    if key == "dataset" and not exists(text):
        folder, colon, split = text.rpartition(":")  # FOLDER:SPLIT.json
        if colon and split.lower().endswith(".json") and exists(folder):
            return f"{_place(folder)}:{_place(split) if exists(split) else split}"
    is_path = key in PATHS or (key in MAY_BE_PATHS and exists(text)) or (key in PLACES and "://" not in text)
    return _place(text) if is_path else text


def _place(text: str) -> str:
    return os.path.abspath(local_text(text))

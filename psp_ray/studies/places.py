"""Where the relative paths of a study lead: it is run in one folder, written in another, its data lie in a third."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psp_ray.config.base import option_name
from psp_ray.config.paths import PATHS, seen_from
from psp_ray.core.errors import ConfigError
from psp_ray.core.paths import exists, local_text
from psp_ray.data.registry import DATASETS
from psp_ray.studies.settings import Study


def placed(study: Study, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run whose relative paths are looked for in this folder, in that of `--data-root`, and beside the
    study's file, in this order.

    Raises:
        ConfigError: a path that is in none of them, with all places where it was looked for.
    """
    places = [os.path.abspath(local_text(str(place))) for place in (given.get("data_root"), study.home) if place]
    named = {key: value for key, value in given.items() if key != "dataset" or value not in DATASETS}
    found = named
    for place in places:
        found = seen_from(place, found)
    for key, value in found.items():
        if _is_lost(key, value):
            looked = ", ".join(dict.fromkeys([os.getcwd(), *places]))
            option = "--datasets" if key == "dataset" else option_name(key)
            raise ConfigError(f"{option} {value}: not found; looked for it in {looked} (--data-root names one more)")
    return {**given, **found}


def _is_lost(key: str, value: Any) -> bool:
    """Whether a setting names a file that isn't there: a name without an ending may be that of a data set."""
    if not isinstance(value, str) or "://" in value or os.path.isabs(local_text(value)):
        return False
    if key == "dataset":
        return not exists(value) and bool(Path(value).suffix) and not value.lower().endswith(".json")
    return key in PATHS - {"data_root"} and not exists(value)

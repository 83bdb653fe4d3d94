"""Class descriptions in PCB's format: a JSON object from class names to lists of phrases."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from psp_ray.core.errors import ConfigError
from psp_ray.core.paths import local_path, why_not
from psp_ray.core.tables import read_text
from psp_ray.core.words import normalize_name


def load_descriptions(path: str | Path) -> dict[str, list[str]]:
    """Read a description file.

    Raises:
        ConfigError: missing, not JSON, or not an object of lists of phrases.
    """
    try:
        document = json.loads(read_text(local_path(path).read_bytes()))
    except OSError as error:
        raise ConfigError(f"--description-file {path}: can't be read ({why_not(error)}); check the path") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--description-file {path}: is not JSON ({error})") from error
    if not isinstance(document, dict) or not all(_are_phrases(phrases) for phrases in document.values()):
        raise ConfigError(
            f"--description-file {path}: must be a JSON object of class names, each with a list of phrases"
        )
    return {name: list(phrases) for name, phrases in document.items()}


def match_descriptions(
    descriptions: Mapping[str, Sequence[str]], class_names: Sequence[str]
) -> tuple[tuple[str, ...], ...]:
    """The phrases of each class, in the order of `class_names`; names match regardless of case, `_` and `-`.

    Raises:
        ConfigError: a class without phrases, which the error names.
    """
    known = {normalize_name(name): tuple(phrases) for name, phrases in descriptions.items()}
    missing = [name for name in class_names if not known.get(normalize_name(name))]
    if missing:
        shown = ", ".join(repr(name) for name in missing[:3])
        raise ConfigError(
            f"the descriptions lack {len(missing)} of {len(class_names)} classes ({shown}); add a list of phrases for "
            f"each, or use descriptions none"
        )
    return tuple(known[normalize_name(name)] for name in class_names)


def _are_phrases(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(phrase, str) for phrase in value)

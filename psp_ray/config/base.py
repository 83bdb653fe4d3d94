"""Base of all settings classes: immutable, checked, every key described, every mistake one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from psp_ray.core.errors import ConfigError
from psp_ray.core.paths import local_path
from psp_ray.core.words import short


class Settings(BaseModel):
    """A group of settings. Every field carries a description: it becomes the help text of its option.

    Raises:
        ConfigError: unknown keys, values of the wrong type or out of range.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        for key, value in values.items():
            _require_text(key, value)
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(_one_line(error)) from None


S = TypeVar("S", bound=Settings)


def replace(settings: S, **changes: Any) -> S:
    """A copy with some keys changed, checked like the original."""
    return type(settings)(**{**settings.model_dump(), **changes})


def read_yaml(
    path: str | Path, option: str, remedy: str = "give an existing YAML file", broken: str = "correct it"
) -> Any:
    """What the YAML file given with `option` holds. `remedy`, `broken`: what helps where it can't be read, or is no
    YAML.

    Raises:
        ConfigError: it can't be read, is not text, or not YAML.
    """
    where = f"{option} {path}".strip()
    try:
        return yaml.safe_load(local_path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{where}: can't be read ({error.strerror}); {remedy}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: not UTF-8 text; save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{f'{option} {short(str(path))}'.strip()}: can't be read ({error}); {remedy}") from None
    except yaml.YAMLError as error:
        reason = (str(error).splitlines() or ["?"])[0]
        raise ConfigError(f"{where}: not valid YAML ({reason}); {broken}") from None


def _require_text(key: str, value: Any) -> None:
    """Raise a ConfigError for a text that can be written to no file and names none."""
    if not isinstance(value, str):
        return
    if "\0" in value:
        raise ConfigError(f"{option_name(key)} {short(value)}: holds a NUL character; correct it")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{option_name(key)} {short(value)}: is not valid UTF-8; rename the file or folder") from None


def option_name(key: str) -> str:
    """The command-line option of a key."""
    return "--" + key.replace("_", "-")


def _one_line(error: ValidationError) -> str:
    parts = []
    for item in error.errors():
        key = option_name(str(item["loc"][0])) if item["loc"] else "settings"
        message = " ".join(item["msg"].removeprefix("Value error, ").split())
        given = f" {json.dumps(item['input'], default=str)}" if item["loc"] else ""
        parts.append(f"{key}{given}: {message[:1].lower()}{message[1:]}")
    return "; ".join(parts)

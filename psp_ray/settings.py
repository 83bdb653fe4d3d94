"""Base of all settings classes: immutable, checked, every key described, every mistake one line."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from psp_ray.errors import ConfigError


class Settings(BaseModel):
    """A group of settings. Every field carries a description: it becomes the help text of its option.

    Raises:
        ConfigError: unknown keys, values of the wrong type or out of range.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(_one_line(error)) from None


S = TypeVar("S", bound=Settings)


def replace(settings: S, **changes: Any) -> S:
    """A copy with some keys changed, checked like the original."""
    return type(settings)(**{**settings.model_dump(), **changes})


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

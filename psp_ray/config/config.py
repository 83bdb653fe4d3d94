"""Every setting of a run: typed, documented and checked in one place.

A key is a command-line option of the same name (dashes for underscores), a line of a `--config` file, and a dimension
that a sweep can reach. Keys are unique, so that they stay flat for users; in the program they come in sections, one for
each component, which is handed its own and no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import yaml
from pydantic import ConfigDict
from pydantic.fields import FieldInfo

from psp_ray.config.acquisition import SamplerSettings
from psp_ray.config.base import Settings, option_name
from psp_ray.config.data import DataSettings
from psp_ray.config.labels import LabelSettings
from psp_ray.config.learn import LearnSettings
from psp_ray.config.model import ModelSettings
from psp_ray.config.output import OutputSettings
from psp_ray.config.runtime import RuntimeSettings
from psp_ray.config.selftrain import SelfTrainingSettings
from psp_ray.core.errors import ConfigError
from psp_ray.core.words import did_you_mean, masked

RUN_ONLY = frozenset(
    {
        "runner",
        "ray_address",
        "shards",
        "workers",
        "workers_max",
        "storage",
        "actor_cpus",
        "learner_gpus",
        "worker_gpus",
        "timeout",
        "cache",
        "cache_gib",
        "out",
        "resume",
        "data_root",
        "allow_remote",
        "ledger",
        "label_cap",
        "cost_cap",
        "oracle_name",
        "label_wait",
        "pictures",
    }
)
"""Keys that say where and how a run is executed, not what it computes: they may change when it is resumed."""
RESUMABLE = frozenset({"exclude"})
"""Settings of the result that a run may be resumed with otherwise."""
CHANGEABLE = frozenset({"rounds", "labels_per_round", "stop", "classes"}) | RESUMABLE
"""Settings of the result that may change on the way: what is still to come, and no round that is done."""

SECTIONS: dict[str, type[Settings]] = {
    "data": DataSettings,
    "model": ModelSettings,
    "learn": LearnSettings,
    "selftrain": SelfTrainingSettings,
    "policy": SamplerSettings,
    "labels": LabelSettings,
    "runtime": RuntimeSettings,
    "output": OutputSettings,
}
"""The sections in the order in which help, files and tables show them."""


class Config(Settings):
    """The resolved settings of one run, built from flat keys: `Config(dataset="photos", rounds=4)`.

    Raises:
        ConfigError: an unknown key (with the nearest match), or a value of the wrong type or out of range; the line
            names the option and its section.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: DataSettings
    model: ModelSettings
    learn: LearnSettings
    selftrain: SelfTrainingSettings
    policy: SamplerSettings
    labels: LabelSettings
    runtime: RuntimeSettings
    output: OutputSettings

    def __init__(self, **values: Any) -> None:
        check_keys(values, "settings")
        parts: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
        for key, value in values.items():
            parts[section_of(key)][key] = value
        built = {}
        for name, kind in SECTIONS.items():
            try:
                built[name] = kind(**parts[name])
            except ConfigError as error:
                raise ConfigError(f"{error} (section {name})") from None
        super().__init__(**built)

    def flat(self) -> dict[str, Any]:
        """All keys and their values, as plain JSON values, in the order of the sections."""
        parts = self.model_dump(mode="json")
        return {key: value for section in SECTIONS for key, value in parts[section].items()}

    def changed(self, **changes: Any) -> Config:
        """A copy with some keys changed, checked like the original."""
        return type(self)(**{**self.flat(), **changes})

    def to_yaml(self) -> str:
        """The keys as YAML, section by section, each under a comment with its name; passwords in addresses masked."""
        parts = self.model_dump(mode="json")
        for section in parts.values():
            section.update({key: masked(value) for key, value in section.items() if isinstance(value, str)})
        return "".join(
            f"# {name}\n{yaml.safe_dump(parts[name], sort_keys=False, allow_unicode=True)}" for name in SECTIONS
        )

    def identity(self) -> dict[str, Any]:
        """What determines the result: all keys but `RUN_ONLY`. A resumed run must agree on it."""
        return {key: value for key, value in self.flat().items() if key not in RUN_ONLY}


@cache
def fields() -> Mapping[str, FieldInfo]:
    """Every key and its definition, in the order of the sections."""
    return {key: info for kind in SECTIONS.values() for key, info in kind.model_fields.items()}


@cache
def _sections() -> Mapping[str, str]:
    return {key: name for name, kind in SECTIONS.items() for key in kind.model_fields}


def section_of(key: str) -> str:
    """Name of the section that holds a key. Raises KeyError for an unknown one."""
    return _sections()[key]


def default_of(key: str) -> Any:
    """The default of a key."""
    return fields()[key].default


def check_keys(keys: Mapping[str, Any], where: str) -> None:
    """Raise a ConfigError that begins with `where` for the first key that is none."""
    for key in keys:
        if key not in fields():
            raise ConfigError(f"{where}: unknown setting '{key}'{did_you_mean(key, fields())}")


__all__ = [
    "CHANGEABLE",
    "RESUMABLE",
    "RUN_ONLY",
    "SECTIONS",
    "Config",
    "check_keys",
    "default_of",
    "fields",
    "option_name",
    "section_of",
]

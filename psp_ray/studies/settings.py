"""What a comparison is asked for: a Settings class, a YAML form (`--study`), and the short forms of its entries."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, field_validator

from psp_ray.config.base import Settings, option_name, read_yaml
from psp_ray.config.config import RUN_ONLY, fields
from psp_ray.core.errors import ConfigError
from psp_ray.core.paths import local_path
from psp_ray.core.words import did_you_mean, masked

DEFAULT_AGAINST = ("random:none", "badge+pcb:none")
CHOSEN = {
    "dataset": "use --datasets",
    "split": "write FOLDER:SPLIT.json in --datasets",
    "strategy": "use --strategies",
    "preset": "use --strategies",
    "self_training": "write STRATEGY:none or STRATEGY:ust in --strategies",
    "seed": "use --seeds",
    "labels_per_round": "use --labels-per-class K, for K x the number of classes",
    "ledger": "every run keeps a ledger of its own",
    "oracle": "the data sets' own labels answer",
    "suggest_labels": "the data sets' own labels answer",
}
"""Settings that a comparison chooses itself, run by run, and what to give in their place."""
_PAIR = re.compile(r"^([A-Za-z][A-Za-z0-9_-]*)=(.*)$")
_OWNED = re.compile(r"^(?:([^=]+):)?([A-Za-z][A-Za-z0-9_-]*)=(.*)$")


class StudySettings(Settings):
    """What is compared, and how often."""

    datasets: tuple[str, ...] = Field(
        (), description="data sets: names, folders or FOLDER:SPLIT.json, each with :key=value for settings of its own"
    )
    strategies: tuple[str, ...] = Field(
        (), description="strategies or presets, each with :none or :ust (self-training), :HEAD and :key=value"
    )
    seeds: int = Field(5, ge=1, description="seeds a strategy: 0..N-1")
    pool_share: float = Field(
        0.9,
        gt=0,
        le=1,
        description="share of the pool that a seed draws from, the same for all strategies; 1: all of it",
    )
    labels_per_class: tuple[int, ...] = Field((1,), description="labels a round for each class (k: k x C labels)")
    against: tuple[str, ...] = Field(
        DEFAULT_AGAINST,
        description="strategies that paired differences are taken to; STRATEGY:same: with the same self-training",
    )
    title: str = Field("", description="heading of the report")
    about: str = Field("", description="a paragraph under the heading of the report")

    @field_validator("datasets", "strategies", "labels_per_class", "against", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = value.split(",")
        if not isinstance(value, (list, tuple)):
            value = [value]
        return [item.strip() if isinstance(item, str) else item for item in value if str(item).strip()]

    @field_validator("labels_per_class")
    @classmethod
    def _positive(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or min(value) < 1 or len(set(value)) < len(value):
            raise ValueError("give distinct whole numbers of at least 1, such as 1,2,4")
        return value


@dataclass(frozen=True)
class Study:
    """A comparison: its own settings, those of all runs, and the name of the file it came from, in folder `home`."""

    settings: StudySettings
    run: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    home: str = ""

    def to_yaml(self) -> str:
        given = {key: value for key, value in self.settings if key in self.settings.model_fields_set}
        own = {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}
        run = {key: masked(value) if isinstance(value, str) else value for key, value in self.run.items()}
        return yaml.safe_dump({**own, **run}, sort_keys=False, allow_unicode=True, width=120)


@dataclass(frozen=True)
class Entry:
    """An item of --datasets or --strategies: what it names, its self-training if said, and settings of its own."""

    text: str
    name: str
    self_training: str | None = None
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def suffix(self) -> str:
        """The entry's own settings as they are shown behind its name."""
        return "".join(f" {key}={value}" for key, value in self.settings)


def parse_strategy(text: str) -> Entry:
    """`badge+pcb`, `vssp:ust`, `typiclust:ust:linear`, `psp:kappa=1`, `badge+pcb:none:pcb=released` -> an `Entry`.

    A head behind the self-training is short for `head=NAME`.

    Raises:
        ConfigError: no name, an unknown self-training or head, or a setting that a comparison chooses itself.
    """
    from psp_ray.learn.heads import HEADS

    name, *parts = (part.strip() for part in text.split(":"))
    training, settings = None, []
    for part in parts:
        pair = _PAIR.match(part)
        if pair:
            settings.append((run_key(pair[1], f"--strategies {text}"), pair[2]))
        elif part in ("none", "ust") and training is None:
            training = part
        elif training is not None and part in HEADS and not any(key == "head" for key, _ in settings):
            settings.append(("head", part))
        else:
            expected = "none nor ust" if training is None else f"a head ({', '.join(HEADS.names())})"
            raise ConfigError(f"--strategies {text}: '{part}' is neither {expected} nor key=value; correct it")
    if not name:
        raise ConfigError(f"--strategies {text}: name a strategy or preset in front of the colon")
    return Entry(text, name, training, tuple(settings))


def parse_dataset(text: str, key_of: Callable[[str, str], str] | None = None) -> Entry:
    """`digits`, `FOLDER:SPLIT.json`, `digits:image-size=96` -> an `Entry` (a split stays in its name).

    `key_of` gives the name of a key that may be set there, as `run_key`, which is the default.
    """
    parts = text.split(":")
    settings: list[tuple[str, str]] = []
    while len(parts) > 1 and (pair := _PAIR.match(parts[-1])):
        settings.insert(0, ((key_of or run_key)(pair[1], f"--datasets {text}"), pair[2]))
        parts.pop()
    return Entry(text, ":".join(parts), None, tuple(settings))


def parse_pair(text: str) -> tuple[str, str, str]:
    """(data set, key, value) of `key=value` or `DATASET:key=value` of --set; no data set: it holds for all.

    Raises:
        ConfigError: not of that form, or not a setting of a run.
    """
    pair = _OWNED.match(text.strip())
    if pair is None:
        raise ConfigError(f"--set {text}: write key=value, such as --set kappa=3, or DATASET:key=value for one alone")
    return pair[1] or "", run_key(pair[2], f"--set {text}"), pair[3]


def run_key(key: str, where: str) -> str:
    """The configuration's name of a key that may be set for runs of a comparison.

    Raises:
        ConfigError: unknown, or chosen by the comparison itself.
    """
    key = key.replace("-", "_")
    if key in CHOSEN:
        raise ConfigError(f"{where}: {option_name(key)} is not set for a comparison; {CHOSEN[key]}")
    if key not in fields() or key in ("out", "resume"):
        near = did_you_mean(key, [*fields(), *StudySettings.model_fields])
        raise ConfigError(f"{where}: unknown setting '{key}'{near}")
    return key


def read_study(path: str | Path) -> dict[str, Any]:
    """The keys of a study file: those of `StudySettings` and settings of all runs.

    Raises:
        ConfigError: missing, not YAML, not a mapping, or with an unknown key.
    """
    data = read_yaml(path, "--study")
    if not isinstance(data, dict):
        raise ConfigError(f"--study {path}: expected lines of 'key: value'")
    found = {str(key).replace("-", "_"): value for key, value in data.items()}
    for key in found:
        if key not in StudySettings.model_fields:
            run_key(key, f"--study {path}")
    return found


def make_study(given: Mapping[str, Any], run: Mapping[str, Any], file: str | Path | None = None) -> Study:
    """Combine a study file with what the command line gives, which wins.

    Args:
        given: keys of `StudySettings`; None where not given.
        run: settings of all runs.
        file: a YAML file of both.

    Raises:
        ConfigError: an unknown or malformed setting, or no data set or strategy.
    """
    found = read_study(file) if file is not None else {}
    own = {key: value for key, value in found.items() if key in StudySettings.model_fields}
    own.update({key: value for key, value in given.items() if value is not None})
    settings = StudySettings(**own)
    for text in settings.datasets:  # what is wrong with what was given comes before what is missing
        parse_dataset(text)
    for text in settings.strategies:
        parse_strategy(text)
    for key, example in (("datasets", "digits,path/to/folder"), ("strategies", "random:none,psp")):
        if not getattr(settings, key):
            raise ConfigError(f"{option_name(key)} is missing; give a list such as {option_name(key)} {example}")
    runs = {key: value for key, value in found.items() if key not in StudySettings.model_fields}
    runs.update({run_key(key, "settings"): value for key, value in run.items() if value is not None})
    if file is None:
        return Study(settings, runs)
    path = local_path(file)
    return Study(settings, runs, path.stem, str(path.parent))


def shown_command(study: Study, file: str | Path | None, changed: Mapping[str, Any]) -> str:
    """The command that repeats a comparison; places (folders, addresses) are named in capitals, not spelled out.

    With `file` only what the command line `changed` is shown beside it.
    """
    words = ["psp-ray compare"]
    if file is not None:
        words.append(f"--study {shlex.quote(str(file))}")
        shown = dict(changed)
    else:
        own = {key: value for key, value in study.settings if value != type(study.settings).model_fields[key].default}
        shown = {**own, **study.run}
    for key, value in shown.items():
        if value is None or (key in RUN_ONLY and key != "data_root"):
            continue
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no-'}{key.replace('_', '-')}")
            continue
        text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        words.append(f"{option_name(key)} {'FOLDER' if key == 'data_root' else shlex.quote(text)}")
    return " ".join([*words, "--out DIR"])

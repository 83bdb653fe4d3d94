"""From what the user gave to checked settings: defaults, then a preset, then a file, then the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psp_ray.config.base import read_yaml
from psp_ray.config.config import Config, check_keys, default_of
from psp_ray.config.presets import PRESETS, preset_settings
from psp_ray.core.errors import ConfigError


def resolve(given: Mapping[str, Any], file: str | Path | Mapping[str, Any] | None = None) -> Config:
    """Combine defaults < preset < config file < `given` (the command line) into a checked `Config`.

    `file`: its path, or what stands in one.

    Raises:
        ConfigError: an unknown key (with the nearest match), a malformed file, or a value out of range.
    """
    named = file if isinstance(file, str | Path) else None
    stands = file or {} if not isinstance(file, str | Path) else _read_file(file)
    explicit = {**stands, **{k: v for k, v in given.items() if v is not None}}
    check_keys(explicit, "settings" if named is None else str(named))
    name = str(explicit.get("strategy", explicit.get("preset") or default_of("strategy")))
    if explicit.get("preset") and given.get("strategy") is None:
        name = str(explicit["preset"])  # a resolved config.yaml names both
    settings = preset_settings(name)
    preset = name if name in PRESETS else None
    merged = {**settings, **explicit, "strategy": settings["strategy"], "preset": preset}
    if merged.get("labels_per_round") is not None and str(merged["labels_per_round"]) == "":
        merged["labels_per_round"] = None
    config = Config(**merged)
    _check_strategy(name, config)
    described = bool(config.data.description_file) or _classes_describe(config)
    if config.learn.descriptions != "none" and not described:
        raise ConfigError(
            f"--descriptions {config.learn.descriptions} needs --description-file FILE.json, or phrases in the "
            "--classes file"
        )
    if described and "descriptions" not in explicit and config.learn.descriptions == "none":
        config = config.changed(descriptions="AS")
    return config


def _classes_describe(config: Config) -> bool:
    from psp_ray.data.classes import read_classes

    return config.data.classes is not None and bool(read_classes(config.data.classes).descriptions)


def _check_strategy(name: str, config: Config) -> None:
    from psp_ray.acquisition.base import RENAMED, STRATEGIES, settings_of

    base = config.policy.strategy.partition("+")[0]
    if base in RENAMED:
        raise ConfigError(f"--strategy {name}: {RENAMED[base]}")
    if base not in STRATEGIES:
        raise ConfigError(STRATEGIES.unknown(base, PRESETS))
    settings_of(config.policy.strategy, config.policy)


def _read_file(path: str | Path) -> dict[str, Any]:
    data = read_yaml(path, "--config")
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"--config {path}: expected lines of 'key: value'")
    return {str(key).replace("-", "_"): value for key, value in data.items()}

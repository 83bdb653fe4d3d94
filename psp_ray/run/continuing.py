"""Going on with a run under settings that may change on the way: more rounds, larger query sets, another end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psp_ray.config.base import option_name
from psp_ray.config.config import RUN_ONLY, Config
from psp_ray.core.errors import ConfigError, OutputError
from psp_ray.core.files import read_json, write_json, write_text
from psp_ray.run.checkpoint import latest_round
from psp_ray.run.folder import RUN_FILE
from psp_ray.run.resolve import resolve

CONFIG = "config.yaml"
CHANGEABLE = frozenset({"rounds", "labels_per_round", "stop"})
"""Settings of the result that may change: they say what is still to come, and touch no round that is done."""


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run."""
    return (folder / RUN_FILE).is_file()


def continued(out: Path, changes: Mapping[str, Any]) -> Config:
    """The settings of the run in `out`, with `changes` (None: as it is), for going on with it. Writes nothing.

    Raises:
        OutputError: no run there. ConfigError: a setting that rounds that are done depend on, or fewer rounds than are
            done.
    """
    if not is_run(out):
        raise OutputError(f"{out}: holds no run; give the output folder of one")
    given = {key: value for key, value in changes.items() if value is not None}
    before = resolve({"out": str(out), "resume": True}, out / CONFIG)
    config = resolve({**given, "out": str(out), "resume": True}, out / CONFIG)
    old, new = before.identity(), config.identity()
    for key in new:
        if old[key] != new[key] and key not in CHANGEABLE:
            raise ConfigError(
                f"{option_name(key)} {new[key]}: the rounds that are done used {old[key]}, and it can't change on the "
                f"way; leave it out, or start in a new --out folder (what may change: "
                f"{', '.join(option_name(name) for name in sorted(CHANGEABLE | RUN_ONLY))})"
            )
    done = latest_round(out / "checkpoints")
    if config.labels.rounds < done:
        raise ConfigError(f"--rounds {config.labels.rounds}: {done} rounds are done already; give at least as many")
    return config


def note_changes(out: Path, config: Config) -> None:
    """Make the settings of `continued` those of the run in `out`."""
    record = read_json(out / RUN_FILE)
    if record["identity"] != {**record["identity"], **{key: config.flat()[key] for key in CHANGEABLE}}:
        record["identity"] |= {key: config.flat()[key] for key in CHANGEABLE}
        write_json(out / RUN_FILE, record)
        write_text(out / CONFIG, config.to_yaml())

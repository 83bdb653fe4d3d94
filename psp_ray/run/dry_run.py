"""What a run would be: all that can be checked without writing, encoding or buying anything."""

from __future__ import annotations

from pathlib import Path

from psp_ray.config.config import Config
from psp_ray.run.folder import check_out, default_out
from psp_ray.run.prepare import prepare, require_labels
from psp_ray.storage.remote import Storage


def dry_run(config: Config) -> str:
    """Check every setting and return the resolved configuration as YAML. Writes and buys nothing."""
    out = Path(config.output.out) if config.output.out else default_out(config)
    check_out(config, out)
    if config.output.storage:
        Storage(config.output.storage)
    prepared = prepare(config)
    require_labels(config, prepared.dataset)
    return prepared.config.to_yaml()

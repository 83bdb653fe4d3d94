"""What people have typed, looked at before a run begins: a typo is told at once, not after the model is loaded."""

from __future__ import annotations

from pathlib import Path

from psp_ray.config.config import Config
from psp_ray.labels.annotators.file import FileAnnotator
from psp_ray.labels.query import query_files
from psp_ray.run.folder import default_out, has_run
from psp_ray.run.prepare import Loaded, load_for_run


def look_at_typed(config: Config) -> Loaded | None:
    """Read the answers in the files of a run that goes on; gives what that takes, or None without any.

    With `storage`, what counts is there, and read later.

    Raises:
        OracleError: file and line of what is no answer. UserError: as `load_for_run`.
    """
    out = Path(config.output.out) if config.output.out else default_out(config)
    if config.labels.oracle != "file" or config.output.storage or not config.output.resume:
        return None
    if not has_run(out) or not query_files(out):
        return None
    loaded = load_for_run(config, out)
    dataset, _ = loaded
    FileAnnotator(out, dataset.classes, dataset.pool, former=dataset.former).look()
    return loaded

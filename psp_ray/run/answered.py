"""What has been answered of a query set that a run waits for, as the ledger knows it; read by who only looks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from psp_ray.config.config import Config
from psp_ray.core.answers import answer_name
from psp_ray.core.errors import OracleError
from psp_ray.core.sealed import DamagedFile
from psp_ray.labels.database import resolve_ledger_url, shown
from psp_ray.labels.ledger import Ledger
from psp_ray.labels.questions import answered
from psp_ray.labels.schema import label_space_of
from psp_ray.run.asking import ledger_of
from psp_ray.run.folder import read_run


def answers_so_far(
    out: Path, config: Config, classes: Sequence[str], content_hashes: Sequence[str]
) -> tuple[dict[str, str], str]:
    """({content hash: class name, `skip` or `ignore`}, why it is not known; or empty) of the run in `out`.

    A ledger in a file that isn't there is not made.
    """
    try:
        where = ledger_of(config.labels, out)
        url = resolve_ledger_url(where)
        if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
            return {}, f"ledger {shown(url)} is not there"
        experiment, space = read_run(out).experiment, label_space_of(classes)
        with Ledger(where) as ledger:
            found = answered(ledger, experiment, space, config.labels.oracle, content_hashes)
    except (OracleError, DamagedFile) as error:
        return {}, str(error)
    return {digest: answer_name(label, classes) for digest, label in found.items()}, ""

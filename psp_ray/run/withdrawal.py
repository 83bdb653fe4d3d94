"""A run that is refused after its folder was made, and before it did anything: the corrected command finds none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psp_ray.core.errors import OthersError, UserError
from psp_ray.core.files import LOCK, remove_tree
from psp_ray.core.ours import MARK
from psp_ray.core.writing import writing
from psp_ray.run.classes import FILE as CLASSES
from psp_ray.run.folder import CONFIG, KEPT, RUN_FILE
from psp_ray.run.logbook import LOG

_OF_START = {MARK, RUN_FILE, CONFIG, CLASSES, LOG, LOCK}
"""What is written before components are built."""


@contextmanager
def withdrawn(out: Path, begun: bool) -> Iterator[None]:
    """What was written into `out` so far is removed where what is within is refused; not of a run that had `begun`.

    What else lies there, such as a list of broken images or a ledger, keeps all as it is, and so does what another
    package did wrong, which the log tells of. To be called alone in the folder, whose lock stays.
    """
    try:
        yield
    except OthersError:
        raise
    except UserError:
        if not begun and _is_at_start(out):
            with writing(out):
                for name in _OF_START - {LOCK}:
                    (out / name).unlink(missing_ok=True)
            remove_tree(out / KEPT)
        raise


def _is_at_start(out: Path) -> bool:
    kept = {path.name for path in (out / KEPT).iterdir()} if (out / KEPT).is_dir() else set()
    return kept <= {RUN_FILE, CLASSES} and {path.name for path in out.iterdir()} <= _OF_START | {KEPT}

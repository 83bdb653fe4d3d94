"""`report.html` of whatever a folder holds: a run, a comparison, or a sweep."""

from __future__ import annotations

from pathlib import Path

from psp_ray.run.page import write_page


def write_report_page(folder: Path) -> Path:
    """Write it into the folder; returns its path.

    Raises:
        OutputError: none of the three is there.
    """
    return write_page(folder)

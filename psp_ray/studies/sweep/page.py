"""`report.html` of a sweep."""

from __future__ import annotations

from pathlib import Path

from psp_ray.core.files import write_text
from psp_ray.core.words import counted
from psp_ray.report.document import Part, document_page, picture_part, text_part
from psp_ray.run.page import PAGE
from psp_ray.studies.sweep.analysis import Analysis
from psp_ray.studies.sweep.report import write_report

PICTURES = {"pareto.png": "accuracy against labels", "sensitivity.png": "accuracy against each setting"}


def write_sweep_page(folder: Path) -> Path:
    """Write it, and with it all that `psp-ray sweep-report` writes; returns its path.

    Raises:
        OutputError: no sweep there, or no trial has finished yet.
    """
    analysis = Analysis(folder)
    parts: list[Part] = []
    piece: list[str] = []
    for line in [*write_report(analysis).splitlines()[1:], ""]:
        picture = next((name for name in PICTURES if line.startswith("![") and line.endswith(f"]({name})")), None)
        if picture is None:
            piece.append(line)
            continue
        parts += [text_part("\n".join(piece)), picture_part(folder / picture, PICTURES[picture])]
        piece = []
    parts.append(text_part("\n".join(piece)))
    counts = f"{len(analysis.full_length)} of {counted(len(analysis.trials), 'trial')} finished · {folder}"
    names = ", ".join(analysis.plan.datasets)
    write_text(folder / PAGE, document_page(f"psp-ray · sweep · {names}", answer(analysis), counts, parts))
    return folder / PAGE


def answer(analysis: Analysis) -> str:
    """What was best, what mattered, and what did not, in one sentence."""
    best = analysis.best(None)
    assert best is not None
    reached = ", ".join(f"{100 * analysis.accuracy(best, name):.1f} % on {name}" for name in analysis.plan.datasets)
    return (
        f"Best of {counted(len(analysis.full_length), 'trial')}: {analysis.describe(best)}, with "
        f"{reached}; {analysis.matters()}."
    )

"""`table.md` in the output folder, and a section of a Markdown file such as `docs/results.md` (`--report`)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from psp_ray.core.errors import OutputError
from psp_ray.core.files import write_bytes, write_text
from psp_ray.core.writing import writing
from psp_ray.run.folder import read_summary
from psp_ray.studies import tables
from psp_ray.studies.collect import unlisted, unlisted_text
from psp_ray.studies.pictures import draw_curves, drop_others, picture_name
from psp_ray.studies.plan import Plan

TABLE = "table.md"


def document(
    plan: Plan,
    results: pd.DataFrame,
    curves: pd.DataFrame,
    command: str,
    pictures: Mapping[str, str],
    level: int = 1,
    extra: Sequence[str] = (),
) -> str:
    """Heading, command, facts, failures and tables as Markdown; `extra` are paragraphs behind the facts."""
    settings = plan.study.settings
    parts = [f"{'#' * level} {settings.title or 'Comparison of strategies'}"]
    if settings.about:
        parts.append(" ".join(settings.about.split()))
    facts = tables.facts(results, _summaries(plan))
    if settings.pool_share < 1:
        facts.append(
            f"Every seed has its own {100 * settings.pool_share:g} % of the pool, the same for all strategies: seeds "
            "are replicates, and differences are paired. A plain run has the whole pool."
        )
    parts.append("\n".join(f"- {line}" for line in facts))
    parts.append(f"```\n{command}\n```")
    parts += extra
    left_out = unlisted_text(unlisted(plan.out, {cell.id for cell in plan.cells}))
    if left_out:
        parts.append(left_out)
    lines = tables.failures(results)
    if lines:
        parts += [f"**{len(lines)} of {len(results)} runs are without a result:**", "\n".join(lines)]
    known = set(zip(results.strategy, results.self_training, strict=True))
    absent = [text for text in settings.against if not any(tables.against_key(text, key, known) for key in known)]
    if absent:
        parts.append(f"No differences to {' and '.join(absent)}: not among the strategies.")
    parts.append(tables.body(results, curves, settings.against, pictures, level + 1))
    return "\n\n".join(parts) + "\n"


def write_documents(
    plan: Plan,
    results: pd.DataFrame,
    curves: pd.DataFrame,
    command: str,
    report: Path | None = None,
    extra: Sequence[str] = (),
) -> list[Path]:
    """Write `table.md` and the pictures into the plan's folder, and the section of `report`; returns the paths."""
    written = [plan.out / TABLE]
    pictures = {}
    split = "/".join(dict.fromkeys(cell.config.data.evaluate_on for cell in plan.cells))
    for name in dict.fromkeys(curves.dataset):
        pictures[name] = picture_name(name)
        mine, rounds = results[results.dataset == name], curves[curves.dataset == name]
        draw_curves(plan.out / pictures[name], mine, rounds, name, split)
        written.append(plan.out / pictures[name])
    write_text(plan.out / TABLE, document(plan, results, curves, command, pictures, extra=extra))
    drop_others(plan.out, pictures.values())
    if report is not None:
        folder = report.parent / report.stem
        study = plan.study.name or "comparison"
        linked = {name: f"{folder.name}/{study}/{file}" for name, file in pictures.items()}
        text = document(plan, results, curves, command, linked, level=2, extra=extra)
        with writing(f"--report {report}", "choose another file"):
            (folder / study).mkdir(parents=True, exist_ok=True)
            for file in [*pictures.values(), "results.csv"]:
                write_bytes(folder / study / file, (plan.out / file).read_bytes())
            drop_others(folder / study, pictures.values())
            write_text(report, with_section(_read(report), study, text))
        written.append(report)
    return written


def with_section(text: str, name: str, section: str) -> str:
    """`text` with the section called `name` replaced, or put at the end; all else stays as it is."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    block = f"{begin}\n{section.strip()}\n{end}"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if pattern.search(text):
        return pattern.sub(lambda _: block, text, count=1)
    return f"{text.rstrip()}\n\n{block}\n" if text.strip() else f"# Results\n\n{block}\n"


def check_report(path: Path) -> None:
    """Raise an OutputError where `--report` could not be written in the end."""
    if path.suffix.lower() != ".md":
        raise OutputError(f"--report {path}: give a Markdown file, such as docs/results.md")
    if path.is_dir() or not (path.parent if path.parent.name else Path()).is_dir():
        raise OutputError(f"--report {path}: its folder does not exist; make it, or choose another file")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _summaries(plan: Plan) -> list[dict[str, Any]]:
    return [read_summary(cell.folder) for cell in plan.finished()]

"""Pages of comparisons and sweeps: their Markdown and pictures on one page, as safe as that of a run."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from markdown_it import MarkdownIt
from markupsafe import Markup

from psp_ray.report.html import render

RULES = ("table", "heading", "emphasis", "list", "fence", "backticks")
"""What of Markdown is understood. Links, images and HTML are not: names of data sets and strategies stay text."""


@dataclass(frozen=True)
class Part:
    """A piece of a page: `html`, or a `picture` (a `data:` URI) with its description."""

    html: Markup | None = None
    picture: str = ""
    alt: str = ""


def text_part(markdown: str) -> Part:
    """Markdown as HTML."""
    return Part(Markup(MarkdownIt("zero").enable(list(RULES)).render(markdown)))


def picture_part(file: Path, alt: str) -> Part:
    """A PNG file as it is."""
    return Part(picture=f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}", alt=alt)


def document_page(title: str, answer: str, state: str, parts: Sequence[Part]) -> str:
    """The HTML of a page that begins with its answer."""
    return render(
        "document.html",
        title=title,
        answer=answer,
        state=state,
        parts=parts,
        written=f"{datetime.now():%Y-%m-%d %H:%M}",
    )

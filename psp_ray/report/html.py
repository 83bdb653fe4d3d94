"""HTML pages that need nothing beside themselves: Jinja templates, escaped throughout, and matplotlib's SVG inside."""

from __future__ import annotations

import io
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CARD = (4.4, 3.2)
"""Inches of a figure: what is read well on a phone is shown larger on a desk."""
STYLE: Any = {
    "svg.fonttype": "none",  # letters stay letters: small, and found by the browser's search
    "svg.hashsalt": "psp-ray",  # the same picture, the same bytes
    "text.parse_math": False,  # a class may be called "$100"
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a919b",
    "axes.labelcolor": "#3b424c",
    "xtick.color": "#5b6470",
    "ytick.color": "#5b6470",
    "grid.color": "#d9dde3",
}
"""matplotlib settings of every figure; they have to hold while it is drawn, too."""


_TABLE = re.compile(r"<table\b.*?</table>", re.DOTALL)
_BOXED = r'<div class="scroll" tabindex="0" role="group" aria-label="Table">\g<0></div>'


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("psp_ray.report"),
        autoescape=True,  # whatever a name holds, it is text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["percent"] = lambda value, digits=1: "–" if value is None else f"{100 * value:.{digits}f} %"
    found.filters["count"] = lambda value: f"{value:,}"
    return found


def render(template: str, **values: Any) -> str:
    """The page that `psp_ray/report/templates/TEMPLATE` makes of `values`; every text among them is escaped.

    Every table is in a box of its own, where it is scrolled sideways if it is wider than the page.
    """
    return _TABLE.sub(_BOXED, _environment().get_template(template).render(**values))


def svg(figure: Figure, label: str) -> Markup:
    """A figure as an `<svg>` element as wide as its place; `label` is what is read out in its stead."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    body = text.getvalue()
    body = body[body.index("<svg") :]
    head, rest = body.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return Markup(f'{head} role="img" aria-label="{escape(label)}">{rest}')

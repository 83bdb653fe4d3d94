"""Words: what a mistyped name meant, and when two names are the same."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that looks most like `word`, or None where none does."""
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return found[0] if found else None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`; did you mean 'X'?` for the end of an error message; empty where nothing is near."""
    match = nearest(word, choices)
    return f"; did you mean '{match}'?" if match else ""


def normalize_name(name: str) -> str:
    """Lower case, with every run of spaces, underscores and hyphens as one space."""
    return re.sub(r"[\s_\-]+", " ", name).strip().lower()

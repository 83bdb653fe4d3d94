"""Words for people: the one place that guesses what a mistyped name meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that looks most like `word`, or None where none does."""
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return found[0] if found else None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`; did you mean 'X'?` for the end of an error message; empty where nothing is near."""
    match = nearest(word, choices)
    return f"; did you mean '{match}'?" if match else ""

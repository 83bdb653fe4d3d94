"""What an annotator may answer besides a class: that it can't tell, or that the image shows none of the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from psp_ray.core.errors import OracleError
from psp_ray.core.words import nearest, normalize_name

SKIP = -1
"""Can't tell. The sample leaves the pool, is never learned from, counts against no budget and costs nothing."""
IGNORE = -2
"""None of the classes. The sample leaves the pool and is never learned from; the answer counts and costs as a label."""
WORDS = {"skip": SKIP, "ignore": IGNORE}
"""How people write the codes, in any case. A class of such a name is meant where there is one."""


class AwaitingLabels(OracleError):
    """The annotator has not answered all of a request yet; what it did answer is safe in the ledger.

    `missing` of `asked` samples are open. Not a mistake of the user's: the command line ends with exit code 3.
    """

    def __init__(self, message: str, missing: int, asked: int, place: str = "") -> None:
        super().__init__(message, missing, asked, place)
        self.missing, self.asked, self.place = missing, asked, place

    def __str__(self) -> str:
        return str(self.args[0])


class UnknownLabel(ValueError):
    """A text that names no class; the message says which class is nearest."""


class AnswerReader:
    """Reads what people typed, for one list of classes; as quick for a thousand classes as for two.

    Names match exactly, else regardless of case, spaces, underscores and hyphens where that is unambiguous. `former`:
    names that classes bore before, {name: index}; what was typed then still means the same.
    """

    def __init__(self, class_names: Sequence[str], former: Mapping[str, int] | None = None) -> None:
        self._names = list(class_names)
        self.exact: dict[str, int] = {}
        """Index of each name, the first where one is there twice."""
        self._plain: dict[str, list[int]] = {}
        for index, name in enumerate(self._names):
            self.exact.setdefault(name, index)
            self._plain.setdefault(normalize_name(name), []).append(index)
        for name, index in (former or {}).items():
            self.exact.setdefault(name, index)
            if normalize_name(name) not in self._plain:
                self._plain[normalize_name(name)] = [index]

    def __call__(self, text: str) -> int | None:
        """A class index, SKIP or IGNORE; None for an empty text.

        Raises:
            UnknownLabel: no class of that name.
        """
        text = text.strip()
        if not text:
            return None
        if text in self.exact:
            return self.exact[text]
        plain = normalize_name(text)
        matches = self._plain.get(plain, ())
        if len(matches) == 1:
            return matches[0]
        if plain in WORDS:
            return WORDS[plain]
        names = {normalize_name(name): name for name in self._names} | {word: word for word in WORDS}
        near = nearest(plain, names)
        hint = f" (did you mean {names[near]!r}?)" if near else f" (classes are {_some(self._names)})"
        raise UnknownLabel(f"{text!r} is no class{hint}")


def parse_answer(text: str, class_names: Sequence[str]) -> int | None:
    """One answer, as `AnswerReader` reads it; for many, make a reader once."""
    return AnswerReader(class_names)(text)


def answer_name(label: int, class_names: Sequence[str]) -> str:
    """The text for a class index or code."""
    return next((word for word, code in WORDS.items() if code == label), None) or class_names[label]


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")

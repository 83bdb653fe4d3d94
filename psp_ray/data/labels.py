"""What a cell of a label column says: one rule for CSV, Parquet, Arrow, JSON and npz.

A label is a class name, or the number of a class (from 0) where no class is called so. Whole floats are whole numbers,
a list of one is its element, a record with a field `label` that field. No label are: empty, null, NaN, -1, an empty
list, and what pandas reads as missing (`NA`, `None`, `null`, ...) unless a class is called so.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any

from psp_ray.core.answers import AnswerReader, UnknownLabel
from psp_ray.core.words import counted, short

MISSING = frozenset(
    ("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL")
) | {"NaN", "None", "n/a", "nan", "null"}
"""Words that pandas reads as missing (its `read_csv`, `na_values`)."""
_NONE = re.compile(r"-1(\.0*)?")
_WHOLE = re.compile(r"(\d+)\.0*")


def label_text(value: Any) -> str:
    """One cell as text, empty where it holds no label. Words of `MISSING` stay: only class names tell what they mean.

    Raises:
        UnknownLabel: several labels, a fraction, or a value of another kind.
    """
    if value is None or isinstance(value, str):
        text = (value or "").strip()
        return "" if _NONE.fullmatch(text) else text
    if isinstance(value, bytes):
        return label_text(value.decode("utf-8", "replace"))
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return label_text(value.tolist())
    if isinstance(value, list | tuple):
        if len(value) > 1:
            raise UnknownLabel(f"{short(str(value))} are several labels; give one")
        return label_text(value[0]) if value else ""
    if isinstance(value, dict):
        if "label" not in value:
            raise UnknownLabel(f"{short(str(value))} is no label; give a class name or number")
        return label_text(value["label"])
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int | float):
        return _number(value)
    return "" if type(value).__name__ == "NAType" else label_text(str(value))


def _number(value: int | float) -> str:
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        if not value.is_integer():
            raise UnknownLabel(f"{value} is no label; give a class name or a whole number")
        value = int(value)
    return "" if value == -1 else str(value)


class LabelReader:
    """Reads label columns, for one list of classes. Names, `former` ones too, as `psp_ray.core.answers.AnswerReader`
    reads them."""

    def __init__(self, class_names: Sequence[str], former: Mapping[str, int] | None = None) -> None:
        self._names = AnswerReader(class_names, former)
        self._count = len(class_names)
        self._known: dict[str, int | None] = {}

    def __call__(self, value: Any) -> int | None:
        """A class index, SKIP or IGNORE; None where there is no label.

        Raises:
            UnknownLabel: as `label_text`, or no class of that name or number.
        """
        text = label_text(value)
        if text not in self._known:
            self._known[text] = self._read(text)
        return self._known[text]

    def _read(self, text: str) -> int | None:
        if text in self._names.exact:
            return self._names.exact[text]
        if text in MISSING:
            return None
        whole = _WHOLE.fullmatch(text)
        if whole is not None and whole.group(1) in self._names.exact:
            return self._names.exact[whole.group(1)]
        number = whole.group(1) if whole is not None else text
        if number.isdecimal() and int(number) < self._count:
            return int(number)
        return self._names(text)


def class_of(value: Any, read: LabelReader) -> int | None:
    """As `read`, where only a class or nothing will do. Raises UnknownLabel for `skip` and `ignore` too."""
    label = read(value)
    if label is not None and label < 0:
        raise UnknownLabel(f"{label_text(value)!r} is no class; leave the label empty, or --exclude the image")
    return label


def names_of(texts: Iterable[str], times: Iterable[int] | None = None) -> tuple[list[str], list[str]]:
    """(class names in order, notes on what was taken for no label) of label texts where nobody gave the names.

    Names stand in alphabetical order, numbers behind them in theirs. `times`: how often each text is there; default:
    once.
    """
    words: Counter[str] = Counter()
    for text, count in zip(texts, repeat(1) if times is None else times, strict=times is not None):
        if text:
            words[_as_whole(text)] += count
    missing = {word: count for word, count in words.items() if word in MISSING}
    notes = [
        f"{counted(count, f'label {word!r} counts', f'labels {word!r} count')} as no label; if it "
        "is a class, name the classes with --classes"
        for word, count in sorted(missing.items())
    ]
    found = sorted(set(words) - set(missing), key=lambda text: (int(text), "") if text.isdecimal() else (-1, text))
    return found, notes


def _as_whole(text: str) -> str:
    whole = _WHOLE.fullmatch(text)
    return text if whole is None else whole.group(1)

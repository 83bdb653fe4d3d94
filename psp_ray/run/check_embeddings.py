"""What `check-data` finds in a table of embeddings: rows that can't be used, double ones, and a zero-shot guess."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from psp_ray.core.errors import DatasetError
from psp_ray.core.names import Looked as LookedUp
from psp_ray.core.names import Names, halves
from psp_ray.core.records import Float32Array, Int64Array, TextState
from psp_ray.core.words import counted
from psp_ray.data.dataset import PARTS, Dataset
from psp_ray.features.embedded import BLOCK_ROWS, half_rows
from psp_ray.learn.evaluate import predict_proba

SHOWN = 5
UNIT = 0.01
"""How far from 1 the length of a row may be that is said to have length one."""


@dataclass
class Looked:
    """What was found: `guessed` (C,) counts pool rows by their zero-shot class; `bad` is how many rows can't be used,
    `shown` says of the first of them where they are and why, `refused` why reading stopped (empty where it didn't);
    `copies` are groups of rows with the same numbers; `lengths` the shortest and the longest row's."""

    guessed: Int64Array
    bad: int = 0
    shown: list[str] = field(default_factory=list)
    refused: str = ""
    copies: list[list[int]] = field(default_factory=list)
    lengths: tuple[float, float] = (np.inf, 0.0)
    spread: float = 1.0
    """Mean cosine of rows with the mean row: near 1, all of them look in one direction."""


def look_through(dataset: Dataset, text: TextState | None, told: Callable[[int, int], None] | None = None) -> Looked:
    """Read all rows once, a block at a time; `text` guesses their classes. Memory: 17 bytes a row, and a block."""
    source = dataset.embeddings
    assert source is not None
    found = Looked(np.zeros(len(dataset.classes), np.int64))
    place = pc.index_in(dataset.manifest["sample_id"], value_set=source.sample_ids).to_numpy()
    part_of = np.full(source.n_rows, -1, np.int8)
    part_of[place] = pc.index_in(dataset.manifest["split"], value_set=pa.array(PARTS)).to_numpy()
    digests, sound = np.zeros((source.n_rows, 16), np.uint8), np.zeros(source.n_rows, bool)
    total = np.zeros(source.dim)
    count = 0
    try:
        for block in source.blocks(BLOCK_ROWS, lenient=True):
            unit, bad = half_rows(block.vectors)
            bad |= block.faults
            found.bad += len(bad)
            shown = sorted(bad.items())[: SHOWN - len(found.shown)]
            found.shown += [f"{source.where(block.start + row)} {reason}" for row, reason in shown]
            good = np.setdiff1d(np.arange(len(unit)), list(bad))
            _lengths(found, block.vectors[good])
            features = unit[good].astype(np.float32)
            total += features.sum(axis=0, dtype=np.float64)
            count += len(good)
            if text is not None:
                _guess(found, text, features[part_of[block.start + good] == 0])
            data = b"".join(
                hashlib.blake2b(row.data, digest_size=16).digest() for row in np.ascontiguousarray(unit[good])
            )
            digests[block.start + good] = np.frombuffer(data, np.uint8).reshape(-1, 16)
            sound[block.start + good] = True
            if told is not None:
                told(block.start + len(unit), source.n_rows)
    except DatasetError as error:
        found.refused = str(error)
    found.copies = _copies(digests, np.flatnonzero(sound))
    found.spread = float(np.linalg.norm(total) / max(count, 1))
    return found


def _copies(digests: NDArray[np.uint8], rows: Int64Array) -> list[list[int]]:
    """Groups of `rows` (m,) whose `digests` (n, 16) are the same, in the order of each group's second row."""
    upper, lower = halves(digests[rows])
    order = np.lexsort((lower, upper))
    same = (np.diff(upper[order]) == 0) & (np.diff(lower[order]) == 0)
    starts = np.flatnonzero(same & ~np.concatenate([[False], same[:-1]]))
    groups = []
    for start in starts.tolist():
        stop = start + 1
        while stop <= len(same) and same[stop - 1]:
            stop += 1
        groups.append(rows[order[start:stop]].tolist())
    return sorted(groups, key=lambda group: int(group[1]))


def _lengths(found: Looked, vectors: NDArray[Any]) -> None:
    if len(vectors):
        norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
        found.lengths = min(found.lengths[0], float(norms.min())), max(found.lengths[1], float(norms.max()))


def _guess(found: Looked, text: TextState, features: Float32Array) -> None:
    if len(features):
        best = predict_proba(text, features.astype(np.float16)).argmax(axis=1)
        found.guessed += np.bincount(best, minlength=len(found.guessed))


def describe(dataset: Dataset, looked: Looked) -> Iterator[str]:
    """Lines of what was found."""
    source = dataset.embeddings
    assert source is not None
    views = f", {counted(source.n_views, 'view')} a row" if source.n_views else ", no views"
    low, high = looked.lengths
    alike = max(abs(low - 1), abs(high - 1)) < UNIT
    kind = "of length one" if alike else f"of length {low:.3g} to {high:.3g}, which are scaled to one"
    yield f"embeddings: {source.dim} numbers a row{views}, {kind} (mean cosine with their mean {looked.spread:.2f})"
    if looked.refused:
        yield f"warning: a run would refuse this: {looked.refused}"
    if looked.bad:
        rows = counted(looked.bad, "row")
        shown = "; ".join(looked.shown) + ("; ..." if looked.bad > len(looked.shown) else "")
        yield f"warning: {rows} that a run would refuse; repair or leave out: {shown}"
    if not looked.copies:
        yield "duplicates: none"
        return
    extra = sum(len(rows) - 1 for rows in looked.copies)
    names = source.sample_ids
    shown = "; ".join(" = ".join(names[row].as_py() for row in rows[:3]) for rows in looked.copies[:SHOWN])
    yield f"warning: {extra:,} row{'s repeat' if extra > 1 else ' repeats'} the numbers of another: {shown}"
    part = LookedUp(Names.of(dataset.manifest["sample_id"]), Names.of(dataset.manifest["split"]))
    leaks = sum(len({part.get(names[row].as_py()) for row in rows} - {None}) > 1 for rows in looked.copies)
    if leaks:
        yield f"warning: {leaks:,} of them are both in the pool and in val or test, which flatters accuracy"
    if dataset.ground_truth is None:
        return
    label = LookedUp(Names.of(dataset.ground_truth["sample_id"]), dataset.ground_truth["label"].to_numpy())
    known = [{label[name] for row in rows if (name := names[row].as_py()) in label} for rows in looked.copies]
    torn = sum(len(labels) > 1 for labels in known)
    if torn:
        yield f"warning: {torn:,} of them have different labels"

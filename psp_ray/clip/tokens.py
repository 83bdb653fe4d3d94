"""Prompts as token ids with free slots for context vectors.

A prompt is `SOT, contexts and class tokens in some order, ".", EOT`, as in CoOp (Zhou et al., IJCV 2022). Token ids are
cut behind the position that the text tower reads out, because under causal attention nothing after it matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_ray.core.errors import ConfigError, ModelError
from psp_ray.core.records import Int64Array

POSITIONS = ("end", "middle", "front")


@dataclass(frozen=True)
class PromptSet:
    """P prompts for C classes.

    `ids[p]` (length_p,) int64 unpadded, lead token to end token; `slots[p]` (M,) positions of the context vectors in
    prompt p (empty for hand-written text); `owner` (P,) the class a prompt belongs to, ascending.
    """

    ids: tuple[Int64Array, ...]
    slots: tuple[Int64Array, ...]
    owner: Int64Array
    n_classes: int
    n_context: int

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, start: int, stop: int) -> PromptSet:
        """Prompts start..stop of the same classes."""
        return PromptSet(
            self.ids[start:stop],
            self.slots[start:stop],
            self.owner[start:stop],
            self.n_classes,
            self.n_context,
        )


class PromptTokenizer:
    """One view of open_clip's tokenizers: the ids of bare words, and the special tokens around them.

    Args:
        tokenizer: an open_clip tokenizer, called with a list of texts.
        context_length: positions of the text tower.
    """

    def __init__(self, tokenizer: Any, context_length: int):
        self.tokenizer = tokenizer
        self.context_length = context_length
        empty, word, other = (self._row(text) for text in ("", "x", "photo"))
        lead = 0
        while lead < context_length and empty[lead] == word[lead] == other[lead]:
            lead += 1
        self.lead: list[int] = [int(token) for token in empty[:lead]]
        """Tokens before every text (CLIP: the start token)."""
        self.pad = int(empty[-1])
        """The token that fills a text up to `context_length`."""
        self.tail: list[int] = _strip(empty[lead:], self.pad)
        """Tokens after every text (CLIP: the end token)."""
        self.placeholder = self.encode("x")[0]
        """An ordinary token that stands where context vectors go."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text without special tokens, not truncated where the tokenizer allows that."""
        if hasattr(self.tokenizer, "bpe"):
            return [int(token) for token in self.tokenizer.encode(text)]
        row = self._row(text)
        body = _strip(row[len(self.lead) :], self.pad)
        if len(body) == len(row) - len(self.lead):
            raise ModelError(f"the text {text[:60]!r} fills all {self.context_length} tokens of the model; shorten it")
        return body[: len(body) - len(self.tail)] if self.tail else body

    def wrap(self, body: Sequence[int], what: str) -> Int64Array:
        """Special tokens around `body`.

        Raises:
            ModelError: longer than the tower's positions; `what` says of which text.
        """
        ids = [*self.lead, *body, *self.tail]
        if len(ids) > self.context_length:
            raise ModelError(
                f"{what} needs {len(ids)} tokens, and the model reads {self.context_length}; shorten it or lower "
                f"--context-length"
            )
        return np.asarray(ids, np.int64)

    def pad_rows(self, rows: Sequence[Int64Array]) -> Int64Array:
        """Rows filled up to (n, context_length)."""
        out = np.full((len(rows), self.context_length), self.pad, np.int64)
        for target, row in zip(out, rows, strict=True):
            target[: len(row)] = row
        return out

    def _row(self, text: str) -> NDArray[Any]:
        try:
            rows = self.tokenizer([text], context_length=self.context_length)
        except TypeError:
            rows = self.tokenizer([text])
        return np.asarray(rows[0])


def text_prompts(tokenizer: PromptTokenizer, texts: Sequence[str], owner: Sequence[int] | None = None) -> PromptSet:
    """Hand-written texts, each a prompt without context slots.

    Raises:
        ModelError: a text longer than the tower's positions.
    """
    ids = tuple(tokenizer.wrap(tokenizer.encode(text), f"the text {text[:60]!r}") for text in texts)
    owners = np.arange(len(texts)) if owner is None else np.asarray(owner)
    empty = tuple(np.zeros(0, np.int64) for _ in ids)
    return PromptSet(ids, empty, owners.astype(np.int64), int(owners.max(initial=-1)) + 1, 0)


def learned_prompts(
    tokenizer: PromptTokenizer,
    class_names: Sequence[str],
    n_context: int,
    position: str = "end",
    descriptions: Sequence[Sequence[str]] | None = None,
) -> PromptSet:
    """Prompts with `n_context` free slots around each class name.

    Args:
        tokenizer: of the text tower.
        class_names: (C,) names; underscores read as spaces.
        n_context: M, number of context vectors.
        position: where the class name stands: `end` (behind the contexts), `middle` (between the halves), `front`.
        descriptions: per class, phrases that follow the name as in PCB (", which is/has ..."); one prompt for each.

    Returns:
        One prompt per class, or per class and description.

    Raises:
        ConfigError: an unknown position, M < 1.
        ModelError: a name too long for the tower, which the error names.
    """
    if position not in POSITIONS:
        raise ConfigError(f"class_token_position {position!r} is unknown; use {', '.join(POSITIONS)}")
    if n_context < 1:
        raise ConfigError(f"context_length {n_context} must be at least 1")
    ids, slots, owner = [], [], []
    for label, raw in enumerate(class_names):
        name = " ".join(raw.replace("_", " ").split())
        if not name:
            raise ModelError(f"class {label} has an empty name ({raw!r}); give it a name of words")
        phrases = [""] if descriptions is None else [f", which is/has {text}" for text in descriptions[label]]
        for phrase in phrases:
            subject, rest = _split_body(tokenizer, name + phrase, position)
            row, free = _arrange(tokenizer, subject, rest, n_context, position, raw)
            ids.append(row)
            slots.append(free)
            owner.append(label)
    return PromptSet(tuple(ids), tuple(slots), np.asarray(owner, np.int64), len(class_names), n_context)


def _split_body(tokenizer: PromptTokenizer, text: str, position: str) -> tuple[list[int], list[int]]:
    """Tokens of the text and of the full stop behind it; with the text at the end, both as they read together."""
    whole = tokenizer.encode(text + ".")
    if position == "end":
        return whole, []
    subject = tokenizer.encode(text)
    if whole[: len(subject)] == subject and len(whole) > len(subject):
        return subject, whole[len(subject) :]
    return subject, tokenizer.encode(".")  # a text ending in punctuation, which would merge with the full stop


def _arrange(
    tokenizer: PromptTokenizer, subject: list[int], rest: list[int], n_context: int, position: str, name: str
) -> tuple[Int64Array, Int64Array]:
    before = {"end": n_context, "middle": n_context // 2, "front": 0}[position]
    free = [tokenizer.placeholder]
    body = [*(free * before), *subject, *(free * (n_context - before)), *rest]
    row = tokenizer.wrap(body, f"class {name!r} with {n_context} context vectors")
    start = len(tokenizer.lead)
    first = np.arange(start, start + before)
    second = np.arange(start + before + len(subject), start + n_context + len(subject))
    return row, np.concatenate([first, second]).astype(np.int64)


def _strip(row: NDArray[Any], pad: int) -> list[int]:
    end = len(row)
    while end and row[end - 1] == pad:
        end -= 1
    return [int(token) for token in row[:end]]

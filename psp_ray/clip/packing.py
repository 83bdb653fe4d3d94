"""Prompts of different lengths as one packed run through the text tower, beginnings in common computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from psp_ray.clip.frozen import Bucket, FrozenText
from psp_ray.clip.tokens import PromptSet
from psp_ray.core.records import Int64Array


@dataclass(frozen=True)
class Chunk:
    """Packed prompts: constant embeddings `base` (rows, width) with position embeddings everywhere, and where the
    context vectors are added: `slot_rows` of `base` take rows `slot_source` of the flattened contexts. `restore`
    brings the read-outs back into the prompts' order."""

    base: Tensor
    slot_rows: Tensor
    slot_source: Tensor
    buckets: tuple[Bucket, ...]
    restore: Tensor


def pack(fast: FrozenText, prompts: PromptSet, shared: bool, start: int | None) -> Chunk:
    """Pack prompts by length, with the beginnings they have in common as parents.

    `shared`: one set of context vectors for all classes; `start`: how many tokens stand before the first word
    of every prompt; None where beginnings are not to be computed once.
    """
    device = fast.token_embedding.device
    ids = prompts.ids
    lead, group = 0, np.zeros(len(ids), np.int64)
    if start is not None:
        lead, group = common_beginnings(prompts, shared, start)
    pieces: list[tuple[Int64Array, int, int]] = []  # (prompts, first token, length)
    buckets: list[Bucket] = []
    row = 0
    if lead:
        _, owners = np.unique(group, return_index=True)
        buckets.append(Bucket(0, len(owners), lead, read_out=False))
        pieces.append((owners, 0, lead))
        row = len(owners) * lead
    lengths = np.array([len(tokens) - lead for tokens in ids])
    order = []
    for length in np.unique(lengths):
        members = np.flatnonzero(lengths == length)
        parent_rows = None
        if lead and buckets[0].count > 1:
            parent_rows = to_index(group[members], device)
        buckets.append(Bucket(row, len(members), int(length), 0 if lead else None, parent_rows))
        pieces.append((members, lead, int(length)))
        order.append(members)
        row += len(members) * int(length)
    tokens = np.concatenate([ids[p][first : first + n] for members, first, n in pieces for p in members])
    places = np.concatenate([np.arange(first, first + n) for members, first, n in pieces for _ in members])
    where = np.concatenate(
        [np.stack([np.full(n, p), np.arange(first, first + n)]) for members, first, n in pieces for p in members],
        axis=1,
    )
    base = fast.token_embedding[to_index(tokens, device)]
    slot_rows, slot_source = packed_slots(prompts, shared, where)
    base[to_index(slot_rows, device)] = 0
    base = base + fast.positions[to_index(places, device)]
    restore = np.argsort(np.concatenate(order), kind="stable")
    return Chunk(
        base=base,
        slot_rows=to_index(slot_rows, device),
        slot_source=to_index(slot_source, device),
        buckets=tuple(buckets),
        restore=to_index(restore, device),
    )


def common_beginnings(prompts: PromptSet, shared: bool, lead: int) -> tuple[int, Int64Array]:
    """(tokens in common, group of each prompt): what `pack` computes once per group."""
    everyone = np.zeros(len(prompts), np.int64)
    if prompts.n_context == 0:
        return 0, everyone
    behind = lead + prompts.n_context
    contexts_first = all(slot[-1] == behind - 1 for slot in prompts.slots)
    if shared:
        return (behind if contexts_first else lead), everyone
    owners, group = np.unique(prompts.owner, return_inverse=True)
    if contexts_first and len(owners) < len(prompts):
        return behind, group.astype(np.int64)
    return lead, everyone


def slot_source(prompts: PromptSet, shared: bool) -> Int64Array:
    """Rows of the flattened contexts, prompt by prompt, slot by slot."""
    within = np.tile(np.arange(prompts.n_context), len(prompts))
    if shared:
        return within
    return within + np.repeat(prompts.owner, prompts.n_context) * prompts.n_context


def packed_slots(prompts: PromptSet, shared: bool, where: Int64Array) -> tuple[Int64Array, Int64Array]:
    """(packed rows that are context slots, rows of the flattened contexts that go there).

    `where` (2, rows): prompt and position of each packed row.
    """
    empty = np.zeros(0, np.int64)
    if prompts.n_context == 0:
        return empty, empty
    longest = max(len(row) for row in prompts.ids)
    source = np.full((len(prompts), longest), -1, np.int64)
    for prompt, slot in enumerate(prompts.slots):
        offset = 0 if shared else int(prompts.owner[prompt]) * prompts.n_context
        source[prompt, slot] = offset + np.arange(prompts.n_context)
    flat = source[where[0], where[1]]
    rows = np.flatnonzero(flat >= 0)
    return rows, flat[rows]


def chunk_bounds(lengths: Sequence[int], budget: int) -> list[tuple[int, int]]:
    """Cut prompts into runs of at most `budget` tokens (at least one prompt each)."""
    bounds, start, used = [], 0, 0
    for index, length in enumerate(lengths):
        if index > start and used + length > budget:
            bounds.append((start, index))
            start, used = index, 0
        used += length
    bounds.append((start, len(lengths)))
    return bounds


def to_index(array: Int64Array, device: torch.device) -> Tensor:
    """Positions as a tensor that indexes another on `device`."""
    return torch.as_tensor(np.ascontiguousarray(array), dtype=torch.long, device=device)

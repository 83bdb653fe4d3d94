"""The text tower as prompt learning needs it: context vectors in, class embeddings out, differentiable.

Three ways lead from a prompt to its embedding, equal in values and gradients:

* `cut`: sequences end at the token that is read out; under causal attention the rest changes nothing.
* `shared`: prompts that begin with the same tokens (the start token; or the start token and shared contexts, or a
  class's contexts before each of its descriptions) compute that beginning once, and attend to its keys and values.
* `full`: open_clip's own modules at full length. It is the reference, and what towers without causal attention or
  with another pooling use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from psp_ray.clip.frozen import Bucket, FrozenText, UnsupportedTower
from psp_ray.clip.tokens import PromptSet, PromptTokenizer, text_prompts
from psp_ray.core.errors import ModelError
from psp_ray.core.records import Int64Array

_MIB = 1 << 20


@dataclass(frozen=True)
class _Chunk:
    """Packed prompts: constant embeddings `base` (rows, width) with position embeddings everywhere, and where the
    context vectors are added: `slot_rows` of `base` take rows `slot_source` of the flattened contexts. `restore`
    brings the read-outs back into the prompts' order."""

    base: Tensor
    slot_rows: Tensor
    slot_source: Tensor
    buckets: tuple[Bucket, ...]
    restore: Tensor


@dataclass(frozen=True)
class PromptPlan:
    """How a set of prompts runs through a tower; made once per set by `TextTower.plan`."""

    prompts: PromptSet
    contexts_shape: tuple[int, ...]
    """(C, M, width) class-specific, (M, width) shared, (0, width) none."""
    chunks: tuple[_Chunk, ...]
    """Empty: the full path."""


class TextTower:
    """A frozen open_clip text tower.

    Args:
        model: an open_clip CLIP or CustomTextCLIP on its device (its image tower isn't used), in float32 or float64.
        tokenizer: the tokenizer that belongs to it.

    Raises:
        ModelError: a class-embedding (CoCa) or Hugging Face tower, unknown pooling.
    """

    def __init__(self, model: nn.Module, tokenizer: Any):
        self.model: Any = model.eval().requires_grad_(False)
        tower: Any = getattr(model, "text", model)
        if not hasattr(tower, "token_embedding") or not hasattr(tower, "positional_embedding"):
            raise ModelError(f"the text tower {type(tower).__name__} is not open_clip's own; choose another --model")
        if getattr(tower, "cls_emb", None) is not None:
            raise ModelError("the text tower pools at a class embedding (CoCa); choose another --model")
        self._tower = tower
        self.pool = str(getattr(tower, "text_pool_type", getattr(tower, "pool_type", "argmax")))
        if self.pool not in ("argmax", "eos", "last", "first"):
            raise ModelError(f"the text tower pools by {self.pool!r}, which is unknown; choose another --model")
        self.context_length = int(tower.positional_embedding.shape[0])
        self.width = int(tower.positional_embedding.shape[1])
        self.tokenizer = PromptTokenizer(tokenizer, self.context_length)
        self.full_reason = ""
        """Why this tower runs at full length; empty where the fast path serves."""
        self.fast: FrozenText | None = None
        try:
            self._check_causal()
            self.fast = FrozenText(tower)
        except UnsupportedTower as reason:
            self.full_reason = str(reason)

    @property
    def device(self) -> torch.device:
        """Where the tower computes."""
        return torch.device(self._tower.positional_embedding.device)

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        dtype: torch.dtype = self._tower.positional_embedding.dtype
        return dtype

    @property
    def logit_scale(self) -> float:
        """What multiplies cosines."""
        return float(self.model.logit_scale.detach().double().exp().reshape(-1)[0])

    @property
    def path(self) -> str:
        """`fast`, or `full: ` and the reason."""
        return "fast" if self.fast is not None else f"full: {self.full_reason}"

    def embed_tokens(self, text: str) -> Tensor:
        """Embeddings (k, width) of the words of a text, without special tokens."""
        ids = torch.tensor(self.tokenizer.encode(text), dtype=torch.long, device=self.device)
        return F.embedding(ids, self._tower.token_embedding.weight)

    def encode_texts(self, texts: Sequence[str], batch: int = 256) -> Tensor:
        """L2-normalized embeddings (n, dim) of hand-written texts, without gradients.

        Raises:
            ModelError: a text longer than the tower's positions.
        """
        empty = torch.zeros(0, self.width, device=self.device, dtype=self.dtype)
        parts = []
        with torch.no_grad():
            for start in range(0, len(texts), batch):
                plan = self.plan(text_prompts(self.tokenizer, texts[start : start + batch]), shared=False)
                parts.append(self.encode(plan, empty))
        return F.normalize(torch.cat(parts), dim=-1)

    def plan(
        self,
        prompts: PromptSet,
        *,
        shared: bool,
        path: str = "auto",
        memory_mib: int = 2048,
        device: Any = None,
    ) -> PromptPlan:
        """Lay prompts out for `encode`.

        Args:
            prompts: from `psp_ray.clip.tokens`.
            shared: one set of context vectors (M, width) for all classes, rather than one per class (C, M, width).
            path: `auto` (the fastest that is exact for this tower), `cut` (no shared beginnings) or `full`.
            memory_mib: activations kept for the backward pass, about; beyond it prompts run in chunks whose
                activations are computed twice.
        """
        if prompts.n_context == 0:
            shape: tuple[int, ...] = (0, self.width)
        elif shared:
            shape = (prompts.n_context, self.width)
        else:
            shape = (prompts.n_classes, prompts.n_context, self.width)
        if path == "full" or self.fast is None:
            return PromptPlan(prompts, shape, ())
        if path not in ("auto", "cut"):
            raise ValueError(f"path must be auto, cut or full, not {path!r}")
        budget = max(1, int(memory_mib * _MIB / self._bytes_per_token()))
        chunks = []
        for start, stop in _chunk_bounds([len(row) for row in prompts.ids], budget):
            part = prompts.select(start, stop)
            chunks.append(self._lay_out(part, shared, path == "auto"))
        return PromptPlan(prompts, shape, tuple(chunks))

    def encode(self, plan: PromptPlan, contexts: Tensor) -> Tensor:
        """Embeddings of planned prompts.

        Args:
            plan: from `plan`.
            contexts: `plan.contexts_shape`, in the token embedding space; may require gradients.

        Returns:
            (P, dim), not normalized; gradients flow to `contexts` only.
        """
        if tuple(contexts.shape) != plan.contexts_shape:
            raise ValueError(f"contexts have shape {tuple(contexts.shape)}, the plan {plan.contexts_shape}")
        if not plan.chunks:
            return self._encode_full(plan, contexts)
        flat = contexts.reshape(-1, self.width)
        if len(plan.chunks) == 1:
            return self._encode_chunk(plan.chunks[0], flat)
        if not (torch.is_grad_enabled() and contexts.requires_grad):
            return torch.cat([self._encode_chunk(chunk, flat) for chunk in plan.chunks])
        parts = [checkpoint(self._encode_chunk, chunk, flat, use_reentrant=False) for chunk in plan.chunks]
        return torch.cat(parts)

    def _encode_chunk(self, chunk: _Chunk, flat: Tensor) -> Tensor:
        assert self.fast is not None
        x = chunk.base
        if len(chunk.slot_rows):
            x = x.index_add(0, chunk.slot_rows, flat.index_select(0, chunk.slot_source))
        return self.fast.forward(x, chunk.buckets).index_select(0, chunk.restore)

    def _encode_full(self, plan: PromptPlan, contexts: Tensor) -> Tensor:
        """open_clip's own `encode_text`, with the context vectors put where the token embedding would be."""
        prompts = plan.prompts
        ids = torch.as_tensor(self.tokenizer.pad_rows(prompts.ids), device=self.device)
        table = self._tower.token_embedding
        embedded = F.embedding(ids, table.weight)
        if prompts.n_context:
            source = _slot_source(prompts, len(plan.contexts_shape) == 2)
            rows = np.concatenate([slot + i * self.context_length for i, slot in enumerate(prompts.slots)])
            values = contexts.reshape(-1, self.width).index_select(0, _tensor(source, self.device))
            embedded = embedded.view(-1, self.width).index_copy(0, _tensor(rows, self.device), values)
        embedded = embedded.view(*ids.shape, self.width)
        handle = table.register_forward_hook(lambda *_: embedded)
        try:
            out = self.model.encode_text(ids)
        finally:
            handle.remove()
        embeddings: Tensor = out[0] if isinstance(out, tuple) else out
        return embeddings

    def _lay_out(self, prompts: PromptSet, shared: bool, share: bool) -> _Chunk:
        """Pack prompts by length, with the beginnings they have in common as parents."""
        assert self.fast is not None
        ids = prompts.ids
        lead, group = self._common_beginnings(prompts, shared) if share else (0, np.zeros(len(ids), np.int64))
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
                parent_rows = _tensor(group[members], self.device)
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
        base = self.fast.token_embedding[_tensor(tokens, self.device)]
        slot_rows, slot_source = _packed_slots(prompts, shared, where)
        base[_tensor(slot_rows, self.device)] = 0
        base = base + self.fast.positions[_tensor(places, self.device)]
        restore = np.argsort(np.concatenate(order), kind="stable")
        return _Chunk(
            base=base,
            slot_rows=_tensor(slot_rows, self.device),
            slot_source=_tensor(slot_source, self.device),
            buckets=tuple(buckets),
            restore=_tensor(restore, self.device),
        )

    def _common_beginnings(self, prompts: PromptSet, shared: bool) -> tuple[int, Int64Array]:
        """(tokens in common, group of each prompt): what `_lay_out` computes once per group."""
        everyone = np.zeros(len(prompts), np.int64)
        lead = len(self.tokenizer.lead)
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

    def _check_causal(self) -> None:
        tower = self._tower
        mask = getattr(tower, "attn_mask", None)
        if mask is None:
            raise UnsupportedTower("no causal mask")
        causal = torch.full_like(mask, float("-inf")).triu_(1)
        if not torch.equal(mask, causal):
            raise UnsupportedTower("an attention mask that isn't causal")
        if self.pool not in ("argmax", "eos"):
            raise UnsupportedTower(f"pooling {self.pool}")
        if len(self.tokenizer.tail) != 1:
            raise UnsupportedTower("a tokenizer without one end token")
        end = self.tokenizer.tail[0]
        if self.pool == "argmax" and end != tower.token_embedding.weight.shape[0] - 1:
            raise UnsupportedTower("an end token that isn't the highest")
        if self.pool == "eos" and end != getattr(tower, "text_eos_id", getattr(tower, "eos_id", None)):
            raise UnsupportedTower("an end token the tower doesn't pool at")

    def _bytes_per_token(self) -> int:
        """Activations autograd keeps per token: about 11 widths per block (inputs of norms and attention, MLP)."""
        assert self.fast is not None
        return 11 * self.width * len(self.fast.blocks) * self.dtype.itemsize


def _slot_source(prompts: PromptSet, shared: bool) -> Int64Array:
    """Rows of the flattened contexts, prompt by prompt, slot by slot."""
    within = np.tile(np.arange(prompts.n_context), len(prompts))
    if shared:
        return within
    return within + np.repeat(prompts.owner, prompts.n_context) * prompts.n_context


def _packed_slots(prompts: PromptSet, shared: bool, where: Int64Array) -> tuple[Int64Array, Int64Array]:
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


def _chunk_bounds(lengths: Sequence[int], budget: int) -> list[tuple[int, int]]:
    """Cut prompts into runs of at most `budget` tokens (at least one prompt each)."""
    bounds, start, used = [], 0, 0
    for index, length in enumerate(lengths):
        if index > start and used + length > budget:
            bounds.append((start, index))
            start, used = index, 0
        used += length
    bounds.append((start, len(lengths)))
    return bounds


def _tensor(array: Int64Array, device: torch.device) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(array), dtype=torch.long, device=device)

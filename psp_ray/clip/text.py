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

from psp_ray.clip.frozen import FrozenText, UnsupportedTower
from psp_ray.clip.packing import Chunk, chunk_bounds, pack, slot_source, to_index
from psp_ray.clip.tokens import PromptSet, PromptTokenizer, text_prompts
from psp_ray.core.errors import ModelError

_MIB = 1 << 20


@dataclass(frozen=True)
class PromptPlan:
    """How a set of prompts runs through a tower; made once per set by `TextTower.plan`."""

    prompts: PromptSet
    contexts_shape: tuple[int, ...]
    """(C, M, width) class-specific, (M, width) shared, (0, width) none."""
    chunks: tuple[Chunk, ...]
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
            check_causal(tower, self.pool, self.tokenizer)
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
        budget = max(1, int(memory_mib * _MIB / self.bytes_per_token()))
        chunks = []
        for start, stop in chunk_bounds([len(row) for row in prompts.ids], budget):
            part = prompts.select(start, stop)
            chunks.append(pack(self.fast, part, shared, len(self.tokenizer.lead) if path == "auto" else None))
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

    def _encode_chunk(self, chunk: Chunk, flat: Tensor) -> Tensor:
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
            source = slot_source(prompts, len(plan.contexts_shape) == 2)
            rows = np.concatenate([slot + i * self.context_length for i, slot in enumerate(prompts.slots)])
            values = contexts.reshape(-1, self.width).index_select(0, to_index(source, self.device))
            embedded = embedded.view(-1, self.width).index_copy(0, to_index(rows, self.device), values)
        embedded = embedded.view(*ids.shape, self.width)
        handle = table.register_forward_hook(lambda *_: embedded)
        try:
            out = self.model.encode_text(ids)
        finally:
            handle.remove()
        embeddings: Tensor = out[0] if isinstance(out, tuple) else out
        return embeddings

    def bytes_per_token(self) -> int:
        """Activations autograd keeps per token: about 11 widths per block (inputs of norms and attention, MLP)."""
        assert self.fast is not None
        return 11 * self.width * len(self.fast.blocks) * self.dtype.itemsize


def check_causal(tower: Any, pool: str, tokenizer: PromptTokenizer) -> None:
    """Raise UnsupportedTower where cutting a prompt behind its end token would change its embedding."""
    mask = getattr(tower, "attn_mask", None)
    if mask is None:
        raise UnsupportedTower("no causal mask")
    causal = torch.full_like(mask, float("-inf")).triu_(1)
    if not torch.equal(mask, causal):
        raise UnsupportedTower("an attention mask that isn't causal")
    if pool not in ("argmax", "eos"):
        raise UnsupportedTower(f"pooling {pool}")
    if len(tokenizer.tail) != 1:
        raise UnsupportedTower("a tokenizer without one end token")
    end = tokenizer.tail[0]
    if pool == "argmax" and end != tower.token_embedding.weight.shape[0] - 1:
        raise UnsupportedTower("an end token that isn't the highest")
    if pool == "eos" and end != getattr(tower, "text_eos_id", getattr(tower, "eos_id", None)):
        raise UnsupportedTower("an end token the tower doesn't pool at")

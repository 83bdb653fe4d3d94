"""The student's prompts: context vectors in, class embeddings out (CoOp, Zhou et al., IJCV 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from psp_ray.clip.text import TextTower
from psp_ray.clip.tokens import learned_prompts
from psp_ray.config.learn import LearnSettings
from psp_ray.core.errors import ConfigError
from psp_ray.data.descriptions import match_descriptions

_INIT_STD = 0.02


class Prompts:
    """Prompts of C classes with learned context vectors.

    With descriptions (PCB: Bang et al., CVPR 2024) a class has several prompts, one for each phrase, which share its
    context vectors (PCB's code gives each phrase vectors of its own). `AE` averages their embeddings before
    normalization; `AS` averages their similarities, which is the similarity to the mean of the unit embeddings, so its
    class embeddings are shorter than 1.

    Args:
        tower: the frozen text tower.
        class_names: (C,) names.
        settings: layout, initialization and description mode.
        descriptions: phrases by class name; needed for `AS` and `AE`.

    Raises:
        ConfigError: missing descriptions, or more initial words than context slots.
        ModelError: a class name too long for the tower.
    """

    def __init__(
        self,
        tower: TextTower,
        class_names: Sequence[str],
        settings: LearnSettings,
        descriptions: Mapping[str, Sequence[str]] | None = None,
    ):
        self.tower = tower
        self.mode = settings.descriptions
        phrases = None
        if self.mode != "none":
            if descriptions is None:
                raise ConfigError(f"descriptions {self.mode} needs a description file; give one or use none")
            phrases = match_descriptions(descriptions, class_names)
        prompts = learned_prompts(
            tower.tokenizer, class_names, settings.context_length, settings.class_token_position, phrases
        )
        shared = settings.context == "shared"
        self.plan = tower.plan(prompts, shared=shared, memory_mib=settings.memory_mib)
        self.n_classes = len(class_names)
        self.shape = self.plan.contexts_shape
        self._owner = torch.as_tensor(prompts.owner, device=tower.device)
        counts = torch.bincount(self._owner, minlength=self.n_classes)
        self._per_class = counts.to(tower.dtype)[:, None]
        self._words = self._initial_words(settings)

    def initial(self, generator: torch.Generator) -> Tensor:
        """Fresh context vectors of shape `shape`, drawn on the CPU so that every device starts alike."""
        draw = torch.randn(self.shape, generator=generator, dtype=torch.float32) * _INIT_STD
        contexts = draw.to(self.tower.device, self.tower.dtype)
        if self._words is not None:
            slots, words = self._words
            contexts[..., slots, :] = words
        return contexts

    def class_features(self, contexts: Tensor) -> Tensor:
        """Class embeddings (C, dim), unit length but under `AS`; differentiable in `contexts`."""
        embeddings = self.tower.encode(self.plan, contexts)
        if self.mode == "none":
            return F.normalize(embeddings, dim=-1)
        if self.mode == "AS":
            return self._class_mean(F.normalize(embeddings, dim=-1))
        return F.normalize(self._class_mean(embeddings), dim=-1)

    def _class_mean(self, rows: Tensor) -> Tensor:
        total = rows.new_zeros(self.n_classes, rows.shape[1]).index_add(0, self._owner, rows)
        return total / self._per_class

    def _initial_words(self, settings: LearnSettings) -> tuple[slice, Tensor] | None:
        if settings.context_init == "random":
            return None
        words = self.tower.embed_tokens(settings.context_init)
        count, length = len(words), settings.context_length
        if count > length:
            raise ConfigError(
                f"context_init {settings.context_init!r} has {count} tokens for context_length {length}; shorten it or "
                f"raise context_length"
            )
        # The words stand next to the class name: before it, or behind it where the name comes first.
        stop = {"end": length, "middle": max(count, length // 2), "front": count}[settings.class_token_position]
        return slice(stop - count, stop), words

"""Training phrases: names and glosses in many wordings, as token ids with a target each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip import SimpleTokenizer
from torch import Tensor

from .teacher import Teacher

TEMPLATES = [
    "{}",
    "{}.",
    "a {}",
    "the {}",
    "{}s",
    "a photo of a {}.",
    "a photo of {}.",
    "a photo of the {}.",
    "a photo of an {}.",
    "a picture of a {}",
    "a picture of {}",
    "an image of a {}.",
    "image of {}",
    "a close-up photo of a {}.",
    "a bright photo of the {}.",
    "a blurry photo of a {}.",
    "a low resolution photo of a {}.",
    "a small {}",
    "a photo of a small {}.",
    "a photo of a large {}.",
    "a photo of many {}s.",
    "some {}s",
    "a black and white photo of a {}.",
    "a cropped photo of the {}.",
    "a good photo of a {}.",
    "a drawing of a {}.",
    "a painting of a {}.",
    "a sketch of a {}.",
    "a toy {}.",
    "a satellite photo of {}.",
    "an aerial photo of {}.",
    "an aerial view of a {}",
    "a view of {}",
    "a photo of a {} from above.",
    "{} texture",
    "{} texture.",
    "a photo of {} texture",
    "a surface that looks like {}",
    "a photo of a {}, a type of object.",
    "a photo of a {}, a type of animal.",
    "a photo of a {}, a type of food.",
    "this is a photo of a {}.",
    "this is {}",
    "there is a {} in the scene.",
    "itap of a {}.",
    "my {}",
    "one {}",
    "a {} in the background",
    "a {} seen from the side",
    "the head of a {}",
    "{} on a white background",
    "an old {}",
]
PAIRS = [
    "{} and {}",
    "a {} and a {}",
    "{} {}",
    "a photo of a {} with a {}.",
    "a {} near a {}",
    "{}, {}",
    "a {} on a {}",
]
SOT, EOT = 49406, 49407


@dataclass
class Batch:
    """``ids`` (n, length) int64 from SOT to EOT, zeros behind; ``targets`` (n, d); ``context``: how many
    random vectors go between SOT and the phrase."""

    ids: Tensor
    targets: Tensor
    context: int


class Phrases:
    """Draws batches; every draw comes from ``generator``."""

    def __init__(
        self,
        teacher: Teacher,
        word_list: list[str],
        word_embeddings: Tensor,
        extra: list[tuple[str, Tensor]],
        class_names: list[str],
        rows: Tensor,
        held_out: set[int],
        generator: torch.Generator,
    ) -> None:
        tokenizer = SimpleTokenizer()
        self.encode = tokenizer.encode
        self.generator = generator
        names = teacher.names()
        for c, name in enumerate(class_names):
            if c not in held_out:
                key, first = name.lower(), names.get(name.lower())
                # a class name with a sense of its own gives way where another sense is more common
                names[key] = rows[c] if first is None or first @ rows[c] > 0.5 else F.normalize(first + rows[c], dim=0)
        weights = {}
        for name in names:
            n = len(self.encode(name))
            weights[name] = {1: 3.0, 2: 2.0, 3: 0.7}.get(n, 0.25)  # short names are the common ones
        for c, name in enumerate(class_names):
            if c not in held_out:
                weights[name.lower()] = 8.0
        unknown = [i for i, w in enumerate(word_list) if w not in names]
        predicted = teacher.words(word_list, word_embeddings, names)
        texts, targets, p = list(names), list(names.values()), [weights[n] for n in names]
        texts += [word_list[i] for i in unknown]
        targets += list(predicted[unknown])
        p += [0.7 if " " not in texts[-len(unknown) + i] else 0.5 for i in range(len(unknown))]
        self.extra = [(self._split(t), v) for t, v in extra]
        self.texts = texts
        self.tokens = [self.encode(t) for t in texts]
        self.targets = torch.stack(targets)
        self.p = torch.tensor(p)
        self.templates = [self._split(t) for t in TEMPLATES]
        self.pairs = [self._split(t) for t in PAIRS]
        self.gloss_tokens, self.gloss_targets = [], teacher.targets
        for s in teacher.ids:
            noun = teacher.nouns[s]
            self.gloss_tokens.append((self.encode(noun.lemmas[0]), self.encode(noun.gloss)))

    def _split(self, template: str) -> list[list[int]]:
        return [self.encode(part) for part in template.split("{}")]

    def _draw(self, high: int, n: int) -> list[int]:
        return torch.randint(high, (n,), generator=self.generator).tolist()

    def _names(self, n: int) -> list[int]:
        return torch.multinomial(self.p, n, replacement=True, generator=self.generator).tolist()

    def batch(self, size: int) -> Batch:
        """Names 80 %, two names at once 10 %, glosses 10 %; one batch in four carries random context."""
        u, with_context = torch.rand(2, generator=self.generator).tolist()
        context = self._draw(16, 1)[0] + 1 if with_context < 0.25 else 0
        if u < 0.80:
            plain = torch.rand(size, generator=self.generator).tolist()
            rows, targets = [], []
            for i, t, r in zip(self._names(size), self._draw(len(self.templates), size), plain, strict=True):
                before, after = self.templates[0 if r < 0.2 else t]
                rows.append(before + self.tokens[i] + after)
                targets.append(self.targets[i])
            n_extra = min(len(self.extra), size // 16)
            for i in self._draw(max(len(self.extra), 1), n_extra):
                rows.append(self.extra[i][0][0])
                targets.append(self.extra[i][1])
            return self._pack(rows, torch.stack(targets), context, 24)
        if u < 0.90:
            a, b = self._names(size), self._names(size)
            wordings = [self.pairs[k] for k in self._draw(len(self.pairs), size)]
            rows = [
                p[0] + self.tokens[i] + p[1] + self.tokens[j] + p[2] for i, j, p in zip(a, b, wordings, strict=True)
            ]
            return self._pack(rows, F.normalize(self.targets[a] + self.targets[b], dim=1), context, 24)
        half = size // 2
        picks, with_name = self._draw(len(self.gloss_tokens), half), self._draw(2, half)
        glosses = [self.gloss_tokens[i] for i in picks]
        rows = [(name if k else []) + gloss for (name, gloss), k in zip(glosses, with_name, strict=True)]
        return self._pack(rows, self.gloss_targets[picks], 0, 36)

    def _pack(self, rows: list[list[int]], targets: Tensor, context: int, limit: int) -> Batch:
        rows = [[SOT, *r[: limit - 2], EOT] for r in rows]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for i, r in enumerate(rows):
            ids[i, : len(r)] = torch.tensor(r)
        return Batch(ids, targets, context)

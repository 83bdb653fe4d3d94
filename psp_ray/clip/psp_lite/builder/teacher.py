"""What the text tower is taught: a point in image space for every noun of WordNet and every single word.

Image space is spanned by the 256 leading right singular vectors of the centered ImageNet classifier of
the image tower. The 1,000 rows of that classifier are the known points. All other points are predicted
by kernel ridge regression, in which two nouns are alike when their descriptions are (sentence encoder)
and when they share ancestors (WordNet).
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .sentence import SentenceEncoder, package_file
from .wordnet import VISIBLE, Synset, leaves_below, load_nouns, sense_ranks

# Chosen by five-fold cross-validation over the 1,000 class names (the share of held-out classifier rows
# whose nearest predicted row among 200 is their own class's).
TEXT_SHARPNESS, TREE_SHARPNESS, TREE_WEIGHT, RIDGE = 4.0, 5.0, 0.5, 0.1
# Set by hand.
WORD_SHARPNESS, WORD_RIDGE = 5.0, 0.3
INNER_RIDGE = 0.3  # an inner noun's mean over the classes below it is a less certain anchor
INNER_MAX = 400  # nouns with more ImageNet classes below them than this say too little to anchor anything

_STOP_TEXT = """
with from that this which used have having into some their them they than other often usually such when where
especially made over under between through while more most also being each only very many found within without
about during both several member genus family native these those after before upon either along your does
something someone same because were what like resembling called
"""
STOP = frozenset(_STOP_TEXT.split())  # words of glosses that name nothing


def imagenet_ids() -> list[str]:
    """WordNet ids of the 1,000 classes in the classifier's order (from timm)."""
    return package_file("timm", "data", "_info", "imagenet_synsets.txt").read_text().split()


def photographed_ids() -> set[str]:
    """WordNet ids of the 21,841 nouns of the full ImageNet tree (from timm)."""
    return set(package_file("timm", "data", "_info", "imagenet22k_synsets.txt").read_text().split())


def describe(s: Synset, nouns: dict[str, Synset]) -> str:
    """Words, three ancestors and the gloss of a noun in one line."""
    chain: list[str] = []
    at = s
    while at.parents and len(chain) < 3:
        at = nouns[at.parents[0]]
        chain.append(at.lemmas[0])
    return f"{', '.join(s.lemmas[:4])}, a kind of {', '.join(chain)}: {s.gloss}"


@dataclass
class Ridge:
    """Kernel ridge regression to unit vectors; ``solve`` once, then ``predict`` in chunks."""

    coef: Tensor  # (anchors, d) float64
    mean: Tensor  # (d,) float64

    @classmethod
    def solve(cls, kernel: Tensor, targets: Tensor, noise: Tensor) -> Ridge:
        mean = (targets / noise[:, None]).sum(0) / (1 / noise).sum()
        return cls(torch.linalg.solve(kernel + torch.diag(noise), targets - mean), mean)

    def predict(self, kernel: Tensor) -> Tensor:
        return F.normalize(kernel @ self.coef + self.mean, dim=1).float()


class Teacher:
    """Targets in image space.

    ``rows``: (1000, d) unit vectors, the projected classifier. ``held_out``: class positions of which
    nothing but the names may be used (to measure how well unknown names are placed).
    """

    def __init__(self, rows: Tensor, held_out: list[int] | None = None, cache: Path | None = None) -> None:
        self.nouns, self.ranks = load_nouns(), sense_ranks()
        self.encoder = SentenceEncoder(torch.bfloat16, cache)
        classes, photographed, hidden = imagenet_ids(), photographed_ids(), set(held_out or [])
        self.classes = classes
        self.ids = [
            s.id
            for s in self.nouns.values()
            if s.id in photographed
            or (s.lexfile in VISIBLE and s.lexfile not in (18, 20) and not s.lemmas[0][0].isupper())
        ]
        position = {s: i for i, s in enumerate(self.ids)}
        self.position = position
        text = self.encoder.encode([describe(self.nouns[i], self.nouns) for i in self.ids])

        anchors = {classes[c]: rows[c] for c in range(1000) if c not in hidden}
        noise = dict.fromkeys(anchors, RIDGE)
        for s, below in leaves_below(self.nouns, classes).items():
            known = [c for c in below if c not in hidden]
            if s not in anchors and s in position and len(known) >= 2 and len(below) <= INNER_MAX:
                anchors[s], noise[s] = F.normalize(rows[known].mean(0), dim=0), INNER_RIDGE
        at = torch.tensor([position[s] for s in anchors])
        y = torch.stack(list(anchors.values())).double()
        eps = torch.tensor(list(noise.values())).double()

        class_at = torch.tensor([position[c] for i, c in enumerate(classes) if i not in hidden])
        text = F.normalize(text - text[class_at].mean(0), dim=1).double()
        tree = self._tree_features([self.ids[i] for i in at])

        def kernel(i: Tensor, j: Tensor) -> Tensor:
            k = torch.exp(TEXT_SHARPNESS * (text[i] @ text[j].T - 1))
            return k + TREE_WEIGHT * torch.exp(TREE_SHARPNESS * (tree[i].double() @ tree[j].double().T - 1))

        ridge = Ridge.solve(kernel(at, at), y, eps)
        every = torch.arange(len(self.ids))
        self.targets = torch.cat([ridge.predict(kernel(i, at)) for i in every.split(4096)])  # (ids, d) float32
        leaves = torch.tensor([position[c] for c in classes])
        self.unseen = self._unseen(kernel(leaves, leaves), rows)
        self.exact = torch.zeros(len(self.ids), dtype=torch.bool)
        for s, v in anchors.items():
            if noise[s] == RIDGE:
                self.targets[position[s]], self.exact[position[s]] = v, True
            else:  # an inner noun: half its prediction, half the mean over the classes below it
                self.targets[position[s]] = F.normalize(self.targets[position[s]] + v, dim=0)

    @staticmethod
    def _unseen(kernel: Tensor, rows: Tensor, folds: int = 10) -> Tensor:
        """(1000, d) predictions of every class from the other nine tenths of the classes."""
        out = torch.empty_like(rows)
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
        for part in order.chunk(folds):
            rest = torch.ones(len(rows), dtype=torch.bool)
            rest[part] = False
            noise = torch.full((int(rest.sum()),), RIDGE).double()
            ridge = Ridge.solve(kernel[rest][:, rest], rows[rest].double(), noise)
            out[part] = ridge.predict(kernel[part][:, rest])
        return out

    def _tree_features(self, anchor_ids: list[str]) -> Tensor:
        """(ids, ancestors of anchors) unit rows: shared ancestors weighted by how specific they are."""
        up: dict[str, set[str]] = {}

        def ancestors(s: str) -> set[str]:
            if s not in up:
                up[s] = {s}.union(*(ancestors(p) for p in self.nouns[s].parents))
            return up[s]

        size = Counter(a for s in self.nouns for a in ancestors(s))
        weight = {a: math.log(len(self.nouns) / n) / math.log(len(self.nouns)) for a, n in size.items()}
        columns = {a: j for j, a in enumerate(sorted(set().union(*(ancestors(s) for s in anchor_ids))))}
        out = torch.zeros(len(self.ids), len(columns))
        for row, s in enumerate(self.ids):
            norm = math.sqrt(math.fsum(weight[a] ** 2 for a in ancestors(s))) or 1.0  # the same in any order
            for a in ancestors(s):
                if a in columns:
                    out[row, columns[a]] = weight[a] / norm
        return out

    def names(self) -> dict[str, Tensor]:
        """Target of every name: its visible meanings, the more frequent ones weighing more."""
        sums: dict[str, Tensor] = {}
        for i, s in enumerate(self.ids):
            for lemma in self.nouns[s].lemmas:
                name = lemma.lower()
                share = 1.0 / (1 + self.ranks.get((name, s), 9)) ** 2
                sums[name] = sums.get(name, 0) + share * (1.5 if self.exact[i] else 1.0) * self.targets[i]
        return {k: F.normalize(v, dim=0) for k, v in sums.items()}

    def words(self, words: list[str], embeddings: Tensor, names: dict[str, Tensor]) -> Tensor:
        """(n, d) targets of words and phrases that WordNet may not list as nouns, from ``embeddings`` (n, 384).

        Anchors are the targets in ``names`` of 4,000 names spread evenly over the known ones of ``words``.
        """
        every = [i for i, w in enumerate(words) if w in names]
        known = torch.tensor(every[:: max(1, len(every) // 4000)])
        x = F.normalize(embeddings - embeddings[known].mean(0), dim=1).double()
        y = torch.stack([names[words[i]] for i in known]).double()
        k = torch.exp(WORD_SHARPNESS * (x[known] @ x[known].T - 1))
        ridge = Ridge.solve(k, y, torch.full((len(known),), WORD_RIDGE).double())
        out = [ridge.predict(torch.exp(WORD_SHARPNESS * (c @ x[known].T - 1))) for c in x.split(4096)]
        return torch.cat(out)

    def compounds(self, limit: int = 20000) -> list[str]:
        """Two-word phrases of the glosses of visible nouns, the most frequent first."""
        counts: Counter[str] = Counter()
        for s in self.ids:
            words = re.findall(r"[a-z]+", self.nouns[s].gloss.lower())
            pairs = (p for p in itertools.pairwise(words) if min(map(len, p)) > 3 and STOP.isdisjoint(p))
            counts.update(" ".join(p) for p in pairs)
        return [w for w, _ in counts.most_common(limit)]

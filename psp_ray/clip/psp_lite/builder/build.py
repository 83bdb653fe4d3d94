"""Rebuild the asset from packages: ``python -m psp_ray.clip.psp_lite.builder.build --out DIR [--steps N]``.

Needs the extra ``psp-lite`` of this package and Debian's ``wordnet-base``. Every draw is seeded. With
``--hold-out`` every tenth ImageNet class is kept from the teacher and the result is only measured, not
written: how many held-out classifier rows find their own class's name.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from safetensors.torch import save_file
from torch import Tensor

from .calibrate import calibrated_scale
from .glyphs import glyph_phrases
from .image import fold_normalization, image_space, trunk_state
from .phrases import EOT, Batch, Phrases
from .teacher import Teacher

NAME = "psp-lite"
ASSET = Path(__file__).parents[1]
CONFIG = ASSET / f"{NAME}.json"
DIM = 256
CONTEXT_STD = 0.02  # of the random context vectors, as prompt learners draw them
TEMPERATURE = 0.08


def token_strings() -> list[str]:
    """Text of each of the 49,408 byte-pair tokens, word ends stripped."""
    tokenizer = open_clip.SimpleTokenizer()
    texts = []
    for i in range(tokenizer.vocab_size):
        raw = bytes(tokenizer.byte_decoder.get(c, 32) for c in tokenizer.decoder[i].removesuffix("</w>"))
        texts.append(raw.decode("utf-8", errors="replace"))
    return texts


def whole_words() -> list[tuple[int, str]]:
    """Tokens that are whole words of three or more plain letters."""
    decoder = open_clip.SimpleTokenizer().decoder
    words = ((i, t.removesuffix("</w>")) for i, t in sorted(decoder.items()) if t.endswith("</w>"))
    return [(i, w) for i, w in words if len(w) > 2 and w.isascii() and w.isalpha()]


def start_embedding(model: Any, embeddings: Tensor) -> None:
    """Token vectors start as the main axes of the tokens' sentence embeddings, so unseen words start near
    their relatives."""
    centered = embeddings - embeddings.mean(0)
    axes = torch.linalg.eigh((centered.T @ centered).double())[1].flip(1)[:, : model.token_embedding.embedding_dim]
    x = centered @ axes.float()
    with torch.no_grad():
        model.token_embedding.weight.copy_(0.05 * x / x.std())


def encode(model: Any, batch: Batch, generator: torch.Generator) -> Tensor:
    """``(n, DIM)`` outputs at the end-of-text token, with ``batch.context`` random vectors after SOT."""
    x = F.embedding(batch.ids, model.token_embedding.weight, sparse=True)
    end = (batch.ids == EOT).int().argmax(1)
    if batch.context:
        noise = torch.randn(len(x), batch.context, x.shape[-1], generator=generator) * CONTEXT_STD
        x, end = torch.cat([x[:, :1], noise, x[:, 1:]], 1), end + batch.context
    n = x.shape[1]
    x = x + model.positional_embedding[:n]
    with torch.autocast("cpu", torch.bfloat16):
        x = model.transformer(x, attn_mask=model.attn_mask[:n, :n])
    x = model.ln_final(x.float()[torch.arange(len(x)), end])
    embeddings: Tensor = x @ model.text_projection
    return embeddings


def loss_of(out: Tensor, targets: Tensor, columns: Tensor) -> Tensor:
    """Distance to the targets, plus disagreement about which classifier rows are near."""
    out = F.normalize(out, dim=1)
    wanted = (targets @ columns.T / TEMPERATURE).softmax(1)
    found = (out @ columns.T / TEMPERATURE).log_softmax(1)
    return (1 - (out * targets).sum(1)).mean() + 0.2 * F.kl_div(found, wanted, reduction="batchmean")


def train(
    model: Any,
    phrases: Phrases,
    rows: Tensor,
    steps: int,
    size: int,
    generator: torch.Generator,
    partial: Path,
) -> None:
    """One-cycle training of the text tower; token vectors are updated only where they occur.

    Every 100 steps the weights so far go to ``partial``.
    """
    trunk = [
        p
        for n, p in model.named_parameters()
        if not n.startswith("visual") and n not in ("token_embedding.weight", "logit_scale")
    ]
    decayed, plain = [p for p in trunk if p.ndim > 1], [p for p in trunk if p.ndim < 2]
    opt = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}],
        lr=1.5e-3,
        betas=(0.9, 0.98),
    )
    sparse = torch.optim.SparseAdam([model.token_embedding.weight], lr=2.5e-3, betas=(0.9, 0.98))
    both, peak = [*opt.param_groups, *sparse.param_groups], [1.5e-3, 1.5e-3, 2.5e-3]
    began, mean = time.time(), 0.0
    for step in range(steps):
        done = step / steps
        rate = min(1.0, (step + 1) / 60) * max(0.01, 1 - done) ** 0.9
        for group, top in zip(both, peak, strict=True):
            group["lr"] = top * rate
        batch = phrases.batch(size)
        loss = loss_of(encode(model, batch, generator), batch.targets, rows)
        opt.zero_grad()
        sparse.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trunk, 1.0)
        opt.step()
        sparse.step()
        mean = loss.item() if step == 0 else 0.98 * mean + 0.02 * loss.item()
        if step % 50 == 0:
            print(f"step {step} loss {mean:.4f} {time.time() - began:.0f} s", flush=True)
        if step % 100 == 99:
            export(model, partial)


def held_out_accuracy(model: Any, rows: Tensor, names: list[str], held_out: list[int]) -> float:
    """Share of held-out classifier rows nearest to their own name among the held-out names."""
    ids = open_clip.get_tokenizer(NAME)([f"a photo of a {names[c]}." for c in held_out])
    with torch.inference_mode():
        text = F.normalize(model.encode_text(ids), dim=1)
    return (rows[held_out] @ text.T).argmax(1).eq(torch.arange(len(held_out))).float().mean().item()


def export(model: Any, path: Path) -> None:
    """float16 safetensors (vectors stay float32), with the preprocessing in the header."""
    state = {
        k: (v.half() if v.is_floating_point() and v.ndim > 1 else v).contiguous() for k, v in model.state_dict().items()
    }
    preprocessing = {
        "mean": list(OPENAI_DATASET_MEAN),
        "std": list(OPENAI_DATASET_STD),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, metadata={"format": "pt", "preprocess_cfg": json.dumps(preprocessing)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build-psp-lite"), help="folder for the safetensors file")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=384)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, help="folder that keeps the teacher's sentence embeddings for a next run")
    parser.add_argument("--hold-out", action="store_true", help="measure on held-out class names; write nothing")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)

    open_clip.add_model_config(CONFIG)
    model = open_clip.create_model(NAME)
    state = trunk_state()
    projection, rows = image_space(state["classifier.weight"], DIM)
    classifier = {k: state.pop(f"classifier.{k}") for k in ("weight", "bias")}
    fold_normalization(state)
    model.visual.trunk.load_state_dict(state)
    model.visual.head.proj.weight.data.copy_(projection)
    model.eval()

    names = list(open_clip.IMAGENET_CLASSNAMES)
    held_out = list(range(5, 1000, 10)) if args.hold_out else []
    teacher = Teacher(rows, held_out, args.cache)
    print(f"teacher: {len(teacher.ids)} nouns", flush=True)
    scale = calibrated_scale(model.visual, classifier, teacher.unseen)
    model.logit_scale.data.fill_(scale).log_()
    print(f"logit scale {scale:.1f}", flush=True)
    embeddings = teacher.encoder.encode(token_strings())
    start_embedding(model, embeddings)
    words, compounds = whole_words(), teacher.compounds()
    known = torch.cat([embeddings[[i for i, _ in words]], teacher.encoder.encode(compounds)])
    phrases = Phrases(
        teacher,
        [w for _, w in words] + compounds,
        known,
        glyph_phrases(model.visual),
        names,
        rows,
        set(held_out),
        generator,
    )
    print(f"phrases: {len(phrases.texts)} names, {len(phrases.gloss_tokens)} glosses", flush=True)
    train(model, phrases, rows, args.steps, args.batch, generator, args.out / "partial.safetensors")
    if args.hold_out:
        print(f"held-out names found: {100 * held_out_accuracy(model, rows, names, held_out):.1f} %")
        return
    export(model, args.out / f"{NAME}.safetensors")


if __name__ == "__main__":
    main()

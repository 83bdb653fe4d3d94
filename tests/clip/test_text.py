"""The fast text path against open_clip's own, in values and gradients."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F

from psp_ray.clip.text import TextTower
from psp_ray.clip.tokens import learned_prompts
from psp_ray.clip.zero_shot import zero_shot_text
from psp_ray.core.errors import ConfigError, ModelError
from tests.tiny_clip import FAST, VARIANTS

NAMES = ["cat", "annual crop land", "Boeing_707-320", "dog", "hard-leaved pocket orchid", "ox"]
TEXTS = [f"a photo of a {name}." for name in ("cat", "very large brown bear", "Boeing 707", "x" * 40)]


def make_tower(make_model, variant, dtype=torch.float64):
    return TextTower(make_model(variant).to(dtype), open_clip.SimpleTokenizer())


@pytest.mark.parametrize("variant", VARIANTS)
def test_hand_written_prompts_equal_encode_text(make_model, variant):
    model = make_model(variant)
    tower = TextTower(model, open_clip.SimpleTokenizer())
    expected = model.encode_text(open_clip.tokenize(TEXTS), normalize=True)
    assert (tower.encode_texts(TEXTS) * expected).sum(-1).min() > 1 - 1e-5
    assert torch.allclose(tower.encode_texts(TEXTS, batch=3), expected, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_fast_where_known_and_full_elsewhere(make_model, variant):
    tower = make_tower(make_model, variant)
    assert (tower.path == "fast") == (variant in FAST)
    assert (tower.full_reason == "") == (variant in FAST)


def run(tower, prompts, shared, path, memory_mib=2048):
    plan = tower.plan(prompts, shared=shared, path=path, memory_mib=memory_mib)
    generator = torch.Generator().manual_seed(3)
    contexts = torch.randn(plan.contexts_shape, generator=generator, dtype=torch.float64).requires_grad_()
    out = tower.encode(plan, contexts)
    weights = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    (F.normalize(out, dim=-1) * weights).sum().backward()
    return out.detach(), contexts.grad, plan


@pytest.mark.parametrize("shared", [False, True], ids=["class", "shared"])
@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("described", [False, True], ids=["plain", "described"])
@pytest.mark.parametrize("variant", ["flat-quickgelu", "custom-scale"])
def test_paths_agree_in_values_and_gradients(make_model, variant, position, shared, described):
    tower = make_tower(make_model, variant)
    descriptions = [
        ["four legs", "a tail that is long"],
        ["green"],
        ["wings"] * 3,
        ["fur"],
        ["petals"],
        ["horns"],
    ]
    prompts = learned_prompts(tower.tokenizer, NAMES, 5, position, descriptions if described else None)
    expected, gradient, plan = run(tower, prompts, shared, "full")
    assert not plan.chunks
    for path in ("auto", "cut"):
        out, grad, plan = run(tower, prompts, shared, path)
        assert len(plan.chunks) == 1
        assert (out - expected).abs().max() < 1e-9
        assert (grad - gradient).abs().max() < 1e-9


@pytest.mark.parametrize("variant", FAST)
def test_every_known_tower_agrees_with_open_clip(make_model, variant):
    tower = make_tower(make_model, variant)
    prompts = learned_prompts(tower.tokenizer, NAMES, 4)
    for shared in (False, True):
        expected, gradient, _ = run(tower, prompts, shared, "full")
        out, grad, _ = run(tower, prompts, shared, "auto")
        assert (out - expected).abs().max() < 1e-9
        assert (grad - gradient).abs().max() < 1e-9


@pytest.mark.parametrize("variant", ["no-causal", "last", "blocks"])
def test_other_towers_learn_at_full_length(make_model, variant):
    tower = make_tower(make_model, variant)
    prompts = learned_prompts(tower.tokenizer, NAMES, 4)
    _, gradient, plan = run(tower, prompts, False, "auto")
    assert not plan.chunks
    assert gradient.abs().sum(-1).min() > 0


def test_full_path_is_open_clip_at_the_words_own_embeddings(make_model):
    """Contexts equal to the embeddings of words give what encode_text gives for those words."""
    model = make_model("flat")
    tower = TextTower(model, open_clip.SimpleTokenizer())
    prompts = learned_prompts(tower.tokenizer, NAMES, 4)
    words = tower.embed_tokens("a photo of a")
    assert words.shape == (4, 32)
    texts = [f"a photo of a {name.replace('_', ' ')}." for name in NAMES]
    expected = model.encode_text(open_clip.tokenize(texts), normalize=True)
    for path in ("full", "auto"):
        for shared in (True, False):
            plan = tower.plan(prompts, shared=shared, path=path)
            contexts = words if shared else words.expand(len(NAMES), -1, -1)
            assert torch.allclose(F.normalize(tower.encode(plan, contexts), dim=-1), expected, atol=1e-5)


@pytest.mark.parametrize("shared", [False, True], ids=["class", "shared"])
def test_chunks_change_nothing(make_model, shared):
    tower = make_tower(make_model, "flat")
    prompts = learned_prompts(tower.tokenizer, NAMES * 3, 5)
    expected, gradient, whole = run(tower, prompts, shared, "auto")
    tower.bytes_per_token = lambda: 1 << 14  # 1 MiB holds 64 tokens
    out, grad, plan = run(tower, prompts, shared, "auto", memory_mib=1)
    assert len(whole.chunks) == 1
    assert len(plan.chunks) > 3
    assert (out - expected).abs().max() < 1e-12
    assert (grad - gradient).abs().max() < 1e-12
    with torch.no_grad():
        assert torch.equal(
            tower.encode(plan, torch.zeros(plan.contexts_shape, dtype=torch.float64)).isnan().any(),
            torch.tensor(False),
        )


def test_shared_contexts_compute_their_beginning_once(make_model):
    tower = make_tower(make_model, "flat")
    prompts = learned_prompts(tower.tokenizer, NAMES, 16)
    rows = {
        (shared, path): len(tower.plan(prompts, shared=shared, path=path).chunks[0].base)
        for shared in (False, True)
        for path in ("auto", "cut")
    }
    total = sum(len(row) for row in prompts.ids)
    assert rows[False, "cut"] == rows[True, "cut"] == total
    assert rows[False, "auto"] == total - (len(NAMES) - 1)
    assert rows[True, "auto"] == total - (len(NAMES) - 1) * 17


def test_contexts_of_another_shape_are_refused(make_model):
    tower = make_tower(make_model, "flat")
    plan = tower.plan(learned_prompts(tower.tokenizer, NAMES, 4), shared=False)
    with pytest.raises(ValueError, match="shape"):
        tower.encode(plan, torch.zeros(4, 32, dtype=torch.float64))
    with pytest.raises(ValueError, match="path"):
        tower.plan(plan.prompts, shared=False, path="quick")


def test_changed_attention_mask_goes_the_full_way(make_model):
    model = make_model("flat")
    model.attn_mask = model.attn_mask.clone()
    model.attn_mask[0, 5] = 0.0
    tower = TextTower(model, open_clip.SimpleTokenizer())
    assert tower.fast is None
    assert "mask" in tower.full_reason
    assert torch.allclose(tower.encode_texts(TEXTS), model.encode_text(open_clip.tokenize(TEXTS), normalize=True))


def test_class_embedding_and_unknown_pooling_are_refused(make_model):
    model = make_model("custom")
    model.text.cls_emb = torch.nn.Parameter(torch.zeros(32))
    with pytest.raises(ModelError, match="class embedding"):
        TextTower(model, open_clip.SimpleTokenizer())
    model = make_model("custom")
    model.text.pool_type = "none"
    with pytest.raises(ModelError, match="pools by 'none'"):
        TextTower(model, open_clip.SimpleTokenizer())


def test_zero_shot_averages_templates(make_model):
    model = make_model("flat")
    tower = TextTower(model, open_clip.SimpleTokenizer())
    templates = ["a photo of a {}.", "a drawing of the {}."]
    state = zero_shot_text(tower, NAMES, templates)
    both = []
    for template in templates:
        texts = [template.format(name.replace("_", " ")) for name in NAMES]
        both.append(model.encode_text(open_clip.tokenize(texts), normalize=True))
    expected = F.normalize(torch.stack(both).mean(0), dim=-1).numpy()
    np.testing.assert_allclose(state.features, expected, atol=1e-5)
    assert state.features.dtype == np.float32
    assert state.logit_scale == pytest.approx(float(model.logit_scale.exp()))
    with pytest.raises(ConfigError, match="templates is empty"):
        zero_shot_text(tower, NAMES, [])
    with pytest.raises(ConfigError, match="exactly one"):
        zero_shot_text(tower, NAMES, ["a photo"])
    with pytest.raises(ModelError, match="the model reads 77"):
        zero_shot_text(tower, ["word " * 90])

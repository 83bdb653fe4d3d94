"""Prompt layouts against open_clip's tokenizer."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from psp_ray.clip.tokens import PromptTokenizer, learned_prompts, text_prompts
from psp_ray.core.errors import ConfigError, ModelError

TOKENIZER = PromptTokenizer(open_clip.SimpleTokenizer(), 77)


def test_special_tokens_are_found():
    assert TOKENIZER.lead == [49406]
    assert TOKENIZER.tail == [49407]
    assert TOKENIZER.pad == 0


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30))
def test_texts_equal_open_clips_rows(text):
    prompts = text_prompts(TOKENIZER, [text])
    assert np.array_equal(TOKENIZER.pad_rows(prompts.ids), open_clip.tokenize([text]).numpy())


@settings(max_examples=50, deadline=None)
@given(st.text("abcdef '-_019", min_size=1, max_size=20).filter(lambda s: s.replace("_", " ").strip()))
def test_end_layout_equals_coops_text(name):
    """CoOp tokenizes `X X X X name.` and replaces the X."""
    prompts = learned_prompts(TOKENIZER, [name], 4)
    clean = " ".join(name.replace("_", " ").split())
    expected = open_clip.tokenize([f"x x x x {clean}."]).numpy()
    assert np.array_equal(TOKENIZER.pad_rows(prompts.ids), expected)
    assert prompts.slots[0].tolist() == [1, 2, 3, 4]


def test_middle_and_front():
    name, dot = TOKENIZER.encode("polar bear"), TOKENIZER.encode(".")
    x = [TOKENIZER.placeholder]
    middle = learned_prompts(TOKENIZER, ["polar bear"], 5, "middle")
    assert middle.ids[0].tolist() == [49406, *x * 2, *name, *x * 3, *dot, 49407]
    assert middle.slots[0].tolist() == [1, 2, 5, 6, 7]
    front = learned_prompts(TOKENIZER, ["polar bear"], 5, "front")
    assert front.ids[0].tolist() == [49406, *name, *x * 5, *dot, 49407]
    assert front.slots[0].tolist() == [3, 4, 5, 6, 7]


def test_descriptions_give_a_prompt_each():
    prompts = learned_prompts(TOKENIZER, ["cat", "dog"], 2, descriptions=[["fur", "a tail"], ["a nose"]])
    assert prompts.owner.tolist() == [0, 0, 1]
    assert prompts.n_classes == 2
    expected = open_clip.tokenize(["x x cat, which is/has a tail."]).numpy()
    assert np.array_equal(TOKENIZER.pad_rows([prompts.ids[1]]), expected)


def test_names_ending_in_punctuation_keep_their_full_stop():
    name, dot = TOKENIZER.encode("wow!"), TOKENIZER.encode(".")
    assert TOKENIZER.encode("wow!.") != [*name, *dot]
    x = [TOKENIZER.placeholder]
    front = learned_prompts(TOKENIZER, ["wow!"], 2, "front")
    assert front.ids[0].tolist() == [49406, *name, *x * 2, *dot, 49407]
    end = learned_prompts(TOKENIZER, ["wow!"], 2)
    assert np.array_equal(TOKENIZER.pad_rows(end.ids), open_clip.tokenize(["x x wow!."]).numpy())


def test_errors_name_the_class_and_the_setting():
    with pytest.raises(ModelError, match="class 'word word"):
        learned_prompts(TOKENIZER, ["cat", "word " * 70], 16)
    with pytest.raises(ModelError, match="empty name"):
        learned_prompts(TOKENIZER, ["cat", "_"], 16)
    with pytest.raises(ConfigError, match="class_token_position"):
        learned_prompts(TOKENIZER, ["cat"], 16, "behind")
    with pytest.raises(ConfigError, match="context_length 0"):
        learned_prompts(TOKENIZER, ["cat"], 0)


class Sentences:
    """A tokenizer of another family: no start token, its end token also pads."""

    def __call__(self, texts, context_length=8):
        rows = torch.ones(len(texts), context_length, dtype=torch.long)
        for row, text in zip(rows, texts, strict=True):
            words = torch.tensor([2 + len(word) for word in text.split()][:context_length], dtype=torch.long)
            row[: len(words)] = words
        return rows


def test_other_tokenizers_are_read_from_their_rows():
    tokenizer = PromptTokenizer(Sentences(), 8)
    assert tokenizer.lead == []
    assert tokenizer.tail == []
    assert tokenizer.pad == 1
    assert tokenizer.encode("ab c") == [4, 3]
    prompts = learned_prompts(tokenizer, ["abcd"], 3)
    assert prompts.slots[0].tolist() == [0, 1, 2]
    with pytest.raises(ModelError, match="fills all 8 tokens"):
        tokenizer.encode("a " * 9)

"""The bundled model through open_clip alone: loads offline, sees at several sizes, reads, fits its size."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from psp_ray.clip.psp_lite.builder import evaluate

ASSET = Path(evaluate.__file__).parents[1] / "psp-lite.safetensors"
DATA = Path(__file__).parents[2].parent / "shared" / "datasets"
needs_caltech = pytest.mark.skipif(
    not (DATA / "caltech-101" / "split_zhou_Caltech101.json").is_file(), reason="no Caltech-101 in ../shared/datasets"
)


@pytest.fixture(scope="module")
def loaded():
    """Model, transform, tokenizer at the default size."""
    return evaluate.load()


def test_size_and_header():
    assert ASSET.stat().st_size <= 40e6
    with ASSET.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    preprocessing = json.loads(header["__metadata__"]["preprocess_cfg"])
    assert preprocessing["interpolation"] == "bicubic"
    assert len(preprocessing["mean"]) == 3


def test_loads_without_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def refuse(*_args, **_kwargs):
        raise AssertionError("the bundled model reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    model, _, tokenizer = evaluate.load()
    assert torch.isfinite(model.encode_text(tokenizer(["a cat"]))).all()


@pytest.mark.parametrize("size", [64, 96, 128, 224, 288])
def test_image_sizes(size):
    model, transform, _ = evaluate.load(size)
    image = evaluate.digits()[0][0]
    x = transform(image)
    assert x.shape == (3, size, size)
    out = model.encode_image(x[None])
    assert out.shape == (1, 256)
    assert torch.isfinite(out).all()


def test_default_transform_matches_header(loaded):
    with ASSET.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    preprocessing = json.loads(header["__metadata__"]["preprocess_cfg"])
    normalize = loaded[1].transforms[-1]
    assert list(normalize.mean) == preprocessing["mean"]
    assert list(normalize.std) == preprocessing["std"]


def test_text_tower_reads(loaded):
    model, _, tokenizer = loaded
    names = ["dog", "cat", "airplane", "forest", "pizza"]
    plain = evaluate.encode_names(model, tokenizer, names, "{}")
    photo = evaluate.encode_names(model, tokenizer, names, "a photo of a {}.")
    same = plain @ photo.T
    assert torch.isfinite(same).all()
    assert same.argmax(1).tolist() == list(range(len(names)))
    assert same.diagonal().min() > 0.8
    assert same.fill_diagonal_(0).max() < 0.9


def test_tokens_behind_the_end_change_nothing(loaded):
    model, _, tokenizer = loaded
    ids = tokenizer(["a photo of a dog."])
    other = ids.clone()
    other[0, int(ids.argmax(1)) + 1 :] = 7
    torch.testing.assert_close(model.encode_text(ids), model.encode_text(other))


def test_random_context_keeps_the_name(loaded):
    model, _, tokenizer = loaded
    names = ["dog", "airplane", "forest", "pizza", "piano", "sunflower"]
    x = torch.zeros(1, 256)
    with_context, _ = evaluate.learn_prompts(model, tokenizer, names, x, torch.zeros(1).long(), steps=1, rate=0.0)
    plain = evaluate.encode_names(model, tokenizer, names, "{}.")
    assert (with_context @ plain.T).argmax(1).tolist() == list(range(len(names)))


def test_prompts_reach_anywhere(loaded):
    """Context vectors alone must take ten names to ten arbitrary class directions of image space."""
    model, _, tokenizer = loaded
    names = ["dog", "cat", "car", "house", "tree", "boat", "apple", "chair", "bird", "shoe"]
    generator = torch.Generator().manual_seed(0)
    x = F.normalize(torch.randn(10, 256, generator=generator), dim=1)
    text, _ = evaluate.learn_prompts(model, tokenizer, names, x, torch.arange(10), steps=100)
    assert evaluate.accuracy(x @ text.T, torch.arange(10)) == 100


@pytest.mark.slow
def test_zero_shot_digits_above_chance():
    model, transform, tokenizer = evaluate.load(96)
    images, labels, names = evaluate.digits()
    x = evaluate.encode_images(model, transform, images)
    text = evaluate.encode_names(model, tokenizer, names, evaluate.DIGIT_TEMPLATE)
    assert evaluate.accuracy(x @ text.T, labels) > 15


@pytest.mark.slow
@needs_caltech
def test_zero_shot_caltech(loaded):
    model, transform, tokenizer = loaded
    paths, labels, names = evaluate.coop_split(DATA, "caltech-101", "test")
    x = evaluate.encode_images(model, transform, paths)
    assert evaluate.accuracy(x @ evaluate.encode_names(model, tokenizer, names, "a photo of a {}.").T, labels) >= 55


def test_modules_stand_alone():
    """The evaluation and the builder import without the builder's packages."""
    code = "import psp_ray.clip.psp_lite.builder.evaluate, psp_ray.clip.psp_lite.builder.build"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)

"""Loading: names, files, towers, preprocessing; every refusal in one line."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from psp_ray.clip import Backbone, BackboneSpec, backbone_hash, load_backbone
from psp_ray.clip.backbone import choose_device, choose_precision
from psp_ray.clip.image import ImageTower
from psp_ray.clip.preprocess import Preprocessing
from psp_ray.clip.spec import refuse_text_tower, resolve
from psp_ray.clip.weights import file_hash, read_checkpoint
from psp_ray.core.errors import ModelError


def one_line(info) -> str:
    text = str(info.value)
    assert "\n" not in text
    return text


def spec(path, model="tiny-flat", **more):
    return BackboneSpec(model=model, checkpoint=str(path), device="cpu", **more)


def test_both_towers_equal_open_clip(checkpoint):
    model, path = checkpoint
    backbone = load_backbone(spec(path))
    assert isinstance(backbone, Backbone)
    texts = ["a photo of a cat.", "a dog"]
    expected = model.encode_text(open_clip.tokenize(texts), normalize=True)
    assert torch.allclose(backbone.text.encode_texts(texts), expected, atol=1e-5)

    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    mean = torch.tensor(backbone.preprocessing.mean).view(3, 1, 1)
    std = torch.tensor(backbone.preprocessing.std).view(3, 1, 1)
    prepared = (images / 255 - mean) / std
    expected = model.encode_image(prepared, normalize=True)
    features = backbone.image.encode(images)
    assert features.dtype == torch.float32
    assert features.shape == (3, 24)
    assert torch.allclose(features, expected, atol=1e-5)
    assert torch.allclose(backbone.image.encode(images.numpy()), expected, atol=1e-5)
    assert torch.allclose(backbone.image.encode(images / 255), expected, atol=1e-5)
    assert torch.allclose(backbone.image.encode(prepared, normalized=True), expected, atol=1e-5)
    assert backbone.dim == 24
    assert backbone.logit_scale == pytest.approx(float(model.logit_scale.exp()))


def test_one_tower_leaves_the_other_out(checkpoint):
    _, path = checkpoint
    text = load_backbone(spec(path), towers="text")
    assert text.image is None
    assert text.text.model.visual is None
    image = load_backbone(spec(path), towers="image")
    assert image.text is None
    assert text.weights_hash == image.weights_hash == backbone_hash(spec(path))
    with pytest.raises(ValueError, match="towers"):
        load_backbone(spec(path), towers="none")


@pytest.mark.parametrize("suffix", [".pt", ".bin"])
def test_state_dicts_and_their_wrappers(checkpoint, tmp_path, suffix):
    model, _ = checkpoint
    state = model.state_dict()
    for name, content in {
        "plain": state,
        "wrapped": {"state_dict": state, "epoch": 3},
        "parallel": {f"module.{key}": value for key, value in state.items()},
        "openai": state | {"input_resolution": torch.tensor(32), "vocab_size": torch.tensor(49408)},
    }.items():
        path = tmp_path / f"{name}{suffix}"
        torch.save(content, path)
        loaded = read_checkpoint(path)
        assert loaded.keys() == state.keys()
        backbone = load_backbone(spec(path), towers="text")
        assert torch.equal(backbone.text.fast.positions, model.positional_embedding)


def test_flat_weights_fit_a_custom_text_model(checkpoint):
    model, path = checkpoint
    backbone = load_backbone(spec(path, "tiny-custom"), towers="text")
    expected = model.encode_text(open_clip.tokenize(["a cat"]), normalize=True)
    assert torch.allclose(backbone.text.encode_texts(["a cat"]), expected, atol=1e-5)


def test_jit_archives_are_refused_with_the_remedy(tmp_path):
    path = tmp_path / "jit.pt"
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(path))
    with pytest.raises(ModelError) as info:
        read_checkpoint(path)
    assert "JIT" in one_line(info)
    assert "state_dict()" in one_line(info)


def test_unusable_checkpoints(checkpoint, tmp_path):
    model, _ = checkpoint
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ModelError) as info:
        load_backbone(spec(tmp_path / "absent.pt"))
    assert "absent.pt does not exist" in one_line(info)

    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "broken.safetensors").write_bytes(b"\x08" + bytes(20))
    torch.save(model, tmp_path / "pickled.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"a": 1}, tmp_path / "numbers.pt")
    for name, reason in {
        "text.pt": "neither safetensors nor a PyTorch state dict",
        "broken.safetensors": "neither safetensors nor a PyTorch state dict",
        "pickled.pt": "more than tensors",
        "list.pt": "a list, not a state dict",
        "numbers.pt": "no state dict of tensors",
    }.items():
        with pytest.raises(ModelError, match=reason) as info:
            load_backbone(spec(tmp_path / name))
        assert name in one_line(info)

    state["text_projection"] = torch.zeros(32, 7)
    save_file(state, tmp_path / "shape.safetensors")
    with pytest.raises(ModelError, match=r"don't fit --model tiny-flat.*text_projection") as info:
        load_backbone(spec(tmp_path / "shape.safetensors"))
    one_line(info)
    del state["text_projection"]
    save_file(state, tmp_path / "missing.safetensors")
    with pytest.raises(ModelError, match="text_projection") as info:
        load_backbone(spec(tmp_path / "missing.safetensors"))
    one_line(info)


def test_unknown_names_give_the_nearest(checkpoint):
    _, path = checkpoint
    for model, nearest in {
        "ViT-B-23": "ViT-B-32",
        "tiny-flap": "tiny-flat",
        "ViT-B-32-quickgelu/open": "openai",
    }.items():
        with pytest.raises(ModelError, match=nearest) as info:
            load_backbone(spec(path, model))
        one_line(info)


def test_weights_and_activation_must_be_named(configs):
    with pytest.raises(ModelError, match=r"ViT-B-32-quickgelu/openai.*--checkpoint") as info:
        resolve(BackboneSpec("ViT-B-32-quickgelu"))
    one_line(info)
    with pytest.raises(ModelError, match="use --model ViT-B-32-quickgelu/openai"):
        resolve(BackboneSpec("ViT-B-32/openai"))
    with pytest.raises(ModelError, match="tiny-flat names no weights; use --checkpoint"):
        resolve(BackboneSpec("tiny-flat"))
    with pytest.raises(ModelError, match="psp-lite"):
        resolve(BackboneSpec("psp-lite/openai"))


def test_old_spelling_with_a_slash(checkpoint):
    _, path = checkpoint
    found = resolve(BackboneSpec("ViT-B/32", checkpoint=str(path)))
    assert found.name == "ViT-B-32"
    assert found.tag == ""
    found = resolve(BackboneSpec("ViT-B/32/laion2b_s34b_b79k", checkpoint=str(path)))
    assert found.name == "ViT-B-32"
    assert found.tag == "laion2b_s34b_b79k"


@pytest.mark.parametrize("model", ["ViT-B-32-quickgelu/openai", "hf-hub:some/where"])
def test_no_hub_fails_fast_with_the_remedy(model, tmp_path):
    code = (
        "from psp_ray.clip.spec import BackboneSpec, resolve\n"
        "from psp_ray.core.errors import ModelError\n"
        f"try: resolve(BackboneSpec({model!r}))\n"
        "except ModelError as error: print('ModelError', error)"
    )
    env = {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("ModelError"), done.stdout + done.stderr
    assert done.stdout.count("\n") == 1
    assert "--checkpoint PATH" in done.stdout


def test_unreachable_hub_does_not_retry_for_minutes(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    started = []
    monkeypatch.setattr(time, "sleep", started.append)  # a client that backs off would sleep
    with pytest.raises(ModelError, match="--checkpoint PATH") as info:
        resolve(BackboneSpec("ViT-B-32-quickgelu/openai"))
    one_line(info)
    assert not started
    assert constants.HF_HUB_OFFLINE is False


def test_text_towers_that_cannot_learn_are_refused():
    def config(**text):
        return {"embed_dim": 8, "vision_cfg": {}, "text_cfg": text}

    for bad, reason in [
        (config(hf_model_name="roberta-base"), "Hugging Face"),
        (config(embed_cls=True), "class embedding"),
        (config() | {"multimodal_cfg": {}}, "class embedding"),
        (config(pool_type="attention"), "unknown pooling 'attention'"),
    ]:
        with pytest.raises(ModelError, match=reason) as info:
            refuse_text_tower("name", bad)
        assert "ViT-B-32-quickgelu/openai" in one_line(info)
    refuse_text_tower("name", config(pool_type="last", no_causal_mask=True))
    for name in ("roberta-ViT-B-32", "coca_ViT-B-32"):
        with pytest.raises(ModelError):
            resolve(BackboneSpec(name, checkpoint="unread.pt"))


def test_local_folder_brings_its_preprocessing(checkpoint, tmp_path):
    from tests.tiny_clip import tiny_config

    model, path = checkpoint
    (tmp_path / "open_clip_model.safetensors").write_bytes(path.read_bytes())
    document = {
        "model_cfg": tiny_config("flat"),
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "resize_mode": "squash"},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(document))
    backbone = load_backbone(BackboneSpec(f"local-dir:{tmp_path}", device="cpu"))
    assert backbone.preprocessing.mean == (0.5, 0.5, 0.5)
    assert backbone.preprocessing.resize_mode == "squash"
    assert backbone.preprocessing.size == (32, 32)
    expected = model.encode_text(open_clip.tokenize(["a cat"]), normalize=True)
    assert torch.allclose(backbone.text.encode_texts(["a cat"]), expected, atol=1e-5)
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(ModelError, match="no model_cfg"):
        resolve(BackboneSpec(f"local-dir:{tmp_path}"))
    with pytest.raises(ModelError, match="missing or unreadable"):
        resolve(BackboneSpec(f"local-dir:{tmp_path}/nowhere"))


def test_preprocessing_travels_with_the_weights(checkpoint, tmp_path):
    model, path = checkpoint
    tagged = resolve(BackboneSpec("ViT-B-16-SigLIP/webli", checkpoint=str(path)))
    assert tagged.preprocessing.mean == (0.5, 0.5, 0.5)
    assert tagged.preprocessing.resize_mode == "squash"
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    embedded = tmp_path / "embedded.safetensors"
    save_file(tensors, embedded, {"preprocess_cfg": json.dumps({"std": [0.5, 0.5, 0.5]})})
    assert resolve(spec(embedded)).preprocessing.std == (0.5, 0.5, 0.5)
    save_file(tensors, embedded, {"preprocess_cfg": "{"})
    with pytest.raises(ModelError, match="malformed preprocess_cfg"):
        resolve(spec(embedded))


def test_image_size_resizes_the_grid(checkpoint):
    _, path = checkpoint
    backbone = load_backbone(spec(path, image_size=64), towers="image")
    assert backbone.preprocessing.size == (64, 64)
    assert backbone.image.encode(torch.rand(2, 3, 64, 64)).shape == (2, 24)
    with pytest.raises(ModelError, match="--image-size") as info:
        backbone.image.encode(torch.rand(2, 3, 32, 32))
    one_line(info)
    with pytest.raises(ModelError, match="--image-size 0"):
        load_backbone(spec(path, image_size=0))
    assert backbone.weights_hash == backbone_hash(spec(path))


def test_hash_sees_weights_and_architecture(checkpoint, tmp_path):
    model, path = checkpoint
    other = tmp_path / "other.safetensors"
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(tensors, other)
    assert file_hash(other) == file_hash(path)
    first = backbone_hash(spec(path))
    assert first == backbone_hash(spec(other))
    assert len(first) == 32
    assert first != backbone_hash(spec(path, "tiny-flat-quickgelu"))
    tensors["logit_scale"] += 1e-6
    save_file(tensors, other)
    assert first != backbone_hash(spec(other))
    with pytest.raises(ModelError, match="does not exist"):
        file_hash(tmp_path / "absent")


def test_half_precision_only_where_the_device_has_it():
    assert choose_precision("auto", "cpu") == choose_precision("fp32", "cuda") == "fp32"
    for precision in ("fp16", "bf16"):
        with pytest.raises(ModelError, match="needs a CUDA device"):
            choose_precision(precision, "cpu")
    assert choose_precision("fp16", "cuda") == "fp16"
    with pytest.raises(ModelError, match="unknown"):
        choose_precision("int8", "cpu")


def test_devices():
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") in ("cpu", "cuda")
    with pytest.raises(ModelError, match="unknown"):
        choose_device("gpu")
    with pytest.raises(ModelError, match="--device cpu"):
        choose_device("cuda:77")


def test_describe_is_plain(checkpoint):
    _, path = checkpoint
    description = load_backbone(spec(path)).describe()
    assert json.loads(json.dumps(description))["weights_hash"] == description["weights_hash"]
    assert description["image_size"] == [32, 32]
    assert description["text_path"] == "fast"


def test_transform_is_open_clips(checkpoint):
    model, _ = checkpoint
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))
    preprocessing = Preprocessing((32, 32))
    expected = open_clip.image_transform(32, is_train=False)(picture)
    assert torch.equal(preprocessing.transform()(picture), expected)
    tower = ImageTower(model.visual, preprocessing, "cpu")
    features = tower.encode(preprocessing.transform()(picture)[None], normalized=True)
    assert torch.allclose(features, model.encode_image(expected[None], normalize=True), atol=1e-5)


def test_preprocessing_values_are_checked():
    assert Preprocessing.from_dict({"size": [32, 48], "mean": 0.5}).size == (32, 48)
    assert Preprocessing.from_dict({"mean": [0.5]}).mean == (0.5, 0.5, 0.5)
    for bad in ({"resize_mode": "crop"}, {"interpolation": "lanczos"}, {"std": [1.0, 1.0]}):
        with pytest.raises(ModelError):
            Preprocessing.from_dict(bad)
    assert json.loads(json.dumps(Preprocessing().to_dict()))["size"] == [224, 224]


def test_importing_the_package_is_light():
    code = "import sys, psp_ray.clip, psp_ray.learn; print(sorted({'torch', 'open_clip', 'ray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr

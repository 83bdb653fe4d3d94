"""Weights as people have them: under other names, behind the prefixes of wrappers, of OpenAI's form, damaged."""

import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from psp_ray.clip.spec import BackboneSpec, resolve
from psp_ray.clip.weights import openai_form, read_checkpoint, safetensors_metadata
from psp_ray.core.errors import ModelError

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.bias": torch.ones(2)}
EXTRAS = {"input_resolution": torch.tensor(224), "context_length": torch.tensor(77), "vocab_size": torch.tensor(49408)}


def prefixed(text):
    return {f"{text}{name}": tensor for name, tensor in STATE.items()}


WRAPPED = {
    "plain": STATE,
    "module.": prefixed("module."),
    "model.": prefixed("model."),
    "_orig_mod.": prefixed("_orig_mod."),
    "module._orig_mod.": prefixed("module._orig_mod."),
    "_orig_mod.module.model.": prefixed("_orig_mod.module.model."),
    "clip.": prefixed("clip."),
    "state_dict": {"state_dict": prefixed("module."), "epoch": 3},
    "model": {"model": STATE, "optimizer": {}, "epoch": 3},
    "model in state_dict": {"state_dict": {"model": prefixed("_orig_mod.")}},
    "OpenAI's extras": {**STATE, **EXTRAS},
}


@pytest.mark.parametrize("content", WRAPPED.values(), ids=WRAPPED)
def test_prefixes_and_wrappers_come_off(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    found = read_checkpoint(tmp_path / "w.pt")
    assert {name: value.tolist() for name, value in found.items()} == {n: t.tolist() for n, t in STATE.items()}


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin", "w.pt", "w", "model.ckpt"])
def test_a_file_is_what_it_begins_with(tmp_path, name):
    save_file(STATE, tmp_path / name, {"x": "y"})
    assert read_checkpoint(tmp_path / name).keys() == STATE.keys()
    assert safetensors_metadata(tmp_path / name) == {"x": "y"}
    torch.save(STATE, tmp_path / name)
    assert read_checkpoint(tmp_path / name).keys() == STATE.keys()
    assert safetensors_metadata(tmp_path / name) == {}
    torch.save(STATE, tmp_path / name, _use_new_zipfile_serialization=False)
    assert read_checkpoint(tmp_path / name).keys() == STATE.keys()


def test_openai_weights_want_quickgelu(tmp_path):
    torch.save({**STATE, **EXTRAS}, tmp_path / "openai.pt")
    save_file({**STATE, **EXTRAS}, tmp_path / "openai.safetensors")
    torch.save(STATE, tmp_path / "other.pt")
    for name, expected in (("openai.pt", True), ("openai.safetensors", True), ("other.pt", False)):
        assert openai_form(tmp_path / name) is expected
        spec = BackboneSpec("ViT-B-32", str(tmp_path / name))
        if expected:
            with pytest.raises(ModelError, match="another activation; use --model ViT-B-32-quickgelu"):
                resolve(spec)
        else:
            assert resolve(spec).weights == tmp_path / name
    assert resolve(BackboneSpec("ViT-B-32-quickgelu", str(tmp_path / "openai.pt"))).config["quick_gelu"]


def broken_files(tmp_path):
    safe = save(STATE)
    torch.save(STATE, tmp_path / "good.pt")
    archive = (tmp_path / "good.pt").read_bytes()
    torch.save(STATE, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    pickle = (tmp_path / "old.pt").read_bytes()
    with zipfile.ZipFile(tmp_path / "no.pt", "w") as file:
        file.writestr("x/data.pkl", b"not a pickle")
    yield from (b"", b"x", b"hello world", b"PK", b"PK\x03\x04", b"\x80", b"\x80\x02", b"\x80\x02}q\x00.")
    yield from (safe[:20], safe[:-1], safe[:8] + b"{" * 50, b"\xff" * 8 + safe[8:], safe.replace(b"F32", b"F99"))
    yield from (safe.replace(b'"data_offsets":[', b'"data_offsets":[9'), safe[:8] + b"{}" + safe[10:])
    yield from (archive[: len(archive) // 2], archive[:-30], archive.replace(b"data.pkl", b"data.xxx"))
    yield from (archive.replace(b"storage", b"stXrage"), pickle[: len(pickle) // 2], pickle[:-10])
    yield (tmp_path / "no.pt").read_bytes()
    for step in range(0, len(archive), 97):
        changed = bytearray(archive)
        changed[step] ^= 0x55
        yield bytes(changed)


def test_damaged_files_are_one_line(tmp_path):
    """Each is read as it was, or is one line: never a traceback."""
    said = []
    for data in broken_files(tmp_path):
        (tmp_path / "w.bin").write_bytes(data)
        try:
            read_checkpoint(tmp_path / "w.bin")
        except ModelError as error:
            said.append(str(error))
    assert len(said) >= 22
    assert all("\n" not in line and "w.bin" in line for line in said)


@pytest.mark.parametrize(
    "content",
    [3, "text", [1], {}, {"a": 1}, {"a": None}, {1: torch.ones(2)}, {"model": 3}, torch.ones(2), {"state_dict": {}}],
    ids=str,
)
def test_what_is_no_state_dict_is_one_line(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"state dict"):
        read_checkpoint(tmp_path / "w.pt")


def test_code_is_never_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "was_here"), "w"))

    torch.save({"a": Evil()}, tmp_path / "w.pt")
    np.save(tmp_path / "x.npy", np.array([Evil()], object), allow_pickle=True)
    for name in ("w.pt", "x.npy"):
        with pytest.raises(ModelError):
            read_checkpoint(tmp_path / name)
    assert not (tmp_path / "was_here").exists()

"""The check of a GPU: the script itself on small shapes anywhere, and what must hold where there is a card."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks import gpu_check
from benchmarks.rounds import choices
from benchmarks.softdtw import pair
from benchmarks.text_step import build_tower, make_step
from psp_ray.cli.main import cli
from psp_ray.clip import Preprocessing
from psp_ray.clip.image import ImageTower
from psp_ray.policy.softdtw import value_and_grad
from psp_ray.policy.softdtw_torch import softdtw_wavefront

RUN = ("--labels-per-round", "3", "--views", "1", "--learning-steps", "2")


def test_every_part_measures_small_shapes_on_a_cpu(tiny_model, tiny_folder, tmp_path, capsys):
    arguments = " ".join(["--dataset", str(tiny_folder), "--model", tiny_model, *RUN])
    out = tmp_path / "gpu.md"
    assert gpu_check.main(["--device", "cpu", "--tiny", "--run-arguments", arguments, "--out", str(out)]) == 0
    text = out.read_text()
    parts = {line.split(" | ")[0].removeprefix("| ") for line in text.splitlines() if line.startswith("| ")}
    assert parts == {
        *("part", "ceiling", "agreement", "text steps", "psp-lite", "image tower", "run", "Soft-DTW"),
    }
    assert text.count("20 of 20 the same") == 2  # one device: the same choices
    assert "left out" not in text
    assert "written:" in capsys.readouterr().out


def test_a_part_that_fails_is_told_and_the_others_go_on(monkeypatch, tmp_path, capsys):
    def broken(bench):
        yield gpu_check.Row("broken", "first", "1")
        raise RuntimeError("out of memory\nand more")

    monkeypatch.setitem(gpu_check.PARTS, "text", broken)
    out = tmp_path / "gpu.md"
    assert gpu_check.main(["--device", "cpu", "--tiny", "--parts", "text,softdtw", "--out", str(out)]) == 1
    assert "| text | failed: RuntimeError | out of memory |" in out.read_text()
    assert "Soft-DTW" in out.read_text()


def test_what_begins_after_the_time_is_left_out(tmp_path):
    out = tmp_path / "gpu.md"
    gpu_check.main(["--device", "cpu", "--tiny", "--parts", "text", "--minutes", "0", "--out", str(out)])
    assert "the rest is left out" in out.read_text()
    assert "text steps" not in out.read_text()


def test_operations_of_an_image_are_those_counted_by_hand():
    sizes = gpu_check.Sizes(image=64, vision=(128, 2))
    tokens, width, layers = 4 + 1, 128, 2
    layer = 2 * tokens * width * (3 * width + width + 8 * width) + 4 * tokens**2 * width
    wanted = layers * layer + 2 * 4 * width * 3 * 32 * 32 + 2 * width * 512
    assert gpu_check.work(gpu_check.vision(sizes), 64, "cpu") == pytest.approx(wanted, rel=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.99999), ("fp16", 0.999), ("bf16", 0.995)])
def test_image_features_are_those_of_the_cpu(precision, least):
    sizes = gpu_check.Sizes(vision=(256, 4))
    prep = Preprocessing(size=(224, 224))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 3, 224, 224), np.uint8)
    wanted = ImageTower(gpu_check.vision(sizes), prep, "cpu").encode(pixels)
    found = ImageTower(gpu_check.vision(sizes), prep, "cuda", precision).encode(pixels)
    assert float((wanted * found).sum(1).min()) > least


@pytest.mark.gpu
@pytest.mark.parametrize("path", ["auto", "full"])
@pytest.mark.parametrize("shared", [False, True])
def test_context_gradients_are_those_of_the_cpu(shared, path):
    names = ["tench", "great white shark", "hen"]
    wanted, found = (make_step(build_tower(128, 3, device), names, shared, path)() for device in ("cpu", "cuda"))
    assert float((wanted - found.cpu()).abs().max() / wanted.abs().max()) < 1e-4


@pytest.mark.gpu
@pytest.mark.parametrize("width", [None, 20])
def test_wavefront_on_the_card_is_the_kernel_of_the_cpu(width):
    x, y = pair(300, 20)
    value, grad_x, grad_y = value_and_grad(x, y, 0.3, width)
    tensors = [torch.tensor(a, device="cuda", requires_grad=True) for a in (x, y)]
    found = softdtw_wavefront(*tensors, 0.3, width)
    found.backward()
    assert float(found.detach()) == pytest.approx(value, rel=1e-9)
    for tensor, wanted in zip(tensors, (grad_x, grad_y), strict=True):
        np.testing.assert_allclose(tensor.grad.cpu().numpy(), wanted, atol=1e-9)


@pytest.mark.gpu
def test_the_policy_chooses_on_the_card_what_it_chooses_on_the_cpu():
    world = gpu_check.gaussian_world(2000)
    first = [next(choices(world, "vssp", 0, 1, {}, device))[0] for device in ("cpu", "cuda")]
    np.testing.assert_array_equal(*first)


@pytest.mark.gpu
@pytest.mark.parametrize("head", ["auto", "prompt"])
def test_a_run_ends_on_the_card(head, tiny_model, tiny_folder, tmp_path):
    words = ["run", "--runner", "inline", "--dataset", str(tiny_folder), "--model", tiny_model, "--rounds", "2", *RUN]
    words += ["--device", "cuda", "--head", head, "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out/summary.json").exists()

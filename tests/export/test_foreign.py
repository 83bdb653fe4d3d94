"""A prompts file that came from anybody: damaged, or with models and paths of its own; and the way back to predict."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file, save_file

from psp_ray import Classifier
from psp_ray.cli.main import main
from psp_ray.clip.spec import BackboneSpec, resolve
from psp_ray.core.errors import ConfigError, ModelError
from psp_ray.core.sealed import DamagedFile
from psp_ray.export.files import export_csv
from psp_ray.export.models import export_open_clip
from psp_ray.report.progress import Reporter
from psp_ray.report.run_page import run_page
from psp_ray.run import prepare
from psp_ray.run.command import run
from psp_ray.run.looked_at import look_at
from psp_ray.run.page import make_page
from psp_ray.run.page_parts import Pictures
from psp_ray.run.prompts import model_metadata, read_prompts
from psp_ray.run.resolve import resolve as settings_of
from tests.conftest import COLORS, TINY, paint


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with a model whose images are wider than high, and whose weights lie elsewhere."""
    import open_clip
    import torch

    folder = tmp_path_factory.mktemp("wide")
    rng = np.random.default_rng(0)
    for name, color in COLORS.items():
        for number in range(6):
            paint(folder / "images" / name / f"{number}.png", color, rng)
    torch.manual_seed(0)
    config = {**TINY, "vision_cfg": {**TINY["vision_cfg"], "image_size": [32, 48]}}
    (folder / "model").mkdir()
    (folder / "model" / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    model = open_clip.model.CLIP(embed_dim=24, vision_cfg=config["vision_cfg"], text_cfg=config["text_cfg"])
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    save_file(weights, folder / "model" / "open_clip_model.safetensors")
    options = {
        "dataset": str(folder / "images"),
        "model": f"local-dir:{folder / 'model'}",
        "cache": str(folder / "cache"),
        "out": str(folder / "run"),
        "rounds": 1,
        "labels_per_round": 3,
        "learning_steps": 1,
        "strategy": "random",
        "self_training": "none",
        "runner": "inline",
    }
    run(settings_of(options), Reporter(1, Console(quiet=True)))
    return folder


def test_what_a_run_learned_predicts_whatever_its_image_size(finished, tmp_path):
    """Images that aren't square: the labels were bought, and predict said that the weights don't fit."""
    pictures = sorted((finished / "images").rglob("*.png"))
    found = Classifier.load(finished / "run").predict(pictures)
    assert all(item.label in COLORS for item in found)
    form = export_open_clip(finished / "run", tmp_path / "form")
    assert json.loads((form / "open_clip_config.json").read_text())["model_cfg"]["vision_cfg"]["image_size"] == [32, 48]


@pytest.mark.parametrize("size", [None, 64])
def test_models_are_found_again_from_their_names(finished, tmp_path, monkeypatch, size):
    monkeypatch.chdir(finished)
    given = BackboneSpec("local-dir:model", "model/open_clip_model.safetensors", size)
    header = model_metadata(given)
    monkeypatch.chdir(tmp_path)
    again = BackboneSpec(header["model"], json.loads(header["checkpoint"]), json.loads(header["image_size"]))
    monkeypatch.chdir(finished)
    assert resolve(given).preprocessing == resolve(again).preprocessing
    assert resolve(given).weights.samefile(resolve(again).weights)


def test_the_way_back_is_looked_up_before_labels_are_bought(finished, monkeypatch):
    spec = BackboneSpec(f"local-dir:{finished / 'model'}")
    prepare.check_way_back(spec)
    monkeypatch.setattr(prepare, "model_metadata", lambda spec: model_metadata(spec) | {"image_size": "32"})
    with pytest.raises(ConfigError, match="bought for nothing"):
        prepare.check_way_back(spec)


def forged(finished, target, tensors=None, **metadata):
    """A prompts file like the run's with some things changed."""
    from safetensors import safe_open

    source = finished / "run" / "prompts.safetensors"
    with safe_open(source, framework="numpy") as file:
        header = dict(file.metadata())
    kept = {name: value for name, value in (header | metadata).items() if value is not None}
    save_file(load_file(source) | (tensors or {}), target, kept)
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "hf-hub:nobody/such-a-model"}, "add --allow-hub"),
        ({"model": "ViT-B-32-quickgelu/openai"}, "add --allow-hub"),
        ({"model": "no-such-model"}, "is unknown"),
        ({"model": "local-dir:/etc"}, "names weights outside of its folder, /etc"),
        ({"model": "local-dir:beside/../../.."}, "names weights outside of its folder"),
        ({"checkpoint": json.dumps("/etc/passwd")}, "names weights outside of its folder, /etc/passwd"),
        ({"checkpoint": json.dumps("//evil/share/x")}, "names weights outside of its folder"),
        ({"model": "psp-lite", "weights_hash": "0" * 32, "image_size": "96"}, "learned with other weights"),
        ({"classes": "[]"}, "header is damaged (classes"),
        ({"classes": "{"}, "header is damaged (classes"),
        ({"classes": json.dumps(["a", "b"])}, "no classifier of 2 classes"),
        ({"checkpoint": None}, "header is damaged (checkpoint"),
        ({"image_size": '"x"'}, "header is damaged (image_size"),
        ({"format": "other"}, "not written by psp-ray"),
    ],
)
def test_a_foreign_file_gets_nothing_from_elsewhere(finished, tmp_path, change, message):
    file = forged(finished, tmp_path / "prompts.safetensors", **change)
    with pytest.raises(ModelError) as caught:
        Classifier.load(file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "tensors",
    [
        {"class_embeddings": np.zeros((3, 0), np.float32)},
        {"class_embeddings": np.zeros(3, np.float32)},
        {"class_embeddings": np.full((3, 24), np.nan, np.float32)},
        {"class_embeddings": np.zeros((3, 24), np.int32)},
        {"logit_scale": np.zeros(2, np.float32)},
        {"logit_scale": np.asarray(-1, np.float32)},
        {"bias": np.zeros(2, np.float32)},
        {"temperature": np.asarray(0, np.float32)},
    ],
    ids=str,
)
def test_tensors_that_are_no_classifier(finished, tmp_path, tensors):
    with pytest.raises(ModelError, match="no classifier of 3 classes"):
        read_prompts(forged(finished, tmp_path / "p.safetensors", tensors))


def test_files_that_are_cut_short_or_no_safetensors(finished, tmp_path):
    data = (finished / "run" / "prompts.safetensors").read_bytes()
    for content in (b"", data[:4], data[:100], data[:-1], b"PK\x03\x04" + data, b"\xff" * 8 + data[8:]):
        (tmp_path / "p.safetensors").write_bytes(content)
        with pytest.raises(ModelError, match=r"p\.safetensors: "):
            read_prompts(tmp_path / "p.safetensors")


def test_the_run_itself_and_its_own_words_are_believed(finished, tmp_path):
    shutil.copy(finished / "run" / "prompts.safetensors", tmp_path / "p.safetensors")
    with pytest.raises(ModelError, match="give --checkpoint PATH, or the output folder"):
        Classifier.load(tmp_path / "p.safetensors")
    assert Classifier.load(finished / "run" / "prompts.safetensors").classes == sorted(COLORS)
    beside = tmp_path / "moved"
    shutil.copytree(finished / "model", beside / "model")
    file = forged(finished, beside / "p.safetensors", model=f"local-dir:{beside / 'model'}")
    assert Classifier.load(file).classes == sorted(COLORS)


def test_a_damaged_file_of_a_finished_run_is_not_used(finished, tmp_path):
    """One bit of a vector: nothing else would tell. A copy of the file alone has nothing to be compared with."""
    run = tmp_path / "run"
    shutil.copytree(finished / "run", run)
    for name, call in (
        ("prompts.safetensors", lambda: Classifier.load(run, images=False)),
        ("pool_predictions.parquet", lambda: export_csv(run, tmp_path / "out.csv")),
    ):
        call()
        data = bytearray((run / name).read_bytes())
        data[-10 if name.startswith("prompts") else 40] ^= 1
        (run / name).write_bytes(data)
        with pytest.raises(DamagedFile, match=f"{name}: is damaged, or was changed since"):
            call()
    shutil.copy(run / "prompts.safetensors", tmp_path / "alone.safetensors")
    assert Classifier.load(tmp_path / "alone.safetensors", images=False).classes == sorted(COLORS)


def test_everybody_who_shows_probabilities_says_that_few_labels_calibrate_them(finished, tmp_path, capsys):
    run, words = finished / "run", "probabilities are calibrated by 3 labels alone (fewer than 20)"
    assert words in json.loads((run / "summary.json").read_text())["calibration"]["caution"]
    assert words in run_page(make_page(look_at(run), Pictures()))
    assert words in Classifier.load(run, images=False).caution
    image = next((finished / "images").rglob("*.png"))
    for command in (["predict", str(image)], ["export", "--csv", str(tmp_path / "pool.csv")]):
        with pytest.raises(SystemExit) as ended:
            main([command[0], "--run", str(run), *command[1:]])
        assert ended.value.code == 0
        assert f"note: {words}" in capsys.readouterr().err
    for said in ("20", None):  # enough; and a file of before it was noted
        assert read_prompts(forged(finished, tmp_path / "p.safetensors", calibrated_by=said)).caution == ""

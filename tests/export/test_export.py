"""What leaves a run: folders, CSV, ONNX and open_clip forms, checked against `predict`; and looking before labeling."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from psp_ray import Classifier
from psp_ray.cli.main import main
from psp_ray.core.errors import OutputError
from psp_ray.export.files import export_csv, export_folders
from psp_ray.export.models import export_onnx, export_open_clip
from psp_ray.features.quota import entries
from psp_ray.report.progress import Reporter
from psp_ray.run.check_data import _judged
from psp_ray.run.command import run
from psp_ray.run.resolve import resolve
from tests.conftest import COLORS, paint


@pytest.fixture(scope="module")
def options(tiny_model, tiny_folder, tmp_path_factory):
    return {
        "dataset": str(tiny_folder),
        "model": tiny_model,
        "cache": str(tmp_path_factory.mktemp("cache")),
        "rounds": 1,
        "labels_per_round": 5,
        "learning_steps": 4,
        "strategy": "random",
        "self_training": "none",
        "runner": "inline",
    }


@pytest.fixture(scope="module")
def finished(options, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    run(resolve({**options, "out": str(out)}), Reporter(1, Console(quiet=True)))
    return out


BROKEN = {"cut_short.png", "no_image.png"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """New images of every kind, not of the tower's size; two are broken."""
    folder, rng = tmp_path_factory.mktemp("new"), np.random.default_rng(9)
    for name, color in COLORS.items():
        paint(folder / f"{name}.png", color, rng)
    wide = Image.open(folder / "red.png").resize((90, 41))
    wide.save(folder / "wide.png")
    blue = Image.open(folder / "blue.png").resize((37, 64))
    blue.save(folder / "tall.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    blue.save(folder / "turned.png", exif=turned)
    clear = blue.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(blue.size))
    clear.save(folder / "clear.png")
    deep = np.arange(48 * 48, dtype=np.uint16).reshape(48, 48)
    Image.fromarray(deep).save(folder / "twelve_bits.png")
    Image.fromarray(deep * 28).save(folder / "sixteen_bits.png")
    Image.fromarray(deep.astype(np.int32) - 1000).save(folder / "signed.tif")
    blue.convert("P").save(folder / "palette.png", transparency=0)
    blue.convert("CMYK").save(folder / "ink.jpg")
    Image.new("RGB", (700, 2), "red").save(folder / "strip.png")
    (folder / "cut_short.png").write_bytes((folder / "wide.png").read_bytes()[:200])
    (folder / "no_image.png").write_bytes(b"hello")
    return sorted(folder.iterdir())


def shell(*words):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *map(str, words)], env=environment, capture_output=True, text=True, check=True
    )


def lines_of(text):
    return {row[0]: (row[1], float(row[2])) for row in (line.split(",") for line in text.strip().splitlines())}


def compare(done, predictions, tolerance):
    """What a script printed, and what `predict` says: the same classes; broken files are left out by name."""
    told = lines_of(done.stdout)
    assert len(told) == len(predictions) - len(BROKEN)
    for item in predictions:
        if item.error:
            assert f"{item.path}: left out, {item.error}" in done.stderr
            continue
        assert told[str(item.path)][0] == item.label
        assert told[str(item.path)][1] == pytest.approx(item.probability, abs=tolerance)


def test_onnx_gives_what_predict_gives(finished, pictures, tmp_path):
    import onnxruntime

    from psp_ray.data.images import center_view, decode

    file = export_onnx(finished, tmp_path / "onnx")
    classifier = Classifier.load(finished, device="cpu")
    whole = [path for path in pictures if path.name not in BROKEN]
    pixels = np.stack(
        [center_view(decode(p.read_bytes()), classifier.tower.preprocessing).transpose(2, 0, 1) for p in whole]
    )
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for count in (1, len(whole)):
        features, chances = session.run(None, {"pixels": pixels[:count]})
        assert np.abs(features - classifier.tower.encode(pixels[:count]).numpy()).max() < 1e-4
        for chance, told in zip(chances, classifier.predict(whole[:count]), strict=True):
            assert classifier.classes[chance.argmax()] == told.label
            assert abs(chance.max() - told.probability) < 1e-4
    about = json.loads((tmp_path / "onnx" / "classifier.json").read_text())
    embeddings = np.load(tmp_path / "onnx" / "class_embeddings.npy")
    logits = about["scale"] * features @ embeddings.T + np.asarray(about["bias"])
    by_hand = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert np.abs(by_hand / by_hand.sum(axis=1, keepdims=True) - chances).max() < 1e-4
    compare(shell(tmp_path / "onnx" / "predict.py", *pictures), classifier.predict(pictures), 2e-4)
    with pytest.raises(OutputError, match="not empty"):
        export_onnx(finished, tmp_path / "onnx")


def test_open_clip_alone_gives_what_predict_gives(finished, pictures, tmp_path):
    export_open_clip(finished, tmp_path / "form")
    script = (tmp_path / "form" / "predict.py").read_text()
    assert "psp_ray" not in script
    told = shell(tmp_path / "form" / "predict.py", *pictures)
    compare(told, Classifier.load(finished, device="cpu").predict(pictures), 2e-3)


def test_folders_and_csv(finished, tmp_path):
    predictions = pd.read_parquet(finished / "pool_predictions.parquet")
    assert export_csv(finished, tmp_path / "p.csv") == len(predictions)
    table = pd.read_csv(tmp_path / "p.csv")
    assert table["class"].tolist() == predictions["class"].tolist()
    assert np.abs(table.probability - predictions.probability).max() < 1e-6
    counts = export_folders(finished, tmp_path / "sorted", min_probability=0.5)
    assert sum(counts.values()) == len(predictions)
    for row in predictions.itertuples():
        place = row[3] if row.probability >= 0.5 else f"_unsure/{row[3]}"
        link = tmp_path / "sorted" / place / row.sample_id.replace("/", "__")
        assert link.resolve() == type(link)(row.path).resolve()
    export_folders(finished, tmp_path / "copied", copy=True)
    assert not any(path.is_symlink() for path in (tmp_path / "copied").rglob("*"))
    with pytest.raises(OutputError, match="not empty"):
        export_folders(finished, tmp_path / "copied")
    with pytest.raises(OutputError, match="no run of psp-ray there"):
        export_csv(tmp_path, tmp_path / "q.csv")


@pytest.mark.parametrize("copy", [False, True])
def test_folders_lose_no_image_whose_name_flattens_like_another(tmp_path, copy):
    classes = ["a/b", "a__b", "_none", "_unsure", "plain", None]
    rows = []
    for kind in classes:
        for name in ("x/b__c.png", "x__b/c.png", "x__b__c.png", "y.png"):
            path = tmp_path / "images" / str(len(rows)) / name
            path.parent.mkdir(parents=True)
            path.write_text(f"{kind} {name}")
            rows.append(
                {"sample_id": name, "path": str(path), "class": kind, "probability": 0.9, "source": "predicted"}
            )
    (tmp_path / "run").mkdir()
    pd.DataFrame(rows).to_parquet(tmp_path / "run" / "pool_predictions.parquet")
    counts = export_folders(tmp_path / "run", tmp_path / "out", copy=copy)
    assert list(counts.values()) == [4] * len(classes)
    found = {path.read_text(): path for path in (tmp_path / "out").rglob("*.png")}
    assert len(found) == len(rows)
    for place in counts:
        texts = [path.read_text() for path in (tmp_path / "out" / place).iterdir()]
        assert len({text.split()[0] for text in texts}) == 1, "a folder holds one class"
    assert {"_none", "plain"} <= set(counts)
    assert found["plain y.png"] == tmp_path / "out" / "plain" / "y.png", "other names stay as they are"


def test_folders_of_images_that_are_gone_are_refused(tmp_path):
    """Some may be gone; where all are, nothing is made."""
    row = {"class": "cat", "probability": 0.9, "source": "predicted"}
    rows = [{**row, "sample_id": name, "path": str(tmp_path / name)} for name in ("a.png", "b.png")]
    (tmp_path / "run").mkdir()
    pd.DataFrame(rows).to_parquet(tmp_path / "run" / "pool_predictions.parquet")
    with pytest.raises(OutputError, match=r"none of the 2 images of .* is there; --csv FILE"):
        export_folders(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "b.png").write_text("b")
    gone = []
    assert export_folders(tmp_path / "run", tmp_path / "out", gone=gone) == {"cat": 1}
    assert gone == ["a.png"]


def command(*words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code


def test_export_command(finished, tmp_path, capsys):
    assert command("export", "--run", finished) == 2
    assert "say what to export" in capsys.readouterr().err
    assert command("export", "--run", finished, "--folders", tmp_path / "f", "--csv", tmp_path / "f.csv") == 0
    assert "predictions in" in capsys.readouterr().out


def test_check_data_says_what_is_wrong(options, tiny_folder, tmp_path, capsys):
    folder = tmp_path / "mess"
    rng = np.random.default_rng(0)
    for name, color in COLORS.items():
        for i in range(4):
            paint(folder / name / f"{i}.png", color, rng)
    (folder / "red" / "copy.png").write_bytes((folder / "blue" / "0.png").read_bytes())
    (folder / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    Image.new("RGB", (8, 8)).save(folder / "green" / "tiny.png")
    Image.new("RGB", (300, 20)).save(folder / "green" / "strip.png")
    words = ["check-data", "--cache", options["cache"], "--model", options["model"], "--runner", "inline"]
    assert command(*words, "--dataset", folder, "--rounds", "2") == 0
    text = capsys.readouterr().out
    assert "add --with-model" in text
    assert "class names" not in text.replace("class names the model confuses", "")
    for wanted in (
        "3 classes",
        "1 image repeats the bytes of another",
        "have different labels",
        "1 can't be read and would be left out: red/broken.png",
        "1 are smaller than 16 px: green/tiny.png (8 x 8)",
        "1 are longer than 5 times",
        "featurizing:",
        "suggested: --labels-per-round",
    ):
        assert wanted in text, text
    more = ["--strategy", "random", "--self-training", "none", "--with-model"]
    assert command(*words, "--dataset", tiny_folder, *more) == 0
    text = capsys.readouterr().out
    assert "duplicates: none" in text
    assert "the model" in text
    assert "--with-model" not in text
    assert "class balance, a zero-shot guess from" in text or "class balance: unknown" in text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"strategy": "random"},
            "about 80 of the 80 labels are drawn by chance alone, which tells it to about ±11 points",
        ),
        ({"strategy": "psp", "audit_fraction": 0.25}, "about 20 of the 80 labels"),
        ({"strategy": "badge+audit", "audit_fraction": 0.25}, "(--audit-fraction 0.25), which tells it to about ±22"),
        ({"strategy": "badge"}, "unknown without --test, since badge"),
        ({"strategy": "psp-topk"}, "about 2 of the 80 labels"),  # the audit is planned, whatever the strategy draws
        ({"strategy": "random+pcb"}, "unknown without --test"),
    ],
)
def test_check_data_says_what_the_draws_will_tell(given, expected):
    """Half-width of a 95 % interval around one half: 0.98 / sqrt(draws by chance)."""
    assert expected in _judged(resolve(given), 80)


def test_a_quota_makes_room_for_new_features(options, tmp_path, capsys):
    """What is not at work goes, and a quota below what is at work is refused before anything is encoded."""
    cache = str(tmp_path / "cache")
    words = [word for key in ("dataset", "model") for word in (f"--{key}", options[key])]
    words = ["featurize", *words, "--cache", cache, "--runner", "inline", "--self-training", "none"]
    assert command(*words) == 0
    first = entries(cache)[0]
    assert command(*words, "--image-size", "48", "--cache-gib", "1e-7") == 2
    assert "--cache-gib 1e-07: this data set needs" in capsys.readouterr().err
    assert command(*words, "--image-size", "48", "--cache-gib", "1") == 0
    assert len(entries(cache)) == 2, "there is room"
    quota = 1.2 * sum(entry.bytes for entry in entries(cache)) / 2**30
    assert command(*words, "--image-size", "64", "--cache-gib", quota) == 0
    assert "removed" in capsys.readouterr().out
    left = entries(cache)
    assert first.path not in [entry.path for entry in left]
    assert sum(entry.bytes for entry in left) <= quota * 2**30


def test_cache_ls_and_prune(options, finished, capsys):
    cache = options["cache"]
    assert command("cache", "ls", "--cache", cache) == 0
    assert "60 images" in capsys.readouterr().out
    assert command("cache", "prune", "--cache", cache, "--older-than", "1") == 0
    assert len(entries(cache)) == 1, "what was used today stays"
    assert command("cache", "prune", "--cache", cache, "--max-gib", "0", "--dry-run") == 0
    assert "would remove" in capsys.readouterr().out
    assert len(entries(cache)) == 1
    assert command("cache", "prune", "--cache", cache) == 2
    assert command("cache", "prune", "--cache", cache, "--max-gib", "0") == 0
    assert entries(cache) == []

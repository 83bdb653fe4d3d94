"""Whole runs on embeddings: without a tower by a head, with a text tower that fits, by people, and what is refused."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from rich.console import Console

from psp_ray.cli.main import cli
from psp_ray.core.errors import ConfigError, DatasetError, ModelError
from psp_ray.export.classifier import Classifier
from psp_ray.labels import Ledger
from psp_ray.report.progress import Reporter
from psp_ray.run.command import dry_run, run
from psp_ray.run.resolve import resolve

NAMES = ["cat", "dog", "owl"]
N, D = 120, 8


@pytest.fixture
def files(tmp_path):
    """Three clouds of embeddings, and class embeddings that know them roughly."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((3, D))
    labels = np.arange(N) % 3
    vectors = (centers[labels] + 0.6 * rng.standard_normal((N, D))).astype(np.float32)
    text = (centers + 0.5 * rng.standard_normal((3, D))).astype(np.float32)
    columns = {
        "sample_id": [f"s{i:03d}" for i in range(N)],
        "embedding": pa.array(vectors.tolist(), pa.list_(pa.float32(), D)),
        "label": [NAMES[label] for label in labels],
        "part": ["test" if i % 4 == 0 else "pool" for i in range(N)],
    }
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    classes = {"class": NAMES, "embedding": pa.array(text.tolist(), pa.list_(pa.float32(), D))}
    pq.write_table(pa.table(classes), tmp_path / "classes.parquet")
    return {
        "dataset": str(tmp_path / "rows.parquet"),
        "class_embeddings": str(tmp_path / "classes.parquet"),
        "logit_scale": 20.0,
        "head": "linear",
        "rounds": 2,
        "labels_per_round": 6,
        "update_steps": 2,
        "pictures": False,
        "cache": str(tmp_path / "cache"),
        "out": str(tmp_path / "run"),
        "runner": "inline",
    }


def go(options, **more):
    config = resolve(options | more)
    return run(config, Reporter(config.labels.rounds, Console(quiet=True)))


@pytest.mark.parametrize("strategy", ["random", "psp"])
def test_a_head_learns_over_class_embeddings(files, tmp_path, strategy):
    summary = go(files, strategy=strategy)
    assert summary["labels_used"] == 12
    assert summary["final_accuracy"] > 0.6
    rows = pq.read_table(tmp_path / "rows.parquet")
    vectors = np.array(rows["embedding"].to_pylist())
    text = np.array(pq.read_table(tmp_path / "classes.parquet")["embedding"].to_pylist())
    guess = (vectors @ (text / np.linalg.norm(text, axis=1, keepdims=True)).T).argmax(axis=1)
    tested = np.arange(N) % 4 == 0
    assert summary["zero_shot_accuracy"] == pytest.approx((guess == np.arange(N) % 3)[tested].mean(), abs=0.04)
    with pytest.raises(ModelError, match="no image can be encoded"):
        Classifier.load(tmp_path / "run")


def test_people_label_rows_that_have_no_image(files, tmp_path):
    summary = go(files, oracle="file", rounds=1)
    assert summary["status"] == "awaiting_labels"
    query = tmp_path / "run" / "round_01" / "query.csv"
    with open(query, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert all((row["path"], row["image"]) == ("", "") for row in rows)
    assert not list(query.parent.glob("contact_sheet*"))
    for row in rows:
        row["label"] = NAMES[int(row["sample_id"][1:]) % 3]
    with open(query, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert go(files, oracle="file", rounds=1, resume=True)["status"] == "finished"
    with Ledger(tmp_path / "run" / "ledger.sqlite") as ledger:
        assert ledger.status()["labels_bought"] == 6


def test_what_does_not_fit_is_one_line_before_the_first_round(files, tmp_path):
    narrow = tmp_path / "narrow.parquet"
    pq.write_table(pa.table({"class": NAMES, "embedding": [[1.0, 0.0]] * 3}), narrow)
    fewer = tmp_path / "fewer.parquet"
    pq.write_table(pa.table({"class": NAMES[:2], "embedding": [[1.0] * D, [0.5] * D]}), fewer)
    for more, error, message in [
        ({"head": "prompt"}, ConfigError, "--head prompt: class embeddings alone make no prompts"),
        ({"class_embeddings": str(narrow)}, DatasetError, "have 2 numbers but the data set's 8"),
        ({"class_embeddings": str(fewer)}, DatasetError, "'owl' is no class"),
        ({"class_embeddings": str(fewer), "classes": "cat,dog,owl"}, DatasetError, "no embedding of class 'owl'"),
        ({"class_embeddings": None}, ConfigError, "--logit-scale: belongs to --class-embeddings"),
        ({"class_embeddings": None, "logit_scale": None}, ConfigError, "embeddings have 8; name the model"),
        ({"views": "fresh:2"}, ConfigError, "--views fresh:2: embeddings have the views of column 'views'"),
        ({"dataset": "digits"}, ConfigError, "--class-embeddings: is for data sets of embeddings"),
    ]:
        with pytest.raises(error, match=message):
            dry_run(resolve(files | more))


def test_exported_features_run_as_the_images_do(files, tmp_path, tiny_model, tiny_folder, cache_folder):
    """With the text tower that they are of: the same features, so the same zero-shot accuracy and prompts."""
    shared = {"model": tiny_model, "cache": str(cache_folder), "views": "2", "runner": "inline"}
    words = [f"--{key}={value}" for key, value in (shared | {"dataset": str(tiny_folder)}).items()]
    rows, classes = tmp_path / "f.parquet", tmp_path / "c.parquet"
    done = CliRunner().invoke(cli, ["featurize", *words, "--export", str(rows), "--export-classes", str(classes)])
    assert done.exit_code == 0, done.output
    options = shared | {"strategy": "random", "rounds": 1, "labels_per_round": 4, "learning_steps": 3, "head": "prompt"}
    images = go(options | {"dataset": str(tiny_folder), "out": str(tmp_path / "images")})
    given = go(options | {"dataset": str(rows), "out": str(tmp_path / "given")})
    keys = ("zero_shot_accuracy", "final_accuracy", "labels_used")
    assert [images[key] for key in keys] == [given[key] for key in keys]
    alone = go(
        options
        | {"dataset": str(rows), "class_embeddings": str(classes), "head": "linear", "out": str(tmp_path / "alone")}
    )
    assert alone["zero_shot_accuracy"] == images["zero_shot_accuracy"]
    assert json.loads((tmp_path / "alone" / "summary.json").read_text())["status"] == "finished"

"""Whole runs on embeddings: without a tower by a head, with a text tower that fits, by people, and what is refused."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from rich.console import Console

from psp_ray.cli.main import cli
from psp_ray.core.errors import ConfigError, DatasetError, ModelError, UserError
from psp_ray.data.load import load_dataset
from psp_ray.export.classifier import Classifier
from psp_ray.features.cache import FeatureCache
from psp_ray.features.embedded import import_embeddings
from psp_ray.labels import Ledger
from psp_ray.report.progress import Reporter
from psp_ray.run.check_data import check
from psp_ray.run.command import run
from psp_ray.run.dry_run import dry_run
from psp_ray.run.prepare import load_data
from psp_ray.run.resolve import resolve
from tests.helpers import write_embeddings

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
    files = write_embeddings(tmp_path, NAMES, labels, vectors, text, np.arange(N) % 4 == 0)
    return files | {"head": "linear", "rounds": 2, "labels_per_round": 6, "update_steps": 2}


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
    heard = io.StringIO()
    config = resolve({**files, "oracle": "file", "rounds": 1, "resume": True})
    done = run(config, Reporter(1, Console(file=heard, width=200, soft_wrap=True)))
    assert done["status"] == "finished"
    said = heard.getvalue()
    assert "predict --run" in said
    assert "IMAGES" not in said, "there are none"
    assert "--folders" not in said
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


def cut(files, tmp_path):
    """The rows of the data set's test part as a table of their own, and the others."""
    rows = pq.read_table(files["dataset"])
    test = pa.compute.equal(rows["part"], "test")
    pq.write_table(rows.filter(pa.compute.invert(test)).drop_columns("part"), tmp_path / "pool.parquet")
    pq.write_table(rows.filter(test).drop_columns("part"), tmp_path / "test.parquet")
    return {"dataset": str(tmp_path / "pool.parquet"), "test": str(tmp_path / "test.parquet")}


def test_test_rows_may_come_from_another_table(files, tmp_path):
    dataset = load_dataset(**cut(files, tmp_path))
    whole = load_dataset(files["dataset"])
    assert dataset.test["sample_id"].to_pylist() == [f"test/{name}" for name in whole.test["sample_id"].to_pylist()]
    assert dataset.labels("test").tolist() == whole.labels("test").tolist()
    assert dataset.val.num_rows + dataset.pool.num_rows == whole.pool.num_rows, "a validation part is cut off"
    cache = FeatureCache.open(tmp_path / "cache")
    given, known = (import_embeddings(each, cache) for each in (dataset, whole))
    np.testing.assert_array_equal(given.test.reader.block(0).features, known.test.reader.block(0).features, strict=True)
    for change, message in (
        ({"label": ["cow"] * 30}, "'cow' is no class"),
        ({"label": [None] * 30}, "every test row needs one"),
        ({"sample_id": ["s"] * 30}, "is that of"),
        ({"embedding": [[1.0, 2.0]] * 30}, "have 2 numbers but the data set's 8"),
    ):
        rows = pq.read_table(tmp_path / "test.parquet")
        for name, values in change.items():
            rows = rows.set_column(rows.column_names.index(name), name, pa.array(values))
        pq.write_table(rows, tmp_path / "bad.parquet")
        with pytest.raises(DatasetError, match=message):
            load_dataset(str(tmp_path / "pool.parquet"), test=str(tmp_path / "bad.parquet"))
    with pytest.raises(DatasetError, match="give a table of embeddings"):
        load_dataset(str(tmp_path / "pool.parquet"), test=str(tmp_path / "nothing.parquet"))


def test_new_embeddings_are_classified_as_the_pool_was(files, tmp_path):
    """The run's own file, to the digit; rows without a direction get an error; no tower is loaded."""
    summary = go(files, self_training="none", **cut(files, tmp_path))
    assert summary["final_accuracy"] > 0.6
    told = pq.read_table(tmp_path / "run" / "pool_predictions.parquet").to_pandas().set_index("sample_id")
    classifier = Classifier.load(tmp_path / "run", images=False)
    found = {item.path: item for item in classifier.predict_embeddings(tmp_path / "pool.parquet")}
    predicted = told[told.source == "predicted"]
    assert len(predicted) > 40
    for name, row in predicted.iterrows():
        assert found[name].label == row["class"]
        assert found[name].probability == pytest.approx(row["probability"], abs=1e-5)
    vectors = [[1.0] * D, [0.0] * D, [float("nan")] * D, [2.0] * D, None, [1.0, 2.0], [None, *[1.0] * (D - 1)]]
    pq.write_table(pa.table({"embedding": vectors, "sample_id": [*"abc", "=d", *"efg"]}), tmp_path / "new.parquet")
    out = tmp_path / "new.csv"
    words = ["predict", "--run", str(tmp_path / "run"), "--out", str(out), str(tmp_path / "new.parquet")]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert "5 of 7 rows can't be classified" in done.stderr
    lines = out.read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["path", "a", "b", "c", "'=d", *"efg"]
    reasons = [
        "",
        "is all zeros",
        "holds NaN or infinity",
        "",
        "is empty",
        "has length 2, others 8",
        "has an empty value",
    ]
    assert [row["error"] for row in csv.DictReader(lines)] == reasons
    assert lines[1].split(",")[1:3] == lines[4].split(",")[1:3], "length doesn't matter"
    narrow = Classifier(None, replace(classifier.text, features=np.eye(3, 5, dtype=np.float32)), NAMES)
    with pytest.raises(DatasetError, match="have 8 numbers but the run's"):
        list(narrow.predict_embeddings(tmp_path / "new.parquet"))
    exports_what_there_is(tmp_path)


def exports_what_there_is(folder):
    """Of a run on embeddings that is the table; the note on its probabilities outlives the prompts."""
    words = ["export", "--run", str(folder / "run")]
    for more, said in (
        (["--folders", str(folder / "sorted")], "whose rows have no images; --csv FILE gives their classes"),
        (["--onnx", str(folder / "sorted")], "no image tower to export; `psp-ray predict --run"),
        (["--open-clip", str(folder / "sorted")], "--open-clip: "),
    ):
        error = CliRunner().invoke(cli, [*words, *more]).exception
        assert isinstance(error, UserError)
        assert said in str(error)
        assert not (folder / "sorted").exists()
    for _ in range(2):
        done = CliRunner().invoke(cli, [*words, "--csv", str(folder / "found.csv")])
        assert done.exit_code == 0, done.output
        assert "12 labels alone" in done.stderr
        (folder / "run" / "prompts.safetensors").unlink(missing_ok=True)


def test_check_data_counts_all_rows_that_cannot_be_used(files, tmp_path):
    """Of every kind, not the first of them alone."""
    rows = pq.read_table(files["dataset"])
    vectors = rows["embedding"].to_pylist()
    wrong = [None, [1.0], [None] * D, [0.0] * D, [float("nan")] * D]
    vectors[10:40:3] = wrong * 2
    table = rows.set_column(1, "embedding", pa.array(vectors, pa.list_(pa.float32())))
    pq.write_table(table, tmp_path / "rows.parquet")
    text = "\n".join(check(resolve({key: value for key, value in files.items() if key != "out"})))
    assert "warning: 10 rows that a run would refuse; repair or leave out: " in text
    kinds = ("is empty", "has length 1, others 8", "has an empty value", "is all zeros", "holds NaN or infinity")
    for number, kind in zip(range(11, 40, 3), kinds, strict=False):
        assert f"rows.parquet: row {number} {kind}" in text
    assert "row 26" not in text
    with pytest.raises(DatasetError, match=r"row 11 is empty \(and 5 more rows: 14, 17, 26, 29, \.\.\.\); repair it"):
        list(load_data(resolve(files)).embeddings.blocks(1000))


def test_check_data_looks_through_embeddings(files, tmp_path):
    rows = pq.read_table(files["dataset"])
    vectors = rows["embedding"].to_pylist()
    vectors[5], vectors[6], vectors[7] = [0.0] * D, [float("inf")] * D, vectors[8]
    pq.write_table(
        rows.set_column(1, "embedding", pa.array(vectors, pa.list_(pa.float32(), D))), tmp_path / "rows.parquet"
    )
    text = "\n".join(check(resolve({key: value for key, value in files.items() if key != "out"})))
    for part in (
        "rows: 120 embeddings (90 pool, 0 val, 30 test), 3 classes",
        "90 of 90 pool embeddings have one",
        "embeddings: 8 numbers a row, no views, of length ",
        "warning: 2 rows that a run would refuse",
        "rows.parquet: row 6 is all zeros",
        "rows.parquet: row 7 holds NaN or infinity",
        "warning: 1 row repeats the numbers of another: s007 = s008",
        "1 of them are both in the pool and in val or test",
        "1 of them have different labels",
        "class balance, a zero-shot guess from 88 rows of the pool",
        "cost: 6 labels a round",
    ):
        assert part in text, text

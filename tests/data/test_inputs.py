"""Inputs as people have them: long lists of classes, folders of parts spelled otherwise, what is no image, no label."""

import json
import os
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from psp_ray.core.answers import UnknownLabel
from psp_ray.core.errors import DatasetError
from psp_ray.core.paths import exists, is_file, is_folder, local_text
from psp_ray.core.words import LONGEST, printable
from psp_ray.data.classes import read_classes
from psp_ray.data.labels import LabelReader, label_text
from psp_ray.data.load import load_dataset
from psp_ray.data.own import initial_labels
from tests.data.made import class_folders, encoded, picture, save

TWENTY = [f"a class with quite a long name, number {i:02d}".replace(",", "") for i in range(20)]
NO_PATHS = ["x" * 300, "a/" * 3000, "nul\0byte", "half\ud800", "~nobody-of-that-name/x", "file://" + "y" * 5000, ""]


def parts(dataset):
    return {part: dataset.part(part).num_rows for part in ("pool", "val", "test")}


def message(call, *arguments, **options):
    with pytest.raises(DatasetError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- texts that are no paths -----------------------------------------------------------------------------------------


def test_twenty_classes_inline():
    assert read_classes(",".join(TWENTY)).names == TWENTY
    assert len(",".join(TWENTY)) > 255


@pytest.mark.parametrize("text", NO_PATHS)
def test_a_text_that_can_be_no_path_is_no_path(tmp_path, text):
    assert not is_file(text)
    assert not is_folder(text)
    assert not exists(text)
    (tmp_path / "img").mkdir()
    save(tmp_path / "img" / "a.png", 1)
    dataset = load_dataset(str(tmp_path / "img"), classes="cat,dog")
    for option in ("classes", "test", "exclude", "split", "dataset"):
        given = {"dataset": str(tmp_path / "img"), "classes": "cat,dog"} | {option: text}
        if option == "split":
            del given["classes"]
        assert len(printable(message(load_dataset, **given))) <= LONGEST
    message(initial_labels, dataset, text)


def test_addresses_of_files_are_paths(tmp_path, monkeypatch):
    folder = tmp_path / "my images, ü#1"
    class_folders(folder)
    address = folder.as_uri()
    assert "%20" in address
    assert local_text(address) == str(folder)
    assert load_dataset(address).manifest.equals(load_dataset(str(folder)).manifest)
    (tmp_path / "list.csv").write_text(f"path\n{(folder / 'cat' / '000.png').as_uri()}\n")
    listed = load_dataset((tmp_path / "list.csv").as_uri(), classes="a,b")
    assert listed.manifest["path"].to_pylist() == [str(folder / "cat" / "000.png")]
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    assert load_dataset(f"~/{folder.name}", classes="~/names.txt").manifest.num_rows == 20


# ---- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Train", "Val", "Test"),
        ("Training", "Validation", "Testing"),
        ("train_images", "val_images", "test_images"),
        ("trainset", "valid", "Test Set"),
        ("train2017", "val2017", "test2017"),
        ("TRAIN", "dev", "evaluation"),
    ],
)
def test_parts_spelled_otherwise(tmp_path, train, val, test):
    class_folders(tmp_path / train, per_class=3)
    class_folders(tmp_path / val, per_class=2)
    class_folders(tmp_path / test, per_class=1)
    dataset = load_dataset(str(tmp_path))
    assert dataset.classes == ["cat", "dog"]
    assert parts(dataset) == {"pool": 6, "val": 4, "test": 2}


def test_what_may_be_a_part_or_a_class_is_asked(tmp_path):
    for name in ("Training", "Testing"):
        class_folders(tmp_path / "a" / name, per_class=2)
    save(tmp_path / "a" / "misc" / "x.png", 5)
    assert "'Testing', 'Training' may be a part" in message(load_dataset, str(tmp_path / "a"))
    assert "move 'misc' elsewhere" in message(load_dataset, str(tmp_path / "a"))
    given = load_dataset(str(tmp_path / "a"), classes="training,testing,misc")
    assert given.classes == ["training", "testing", "misc"], "the user has the last word"
    for name in ("train", "test"):
        save(tmp_path / "b" / name / "x.png", len(name))
        save(tmp_path / "b" / name / "y.png", 9 + len(name))
    assert "look like parts but hold no class folders" in message(load_dataset, str(tmp_path / "b"))
    assert load_dataset(str(tmp_path / "b"), classes="train,test").classes == ["train", "test"]
    pool = load_dataset(str(tmp_path / "b"), classes="cat,dog")
    assert parts(pool) == {"pool": 4, "val": 0, "test": 0}
    assert any("'test' are in the pool" in note for note in pool.notes)


def test_what_is_left_out_is_counted_and_named(tmp_path):
    class_folders(tmp_path, per_class=4)
    cat = tmp_path / "cat"
    shutil.copy(cat / "000.png", cat / "no_ending")
    shutil.copy(cat / "001.png", cat / "photo.backup")
    for name, data in {
        "notes.txt": b"text",
        "list.csv": b"path,label\n",
        "script.py": b"#define x\nP5 y",
        "photo.heic": b"\x00\x00\x00\x18ftypheic" + bytes(50),
        "photo.jxl": b"\xff\x0a" + bytes(50),
        "photo.NEF": b"II*\x00" + bytes(50),
        "._x.jpg": b"resource fork",
        ".DS_Store": b"x",
    }.items():
        (cat / name).write_bytes(data)
    os.mkfifo(cat / "pipe.jpg")
    (cat / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    save(tmp_path / "loose.png", 77)
    save(tmp_path / "__MACOSX" / "x.png", 1)
    (tmp_path / "owl" / "deeper").mkdir(parents=True)
    save(tmp_path / "runs" / "mine" / "round_01" / "images" / "a.png", 5)
    (tmp_path / "runs" / "mine" / "run.json").write_text("{}")
    (tmp_path / "runs" / "mine" / "config.yaml").write_text("")
    dataset = load_dataset(str(tmp_path))
    assert dataset.classes == ["cat", "dog"]
    ids = dataset.manifest["sample_id"].to_pylist()
    assert {"cat/no_ending", "cat/photo.backup"} <= set(ids)
    assert len(ids) == 10
    assert sorted(dataset.notes) == [
        "left out 1 file (cat/gone.jpg): a link to nothing",
        "left out 1 file (cat/photo.NEF): a camera's raw format: convert it to JPEG or PNG",
        "left out 1 file (cat/photo.heic): HEIC, which Pillow doesn't read here: convert it to JPEG or PNG",
        "left out 1 file (cat/photo.jxl): JPEG XL, which Pillow doesn't read here: convert it to JPEG or PNG",
        "left out 1 file (cat/pipe.jpg): not a regular file",
        "left out 1 file (loose.png): in no class folder",
        "left out 1 folder (owl): a folder without an image",
        "left out 1 folder (runs/mine): an output folder of psp-ray",
        "left out 3 files (__MACOSX, cat/.DS_Store, cat/._x.jpg): hidden, or left there by a system",
        "left out 3 files (cat/list.csv, cat/notes.txt, cat/script.py): not an image",
    ]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("split", [False, True])
def test_imagefolder_with_metadata(tmp_path, kind, split):
    """As Hugging Face's ImageFolder wants it: file names are relative to the metadata's folder."""
    for part, count in (("train", 6), ("test", 2)) if split else (("", 8),):
        rows = [{"file_name": f"img/{i}.png", "label": "dog" if i % 2 else "cat"} for i in range(count)]
        for i in range(count + 1):
            save(tmp_path / part / "img" / f"{i}.png", 10 * len(part) + i)
        file = tmp_path / part / f"metadata.{kind}"
        if kind == "csv":
            pd.DataFrame(rows).to_csv(file, index=False)
        else:
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = load_dataset(str(tmp_path))
    assert dataset.classes == ["cat", "dog"]
    assert parts(dataset) == ({"pool": 6, "val": 0, "test": 2} if split else {"pool": 4, "val": 2, "test": 2})
    first = dataset.manifest["sample_id"][0].as_py()
    assert first == ("test/img/0.png" if split else "img/0.png")
    assert sum("not in the folder's metadata" in note for note in dataset.notes) == 1
    assert not any("metadata." in note for note in dataset.notes)


def test_metadata_without_labels_leaves_the_class_folders(tmp_path):
    class_folders(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name,caption\ncat/000.png,a cat\n")
    assert load_dataset(str(tmp_path)).classes == ["cat", "dog"]


# ---- labels ----------------------------------------------------------------------------------------------------------

NONE = ["", "  ", None, float("nan"), np.float32("nan"), -1, -1.0, "-1", "-1.0", [], [None], "NaN", "nan", "None", "NA"]
NONE += ["null", "<NA>", pd.NA, np.int8(-1), {"label": None}, b""]
SECOND = ["dog", " Dog ", "DOG", 1, 1.0, "1", "1.0", ["dog"], [1], (1,), np.int64(1), np.array([1]), np.array(["dog"])]
SECOND += [{"label": "dog"}, b"dog", "01"]
WRONG = ["cow", 7, "7", -2, "-2", 0.5, "0.5", ["cat", "dog"], [0, 1], {"name": "dog"}, float("inf"), True]


@pytest.mark.parametrize("value", NONE, ids=repr)
def test_no_label(value):
    assert LabelReader(["cat", "dog"])(value) is None


@pytest.mark.parametrize("value", SECOND, ids=repr)
def test_a_label(value):
    assert LabelReader(["cat", "dog"])(value) == 1


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_a_wrong_label(value):
    with pytest.raises(UnknownLabel):
        LabelReader(["cat", "dog"])(value)


def test_names_win_over_numbers_and_words():
    read = LabelReader(["2", "1", "None", "NA"])
    assert [read(value) for value in ("1", 1, 1.0, "2.0", "None", "NA", "null", "0", 3)] == [
        1,
        1,
        1,
        0,
        2,
        3,
        None,
        0,
        3,
    ]
    assert label_text(True) == "True"


@pytest.mark.parametrize("labels", [["cat", "dog", None], [0, 1, None], [0.0, 1.0, np.nan], [[0], [1], []]], ids=repr)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_csv_and_parquet_read_alike(tmp_path, labels, kind):
    for i in range(6):
        save(tmp_path / f"{i}.png", i)
    frame = pd.DataFrame({"path": [f"{i}.png" for i in range(6)], "label": labels * 2})
    if kind == "csv" and isinstance(labels[0], list):
        pytest.skip("CSV has no lists")
    getattr(frame, f"to_{kind}")(tmp_path / f"list.{kind}", index=False)
    dataset = load_dataset(str(tmp_path / f"list.{kind}"), classes="cat,dog")
    assert dataset.known_labels("pool").tolist() == [0, 1, -1] * 2
    alone = load_dataset(str(tmp_path / f"list.{kind}"))
    assert alone.classes == (["cat", "dog"] if labels[0] == "cat" else ["0", "1"])
    assert alone.known_labels("pool").tolist() == [0, 1, -1] * 2


def test_class_label_numbers_and_what_is_missing(tmp_path):
    images = pa.array([{"bytes": encoded(picture(i)), "path": None} for i in range(4)])
    info = {"info": {"features": {"label": {"names": ["x", "y"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": images, "label": pa.array([1, 0, -1, None], pa.int64())})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(info)}), tmp_path / "a.parquet")
    dataset = load_dataset(str(tmp_path / "a.parquet"))
    assert dataset.classes == ["x", "y"]
    assert dataset.known_labels("pool").tolist() == [1, 0, -1, -1]


def test_words_that_may_be_classes_are_told(tmp_path):
    for i in range(4):
        save(tmp_path / f"{i}.png", i)
    (tmp_path / "list.csv").write_text("path,label\n0.png,cat\n1.png,dog\n2.png,NA\n3.png,NA\n")
    dataset = load_dataset(str(tmp_path / "list.csv"))
    assert dataset.classes == ["cat", "dog"]
    assert dataset.notes == ("2 labels 'NA' count as no label; if it is a class, name the classes with --classes",)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_tables_of_any_delimiter_and_quotes(tmp_path, delimiter):
    for i in range(3):
        save(tmp_path / "a" / f"{i}, x.png", i)
    dataset = load_dataset(str(tmp_path / "a"), classes="cat,dog")
    rows = [['"Sample_ID"', '"Label"'], ['"0, x.png"', "cat"], ['"2, x.png"', '" dog "'], ['"1, x.png"', ""]]
    (tmp_path / "known.csv").write_text("\r\n".join(delimiter.join(row) for row in rows), encoding="utf-8-sig")
    positions, labels = initial_labels(dataset, str(tmp_path / "known.csv"))
    assert (positions.tolist(), labels.tolist()) == ([0, 2], [0, 1])
    (tmp_path / "known.csv").write_text(f"label{delimiter}path\ncat{delimiter}\n")
    assert "a label without a path" in message(initial_labels, dataset, str(tmp_path / "known.csv"))


def test_composed_and_decomposed_names_meet(tmp_path):
    """macOS and some archives write u and two dots (NFD), most else one character (NFC)."""
    decomposed, composed = "u\u0308ber.png", "\u00fcber.png"
    save(tmp_path / "a" / decomposed, 1)
    save(tmp_path / "a" / "b.png", 2)
    dataset = load_dataset(str(tmp_path / "a"), classes="K\u00e4se,dog")
    (tmp_path / "known.csv").write_text(f"sample_id,label\n{composed},Ka\u0308se\n")
    positions, labels = initial_labels(dataset, str(tmp_path / "known.csv"))
    assert (positions.tolist(), labels.tolist()) == ([1], [0])
    (tmp_path / "out.txt").write_text(composed)
    left = load_dataset(str(tmp_path / "a"), classes="a,b", exclude=str(tmp_path / "out.txt"))
    assert left.manifest["sample_id"].to_pylist() == ["b.png"]
    class_folders(tmp_path / "c", ("Ka\u0308se", "dog"))
    assert load_dataset(str(tmp_path / "c"), classes="K\u00e4se,dog").classes == ["K\u00e4se", "dog"]


def test_one_image_and_a_picture_of_another_name(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", "PNG")
    save(tmp_path / "b.png", 2)
    assert load_dataset(str(tmp_path), classes="a,b").manifest.num_rows == 2

"""Every adapter on a small tree made here, on the shared data where it is present, and every error message."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits as sklearn_digits

from psp_ray.core import registry
from psp_ray.core.errors import ConfigError, DatasetError
from psp_ray.data import dataset_names, load, load_dataset, register_dataset
from psp_ray.data.adapters.digits import gray_png
from psp_ray.data.dataset import GROUND_TRUTH_SCHEMA, MANIFEST_SCHEMA, make_dataset
from psp_ray.data.images import decode
from psp_ray.data.parts import stratified_parts
from tests.data.made import SHARED, class_folders, coop_tree, save

COOP = {
    "caltech101": ("caltech-101", "101_ObjectCategories", "split_zhou_Caltech101.json"),
    "dtd": ("dtd", "images", "split_zhou_DescribableTextures.json"),
    "dtd10": ("dtd", "images", "split_dtd10.json"),
    "eurosat": ("eurosat", "2750", "split_zhou_EuroSAT.json"),
    "oxford_pets": ("oxford_pets", "images", "split_zhou_OxfordPets.json"),
    "oxford_flowers": ("oxford_flowers", "jpg", "split_zhou_OxfordFlowers.json"),
    "stanford_cars": ("stanford_cars", ".", "split_zhou_StanfordCars.json"),
    "rsscn7": ("rsscn7", "images", "split_rsscn7.json"),
}


def message(call, *args) -> str:
    with pytest.raises(DatasetError) as caught:
        call(*args)
    text = str(caught.value)
    assert "\n" not in text
    return text


def counts(dataset):
    return dataset.pool.num_rows, dataset.val.num_rows, dataset.test.num_rows


def test_every_registered_data_set_is_tested_here():
    assert set(dataset_names()) == {*COOP, "digits", "fgvc_aircraft"}


# -- digits ------------------------------------------------------------------------------------------------------


def test_digits():
    dataset = load_dataset("digits")
    bunch = sklearn_digits()
    assert dataset.manifest.schema.equals(MANIFEST_SCHEMA)
    assert dataset.ground_truth.schema.equals(GROUND_TRUTH_SCHEMA)
    assert counts(dataset) == (899, 179, 719)
    assert len(dataset.classes) == 10
    assert not dataset.mirror
    ids = dataset.manifest["sample_id"].to_pylist()
    assert ids == [f"digits/{i:04d}" for i in range(1797)]
    assert dataset.ground_truth["label"].to_pylist() == bunch.target.tolist()
    for row in (0, 7, 1796):
        pixels = np.asarray(decode(dataset.manifest["image"][row].as_py()).convert("L"))
        np.testing.assert_array_equal(pixels, np.rint(bunch.images[row] * 255 / 16))
    for part, share in (("pool", 0.5), ("val", 0.1), ("test", 0.4)):
        by_class = Counter(dataset.labels(part).tolist())
        for c in range(10):
            assert abs(by_class[c] - share * (bunch.target == c).sum()) <= 1
    assert all("{}" in template for template in dataset.templates)


def test_digits_refuse_a_split():
    assert "drop --split" in message(load_dataset, "digits", None, "x.json")


# -- class folders -----------------------------------------------------------------------------------------------


def test_folder_without_split(tmp_path):
    class_folders(tmp_path / "pets", per_class=20)
    dataset = load_dataset(str(tmp_path / "pets"))
    assert dataset.name == "pets"
    assert dataset.classes == ["cat", "dog"]
    assert counts(dataset) == (28, 4, 8)
    ids = dataset.manifest["sample_id"].to_pylist()
    assert ids == sorted(ids)
    assert ids[0] == "cat/000.png"
    assert all(Path(path).is_file() and os.path.isabs(path) for path in dataset.manifest["path"].to_pylist())
    for part in ("pool", "val", "test"):
        names = dataset.part(part)["sample_id"].to_pylist()
        assert [dataset.classes[label] for label in dataset.labels(part)] == [name.split("/")[0] for name in names]
    again = load_dataset(str(tmp_path / "pets"))
    assert again.manifest.equals(dataset.manifest)


def test_parts_do_not_move_when_the_folder_does(tmp_path):
    first = load_dataset(str(class_folders(tmp_path / "a")))
    second = load_dataset(str(class_folders(tmp_path / "b" / "c")))
    assert first.manifest["split"].equals(second.manifest["split"])


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_folder_with_parts(tmp_path, val):
    class_folders(tmp_path / "train", per_class=3)
    class_folders(tmp_path / val, per_class=2)
    class_folders(tmp_path / "test", classes=("cat", "dog", "owl"), per_class=1)
    dataset = load_dataset(str(tmp_path))
    assert dataset.classes == ["cat", "dog", "owl"]
    assert counts(dataset) == (6, 4, 3)
    assert dataset.pool["sample_id"][0].as_py() == "train/cat/000.png"


def test_a_class_may_be_called_train(tmp_path):
    class_folders(tmp_path, classes=("train", "bus"), per_class=5)
    dataset = load_dataset(str(tmp_path))
    assert dataset.classes == ["bus", "train"]
    assert sum(counts(dataset)) == 10


def test_folder_takes_every_extension_nested_files_and_links_but_nothing_hidden(tmp_path):
    for i, suffix in enumerate((".png", ".JPG", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".ppm", ".JPEG")):
        save(tmp_path / "cat" / "deeper" / f"{i}{suffix}", i)
    save(tmp_path / "dog" / "a.png", 50)
    (tmp_path / "dog" / "notes.txt").write_text("not an image")
    (tmp_path / "dog" / "._a.png").write_bytes(b"resource fork")
    save(tmp_path / ".cache" / "x.png", 1)
    save(tmp_path / "__MACOSX" / "x.png", 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "dog" / "loop").symlink_to(tmp_path / "dog")
    dataset = load_dataset(str(tmp_path))
    assert dataset.classes == ["cat", "dog"]
    assert dataset.manifest.num_rows == 10


def test_folder_errors(tmp_path):
    assert "does not exist" in message(load_dataset, str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    assert "is empty" in message(load_dataset, str(tmp_path / "empty"))
    (tmp_path / "text" / "a").mkdir(parents=True)
    (tmp_path / "text" / "a" / "b.txt").write_text("x")
    assert "no image file" in message(load_dataset, str(tmp_path / "text"))
    save(tmp_path / "flat" / "a.png", 1)
    assert "no class folder" in message(load_dataset, str(tmp_path / "flat"))
    class_folders(tmp_path / "one", classes=("cat",))
    assert "only one class ('cat')" in message(load_dataset, str(tmp_path / "one"))
    class_folders(tmp_path / "outer" / "images")
    assert f"or give {tmp_path / 'outer' / 'images'}" in message(load_dataset, str(tmp_path / "outer"))
    (tmp_path / "file").write_text("x")
    assert "is a file of another kind" in message(load_dataset, str(tmp_path / "file"))
    for name in ("bad/cat/a.png", "bad/dog/b.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"not a picture")
    assert "no readable image among 2" in message(load_dataset, str(tmp_path / "bad"))


def test_one_readable_image_is_enough_to_load(tmp_path):
    class_folders(tmp_path, per_class=4)
    for path in sorted((tmp_path / "cat").iterdir()):
        path.write_bytes(b"")
    assert load_dataset(str(tmp_path)).manifest.num_rows == 8


def test_a_file_name_that_is_not_utf8_is_named(tmp_path):
    class_folders(tmp_path)
    try:
        with open(os.path.join(os.fsencode(tmp_path), b"cat", b"\xff.png"), "wb") as handle:
            handle.write(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    dataset = load_dataset(str(tmp_path))
    assert dataset.manifest.num_rows == 20
    assert dataset.notes == ("left out 1 file (cat/\\udcff.png): its name is not UTF-8: rename it",)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 10**6)), min_size=1, max_size=200, unique=True),
    st.randoms(use_true_random=False),
)
def test_stratified_parts_depend_on_names_and_classes_only(samples, shuffler):
    ids, labels = [f"{c}/{i}" for c, i in samples], [c for c, _ in samples]
    parts = stratified_parts(ids, labels, val=0.1, test=0.2)
    order = list(range(len(ids)))
    shuffler.shuffle(order)
    moved = stratified_parts([ids[i] for i in order], [labels[i] for i in order], val=0.1, test=0.2)
    assert [parts[i] for i in order] == moved
    for c, n in Counter(labels).items():
        here = Counter(part for part, label in zip(parts, labels, strict=True) if label == c)
        assert here["pool"] >= 1
        assert here["test"] == (max(1, round(0.2 * n)) if n > 1 else 0)
        assert here["val"] == (max(1, round(0.1 * n)) if n > 2 else 0)


# -- CoOp layouts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(COOP))
def test_named_sets(tmp_path, name):
    folder, images, split_file = COOP[name]
    coop_tree(tmp_path / folder, images, split_file)
    dataset = load_dataset(name, tmp_path)
    assert dataset.name == name
    assert counts(dataset) == (8, 4, 6)
    assert dataset.classes == ["cat", "dog"]
    prefix = "" if images == "." else f"{images}/"
    assert dataset.manifest["sample_id"][0].as_py() == f"{prefix}cat/000.png"
    assert Path(dataset.manifest["path"][0].as_py()) == tmp_path / folder / images / "cat" / "000.png"
    assert all("{}" in template for template in dataset.templates)
    (tmp_path / folder / split_file).rename(tmp_path / "elsewhere.json")
    assert "--split" in message(load_dataset, name, tmp_path)
    assert counts(load_dataset(name, tmp_path, tmp_path / "elsewhere.json")) == (8, 4, 6)
    assert "--data-root" in message(load_dataset, name)
    assert "correct --data-root" in message(load_dataset, name, tmp_path / "no")


def aircraft(root: Path) -> Path:
    (root / "images").mkdir(parents=True)
    (root / "variants.txt").write_text("707-320\nA340-200\nDC-10 30\n")
    for part, first in (("train", 0), ("val", 10), ("test", 20)):
        lines = []
        for i, variant in enumerate(("DC-10 30", "707-320", "A340-200")):
            save(root / "images" / f"{first + i:07d}.jpg", first + i)
            lines.append(f"{first + i:07d} {variant}\n")
        (root / f"images_variant_{part}.txt").write_text("".join(lines))
    return root


def test_fgvc_aircraft(tmp_path):
    root = aircraft(tmp_path / "fgvc_aircraft")
    dataset = load_dataset("fgvc_aircraft", tmp_path)
    assert dataset.classes == ["707-320", "A340-200", "DC-10 30"]
    assert counts(dataset) == (3, 3, 3)
    assert dataset.labels("pool").tolist() == [2, 0, 1]
    (root / "images_variant_val.txt").write_text("0000010 Zeppelin\n")
    assert "line 1" in message(load_dataset, "fgvc_aircraft", tmp_path)
    (root / "images_variant_val.txt").unlink()
    assert "restore it" in message(load_dataset, "fgvc_aircraft", tmp_path)


@pytest.mark.parametrize("images", [".", "images"])
def test_split_file_with_any_folder(tmp_path, images):
    root = coop_tree(tmp_path / "own", images, "split.json")
    by_option = load_dataset(str(root), None, root / "split.json")
    by_spelling = load_dataset(f"{root}:{root / 'split.json'}")
    inside = load_dataset(f"{root}:split.json")
    assert by_option.manifest.equals(by_spelling.manifest)
    assert by_option.manifest.equals(inside.manifest)
    assert counts(by_option) == (8, 4, 6)
    assert "give one of them" in message(load_dataset, f"{root}:split.json", None, "other.json")


def test_a_named_set_and_its_folder_with_its_split_are_the_same(tmp_path):
    root = coop_tree(tmp_path / "rsscn7", "images", "split_rsscn7.json")
    named, folder = load_dataset("rsscn7", tmp_path), load_dataset(f"{root}:split_rsscn7.json")
    assert named.manifest.equals(folder.manifest)
    assert named.ground_truth.equals(folder.ground_truth)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "can't be read as JSON"),
        ("[]", "no list 'train'"),
        ('{"train": 3}', "no list 'train'"),
        ('{"train": [], "val": 1}', "'val' is not a list"),
        ('{"train": []}', "lists no image"),
        ('{"train": [["cat/000.png", "0", "cat"]]}', "entry 0 of 'train'"),
        ('{"train": [["cat/000.png", true, "cat"]]}', "entry 0 of 'train'"),
        ('{"train": [["../secret.png", 0, "cat"]]}', "make it relative"),
        ('{"train": [["/etc/x.png", 0, "cat"]]}', "make it relative"),
        ('{"train": [["cat/000.png", 0, " "]]}', "no class name"),
        ('{"train": [["cat/000.png", 0, "cat"], ["cat/001.png", 0, "tom"]]}', "use one name"),
        ('{"train": [["cat/000.png", 0, "cat"], ["dog/000.png", 1, "cat"]]}', "occurs twice"),
        ('{"train": [["cat/000.png", 0, "cat"], ["cat/001.png", 0, "cat"]]}', "only one class"),
        ('{"train": [["cat/000.png", 0, "cat"]], "test": [["cat/./000.png", 1, "dog"]]}', "listed twice"),
        ('{"train": [], "test": [["cat/000.png", 0, "cat"], ["dog/000.png", 1, "dog"]]}', "train part is empty"),
    ],
)
def test_split_file_errors(tmp_path, content, expected):
    class_folders(tmp_path, per_class=2)
    (tmp_path / "split.json").write_text(content)
    assert expected in message(load_dataset, str(tmp_path), None, tmp_path / "split.json")


def test_absent_images_are_counted_and_the_first_is_named(tmp_path):
    root = coop_tree(tmp_path / "own", "images", "split.json")
    for name in ("cat/001.png", "dog/002.png"):
        (root / "images" / name).unlink()
    text = message(load_dataset, f"{root}:split.json")
    assert "2 of 18 images" in text
    assert str(root / "images" / "cat" / "001.png") in text
    assert "does not exist" in message(load_dataset, str(root), None, tmp_path / "no.json")


def test_labels_with_gaps_are_closed(tmp_path):
    class_folders(tmp_path, per_class=2)
    rows = [["dog/000.png", 7, "dog"], ["cat/000.png", 3, "cat"], ["cat/001.png", 3, "cat"]]
    (tmp_path / "split.json").write_text(json.dumps({"train": rows}))
    dataset = load_dataset(f"{tmp_path}:split.json")
    assert dataset.classes == ["cat", "dog"]
    assert dataset.labels("pool").tolist() == [0, 0, 1]


# -- names -------------------------------------------------------------------------------------------------------


def test_unknown_names_get_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = message(load_dataset, "oxfordpets")
    assert "did you mean 'oxford_pets'" in text
    assert "digits" in text
    assert "did you mean" not in message(load_dataset, "qqqqqqq")


def test_a_name_wins_over_a_folder_and_the_folder_can_be_had(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / "digits")
    assert load_dataset("digits").manifest.num_rows == 1797
    assert load_dataset("./digits").manifest.num_rows == 20


def test_a_name_can_be_taken_once():
    dataset_names()
    with pytest.raises(ConfigError, match="registered already"):
        register_dataset("digits")(lambda request: None)


def test_entry_points_of_other_packages_are_found(monkeypatch):
    point = EntryPoint("elsewhere", "tests.data.test_adapters:load_elsewhere", "psp_ray.data.adapters")
    monkeypatch.setattr(registry, "note_others", lambda *others: None)  # the tests are no other package
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == point.group else [])
    monkeypatch.setattr(load, "DATASETS", registry.Registry("data set", "psp_ray.data.adapters", option="--dataset"))
    assert load_dataset("elsewhere").name == "elsewhere"


def load_elsewhere(request):
    return make_dataset(
        request.name,
        ["a", "b"],
        ["0", "1"],
        ["pool", "pool"],
        [0, 1],
        images=[gray_png(np.zeros((8, 8), np.uint8))] * 2,
    )


def test_dataset_helpers(tmp_path):
    dataset = load_dataset(str(class_folders(tmp_path, classes=("sea_lion", "dog"))))
    assert dataset.prompt_names == ["dog", "sea lion"]
    gone = dataset.pool["sample_id"][0].as_py()
    less = dataset.without([gone])
    assert less.pool.num_rows == dataset.pool.num_rows - 1
    assert gone not in less.manifest["sample_id"].to_pylist()
    assert less.ground_truth.num_rows == less.manifest.num_rows
    assert len(less.labels("pool")) == less.pool.num_rows
    with pytest.raises(ValueError, match="parts are"):
        dataset.part("train")


# -- real data ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "classes", "parts"),
    [("caltech101", 100, (4128, 1649, 2465)), ("rsscn7", 7, (1400, 560, 840)), ("dtd10", 10, (600, 240, 360))],
)
def test_shared_data(name, classes, parts):
    if not (SHARED / COOP[name][0]).is_dir():
        pytest.skip(f"{SHARED} does not hold {name}")
    dataset = load_dataset(name, SHARED)
    assert len(dataset.classes) == classes
    assert counts(dataset) == parts


def test_listing_data_loads_neither_torch_nor_ray():
    code = (
        "import sys, psp_ray.data, psp_ray.features.pool, psp_ray.features.featurize, psp_ray.features.fresh;"
        "psp_ray.data.load_dataset('digits');"
        "sys.exit(' '.join(m for m in ('torch', 'ray', 'open_clip') if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

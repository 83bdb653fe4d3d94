"""What users bring: unsorted folders, lists, Parquet with image bytes, test sets, labels, images to leave out."""

import json

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from psp_ray.core.errors import DatasetError
from psp_ray.data import remote
from psp_ray.data.classes import read_classes
from psp_ray.data.load import load_dataset
from psp_ray.data.own import initial_labels, limited, readable
from psp_ray.features.featurize import featurize
from tests.data.made import PREP, class_folders, encoded, picture, save, toy_encoder


def message(call, *arguments, **options):
    with pytest.raises(DatasetError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def parts(dataset):
    return {part: dataset.part(part).num_rows for part in ("pool", "val", "test")}


def test_class_names_from_a_list_or_a_file(tmp_path):
    assert read_classes("cat, dog,sea lion").names == ["cat", "dog", "sea lion"]
    file = tmp_path / "names.txt"
    file.write_text("# animals\ncat: has whiskers, says meow\n\n dog \nsea lion:\n")
    found = read_classes(str(file))
    assert found.names == ["cat", "dog", "sea lion"]
    assert found.descriptions == {"cat": ["has whiskers", "says meow"]}
    file.write_text("cat\nCAT\n")
    assert f"{file}:2: class 'CAT' is there already" in message(read_classes, str(file))
    assert "at least two" in message(read_classes, "cat")
    assert "can't be read" in message(read_classes, "missing.txt")


def test_unsorted_folder(tmp_path):
    for i in range(5):
        save(tmp_path / "2024" / f"{i}.png", i)
    save(tmp_path / "loose.png", 9)
    dataset = load_dataset(str(tmp_path), classes="cat,dog")
    assert parts(dataset) == {"pool": 6, "val": 0, "test": 0}
    assert dataset.ground_truth is None
    assert dataset.known_labels("pool").tolist() == [-1] * 6
    assert "--classes" in message(load_dataset, str(tmp_path / "2024"))


def test_class_folders_keep_their_labels_and_take_the_names_given(tmp_path):
    class_folders(tmp_path / "a", ("sea_lion", "dog"))
    dataset = load_dataset(str(tmp_path / "a"), classes="Dog,sea lion,cat")
    assert dataset.classes == ["Dog", "sea lion", "cat"]
    assert parts(dataset) == {"pool": 14, "val": 2, "test": 4}
    assert dataset.labels("pool").tolist() == [0] * 7 + [1] * 7
    assert "sub-folder 'sea_lion' is no class" in message(load_dataset, str(tmp_path / "a"), classes="dog,cat")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_manifest_with_splits_and_some_labels(tmp_path, suffix):
    for i in range(6):
        save(tmp_path / "img" / f"{i}.png", i)
    table = pa.table(
        {
            "Path": [f"img/{i}.png" for i in range(5)] + [str(tmp_path / "img" / "5.png")],
            "label": ["cat", "", "dog", "", "Cat", "dog"],
            "split": ["train", "", "pool", "unlabeled", "test", "val"],
        }
    )
    file = tmp_path / f"list.{suffix}"
    if suffix == "csv":
        table.to_pandas().to_csv(file, index=False)
    else:
        pq.write_table(table, file)
    dataset = load_dataset(str(file), classes="cat,dog")
    assert parts(dataset) == {"pool": 4, "val": 1, "test": 1}
    assert dataset.known_labels("pool").tolist() == [0, -1, 1, -1]
    assert dataset.labels("test").tolist() == [0]
    assert load_dataset(str(file)).classes == ["Cat", "cat", "dog"], "names as they stand where none are given"


def test_fully_labeled_manifest_is_cut_like_a_folder(tmp_path):
    root = class_folders(tmp_path / "f")
    names = sorted(path.relative_to(tmp_path).as_posix() for path in root.rglob("*.png"))
    (tmp_path / "list.csv").write_text("file,class\n" + "".join(f"{n},{n.split('/')[1]}\n" for n in names))
    assert parts(load_dataset(str(tmp_path / "list.csv"))) == {"pool": 14, "val": 2, "test": 4}


def test_manifest_of_urls_is_read_and_hashed_like_files(tmp_path, monkeypatch):
    """By a file system of fsspec that stands in for a bucket."""
    monkeypatch.setattr(remote, "SCHEMES", remote.SCHEMES | {"memory"})
    system = fsspec.filesystem("memory")
    lines = ["path,label"]
    for i in range(4):
        data = encoded(picture(i))
        system.pipe(f"/bucket/{i}.png", data)
        (tmp_path / f"{i}.png").write_bytes(data)
        lines.append(f"{i}.png,{'cat' if i % 2 else ''}")
    system.pipe("/bucket/list.csv", "\n".join(lines).encode())
    (tmp_path / "list.csv").write_text("\n".join(lines))
    from psp_ray.features.cache import EncoderSpec, FeatureCache
    from tests.data.made import DIM

    cache = FeatureCache.open(tmp_path / "cache")
    spec = EncoderSpec("w", PREP, DIM)
    found = [
        featurize(load_dataset(name, classes="cat,dog", allow_remote=True), spec, cache, toy_encoder)
        for name in (str(tmp_path / "list.csv"), "memory://bucket/list.csv")
    ]
    assert found[0].content_hashes == found[1].content_hashes
    assert (found[0].n_encoded, found[1].n_encoded) == (4, 0)
    system.rm("/bucket/1.png")
    again = load_dataset("memory://bucket/list.csv", classes="cat,dog", allow_remote=True)
    gone = featurize(again, spec, cache, toy_encoder)
    assert [(image.sample_id, image.reason) for image in gone.broken] == [("1.png", "file not found")]


def huggingface_folder(root, names=("cat", "dog")):
    """As `datasets` writes it: the images' bytes, and the class names in the schema's metadata."""
    info = {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for split, count in (("train", 6), ("validation", 2), ("test", 3)):
        images = [{"bytes": encoded(picture(100 * len(split) + i)), "path": "x.png"} for i in range(count)]
        table = pa.table(
            {"image": pa.array(images, kind), "label": pa.array([i % 2 for i in range(count)], pa.int64())}
        )
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
        (root / "data").mkdir(parents=True, exist_ok=True)
        pq.write_table(table, root / "data" / f"{split}-00000-of-00001.parquet")


def test_huggingface_folder(tmp_path):
    huggingface_folder(tmp_path)
    dataset = load_dataset(str(tmp_path))
    assert dataset.classes == ["cat", "dog"]
    assert parts(dataset) == {"pool": 6, "val": 2, "test": 3}
    assert dataset.labels("test").tolist() == [0, 1, 0]
    assert dataset.pool["image"][0].as_py().startswith(b"\x89PNG")


def test_huggingface_class_names_from_the_card(tmp_path):
    huggingface_folder(tmp_path, names=())
    card = "dataset_info:\n  features:\n  - name: label\n    dtype:\n      class_label:\n        names:\n"
    (tmp_path / "README.md").write_text(f"---\n{card}          '0': lynx\n          '1': otter\n---\n# A data set\n")
    assert load_dataset(str(tmp_path)).classes == ["lynx", "otter"]


def test_a_test_set_from_elsewhere(tmp_path):
    class_folders(tmp_path / "a")
    class_folders(tmp_path / "b", ("Dog", "cat"), per_class=3)
    dataset = load_dataset(str(tmp_path / "a"), test=str(tmp_path / "b"))
    assert parts(dataset) == {"pool": 18, "val": 2, "test": 6}, "what would have been test is pool"
    assert sorted(dataset.labels("test").tolist()) == [0, 0, 0, 1, 1, 1]
    ids = dataset.manifest["sample_id"].to_pylist()
    assert ids == sorted(ids)
    (tmp_path / "t.csv").write_text("path,label,split\nb/cat/000.png,cat,test\nb/cat/001.png,cat,train\n")
    assert parts(load_dataset(str(tmp_path / "a"), test=str(tmp_path / "t.csv")))["test"] == 1
    (tmp_path / "t.csv").write_text("path,label\nb/cat/000.png,cow\n")
    assert "t.csv:2: 'cow' is no class" in message(load_dataset, str(tmp_path / "a"), test=str(tmp_path / "t.csv"))


def test_excluded_images(tmp_path):
    class_folders(tmp_path / "a")
    (tmp_path / "out.csv").write_text(f"sample_id,reason\ncat/000.png,blurred\n{tmp_path / 'a' / 'dog' / '001.png'},\n")
    dataset = load_dataset(str(tmp_path / "a"), exclude=str(tmp_path / "out.csv"))
    assert dataset.manifest.num_rows == 18
    (tmp_path / "out.csv").write_text("cat/000.png\ncat/999.png\n")
    assert "out.csv:2: 'cat/999.png' is no image" in message(
        load_dataset, str(tmp_path / "a"), exclude=str(tmp_path / "out.csv")
    )


def test_initial_labels_and_a_smaller_pool(tmp_path):
    for i in range(30):
        save(tmp_path / "a" / f"{i:02d}.png", i)
    dataset = load_dataset(str(tmp_path / "a"), classes="cat,dog")
    (tmp_path / "known.csv").write_text("label,path\ndog,07.png\n,08.png\ncat,03.png\n")
    positions, labels = initial_labels(dataset, str(tmp_path / "known.csv"))
    assert (positions.tolist(), labels.tolist()) == ([3, 7], [0, 1])
    small = limited(dataset, 10, 0, positions)
    names = small.pool["sample_id"].to_pylist()
    assert len(names) == 10
    assert {"03.png", "07.png"} <= set(names)
    assert limited(dataset, 10, 1, positions).pool["sample_id"].to_pylist() != names
    (tmp_path / "known.csv").write_text("sample_id,label\n03.png,cat\n03.png,dog\n")
    assert "two different labels" in message(initial_labels, dataset, str(tmp_path / "known.csv"))


def test_initial_labels_of_unreadable_images_are_passed_over(tmp_path):
    for i in range(6):
        save(tmp_path / "a" / f"{i}.png", i)
    dataset = load_dataset(str(tmp_path / "a"), classes="cat,dog")
    known = np.array([1, 3, 4]), np.array([0, 1, 0], np.int32)
    (positions, labels), gone = readable(known, dataset, dataset.without(["0.png", "3.png"]))
    assert (positions.tolist(), labels.tolist(), gone) == ([0, 2], [0, 0], ["3.png"])
    (positions, labels), gone = readable(known, dataset, dataset.without(["1.png", "3.png", "4.png"]))
    assert (len(positions), labels.dtype, len(gone)) == (0, np.int32, 3)


def test_a_stray_quote_is_one_line_of_error(tmp_path):
    """A quote that is never closed swallows the rest of the file; in a large one the csv module gives up."""
    save(tmp_path / "a.png", 0)
    rest = "b.png,dog\n" * 20_000
    (tmp_path / "list.csv").write_text('path,label\na.png,cat\n"a.png,cat\n' + rest)
    assert "list.csv:3: not readable as CSV" in message(load_dataset, str(tmp_path / "list.csv"))
    (tmp_path / "list.csv").write_text('path,"label\n' + rest)
    assert "list.csv:1: not readable as CSV" in message(load_dataset, str(tmp_path / "list.csv"))
    (tmp_path / "list.csv").write_text("path,label\na.png,cat\n")
    (tmp_path / "out.csv").write_text('path\n"a.png\n' + rest)
    assert "out.csv:2: not readable as CSV" in message(
        load_dataset, str(tmp_path / "list.csv"), classes="cat,dog", exclude=str(tmp_path / "out.csv")
    )
    (tmp_path / "known.csv").write_text('path,label\n"a.png,cat\n' + rest)
    dataset = load_dataset(str(tmp_path / "list.csv"), classes="cat,dog")
    assert "known.csv:2: not readable as CSV" in message(initial_labels, dataset, str(tmp_path / "known.csv"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("name,label\na.png,cat\n", "no column 'path' (columns: name, label)"),
        ("path,label\n", "lists no image"),
        ("path,label\na.png,cow\n", "list.csv:2: 'cow' is no class (classes are 'cat', 'dog')"),
        ("path,label\na.png,skip\n", "list.csv:2: 'skip' is no class"),
        ("path,label,split\na.png,cat,holdout\n", "list.csv:2: split 'holdout' is unknown"),
        ("path,label,split\na.png,,test\n", "list.csv:2: a test image without a label"),
        ("path,label\na.png,cat\nb.png,dog\n", "list.csv:3"),
        ("path,label\n,cat\n", "list.csv:2: no path"),
    ],
)
def test_manifest_errors(tmp_path, content, expected):
    save(tmp_path / "a.png", 0)
    (tmp_path / "list.csv").write_text(content)
    assert expected in message(load_dataset, str(tmp_path / "list.csv"), classes="cat,dog")


def test_other_errors(tmp_path):
    assert "brings its own class names" in message(load_dataset, "digits", classes="a,b")
    assert "file not found" in message(load_dataset, str(tmp_path / "no.csv"))
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    assert "not a Parquet file" in message(load_dataset, str(tmp_path / "bad.parquet"))
    save(tmp_path / "a.png", 0)
    (tmp_path / "list.csv").write_text("path\na.png\n")
    assert "give them with --classes" in message(load_dataset, str(tmp_path / "list.csv"))

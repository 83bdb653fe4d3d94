"""Embeddings as a data set: every layout against the plain arrays, and what is wrong in one line with file and row."""

import base64
import json
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psp_ray.core.errors import DatasetError
from psp_ray.data import load_dataset
from psp_ray.data.classes import ClassList
from psp_ray.data.embedded.classes import read_class_embeddings, unit_rows
from psp_ray.data.embedded.vectors import vector_rows, view_rows

EXPORTS = Path(__file__).parent / "exports"
N, D, L = 12, 4, 2
NAMES = ["cat", "dog", "owl"]
NAMED = ClassList(NAMES, {}, "classes.parquet")


def numbers(*shape):
    """As `exports/make.py` has them."""
    ramp = np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    return (np.arange(1, 1 + np.prod(shape)).reshape(shape) % 7 - 3.5 + ramp).astype(np.float32)


def rows_of(dataset, block=5):
    """(embeddings, views or None) in row order."""
    blocks = list(dataset.embeddings.blocks(block))
    assert [part.start for part in blocks] == np.cumsum([0, *(len(part.vectors) for part in blocks[:-1])]).tolist()
    views = None if blocks[0].views is None else np.concatenate([part.views for part in blocks])
    return np.concatenate([part.vectors for part in blocks]), views


def lists(values, width=None, kind=None):
    """An Arrow column of lists, of a fixed size where `width` is given."""
    kind = kind or pa.float32()
    return pa.array(values.tolist(), pa.list_(kind, width) if width else pa.list_(kind))


def write(path, /, **columns):
    pq.write_table(pa.table(columns), path)
    return str(path)


# ---- layouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "ids", "path"),
    [
        ("datasets_saved", "00.jpg", "00.jpg"),
        ("datasets.parquet", "00.jpg", "00.jpg"),
        ("datasets.jsonl", "00.jpg", "00.jpg"),
        ("datasets_dict", "00.jpg", "train/00.jpg"),
        ("datasets_views.parquet", "row/00", None),
        ("lance.parquet", "s00", None),
        ("lance.arrow", "s00", None),
        ("fiftyone", f"{0:024x}", "data/00.jpg"),
        ("fiftyone/samples.json", f"{0:024x}", "data/00.jpg"),
    ],
)
def test_exports_of_other_tools_are_read_as_they_are(name, ids, path):
    dataset = load_dataset(str(EXPORTS / name), named=NAMED)
    vectors, views = rows_of(dataset)
    np.testing.assert_array_equal(vectors, numbers(N, D).astype(vectors.dtype))
    if "views" in name:
        np.testing.assert_array_equal(views, numbers(N, L, D))
    else:
        assert views is None
    assert dataset.classes == NAMES
    assert dataset.manifest["sample_id"][0].as_py() == ids
    found = dataset.manifest["path"][0].as_py()
    assert (found is None) if path is None else found.endswith(f"/{path}")
    truth = dict(zip(*(dataset.ground_truth[c].to_pylist() for c in ("sample_id", "label")), strict=True))
    assert [truth[name] for name in dataset.embeddings.sample_ids.to_pylist()] == [row % 3 for row in range(N)]
    parts = (dataset.pool.num_rows, dataset.val.num_rows, dataset.test.num_rows)
    assert parts == ((8, 0, 4) if "dict" in name or "fiftyone" in name else (6, 3, 3)), "given, or cut by class"


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_numpy_archives(tmp_path, kind):
    vectors, views = numbers(N, D).astype(kind), numbers(N, L, D).astype(kind)
    labels, parts = np.array(NAMES * 4), np.array(["train"] * 8 + ["test"] * 4)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", embedding=vectors, views=views, label=labels, part=parts, classes=np.array(NAMES))
        dataset = load_dataset(str(tmp_path / "a.npz"))
        got = rows_of(dataset)
        assert got[0].dtype == kind
        np.testing.assert_array_equal(got[0], vectors)
        np.testing.assert_array_equal(got[1], views)
        assert dataset.pool.num_rows == 8
    np.savez(tmp_path / "b.npz", embedding=vectors, label=np.array(NAMES * 4, object))
    with pytest.raises(DatasetError, match=r"b\.npz: can't be read .*'label' holds Python objects"):
        load_dataset(str(tmp_path / "b.npz"))
    np.savez(tmp_path / "c.npz", embedding=np.asfortranarray(vectors))
    with pytest.raises(DatasetError, match="Fortran order"):
        load_dataset(str(tmp_path / "c.npz"), named=NAMED)


def test_a_folder_of_tables_with_parts_in_their_names(tmp_path):
    vectors = numbers(N, D)
    (tmp_path / "test").mkdir()
    write(tmp_path / "train-00000-of-00002.parquet", embedding=lists(vectors[:4], D), label=[*NAMES, "cat"])
    write(tmp_path / "train-00001-of-00002.parquet", embedding=lists(vectors[4:8]), label=["dog", "owl", "cat", "dog"])
    write(tmp_path / "test" / "rest.parquet", embedding=lists(vectors[8:]), label=["owl", *NAMES])
    dataset = load_dataset(str(tmp_path))
    assert sorted(rows_of(dataset)[0].tolist()) == sorted(vectors.tolist())
    assert (dataset.pool.num_rows, dataset.test.num_rows) == (8, 4)
    write(tmp_path / "test" / "rest.parquet", embedding=lists(numbers(4, D + 1)), label=["owl", *NAMES])
    with pytest.raises(
        DatasetError, match=r"embeddings have (5|4) numbers and no views but (5|4) numbers and no views in"
    ):
        load_dataset(str(tmp_path))


def test_unlabeled_rows_are_pool_and_names_come_from_the_class_embeddings(tmp_path):
    path = write(tmp_path / "a.parquet", embedding=lists(numbers(N, D)), path=[f"{i}.png" for i in range(N)])
    dataset = load_dataset(path, named=NAMED)
    assert (dataset.pool.num_rows, dataset.ground_truth, dataset.classes) == (N, None, NAMES)
    assert dataset.manifest["path"][0].as_py() == str(tmp_path / "0.png")
    assert load_dataset(path, classes="a,b").classes == ["a", "b"]
    with pytest.raises(DatasetError, match="give them with --classes or --class-embeddings"):
        load_dataset(path)


def test_labels_of_every_type_mean_the_same(tmp_path):
    vectors = lists(numbers(6, D), D)
    expected = [0, 1, 2, 0, -1, -1]
    for number, labels in enumerate(
        [
            pa.array(["cat", "dog", "Owl", " cat ", "", None]),
            pa.array(["cat", "dog", "owl", "cat", None, None]).dictionary_encode(),
            pa.array([0, 1, 2, 0, -1, None], pa.int8()),
            pa.array([0.0, 1.0, 2.0, 0.0, -1.0, None]),
            pa.array([0.0, 1.0, 2.0, 0.0, -1.0, float("nan")]),
            pa.array([["cat"], ["dog"], ["owl"], ["cat"], [], None]),
            pa.array([[0], [1], [2], [0], [-1], None]),
            pa.array([{"label": "cat"}, {"label": "dog"}, {"label": "owl"}, {"label": "cat"}, {"label": None}, None]),
            pa.array(["0.0", "1.0", "2.0", "0", "-1.0", "NaN"]),
            pa.array([b"cat", b"dog", b"owl", b"cat", b"", None]),
        ]
    ):
        path = write(tmp_path / f"{number}.parquet", embedding=vectors, label=labels, sample_id=[*"abcdef"])
        dataset = load_dataset(path, classes="cat,dog,owl")
        assert dataset.known_labels("pool").tolist() == expected


def test_images_and_a_manifest_of_images_with_other_numbers(tmp_path):
    """A table of images stays one, whatever lists of numbers stand beside them."""
    from psp_ray.data.adapters.digits import gray_png

    picture = gray_png(np.zeros((8, 8), np.uint8))
    columns = {"image": [picture] * 6, "label": NAMES * 2, "histogram": lists(numbers(6, D))}
    assert load_dataset(write(tmp_path / "a.parquet", **columns)).embeddings is None
    both = load_dataset(write(tmp_path / "b.parquet", **columns, embedding=lists(numbers(6, D))))
    assert both.embeddings is not None
    assert both.manifest["image"][0].as_py() == picture


# ---- what is wrong ---------------------------------------------------------------------------------------------------


def broken(vectors, row, value):
    values = vectors.tolist()
    values[row] = value
    return values


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"vectors": lists(numbers(N, D))}, "no column 'path' or 'image'"),
        ({"embedding": pa.array(["x"] * N), "path": ["a.png"] * N}, "does not exist"),
        (
            {"embedding": lists(numbers(N, D)), "sample_id": ["a"] * 2 + [*"bcdefghijk"]},
            "row 2: sample_id 'a' is that of",
        ),
        ({"embedding": lists(numbers(N, D)), "label": ["cat"] * 11 + ["cow"]}, "row 12: 'cow' is no class"),
        ({"embedding": lists(numbers(N, D)), "part": ["pool"] * 11 + ["tst"]}, "row 12: part 'tst' is unknown"),
        ({"embedding": lists(numbers(N, D)), "part": ["pool"] * 11 + ["val"]}, "row 12: a val row without a label"),
        ({"embedding": lists(numbers(N, D)), "part": ["test"] * N, "label": NAMES * 4}, "no row to choose from"),
        ({"embedding": lists(numbers(N, D)), "label": [0.5] * N}, "label: row 1: 0.5 is no label"),
        ({"embedding": lists(numbers(N, D)), "views": ["x"] * N}, "column 'views' holds string"),
        (
            {"embedding": lists(numbers(N, D)), "views": lists(numbers(N, 6))},
            "6 numbers are no whole number of views of 4",
        ),
        ({"embedding": lists(numbers(0, D))}, "holds no row"),
    ],
)
def test_a_bad_table_is_one_line_before_anything_is_read(tmp_path, columns, message):
    path = write(tmp_path / "a.parquet", **columns)
    with pytest.raises(DatasetError, match=message) as caught:
        load_dataset(path, classes="cat,dog,owl")
    assert "\n" not in str(caught.value)
    assert "a.parquet" in str(caught.value) or "a: " in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (broken(numbers(N, D), 7, None), "embedding: row 8 is empty"),
        (broken(numbers(N, D), 7, [1.0, 2.0]), "embedding: row 8 has length 2, others 4"),
        (broken(numbers(N, D), 7, [1.0, None, 2.0, 3.0]), "embedding: row 8 has an empty value"),
    ],
)
def test_a_bad_row_is_named(tmp_path, values, message):
    path = write(tmp_path / "a.parquet", embedding=pa.array(values, pa.list_(pa.float32())))
    dataset = load_dataset(path, named=NAMED)
    with pytest.raises(DatasetError, match=message):
        rows_of(dataset, block=3)


def test_files_that_are_no_tables(tmp_path):
    for suffix in (".parquet", ".arrow", ".npz", ".jsonl"):
        (tmp_path / f"a{suffix}").write_bytes(b"{not a table")
        reason = "not a Parquet file" if suffix == ".parquet" else "can't be read .*; write the file again"
        with pytest.raises(DatasetError, match=rf"a\{suffix}: {reason}"):
            load_dataset(str(tmp_path / f"a{suffix}"))
    (tmp_path / "t.lance").mkdir()
    with pytest.raises(DatasetError, match=r"is a Lance table; export it with .*to_arrow"):
        load_dataset(str(tmp_path / "t.lance"))
    path = write(tmp_path / "b.parquet", embedding=lists(numbers(N, D)), label=NAMES * 4)
    with pytest.raises(DatasetError, match="with embeddings, give a table of embeddings with labels"):
        load_dataset(path, test=str(tmp_path / "no.parquet"))
    with pytest.raises(DatasetError, match="drop --split"):
        load_dataset(path, split="s.json")
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"state\.json: names no data file"):
        load_dataset(str(tmp_path))


def test_a_fiftyone_vector_may_be_a_list_or_compressed(tmp_path):
    import io

    stream = io.BytesIO()
    np.save(stream, np.array([1.0, 2.0, 3.0]), allow_pickle=False)
    packed = base64.b64encode(zlib.compress(stream.getvalue())).decode()
    vectors = [[1.0, 2.0, 3.0], packed, {"$binary": packed, "$type": "00"}, {"$binary": {"base64": packed}}]
    samples = [
        {"filepath": f"{i}.jpg", "emb": vector, "cls": {"_cls": "Classification", "label": "cat"}}
        for i, vector in enumerate(vectors)
    ]
    (tmp_path / "samples.json").write_text(json.dumps({"samples": samples}))
    dataset = load_dataset(str(tmp_path), named=NAMED)
    np.testing.assert_array_equal(rows_of(dataset)[0], [[1.0, 2.0, 3.0]] * 4)
    assert set(dataset.ground_truth["label"].to_pylist()) == {0}


# ---- vectors and classes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("start", [0, 3])
def test_slices_of_columns_are_the_rows_of_the_slice(fixed, start):
    vectors, views = numbers(N, D), numbers(N, L, D)
    column = lists(vectors, D if fixed else None).slice(start, 5)
    np.testing.assert_array_equal(vector_rows(column, D, range(5), "x"), vectors[start : start + 5])
    inner = pa.list_(pa.float32(), D) if fixed else pa.list_(pa.float32())
    nested = pa.array(views.tolist(), pa.list_(inner, L) if fixed else pa.list_(inner)).slice(start, 5)
    np.testing.assert_array_equal(view_rows(nested, L, D, range(5), "x"), views[start : start + 5])
    flat = lists(views.reshape(N, L * D), L * D if fixed else None).slice(start, 5)
    np.testing.assert_array_equal(view_rows(flat, L, D, range(5), "x"), views[start : start + 5])
    if fixed:
        assert np.shares_memory(vector_rows(column, D, range(5), "x"), column.flatten().to_numpy())


def test_unit_rows_are_exact_where_squares_overflow():
    wild = np.array([[3e300, 4e300], [3e-300, 4e-300], [3.0, 4.0]])
    np.testing.assert_allclose(unit_rows(wild, range(3), "x"), [[0.6, 0.8]] * 3, rtol=1e-15)
    for bad, message in [
        (np.nan, "row 7 holds NaN or infinity"),
        (np.inf, "row 7 holds NaN"),
        (0.0, "row 7 is all zeros"),
    ]:
        with pytest.raises(DatasetError, match=f"f: embedding: {message}"):
            unit_rows(np.array([[1.0, 1.0], [bad, 0.0]]), [6, 7], "f: embedding")


def test_class_embeddings_become_a_teacher_in_the_order_of_the_classes(tmp_path):
    path = write(tmp_path / "c.parquet", **{"class": ["Sea_Lion", "dog", "owl"], "embedding": lists(3 * numbers(3, D))})
    given = read_class_embeddings(path)
    assert (given.names, given.logit_scale) == (["Sea_Lion", "dog", "owl"], 100.0)
    text = given.text_state(["owl", "sea lion"], D)
    plain = numbers(3, D).astype(np.float64)
    plain /= np.linalg.norm(plain, axis=1, keepdims=True)
    np.testing.assert_allclose(text.features, plain[[2, 0]], rtol=1e-6)
    assert text.features.dtype == np.float32
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"logit_scale": "15.5"}), path)
    assert read_class_embeddings(path).logit_scale == 15.5
    assert read_class_embeddings(path, 30.0).logit_scale == 30.0
    with pytest.raises(DatasetError, match=r"no embedding of class 'ovl'; did you mean 'owl'\?; add a row"):
        given.text_state(["dog", "ovl"], D)
    with pytest.raises(DatasetError, match="class embeddings have 4 numbers but the data set's 5"):
        given.text_state(["dog", "owl"], 5)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"klass": ["a", "b"], "embedding": lists(numbers(2, D))}, "no column 'class'"),
        ({"class": ["a", "b"], "vec": lists(numbers(2, D))}, "no column 'embedding'"),
        ({"class": ["a", "A"], "embedding": lists(numbers(2, D))}, "row 2: class 'A' is in row 1 too"),
        ({"class": ["a", None], "embedding": lists(numbers(2, D))}, "class: row 2 is empty"),
        ({"class": ["a"], "embedding": lists(numbers(1, D))}, "1 classes; at least two"),
        ({"class": ["a", "b"], "embedding": lists(np.array([[1.0, 2.0], [0.0, 0.0]]))}, "row 2 is all zeros"),
    ],
)
def test_bad_class_embeddings_are_one_line(tmp_path, columns, message):
    with pytest.raises(DatasetError, match=message):
        read_class_embeddings(write(tmp_path / "c.parquet", **columns))


def plain_faults(rows, width):
    """Row by row, in words, what keeps a list of numbers from being read."""
    found = {}
    for place, row in enumerate(rows):
        if row is None:
            found[place] = "is empty"
        elif len(row) != width:
            found[place] = f"has length {len(row)}, others {width}"
        elif None in row:
            found[place] = "has an empty value"
    return found


ROW = st.one_of(st.none(), st.lists(st.one_of(st.none(), st.floats(-1, 1, width=32)), max_size=4), st.just([0.5] * 3))


@given(st.lists(ROW, max_size=8), st.sampled_from([pa.list_(pa.float32()), pa.large_list(pa.float64())]))
def test_every_row_that_cannot_be_read_is_told(rows, kind):
    column, expected = pa.array(rows, kind), plain_faults(rows, 3)
    found: dict[int, str] = {}
    vectors = vector_rows(column, 3, range(1, 9), "f", found)
    assert list(found.items()) == list(expected.items())
    sound = [[0.0] * 3 if place in expected else row for place, row in enumerate(rows)]
    np.testing.assert_array_equal(vectors, np.array(sound, vectors.dtype).reshape(len(rows), 3))
    if expected:
        first = min(expected)
        with pytest.raises(DatasetError) as refused:
            vector_rows(column, 3, range(1, 9), "f")
        more = len(expected) - 1
        assert str(refused.value).startswith(f"f: row {first + 1} {expected[first]}")
        assert (f"(and {more} more row" in str(refused.value)) == (more > 0)


@given(st.lists(st.one_of(st.none(), st.lists(ROW, max_size=3), st.just([[1.0] * 3] * 2)), max_size=6))
def test_every_row_whose_views_cannot_be_read_is_told(rows):
    column = pa.array(rows, pa.list_(pa.list_(pa.float32())))
    expected = {place for place, views in enumerate(rows) if views is None or len(views) != 2 or plain_faults(views, 3)}
    found: dict[int, str] = {}
    views = view_rows(column, 2, 3, range(6), "f", found)
    assert set(found) == expected
    for place, row in enumerate(rows):
        np.testing.assert_array_equal(views[place], np.zeros((2, 3)) if place in expected else row)

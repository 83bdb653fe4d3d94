"""Labels that psp-ray wrote are read again: by name, whatever the file."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from psp_ray.core.errors import DatasetError
from psp_ray.data.load import load_dataset
from psp_ray.data.own import initial_labels
from psp_ray.labels import GroundTruthAnnotator, Ledger, Oracle
from psp_ray.labels.accounting import account, write_account
from psp_ray.labels.service import LabelRequest

CLASSES = ["cat", "dog"]


@pytest.fixture
def photos(tmp_path):
    """Six pictures, and what each shows."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        Image.new("RGB", (40, 40), (40 * number, 0, 0)).save(folder / f"{number}.png")
    return load_dataset(str(folder), classes="cat,dog")


def named(dataset, found):
    ids = dataset.pool["sample_id"].to_pylist()
    return {ids[at]: CLASSES[label] for at, label in zip(*(column.tolist() for column in found), strict=True)}


def test_a_runs_own_labels(photos, tmp_path):
    rows = {"sample_id": ["3.png", "0.png", "1.png", "2.png"], "label": ["dog", "cat", "skip", "ignore"]}
    pq.write_table(pa.table({**rows, "round": [1, 1, 1, 2]}), tmp_path / "labels.parquet")
    found = initial_labels(photos, str(tmp_path / "labels.parquet"))
    assert named(photos, found) == {"3.png": "dog", "0.png": "cat"}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_account(photos, tmp_path, suffix):
    """Its column `label` is a number; the class is what counts."""
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        names = ["4.png", "5.png"]
        oracle = Oracle(ledger, GroundTruthAnnotator({"4.png": 1, "5.png": 0}), CLASSES)
        oracle.label(LabelRequest("r", "e", 1, names, ["h4", "h5"]))
        table = account(ledger)
    write_account(table, tmp_path / f"account{suffix}")
    assert named(photos, initial_labels(photos, str(tmp_path / f"account{suffix}"))) == {"4.png": "dog", "5.png": "cat"}
    nameless = table.set_column(
        table.column_names.index("sample_id"), "sample_id", pa.array([None, "5.png"], pa.string())
    )
    write_account(nameless, tmp_path / f"nameless{suffix}")
    with pytest.raises(DatasetError, match="row 1 names no image"):
        initial_labels(photos, str(tmp_path / f"nameless{suffix}"))


def test_mistakes_are_one_line(photos, tmp_path):
    pq.write_table(pa.table({"name": ["1.png"], "label": ["cat"]}), tmp_path / "other.parquet")
    with pytest.raises(DatasetError, match="has the columns name, label, but needs sample_id"):
        initial_labels(photos, str(tmp_path / "other.parquet"))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match="can't be read"):
        initial_labels(photos, str(tmp_path / "broken.parquet"))
    (tmp_path / "labels.csv").write_text("sample_id,label\n1.png,bird\n")
    with pytest.raises(DatasetError, match="bird"):
        initial_labels(photos, str(tmp_path / "labels.csv"))

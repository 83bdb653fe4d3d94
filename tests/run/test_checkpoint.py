"""Checkpoints are whole or absent, and give back what was put in."""

import numpy as np
import pyarrow as pa
import pytest

from psp_ray.core.errors import OutputError
from psp_ray.core.files import write_bytes, write_json
from psp_ray.run.checkpoint import MARKER, Checkpoint, load_latest, save_checkpoint


def make(round):
    return Checkpoint(
        round,
        {"rows": [{"a": 1.5, "nothing": float("nan")}]},
        {"sampler": {"w": np.arange(6.0).reshape(2, 3), "t": np.asarray(0.1), "none": np.zeros((0, 4), np.float32)}},
        {"labels": pa.table({"position": np.arange(3), "label": np.arange(3, dtype=np.int32)})},
    )


def test_round_trip(tmp_path):
    save_checkpoint(tmp_path, make(1))
    loaded = load_latest(tmp_path)
    assert loaded.round == 1
    assert loaded.state == {"rows": [{"a": 1.5, "nothing": None}]}
    for name, array in make(1).tensors["sampler"].items():
        assert loaded.tensors["sampler"][name].dtype == array.dtype
        assert loaded.tensors["sampler"][name].shape == array.shape
        assert np.array_equal(loaded.tensors["sampler"][name], array)
    assert loaded.tables["labels"].equals(make(1).tables["labels"])


def test_only_complete_checkpoints_count(tmp_path):
    assert load_latest(tmp_path) is None
    save_checkpoint(tmp_path, make(1))
    path = save_checkpoint(tmp_path, make(2))
    (path / MARKER).unlink()
    assert load_latest(tmp_path).round == 1
    save_checkpoint(tmp_path, make(2))
    assert load_latest(tmp_path).round == 2


def test_old_ones_are_removed(tmp_path):
    for round in range(1, 6):
        save_checkpoint(tmp_path, make(round))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["round_004", "round_005"]


def test_rounds_of_four_digits_are_the_newest(tmp_path):
    for round in (998, 999, 1000, 1001):
        save_checkpoint(tmp_path, make(round))
        assert load_latest(tmp_path).round == round


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OutputError, match=r"a\.json: can't be written \(disk full\)"):
        write_bytes(path, b"new")
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"], "nothing is left aside"
    assert path.read_text() == '{\n  "x": 1\n}\n'

"""The lock of a folder, seen from another process, and where there are no locks; large files of arrays."""

import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from psp_ray.core.errors import OutputError
from psp_ray.core.files import LOCK, alone, map_tensors, write_large_tensors, write_tensors

ROOT = Path(__file__).resolve().parents[2]
TRY = "import sys; from pathlib import Path; from psp_ray.core.files import alone\nwith alone(Path(sys.argv[1])): pass"


def in_another_process(folder):
    return subprocess.run(
        [sys.executable, "-c", TRY, str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_one_process_at_a_time(tmp_path):
    with alone(tmp_path) as locked:
        assert locked is True
        refused = in_another_process(tmp_path)
        assert refused.returncode != 0
        assert "another process is at work there" in refused.stderr
    assert in_another_process(tmp_path).returncode == 0, "the lock ends with its holder"


def test_a_lock_that_is_waited_for_in_vain_is_an_error(tmp_path):
    with open(tmp_path / LOCK, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another process"), alone(tmp_path, wait=0.3):
            raise AssertionError("entered a folder that somebody else holds")


def test_a_file_system_without_locks_is_not_taken_for_locked(tmp_path, monkeypatch):
    def no_locks(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with alone(tmp_path) as locked:
        assert locked is False


def test_large_tensors_are_safetensors_files_that_can_be_mapped(tmp_path):
    from safetensors.numpy import load_file

    tensors = {
        "hashes": np.arange(48, dtype=np.uint8).reshape(3, 16),
        "keys": np.array([3, 2**63], np.uint64),
        "half": np.array([[1.5], [2.0]], np.float16),
        "none": np.zeros((0, 4), np.float32),
        "scalar": np.asarray(7.0),
    }
    write_large_tensors(tmp_path / "large.safetensors", tensors)
    write_tensors(tmp_path / "small.safetensors", tensors, {"made": "here"})
    for found in (
        load_file(tmp_path / "large.safetensors"),
        map_tensors(tmp_path / "large.safetensors"),
        map_tensors(tmp_path / "small.safetensors"),
    ):
        assert set(found) == set(tensors)
        for name, value in tensors.items():
            assert found[name].dtype == value.dtype
            np.testing.assert_array_equal(found[name], value)
    mapped = map_tensors(tmp_path / "large.safetensors")["keys"]
    assert not mapped.flags.writeable
    whole = (tmp_path / "large.safetensors").read_bytes()
    for damaged in (b"", whole[:6], whole[:40], whole[:-3], b"\xff" * 64):
        (tmp_path / "bad.safetensors").write_bytes(damaged)
        with pytest.raises((ValueError, KeyError, AttributeError, TypeError)):
            map_tensors(tmp_path / "bad.safetensors")

"""What setting up says of pip's work."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[1] / ".ci" / "install.py"


@pytest.fixture(scope="module")
def install():
    spec = importlib.util.spec_from_file_location("install", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("Collecting numpy<3,>=1.26 (from psp-ray==0.1.0)", None),
        ("  Downloading numpy-2.3.5-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (62 kB)", None),
        ("Downloading numpy-2.3.5-cp311-cp311-manylinux_2_28_x86_64.whl (16.9 MB)", None),
        ("Downloading torch-2.9.1-cp311-cp311-linux_x86_64.whl (899.8 MB)", "downloading torch-2.9.1 (899.8 MB)"),
        ("Using cached torch-2.9.1-cp311-cp311-linux_x86_64.whl (1.2 GB)", "from pip's cache: torch-2.9.1 (1.2 GB)"),
        (
            "Downloading https://some.where/packages/ray-2.52.0-cp311-cp311-manylinux2014_x86_64.whl (72.0 MB)",
            "downloading ray-2.52.0 (72.0 MB)",
        ),
        ("Installing collected packages: nvidia-nccl-cu12, numpy, torch", "unpacking 3 packages …"),
        ("Successfully installed numpy-2.3.5", None),
    ],
)  # fmt: skip
def test_large_downloads_and_the_unpacking_are_told(install, line, told):
    assert install.shown(line + "\n") == told


@pytest.mark.slow
def test_a_failure_shows_what_pip_said(install, capfd, tmp_path):
    assert install.main(["--no-index", str(tmp_path / "nothing")]) == 1
    assert "nothing" in capfd.readouterr().err

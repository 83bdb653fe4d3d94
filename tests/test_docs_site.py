"""The documentation builds as a site without a warning, and nothing in it is fetched from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)[^>]*\ssrc="?(https?://[^"\s>]+)|<link[^>]*\srel="?(?:stylesheet|preload|icon|preconnect)[^>]*\shref="?(https?://[^"\s>]+)"""
)


@pytest.mark.slow
def test_the_site_is_whole_and_asks_nobody(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (make docs installs it)")
    pytest.importorskip("mkdocstrings")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "-f",
        ".ci/mkdocs.yml",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        assert not FETCHED.findall(page.read_text(encoding="utf-8")), page
    session = (tmp_path / "site" / "api" / "session.html").read_text(encoding="utf-8")
    for name in ("propose", "label", "learn", "predict_proba", "add_class"):
        assert f'id="psp_ray.run.session.Session.{name}"' in session

"""Pins what the images install by its hashes: `python docker/lock.py` writes `docker/requirements.txt`.

pip is asked what it would install of `pyproject.toml` under `constraints.txt`, and for the SHA-256 of each file;
nothing but descriptions is downloaded. That tells the files of the platform it runs on: run it on each one that
images are built for. Hashes of a version that are known already are kept. Files that a local folder adds are no
releases that everybody gets: they are refused.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
TARGET = Path(__file__).with_name("requirements.txt")
EXTRAS = ("postgresql", "serve", "sweep")
HEAD = """\
# What the images install, by hash: made by `make lock` from pyproject.toml and constraints.txt. Not to be edited.
"""


def wanted(pyproject: dict[str, Any]) -> list[str]:
    """What the images need: the package's requirements, those of `EXTRAS`, and what builds it."""
    project = pyproject["project"]
    extras = [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    return [*project["dependencies"], *extras, *pyproject["build-system"]["requires"]]


def asked(requirements: list[str], constraints: Path) -> dict[str, Any]:
    """pip's report of what it would install from one index alone: its own, or that of PIP_INDEX_URL."""
    with tempfile.TemporaryDirectory() as folder:
        names, report = Path(folder) / "names.txt", Path(folder) / "report.json"
        names.write_text("\n".join(requirements) + "\n")
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--no-input"]
        given = ["--only-binary=:all:", "-r", str(names), "-c", str(constraints), "--report", str(report)]
        alone = {
            key: value for key, value in os.environ.items() if key not in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS")
        }
        subprocess.run([*command, *given], env=alone | {"PIP_CONFIG_FILE": os.devnull}, check=True)
        found: dict[str, Any] = json.loads(report.read_text())
        return found


def hashes_of(report: dict[str, Any]) -> dict[str, set[str]]:
    """{`name==version`: hashes} of a report. Raises ValueError for a file that is from a folder, or without a hash."""
    found: dict[str, set[str]] = {}
    for item in report["install"]:
        about, source = item["metadata"], item["download_info"]
        name = re.sub(r"[-_.]+", "-", about["name"]).lower()
        hashes = source.get("archive_info", {}).get("hashes", {})
        if urlsplit(source["url"]).scheme != "https" or "sha256" not in hashes:
            raise ValueError(f"{name} {about['version']}: comes from {source['url']}; ask the package index alone")
        found[f"{name}=={about['version']}"] = {hashes["sha256"]}
    return found


def read(text: str) -> dict[str, set[str]]:
    """{`name==version`: hashes} of a requirements file."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            pinned, *rest = line.split()
            found[pinned] = {word.removeprefix("--hash=sha256:") for word in rest}
    return found


def written(found: dict[str, set[str]]) -> str:
    """A requirements file, a package a line."""
    lines = [
        " ".join([pinned, *(f"--hash=sha256:{digest}" for digest in sorted(hashes))])
        for pinned, hashes in sorted(found.items())
    ]
    return HEAD + "\n".join(lines) + "\n"


def main() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    try:
        found = hashes_of(asked(wanted(pyproject), ROOT / "constraints.txt"))
    except (ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")
    known = read(TARGET.read_text()) if TARGET.exists() else {}
    TARGET.write_text(written({pinned: hashes | known.get(pinned, set()) for pinned, hashes in found.items()}))
    print(f"{len(found)} packages in {TARGET.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

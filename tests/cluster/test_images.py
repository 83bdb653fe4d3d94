"""What images are made of is named by what it is: hashes of packages, digests of base images."""

from __future__ import annotations

import importlib.util
import os
import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.cluster.conftest import ROOT

DOCKER = ROOT / "docker"
DIGEST = "sha256:" + 64 * "a"


def tool(name):
    spec = importlib.util.spec_from_file_location(f"docker_{name}", DOCKER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_requirement_is_there_by_its_pinned_version_and_hash():
    import tomllib

    lock = tool("lock")
    found = lock.read((DOCKER / "requirements.txt").read_text())
    assert all(hashes and all(re.fullmatch("[0-9a-f]{64}", one) for one in hashes) for hashes in found.values())
    versions = dict(line.split("==") for line in found)
    assert len(versions) == len(found), "one version of each"
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    pinned = {canonicalize_name(name): version for name, version in pinned.items()}
    assert {name: version for name, version in versions.items() if pinned.get(name, version) != version} == {}
    for line in lock.wanted(tomllib.loads((ROOT / "pyproject.toml").read_text())):
        requirement = Requirement(line)
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier, line
    for text in (path.read_text() for path in DOCKER.glob("*.Dockerfile")):
        assert "--require-hashes" in text
        for name, version in re.findall(r"\b(torch(?:vision)?)==([\d.]+)", text):
            assert versions[name] == version


def report(url="https://files.example/x.whl", hashes=None):
    given = {"sha256": "b" * 64} if hashes is None else hashes
    about = {"name": "Some_Thing", "version": "1.0"}
    return {"install": [{"metadata": about, "download_info": {"url": url, "archive_info": {"hashes": given}}}]}


def test_hashes_are_of_files_that_everybody_gets():
    lock = tool("lock")
    found = lock.hashes_of(report())
    assert found == {"some-thing==1.0": {"b" * 64}}
    assert lock.read(lock.written(found)) == found
    for bad in (report(url="file:///wheels/x.whl"), report(hashes={})):
        with pytest.raises(ValueError, match=r"some-thing 1\.0"):
            lock.hashes_of(bad)


@pytest.mark.parametrize("file", [*sorted(DOCKER.glob("*.Dockerfile")), DOCKER / "compose.yaml"], ids=lambda p: p.name)
def test_digests_are_put_behind_every_foreign_image(file, tmp_path, monkeypatch):
    program = tmp_path / "docker"
    program.write_text(f"#!/bin/sh\necho {DIGEST}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    pin = tool("pin")
    text = file.read_text()
    pinned = pin.pinned(text)
    named = re.findall(r"^\s*(?:ARG BASE=|image: |FROM )(\S+)", pinned, re.M)
    assert named
    for image in named:
        assert image == "${BASE}" or image.startswith("psp-ray:") or image.endswith(f"@{DIGEST}"), image
    assert pin.pinned(pinned) == pinned, "renewed, not doubled"
    program.write_text("#!/bin/sh\necho nothing\n")
    with pytest.raises(ValueError, match="is no digest"):
        pin.pinned(text)

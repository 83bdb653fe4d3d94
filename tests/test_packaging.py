"""The wheel: what is in it, and that it needs nothing of the checkout it was built from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUILDER = Path("psp_ray/clip/psp_lite/builder")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that no build folder stays in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "psp_ray", source / "psp_ray", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*command, str(folder), str(source)], check=True, timeout=240)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The wheel unpacked, as pip would install it."""
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def call(installed, tmp_path):
    """Run Python in an empty folder with the unpacked wheel; the checkout is nowhere on its path."""

    def run(*words: str, timeout: float = 240) -> str:
        environment = os.environ | {"PYTHONPATH": str(installed), "PSP_RAY_CACHE": str(tmp_path / "cache")}
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_it_holds_the_package_and_the_model_but_not_its_builder(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {path.relative_to(ROOT) for path in (ROOT / "psp_ray").rglob("*.py")}
    wanted = {path.as_posix() for path in modules if not path.is_relative_to(BUILDER)}
    assert {name for name in names if name.endswith(".py")} == wanted
    data = {Path(name).name for name in names - wanted}
    pages = {path.name for room in ("report/templates", "web/*") for path in (ROOT / "psp_ray").glob(f"{room}/*")}
    pages = {name for name in pages if not name.endswith((".py", ".pyc"))}
    assert {"page.html", "page.js", "page.css"} <= pages
    assert data == {"psp-lite.json", "psp-lite.safetensors", "MODEL_CARD.md", "py.typed"} | pages


def test_its_command_is_there(installed):
    (about,) = installed.glob("*.dist-info")
    points = ConfigParser()
    points.read(about / "entry_points.txt")
    assert dict(points["console_scripts"]) == {"psp-ray": "psp_ray.main:main"}


def test_every_module_imports_without_the_checkout(installed, call):
    code = (
        "import importlib, pkgutil, sys, psp_ray\n"
        "for found in pkgutil.walk_packages(psp_ray.__path__, 'psp_ray.'):\n"
        "    if not found.name.endswith('__main__'):\n"
        "        importlib.import_module(found.name)\n"
        "assert not {'tuning', 'tests', 'cluster', 'benchmarks'} & {name.split('.')[0] for name in sys.modules}\n"
        "print(psp_ray.__path__[0])"
    )
    assert call("-c", code).strip() == str(installed / "psp_ray")


def test_its_commands_answer(call):
    assert "psp" in call("-m", "psp_ray", "list", "presets")
    assert "--num-samples" in call("-m", "psp_ray", "sweep", "--help")
    assert "strategy: vssp" in call("-m", "psp_ray", "run", "--dry-run")


@pytest.mark.slow
def test_it_runs_compares_and_sweeps(call, tmp_path, tiny_model, tiny_folder):
    quick = ["--model", tiny_model, "--rounds", "1", "--learning-steps", "2", "--runner", "inline"]
    call("-m", "psp_ray", "run", "--dataset", str(tiny_folder), "--out", "one", "--views", "2", *quick)
    assert (tmp_path / "one" / "summary.json").is_file()
    call("-m", "psp_ray", "compare", "--datasets", str(tiny_folder), "--strategies", "random:none,badge:none",
         "--seeds", "1", "--out", "two", *quick)  # fmt: skip
    assert (tmp_path / "two" / "table.md").is_file()
    settings = {"model": tiny_model, "rounds": "1", "learning_steps": "2", "views": "2", "workers": "1"}
    fixed = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    call("-m", "psp_ray", "sweep", "--datasets", str(tiny_folder), "--num-samples", "1", "--cpus-per-trial", "0.5",
         "--out", "three", *fixed)  # fmt: skip
    assert "best overall" in call("-m", "psp_ray", "sweep-report", "three")

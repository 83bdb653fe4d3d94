"""Registries: names, duplicates, discovery, and files that can't be imported."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from psp_ray.core.errors import ConfigError
from psp_ray.core.registry import Registry


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Name of a package on the path, with a registry and two files in it, one of them broken."""
    name = "toy_kinds"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text(
        f"from psp_ray.core.registry import Registry\nKINDS = Registry('sort', '{name}', '--sort')\n"
    )
    (folder / "quick.py").write_text(
        f"from {name} import KINDS\n\n@KINDS.register('quick', source='Hoare 1961')\ndef quick():\n"
        "    '''Partition, then sort both.\n\n    More.'''\n"
    )
    (folder / "_helper.py").write_text("raise RuntimeError('underscored files are nobody's entry')\n")
    (folder / "bad_one.py").write_text("import no_such_module_anywhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    for module in [m for m in sys.modules if m.partition(".")[0] == name]:
        del sys.modules[module]


def test_finds_what_the_files_of_its_package_register(package: str):
    kinds = importlib.import_module(package).KINDS
    assert kinds.names() == ["quick"]
    entry = kinds.entry("quick")
    assert (entry.summary, entry.source) == ("Partition, then sort both.", "Hoare 1961")
    assert [item.name for item in kinds] == ["quick"]
    assert "quick" in kinds
    assert "slow" not in kinds


def test_a_broken_file_is_one_line_and_keeps_nobody_from_the_others(package: str):
    kinds = importlib.import_module(package).KINDS
    assert kinds.find("quick")() is None
    with pytest.raises(ConfigError, match=r"sort 'bad-one' can't be used: toy_kinds/bad_one\.py: ModuleNotFoundError"):
        kinds.entry("bad-one")
    assert [(item.name, item.place) for item in kinds.broken] == [("bad-one", "toy_kinds/bad_one.py")]


def test_an_unknown_name_is_told_with_the_nearest(package: str):
    kinds = importlib.import_module(package).KINDS
    with pytest.raises(ConfigError, match=r"--sort quik: unknown sort; did you mean 'quick'.; known: quick"):
        kinds.find("quik")


def test_refuses_duplicates_and_odd_names():
    kinds: Registry[object] = Registry("sort")
    first = object()
    assert kinds.register("heap")(first) is first
    kinds.register("heap")(first)  # a module imported twice
    with pytest.raises(ConfigError, match="sort 'heap' is registered already"):
        kinds.register("heap")(object())
    for name in ("", "Heap", "a b", "a+b", "a:b"):
        with pytest.raises(ConfigError, match="must be lower case"):
            kinds.register(name)(object())
    with pytest.raises(ConfigError, match=r"sort 'heep' is unknown; did you mean 'heap'.; known: heap"):
        kinds.find("heep")

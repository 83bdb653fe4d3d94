"""Description files: PCB's format, names matched leniently, gaps named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from psp_ray.core.errors import ConfigError
from psp_ray.core.words import normalize_name
from psp_ray.data.descriptions import load_descriptions, match_descriptions

DESCRIPTORS = Path(__file__).resolve().parents[3] / "shared" / "datasets" / "descriptors"


def test_names_match_regardless_of_case_underscores_and_hyphens():
    known = {"Hard-Leaved Pocket_Orchid": ["a", "b"], "cat ": ["c"]}
    assert match_descriptions(known, ["Cat", "hard_leaved pocket orchid"]) == (("c",), ("a", "b"))
    assert normalize_name("  Boeing_707-320 ") == "boeing 707 320"


def test_missing_classes_are_named():
    with pytest.raises(ConfigError, match=r"lack 2 of 3 classes \('dog', 'ox'\)"):
        match_descriptions({"cat": ["c"], "ox": []}, ["cat", "dog", "ox"])


@pytest.mark.parametrize("content", ["[1]", "{", '{"cat": "fur"}', '{"cat": []}', '{"cat": [1]}'])
def test_malformed_files(tmp_path, content):
    path = tmp_path / "descriptions.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"descriptions\.json"):
        load_descriptions(path)


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="check the path"):
        load_descriptions(tmp_path / "absent.json")


def test_round_trip(tmp_path):
    path = tmp_path / "descriptions.json"
    path.write_text(json.dumps({"cat": ["fur", "a tail"]}))
    assert load_descriptions(path) == {"cat": ["fur", "a tail"]}


@pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="needs shared/datasets/descriptors beside the repository")
def test_pcbs_files_cover_dtd():
    split = DESCRIPTORS.parent / "dtd" / "split_dtd10.json"
    names = sorted({row[2] for row in json.loads(split.read_text())["train"]})
    phrases = match_descriptions(load_descriptions(DESCRIPTORS / "descriptors_dtd.json"), names)
    assert len(phrases) == 10
    assert min(map(len, phrases)) >= 2

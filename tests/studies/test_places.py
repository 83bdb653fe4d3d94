"""A study is run in one folder, written in another, and its data lie in a third."""

from __future__ import annotations

import os

import pytest

from psp_ray.core.errors import ConfigError
from psp_ray.data.registry import DATASETS
from psp_ray.studies.places import placed
from psp_ray.studies.settings import make_study


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Folders `here`, `data` and `studies`; a study in the last, run in the first. Gives a call that makes files."""
    for name in ("here", "data", "studies"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "studies" / "study.yaml").write_text("datasets: [rows.parquet]\nstrategies: [random]\n")

    def make(*names):
        for name in names:
            (tmp_path / name).touch()
        study = make_study({}, {"data_root": str(tmp_path / "data")}, tmp_path / "studies" / "study.yaml")
        return lambda **given: placed(study, {"data_root": study.run["data_root"], **given})

    return make


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["here/rows.parquet", "data/rows.parquet", "studies/rows.parquet"], "rows.parquet"),
        (["data/rows.parquet", "studies/rows.parquet"], "data/rows.parquet"),
        (["studies/rows.parquet"], "studies/rows.parquet"),
    ],
)
@pytest.mark.parametrize("key", ["dataset", "class_embeddings", "exclude"])
def test_the_nearest_of_three_folders_counts(world, tmp_path, files, found, key):
    place = world(*files)(**{key: "rows.parquet", "rounds": 3})
    expected = found if found == "rows.parquet" else str(tmp_path / found)
    assert place == {"data_root": str(tmp_path / "data"), key: expected, "rounds": 3}


@pytest.mark.parametrize(("key", "option"), [("dataset", "--datasets"), ("class_embeddings", "--class-embeddings")])
def test_what_is_nowhere_is_told_with_all_places(world, tmp_path, key, option):
    with pytest.raises(ConfigError) as refused:
        world()(**{key: "rows.parquet"})
    told = str(refused.value)
    assert told.startswith(f"{option} rows.parquet: not found; looked for it in ")
    for name in ("here", "data", "studies"):
        assert str(tmp_path / name) in told


def test_names_of_data_sets_stay_names(world, tmp_path):
    call = world()
    for name in DATASETS.names():
        os.makedirs(tmp_path / "data" / name, exist_ok=True)
        assert call(dataset=name)["dataset"] == name


def test_addresses_and_names_without_an_ending_are_left_to_those_who_load_them(world):
    for name in ("https://example.com/rows.parquet", "digitz"):
        assert world()(dataset=name)["dataset"] == name

"""What data sets and runs are called: tellable, unlike each other, and found again under former names."""

from __future__ import annotations

import string
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psp_ray.core.errors import ConfigError
from psp_ray.studies.names import LONGEST, dataset_names, file_name, former_file_name, former_names, with_own
from psp_ray.studies.plan import make_plan
from psp_ray.studies.settings import make_study, parse_dataset


def names_of(*texts):
    return dataset_names([parse_dataset(text) for text in texts])


def test_a_name_is_short_where_that_is_enough(tmp_path):
    (tmp_path / "v1.5").mkdir()
    assert names_of(
        "digits", f"{tmp_path}/v1.5", "rows.parquet", "a/photos:split.json", "https://x.org/d/list.csv"
    ) == [
        "digits",
        "v1.5",
        "rows",
        "photos",
        "list",
    ]
    assert names_of("a/b/photos", "c/b/photos", "d/photos") == ["a/b/photos", "c/b/photos", "d/photos"]
    assert names_of("digits", "digits:image-size=64:views=2") == ["digits", "digits image_size=64 views=2"]
    with pytest.raises(ConfigError, match="digits is listed twice"):
        names_of("digits", "digits")


@given(st.lists(st.text(string.ascii_letters + " =./", min_size=1, max_size=200), min_size=1, max_size=8, unique=True))
def test_file_names_differ_and_begin_as_what_they_name(texts):
    names = [file_name(text) for text in texts]
    assert len(set(names)) == len(texts)
    assert all(len(name) <= LONGEST + 8 and "/" not in name for name in names)
    for text, name in zip(texts, names, strict=True):
        start = next(
            (i for i, character in enumerate(text) if not (character.isalnum() or character in "-.")), len(text)
        )
        word = text[: min(start, 20)].strip("-.")
        assert name.startswith(word)


def test_long_settings_can_be_told_apart_at_sight():
    text = "psp kappa=2 beta=0.25 tau=0.04 gamma=0.9 learning_rate=0.003 head=gda pseudo_weight=0.4"
    name = file_name(text)
    assert name.startswith("psp-kappa-2-beta-0.25-tau-0.04")
    assert "pseudo_weight-0.4" in name
    assert file_name(text.replace("0.9", "0.8")) != name


def test_one_data_set_has_settings_of_its_own():
    study = make_study({"datasets": "digits,dtd10", "strategies": "random"}, {})
    found = with_own(study, [("digits", "rounds", "3"), ("digits", "kappa", "2")])
    assert found.settings.datasets == ("digits:rounds=3:kappa=2", "dtd10")
    rows = make_study({"datasets": "a.parquet,b.parquet", "strategies": "random"}, {})
    assert with_own(rows, [("b.parquet", "rounds", "3")]) == with_own(rows, [("b", "rounds", "3")])
    with pytest.raises(ConfigError, match="with DATASET of digits, dtd10"):
        with_own(study, [("pets", "rounds", "3")])


def test_data_sets_alike_in_name_were_called_as_given():
    entries = [parse_dataset(text) for text in ("a/photos", "/b/photos:rounds=3", "digits")]
    assert former_names(entries, ["photos", "photos", "digits"]) == ["a/photos", "/b/photos rounds=3", "digits"]
    assert dataset_names(entries) == ["a/photos", "b/photos", "digits"]


def test_runs_begun_under_former_names_are_found(tmp_path):
    strategy = "random:none:learning-steps=30:learning-rate=0.01:weight-decay=0.001:context-length=4:decay-towards=zero"
    study = make_study({"datasets": "digits", "strategies": strategy, "seeds": 1}, {})
    (now,) = make_plan(study, tmp_path).cells
    shown = now.strategy
    assert now.id == f"digits--{file_name(shown)}--none--k1--seed0"
    former = tmp_path / "runs" / f"digits--{former_file_name(shown)}--none--k1--seed0"
    former.mkdir(parents=True)
    (again,) = make_plan(study, tmp_path).cells
    assert again.folder == former
    assert again.config == replace(now, config=now.config.changed(out=str(former))).config
    now.folder.mkdir()
    (new,) = make_plan(study, tmp_path).cells
    assert new.folder == now.folder

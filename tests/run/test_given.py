"""Settings that no data set would put right are refused before one is listed, whichever command they are given to."""

from __future__ import annotations

import pytest

from psp_ray.cli.main import main
from psp_ray.core.errors import UserError
from psp_ray.run.given import FILES, check_given
from psp_ray.run.resolve import resolve

WRONG = {
    "oracle": "fil",
    "stop": "enouh",
    "template": "a photo",
    "model": "psp-light",
    "checkpoint": "absent.safetensors",
    "logit_scale": "30",
    "device": "cuda:77",
    "label_wait": "5",
    "annotators": "absent.yaml",
    "ledger": "absent/ledger.sqlite",
    "label_cap": "1",
    **dict.fromkeys(FILES, "absent.csv"),
}
"""A value for each of these settings that is wrong on any machine and for any images."""
MEANT = {"label_cap": {"labels_per_round": "2"}, "description_file": {"descriptions": "AS"}}
"""What must be given beside some of them."""


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    """What a command says on standard error in a folder with images that have no classes, and where none are given."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"no image")

    def call(*words):
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        assert ended.value.code == 2
        return capsys.readouterr().err

    return call


def options(settings):
    return [word for key, value in settings.items() for word in (f"--{key.replace('_', '-')}", value)]


@pytest.mark.parametrize("key", WRONG)
def test_the_setting_is_told_before_the_data(said, tmp_path, key):
    settings = {key: WRONG[key], **MEANT.get(key, {})}
    named = key.replace("_", "-")
    with pytest.raises(UserError, match=named):
        check_given(resolve(settings))
    for command in (["run", "--dry-run"], ["run"], ["check-data"], ["featurize"], ["label"]):
        if command == ["label"] and key in ("oracle", "label_wait", "label_cap"):
            continue  # it has an --oracle of its own, and goes on with a run where there is one
        where = ["photos"] if command == ["label"] else ["--dataset", "photos"]
        line = said(*command, *where, *options(settings))
        assert line.startswith("error: "), line
        assert named in line, (command, line)
        assert "--classes" not in line, (command, line)
    assert not (tmp_path / "runs").exists()


def test_comparisons_and_sweeps_say_it_first_too(said):
    for command in (
        ["compare", "--datasets", "photos", "--strategies", "random", "--set", "template=a photo", "--out", "out"],
        ["sweep", "--datasets", "photos", "--set", "template=a photo", "--out", "out"],
    ):
        assert "--template 'a photo': put {} once" in said(*command)


def test_what_is_right_passes(tmp_path):
    (tmp_path / "names.csv").write_text("sample_id\n")
    check_given(resolve({key: str(tmp_path / "names.csv") for key in ("exclude", "initial_labels", "test")}))
    check_given(resolve({"oracle": "file", "stop": "enough,target:0.9", "template": "a drawing of a {}"}))


def test_a_model_is_not_asked_for_where_class_embeddings_take_its_place(tmp_path):
    (tmp_path / "classes.parquet").write_text("")
    check_given(resolve({"class_embeddings": str(tmp_path / "classes.parquet"), "model": "psp-light"}))

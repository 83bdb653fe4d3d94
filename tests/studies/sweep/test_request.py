"""From options to a plan: what data sets are called, what is refused before anything is read, and dry runs. No Ray."""

import numpy as np
import pytest
from click.testing import CliRunner

from psp_ray.cli.sweep import sweep as sweep_command
from psp_ray.core.errors import ConfigError, DatasetError, OutputError
from psp_ray.studies.sweep.plan import Plan, load_plan, save_plan, trial_name, with_former_names
from psp_ray.studies.sweep.references import References
from psp_ray.studies.sweep.request import SweepRequest, make_plan, name_datasets
from psp_ray.studies.sweep.run import run_sweep
from tests.conftest import paint


def test_data_sets_get_names_of_their_own(tmp_path):
    found = name_datasets(f"digits:image-size=64, {tmp_path}/x/colors,{tmp_path}/y/colors,digits")
    assert list(found) == ["digits image_size=64", "x/colors", "y/colors", "digits"]
    assert found["digits image_size=64"] == {"image_size": 64, "dataset": "digits"}
    assert found["y/colors"] == {"dataset": f"{tmp_path}/y/colors"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"datasets": "digits,digits"}, "digits is listed twice"),
        ({"datasets": "digits:rounds=3"}, "the same for all data sets of a sweep; give --set rounds="),
        ({"datasets": "digits:kapa=3"}, "did you mean 'kappa'"),
        ({"fixed": ("digits:seed",)}, "KEY=VALUE"),
        ({"fixed": ("digitz:kappa=3",)}, "with DATASET of digits"),
        ({"fixed": ("evaluate_on=test",)}, "it judges by val"),
        ({"fixed": ("labels_per_round=3",)}, "use --labels-per-class"),
        ({"vary": ("head=auto,nope",)}, "unknown head"),
        ({"beta": "0.2,0.8", "tau": "0.1..0.2", "searcher": "grid"}, "tau=0.1..0.2 is an interval"),
    ],
)
def test_mistakes_are_told_before_any_data_are_read(monkeypatch, given, said):
    monkeypatch.setattr("psp_ray.studies.sweep.request.load_data", lambda config: pytest.fail("read already"))
    with pytest.raises(ConfigError, match=said):
        make_plan(SweepRequest(**{"datasets": "digits", **given}))


def test_without_val_images_it_says_what_a_sweep_needs(tmp_path):
    for part in ("train", "test"):
        for name in ("dark", "light"):
            for number in range(6):
                paint(tmp_path / "shades" / part / name / f"{number}.png", (number, 0, 90), np.random.default_rng(0))
    with pytest.raises(DatasetError, match="shades: no val images, and a sweep judges by them") as error:
        make_plan(SweepRequest(datasets=str(tmp_path / "shades")))
    assert "--evaluate-on" not in str(error.value)


def test_a_dry_run_lists_what_would_be_tried(tmp_path):
    out = tmp_path / "sweep"
    words = ["--datasets", "digits", "--beta", "0.3,0.7", "--tau", "0.1", "--gamma", "0.9", "--out", str(out)]
    found = CliRunner().invoke(sweep_command, [*words, "--searcher", "grid", "--dry-run"])
    assert found.exit_code == 0, found.output
    points = [{"labels_per_class": 1, "beta": beta, "tau": 0.1, "gamma": 0.9} for beta in (0.3, 0.7)]
    names = [trial_name(number, point) for number, point in enumerate(points)]
    assert found.output.splitlines() == [
        f"{names[0]}: beta=0.3 tau=0.1 gamma=0.9 labels_per_class=1: digits 8 x 10 labels",
        f"{names[1]}: beta=0.7 tau=0.1 gamma=0.9 labels_per_class=1: digits 8 x 10 labels",
        "2 trials, judged on val; nothing was started",
    ]
    assert not out.exists()
    out.mkdir()
    (out / "file").write_text("something else")
    assert "is not an empty folder" in str(CliRunner().invoke(sweep_command, [*words, "--dry-run"]).exception)


def test_data_sets_of_a_sweep_begun_under_other_names_keep_them(tmp_path):
    begun = Plan({"rows.parquet": {"dataset": "/a/rows.parquet"}}, [1], {}, {"rounds": 2}, classes={"rows.parquet": 3})
    save_plan(tmp_path / "sweep", begun, False)
    (tmp_path / "sweep" / "trials").mkdir()
    now = Plan({"rows": {"dataset": "/a/rows.parquet"}}, [1], {}, {"rounds": 2}, classes={"rows": 3})
    assert with_former_names(tmp_path / "sweep", now) == begun
    other = Plan({"rows": {"dataset": "/b/rows.parquet"}}, [1], {}, {"rounds": 2}, classes={"rows": 3})
    assert with_former_names(tmp_path / "sweep", other) == other


@pytest.mark.parametrize(
    ("given", "varied"),
    [
        ({"vary": ("beta=0.2,0.8",)}, ["beta"]),
        ({"tau": "0.1,0.2"}, ["tau"]),
        ({"vary": ("head=auto,gda",), "fixed": ("beta=0.5",)}, ["head"]),
        ({}, ["beta", "tau", "gamma"]),
        ({"fixed": ("beta=0.5",)}, ["tau", "gamma"]),
    ],
)
def test_only_what_is_named_is_varied(given, varied):
    assert list(make_plan(SweepRequest(datasets="digits", **given)).space) == varied


def plan_with(**changed):
    settings = {"datasets": {"a": {"dataset": "/a", "kappa": 1}}, "space": {"beta": "0.2,0.8"}, "classes": {"a": 2}}
    return Plan(**{**settings, "labels_per_class": [1], "settings": {"rounds": 2}, **changed})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"space": {"beta": "0.3"}}, "begun with --vary beta=0.2,0.8, now it is 0.3;"),
        ({"space": {}}, "begun with --vary beta=0.2,0.8, now without;"),
        ({"settings": {"rounds": 2, "head": "gda"}}, "begun without --set head=gda;"),
        ({"labels_per_class": [1, 2]}, "begun with --labels-per-class 1, now it is 1,2;"),
        ({"datasets": {"a": {"dataset": "/b", "kappa": 1}}}, "begun with a at /a, now it is /b;"),
        ({"datasets": {"a": {"dataset": "/a"}}}, "begun with --set a:kappa=1, now without;"),
        ({"datasets": {"b": {}}, "seed": 3, "space": {}}, "--datasets a, now it is b; with --vary beta=0.2,0.8, now w"),
        ({"seed": 3, "space": {}, "searcher": "optuna", "settings": {"rounds": 3}}, "; 1 more differs;"),
    ],
)
def test_a_sweep_that_was_begun_otherwise_is_told_apart_in_the_words_of_its_options(tmp_path, changed, said):
    save_plan(tmp_path / "sweep", plan_with(), False)
    (tmp_path / "sweep" / "references").mkdir()
    with pytest.raises(OutputError) as error:
        save_plan(tmp_path / "sweep", plan_with(**changed), True)
    assert said in str(error.value)
    save_plan(tmp_path / "sweep", plan_with(grace_rounds=5), True)


def test_a_sweep_that_ended_before_its_first_trial_keeps_nobody_from_the_corrected_one(tmp_path):
    save_plan(tmp_path / "sweep", plan_with(), False)
    save_plan(tmp_path / "sweep", plan_with(seed=3), False)
    assert load_plan(tmp_path / "sweep").seed == 3
    (tmp_path / "sweep" / "trials").mkdir()
    with pytest.raises(OutputError, match="add --resume"):
        save_plan(tmp_path / "sweep", plan_with(seed=4), False)


def test_what_a_search_refuses_is_told_before_ray_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr("psp_ray.studies.sweep.run.start_ray", lambda address: pytest.fail("started"))
    grid = plan_with(space={"tau": "0.1..0.2"}, searcher="grid")
    with pytest.raises(ConfigError, match="is an interval"):
        run_sweep(grid, tmp_path / "sweep", False, 1, {"CPU": 1.0}, None, None)
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize("full", [0.4, 0.5, 0.505, 0.51, 0.9])
def test_the_scale_is_told_as_it_is(full):
    """What is said to be 0 and 1 is what scores 0 and 1."""
    found = References(0.5, full, 0.1)
    assert found.normalized(0.5) == 0
    assert found.normalized(found.one) == pytest.approx(1)
    assert f"random 50.0% = 0, {f'full {full:.1%}' if full >= 0.51 else 'random + 1 point'} = 1" in found.told()
    assert ("say little" in found.told()) == (full < 0.51)

"""From options to a plan: what data sets are called, what is refused before anything is read, and dry runs. No Ray."""

import numpy as np
import pytest
from click.testing import CliRunner

from psp_ray.cli.sweep import sweep as sweep_command
from psp_ray.core.errors import ConfigError, DatasetError
from psp_ray.studies.sweep.plan import Plan, save_plan, trial_name, with_former_names
from psp_ray.studies.sweep.references import References
from psp_ray.studies.sweep.request import SweepRequest, make_plan, name_datasets
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
    now = Plan({"rows": {"dataset": "/a/rows.parquet"}}, [1], {}, {"rounds": 2}, classes={"rows": 3})
    assert with_former_names(tmp_path / "sweep", now) == begun
    other = Plan({"rows": {"dataset": "/b/rows.parquet"}}, [1], {}, {"rounds": 2}, classes={"rows": 3})
    assert with_former_names(tmp_path / "sweep", other) == other


@pytest.mark.parametrize("full", [0.4, 0.5, 0.505, 0.51, 0.9])
def test_the_scale_is_told_as_it_is(full):
    """What is said to be 0 and 1 is what scores 0 and 1."""
    found = References(0.5, full, 0.1)
    assert found.normalized(0.5) == 0
    assert found.normalized(found.one) == pytest.approx(1)
    assert f"random 50.0% = 0, {f'full {full:.1%}' if full >= 0.51 else 'random + 1 point'} = 1" in found.told()
    assert ("say little" in found.told()) == (full < 0.51)

"""Folders of a comparison's runs: one that was begun keeps its own, whatever else is listed and what it is called."""

from __future__ import annotations

import pytest

from psp_ray.core.errors import OutputError
from psp_ray.run.folder import open_out
from psp_ray.studies.plan import check_study_out, make_plan
from psp_ray.studies.settings import make_study


@pytest.fixture
def begun(tmp_path):
    """Plans a comparison in one folder, and begins its runs."""
    (tmp_path / "study.yaml").touch()

    def plan(datasets, **settings):
        strategies = settings.pop("strategies", "random:none")
        found = make_plan(make_study({"datasets": datasets, "strategies": strategies, "seeds": 1}, settings), tmp_path)
        check_study_out(found, resume=True, replace_changed=False)
        for cell in found.cells:
            open_out(cell.config.changed(resume=True), cell.folder)
        return [cell.id for cell in found.cells]

    return plan


def test_a_name_that_another_run_has_is_not_taken(begun, tmp_path):
    (small,) = begun("digits:image-size=64")
    assert small == "digits--random--none--k1--seed0"
    both = begun("digits,digits:image-size=64")
    assert both == [f"{small}-2", small]
    assert begun("digits:image-size=64,digits") == both[::-1]
    assert begun("digits") == both[:1]
    with pytest.raises(OutputError, match="1 of 1 runs"):
        begun("digits", rounds=3)
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_two_runs_never_share_a_folder(begun):
    (first,) = begun("digits", strategies="random:none:kappa=2")  # which random never reads
    both = begun("digits", strategies="random:none,random:none:kappa=2")
    assert both == ["digits--random--none--k1--seed0", first]


def test_settings_that_are_paths_are_told_by_their_files(begun, tmp_path):
    places = []
    for name in ("a/known.csv", "b/known.csv", "b/more.csv"):
        path = tmp_path / "lists" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("sample_id,label\n")
        places.append(f"digits:exclude={path}")
    names = begun(",".join([places[0], places[2]]))
    assert [name.partition("--")[0][:-7] for name in names] == ["digits-exclude-known", "digits-exclude-more"]
    assert begun(",".join(places))[::2] == names
    assert len(set(begun(",".join(places)))) == 3
    assert begun(",".join(places[1:]))[1] == names[1]

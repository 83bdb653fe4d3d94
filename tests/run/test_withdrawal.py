"""A run that is refused before it did anything leaves nothing that the corrected command would stumble over."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from psp_ray import Session
from psp_ray.core.errors import OthersError, ResourceError, UserError
from psp_ray.core.files import LOCK
from psp_ray.run.command import run
from psp_ray.run.events import Silent
from psp_ray.run.folder import check_out, has_run
from psp_ray.run.resolve import resolve


def failing(error):
    @contextmanager
    def opened(config):
        raise error
        yield

    return opened


@pytest.fixture
def config(two_rounds, tmp_path):
    given = {**two_rounds, "strategy": "random", "self_training": "none", "out": str(tmp_path / "run")}
    return resolve(given)


def test_where_no_component_could_be_built_nothing_is_left(config, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(ResourceError, match="needs 500 CPUs"):
        run(config, Silent(), open_runtime=failing(ResourceError("the run needs 500 CPUs")))
    assert {path.name for path in out.iterdir()} == {LOCK}
    check_out(config, out)


def test_a_ledger_that_is_not_to_be_had_leaves_nothing(config, tmp_path):
    """The components are built by then."""
    gone = config.changed(ledger="postgresql://nobody@127.0.0.1:1/labels")
    with pytest.raises(UserError, match="can't be opened"):
        run(gone, Silent())
    check_out(config, tmp_path / "run")


@pytest.mark.parametrize("why", ["begun", "others", "bug"])
def test_what_there_was_before_stays_and_so_does_what_a_log_tells(config, tmp_path, why):
    out = tmp_path / "run"
    error = {"begun": UserError("refused"), "others": OthersError("strategy failed"), "bug": ValueError("ours")}[why]
    if why == "begun":
        with pytest.raises(KeyError):
            run(config, Silent(), open_runtime=failing(KeyError()))
    with pytest.raises(type(error), match=str(error)):
        run(config.changed(resume=True), Silent(), open_runtime=failing(error))
    assert has_run(out)
    assert "ended by" in (out / "run.log").read_text()


def test_other_files_stay(config, tmp_path):
    """Such as a list of images that can't be read, which the message names."""
    out = tmp_path / "run"

    @contextmanager
    def opened(config):
        (out / "broken_images.csv").write_text("a.png")
        raise UserError("too few images; see broken_images.csv")
        yield

    with pytest.raises(UserError):
        run(config, Silent(), open_runtime=opened)
    assert (out / "broken_images.csv").exists()
    assert has_run(out)


def test_a_session_leaves_nothing_either(config, tmp_path):
    given = {key: value for key, value in config.flat().items() if key in ("model", "cache", "views")}
    gone = "postgresql://nobody@127.0.0.1:1/labels"
    with pytest.raises(UserError, match="can't be opened"):
        Session(
            config.data.dataset, out=tmp_path / "run", strategy="random", self_training="none", ledger=gone, **given
        )
    assert not has_run(tmp_path / "run")

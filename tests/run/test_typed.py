"""What was typed, looked at before a run goes on: the same words are answers there as later."""

import pytest

from psp_ray.core.errors import OracleError
from psp_ray.labels.layout import note_shown
from psp_ray.run.classes import RunClasses
from psp_ray.run.folder import open_out
from psp_ray.run.resolve import resolve
from psp_ray.run.typed import look_at_typed
from tests.data.made import save


@pytest.fixture
def typed(tmp_path):
    """Write a table of a run whose class `dog` is called `hound` now; gives the settings to go on with."""
    for number in range(3):
        save(tmp_path / "photos" / f"{number}.png", number)
    given = {"dataset": str(tmp_path / "photos"), "classes": "cat,dog", "oracle": "file", "out": str(tmp_path / "run")}
    open_out(resolve(given), tmp_path / "run")
    RunClasses.begun(["cat", "dog"]).renamed("dog", "hound").save(tmp_path / "run")

    def write(words):
        (tmp_path / "run" / "round_01").mkdir(exist_ok=True)
        lines = "".join(f"{number}.png,{word}\n" for number, word in enumerate(words))
        (tmp_path / "run" / "round_01" / "query.csv").write_text("sample_id,label\n" + lines)
        return resolve(given | {"resume": True})

    return write


def test_names_of_before_and_now_are_answers(typed):
    dataset, classes = look_at_typed(typed(["dog", "hound", "skip"]))
    assert dataset.classes == classes.names == ["cat", "hound"]


def test_a_typo_is_told_with_file_and_line(typed):
    with pytest.raises(OracleError, match=r"round_01/query\.csv:3: 'hond' is no class \(did you mean 'hound'\?\)"):
        look_at_typed(typed(["cat", "hond", ""]))


def test_a_name_that_nobody_asked_for_is_told_before_anything_is_changed(typed, tmp_path):
    config = typed(["cat", "hound", ""])
    table = tmp_path / "run" / "round_01" / "query.csv"
    table.write_text(table.read_text().replace("1.png", "11.png"))
    with pytest.raises(OracleError, match=r"round_01/query\.csv:3: an answer for '11\.png'.*correct the sample_id"):
        look_at_typed(config)


def test_an_image_that_left_the_pool_after_it_was_asked_is_no_typo(typed, tmp_path):
    config = typed(["cat", "hound", ""])
    note_shown(tmp_path / "run" / "round_01", dict.fromkeys(["0.png", "1.png", "2.png"]))
    (tmp_path / "photos" / "1.png").unlink()
    dataset, _ = look_at_typed(config)
    assert dataset.pool["sample_id"].to_pylist() == ["0.png", "2.png"]


def test_nobody_is_looked_at_where_nobody_types(typed, tmp_path):
    config = typed(["nonsense", "", ""])
    assert look_at_typed(config.changed(resume=False)) is None
    assert look_at_typed(config.changed(storage=str(tmp_path / "storage"))) is None
    assert look_at_typed(config.changed(oracle="ground-truth")) is None

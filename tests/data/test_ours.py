"""What psp-ray writes into a data set's folder is never read as a part of it, wherever it lies."""

import pytest
from PIL import Image

from psp_ray.core.ours import MARK, below_ours, is_ours, mark
from psp_ray.data.load import load_dataset


def picture(path, shade):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 9), (shade, 0, 0)).save(path)


def names_of(*arguments, **options):
    return set(load_dataset(*map(str, arguments), **options).pool["sample_id"].to_pylist())


@pytest.mark.parametrize("place", ["out", "deep/er/out", "one/out", "images"])
def test_marked_folders_are_left_out_and_named(tmp_path, place):
    root = tmp_path / "photos"
    for number in range(4):
        picture(root / ("one" if number % 2 else "two") / f"{number}.png", number)
    before = names_of(root, classes="red,blue")
    picture(root / place / "images" / "001_x.png", 99)
    assert len(names_of(root, classes="red,blue")) == 5, "any other folder is read"
    mark(root / place)
    assert is_ours(root / place)
    data = load_dataset(str(root), classes="red,blue")
    assert set(data.pool["sample_id"].to_pylist()) == before
    assert any(place in note and "output folder of psp-ray" in note for note in data.notes)
    assert len(names_of(root / place, classes="red,blue")) == 1, "unless somebody asks for that very folder"


def test_a_run_without_a_mark_is_known_by_its_files(tmp_path):
    (tmp_path / "old" / "checkpoints").mkdir(parents=True)
    assert not is_ours(tmp_path / "old")
    (tmp_path / "old" / "run.json").touch()
    assert is_ours(tmp_path / "old")
    file = tmp_path / "old" / "round_01" / "images" / "1.png"
    assert below_ours(file, tmp_path)
    assert not below_ours(file, tmp_path / "old"), "the folder asked for"
    assert not (tmp_path / "old" / MARK).exists()


@pytest.mark.parametrize("given", ["a, b,,c", "a\nb\nc\n", "a,b\r\nc"])
def test_classes_may_be_pasted_as_lines_too(tmp_path, given):
    picture(tmp_path / "photos" / "1.png", 1)
    picture(tmp_path / "photos" / "2.png", 2)
    assert list(load_dataset(str(tmp_path / "photos"), classes=given).classes) == ["a", "b", "c"]

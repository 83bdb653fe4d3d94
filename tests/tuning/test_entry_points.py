"""The spaces that come along, and the two entry points beside the command line's."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from psp_ray.cli.main import cli
from psp_ray.core.errors import ConfigError
from psp_ray.run.resolve import resolve
from psp_ray.studies.sweep.request import read_space
from psp_ray.studies.sweep.space import DEFAULT_SPACE, Dimension
from tuning import report, sweep

SPACES = sorted((Path(sweep.__file__).parent / "spaces").glob("*.yaml"))


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_every_space_names_settings_and_values_that_a_run_takes(path):
    space = read_space(path)
    assert space
    for key, text in space.items():
        for value in Dimension.parse(key, text).bounds:
            assert resolve({key: value}).flat()[key] == value


def test_the_first_space_is_the_default():
    assert read_space(SPACES[0].with_name("method.yaml")) == DEFAULT_SPACE


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("beta", "expected lines"),
        ("", "expected lines"),
        ("betta: 0..1", "not a setting"),
        ("rounds: 1..4", "can't be varied"),
        ("beta: [1, 1]", "different values"),
        ("beta: [", "not valid YAML"),
    ],
)
def test_a_space_that_can_not_be_used(tmp_path, text, said):
    (tmp_path / "space.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_space(tmp_path / "space.yaml")


def test_a_list_is_values(tmp_path):
    (tmp_path / "space.yaml").write_text("beta: [0.1, 0.5]\nalign: id\n")
    assert read_space(tmp_path / "space.yaml") == {"beta": "0.1,0.5", "align": "id"}


@pytest.mark.parametrize(("entry", "name"), [(sweep, "sweep"), (report, "sweep-report")])
def test_the_entry_points_are_the_commands(entry, name, capsys, tmp_path):
    context = click.Context(cli)
    command = cli.get_command(context, name)
    with pytest.raises(SystemExit) as ended:
        entry.main([*(["--datasets", "digits", "--out"] if name == "sweep" else []), str(tmp_path), "--nonsense"])
    assert ended.value.code == 2
    assert "--nonsense" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        sweep.main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Usage: python -m tuning.sweep ")
    for option in (option for parameter in cli.get_command(context, "sweep").params for option in parameter.opts):
        assert option in shown
    assert command is (entry.sweep if name == "sweep" else entry.sweep_report)

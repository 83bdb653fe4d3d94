"""The commands that the README and the guides show are commands of this version: they parse, and settings fit."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from psp_ray.cli.main import COMMANDS, arguments_with_command, cli
from psp_ray.config.config import CHANGEABLE, fields, option_name
from psp_ray.run.resolve import resolve

ROOT = Path(__file__).parents[2]
CLASSES = "grass land\nfarm field\nindustrial area\nriver or lake\nforest\nresidential area\nparking lot\n"
WITH_SETTINGS = ("run", "check-data", "featurize")


def shown_commands():
    """Lines that begin with psp-ray in code blocks, continued lines joined, and commands with options in the text."""
    for name in ("README.md", "docs/own-data.md", "docs/labeling.md", "docs/cluster.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        found = re.findall(r"`(psp-ray [^`]*--[^`]+)`", text)
        for block in re.findall(r"^```\w*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
            lines = (line.removeprefix("$ ") for line in block.replace("\\\n", " ").splitlines())
            found += [line for line in lines if line.startswith("psp-ray ")]
        for line in dict.fromkeys(found):
            if "--help" not in line:
                yield pytest.param(line, id=f"{name}: {' '.join(line.split())[:60]}")


def leaves(group, path=()):
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name), command


@pytest.mark.parametrize("line", shown_commands())
def test_a_shown_command_is_one(line, monkeypatch, tmp_path):
    assert not re.search(r"…|\.\.\.", line), "it can't be run as it stands"
    (tmp_path / "classes.txt").write_text(CLASSES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PSP_RAY_LEDGER", "ledger.sqlite")  # as docs/cluster.md does before its commands
    called = {}
    for path, command in leaves(cli):
        monkeypatch.setattr(command, "callback", lambda path=path, **given: called.update({path: given}))
    words = shlex.split(line, comments=True)[1:]
    cli.main(args=arguments_with_command(words), prog_name="psp-ray", standalone_mode=False)
    (path, given), *_ = called.items()
    if path[0] in WITH_SETTINGS and not re.search(r" [A-Z]{2,}( |$)", line):  # capitals stand for a value
        own = {key: given.pop(key) for key in [*given] if key not in fields()}
        assert resolve(given, own["config_file"])


def test_a_wrong_command_is_found(monkeypatch, tmp_path):
    """The test above can fail."""
    with pytest.raises(click.ClickException, match="No such option"):
        test_a_shown_command_is_one("psp-ray run --no-such-option 1", monkeypatch, tmp_path)


def test_no_two_options_of_a_command_are_one_parameter():
    """`featurize --classes FILE` was taken for the file of `--export-classes`."""
    for path, command in leaves(cli):
        names = [parameter.name for parameter in command.params]
        assert len(set(names)) == len(names), (path, sorted(name for name in names if names.count(name) > 1))


def test_the_tutorial_is_linked():
    for guide in ("docs/own-data.md", "docs/labeling.md"):
        assert f"({guide})" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(list(shown_commands())) >= 15


def test_the_readme_lists_every_command():
    listed = re.findall(r"^\| `psp-ray ([a-z-]+)`", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


@pytest.mark.parametrize("page", ["README.md", "docs/own-data.md", "docs/labeling.md"])
def test_what_continue_may_change_is_said(page):
    """All settings of the result that may change, in one place."""
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    places = [text[found.start() - 120 : found.end() + 200] for found in re.finditer("`--labels-per-round`", text)]
    wanted = {f"`{option_name(key)}`" for key in CHANGEABLE}
    assert any(wanted <= set(re.findall(r"`--[a-z-]+`", place)) for place in places)

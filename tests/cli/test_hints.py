"""Options of `run` that other commands lack are answered with what to give there, and that can be given."""

from __future__ import annotations

import re

import click
import pytest

from psp_ray.cli.main import cli, main
from psp_ray.studies.settings import parse_pair
from psp_ray.studies.sweep.plan import settable

PARSED = {
    "compare": parse_pair,
    "reproduce": parse_pair,
    "sweep": lambda text: settable(text.partition("=")[0], "", False),
}


def options_of(name):
    command = cli.get_command(click.Context(cli), name)
    return command, {text for option in command.params for text in (*option.opts, *option.secondary_opts)}


@pytest.mark.parametrize("name", ["compare", "reproduce", "sweep", "continue"])
def test_every_option_of_run_is_taken_or_told(name):
    command, taken = options_of(name)
    lacking = {text for text in options_of("run")[1] - taken if text.startswith("--")}
    assert lacking
    for option in sorted(lacking):
        with pytest.raises(click.UsageError, match=f"^No such option '{option}': ") as told:
            command.make_context(name, [option, "x"])
        said = told.value.format_message().partition(": ")[2]
        for other in re.findall(r"(?<!`psp-ray )--[a-z][a-z-]*", said):
            assert other in taken, (option, said)
        for pair in re.findall(r"--set ([a-z_]+=[A-Z]+)", said):
            PARSED[name](pair)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("compare --labels-per-round 3", "use --labels-per-class K, for K x the number of classes"),
        ("compare --labels-per-round=3", "use --labels-per-class K"),
        ("compare --config x.yaml", "--study"),
        ("sweep --strategy random", "give --set strategy=VALUE, or --vary strategy=VALUES to try several"),
        ("sweep --no-view-flip", "--set view_flip=VALUE"),
        ("sweep --label-cap 3", "give --set label_cap=VALUE\n"),
        ("continue x --out y", "name the folder as DIR"),
        ("sweep --betta 3", "'--beta'"),
        ("compare --kapa 3", "'--kappa'"),
    ],
)
def test_what_is_told(words, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert said in told
    assert told.count("\n") == 1

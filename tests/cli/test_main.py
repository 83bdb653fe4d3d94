"""The command line: every mistake is one line and exit code 2, and nothing is written, encoded or bought."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
import yaml
from PIL import Image

from psp_ray.cli.listing import KINDS, OTHERS, registries
from psp_ray.cli.main import arguments_with_command, main
from psp_ray.config import kinds
from psp_ray.config.config import SECTIONS, fields
from psp_ray.core.registry import Registry
from psp_ray.run.resolve import resolve


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """Run the command line in an empty folder; returns (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PSP_RAY_CACHE", str(tmp_path / "cache"))

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


def refused(answer, *said):
    code, _, err = answer
    assert code == 2, err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for words in said:
        assert words in err


def make_folder(path, classes=("a", "b"), count=6, broken=False):
    for name in classes:
        (path / name).mkdir(parents=True)
        for number in range(count):
            file = path / name / f"{number}.png"
            if broken:
                file.write_bytes(b"nothing")
            else:
                Image.new("RGB", (40, 40), (number * 20, 0, 0)).save(file)
    return str(path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rounds", "0"], "--rounds"),
        (["--labels-per-round", "0"], "--labels-per-round"),
        (["--rounds", "many"], "--rounds"),
        (["--rounds", "500"], "the pool has 89"),
        (["--labels-per-round", "1000"], "--labels-per-round 1000"),
        (["--strategy", "vsp"], "did you mean 'vssp'"),
        (["--self-training", "usd"], "--self-training"),
        (["--model", "psp-light"], "psp-lite"),
        (["--model", "ViT-B-32"], "--checkpoint"),
        (["--model", "ViT-B-32", "--checkpoint", "absent.safetensors"], "absent.safetensors"),
        (["--dataset", "digitz"], "digits"),
        (["--dataset", "./absent"], "absent"),
        (["--dataset", "caltech101", "--data-root", "absent"], "absent"),
        (["--kapa", "3"], "--kappa"),
        (["--config", "absent.yaml"], "absent.yaml"),
        (["--image-size", "8"], "--image-size"),
        (["--evaluate-on", "train"], "--evaluate-on"),
        (["--template", "a photo"], "--template"),
        (["--device", "cuda:7"], "--device"),
        (["--description-file", "absent.json"], "absent.json"),
        (["--label-cap", "5"], "--label-cap"),
        (["runn"], "runn"),
        (["predict", "--run", "absent", "."], "absent"),
        (["predict", "--run", ".", "gone.parquet"], "gone.parquet: no such file"),
        (["predict", "x.png"], "--run"),
    ],
)
def test_mistakes_cost_nothing(call, tmp_path, words, said):
    refused(call(*words), said)
    assert not (tmp_path / "runs").exists()


def test_folders_that_can_not_be_used(call, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(call("--dataset", str(tmp_path / "empty")), "empty")
    refused(call("--dataset", make_folder(tmp_path / "one", classes=("a",))), "one class")
    refused(call("--dataset", make_folder(tmp_path / "bad", broken=True)), "no readable image")


def test_outputs_that_can_not_be_used(call, tmp_path):
    (tmp_path / "file").write_text("x")
    refused(call("--out", "file"), "--out file")
    refused(call("--out", "file/below"), "--out file/below")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.txt").write_text("x")
    refused(call("--out", "used"), "not empty")
    refused(call("--out", "used", "--resume"), "something else")
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["thesis.txt"]
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        refused(call("--out", "locked/run"), "not a writable folder")


def test_dry_run_prints_the_resolved_configuration(call, tmp_path):
    code, out, err = call("--dry-run", "--strategy", "psp-paper", "--seed", "4")
    assert (code, err) == (0, "")
    settings = yaml.safe_load(out)
    assert set(settings) == set(fields())
    assert (settings["labels_per_round"], settings["image_size"], settings["kappa"]) == (10, 96, 1.0)
    assert settings["seed"] == 4
    assert not (tmp_path / "runs").exists()
    refused(call("--dry-run", "--rounds", "100"), "lower one of them")
    refused(call("--dry-run", "--stop", "target:90"), "0.9 is 90 %")
    (tmp_path / "again.yaml").write_text(out)
    assert call("run", "--dry-run", "--config", "again.yaml")[1] == out


def test_run_is_the_default_command():
    assert arguments_with_command([]) == ["run"]
    assert arguments_with_command(["--seed", "1"]) == ["run", "--seed", "1"]
    assert arguments_with_command(["predict", "x"]) == ["predict", "x"]
    assert arguments_with_command(["--help"]) == ["--help"]


def test_help_names_every_setting(call):
    code, out, _ = call("run", "--help-all")
    assert code == 0
    for key in set(fields()) - {"preset"}:
        assert f"--{key.replace('_', '-')}" in out
    assert "(the note" not in out


def test_help_shows_what_most_people_need(call):
    code, out, _ = call("run", "--help")
    assert code == 0
    shown = {key for key in fields() if re.search(rf"^  --{key.replace('_', '-')}\b(?!-)", out, re.MULTILINE)}
    assert {"dataset", "classes", "oracle", "rounds", "out"} < shown
    assert len(shown) <= 16
    assert "--help-all" in out
    code, out, _ = call("continue", "--help")
    assert "--labels-per-round" in out
    assert "--dataset" not in out
    assert "[8]" not in out
    assert "predict" in call("--help")[1]


def test_doctor(call):
    code, out, _ = call("doctor", "--no-ray")
    assert code == 0, out
    assert "bundled model    ok" in out
    assert "feature cache    ok" in out


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_names_are_listed_one_a_line_with_their_source(call, kind):
    code, out, _ = call("list", kind)
    found = json.loads(call("list", kind, "--json")[1])
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [item["name"] for item in found]
    assert all(item["source"] for item in found)
    known = {
        "strategies": "vssp",
        "datasets": "digits",
        "models": "psp-lite",
        "presets": "psp-paper",
        "settings": "beta",
    }
    assert known.get(kind, found[0]["name"]) in [item["name"] for item in found]


def test_every_setting_that_names_something_can_be_listed():
    """Registries that an option names are listed, under one kind each."""
    listed = registries()
    assert set(listed) | set(OTHERS) == set(KINDS)
    made = {id(value) for value in vars(kinds).values() if isinstance(value, Registry)}
    assert made <= {id(registry) for registry in listed.values()}
    assert len({id(registry) for registry in listed.values()}) == len(listed)


def test_models_are_those_of_open_clip():
    """Read from its files where it isn't loaded, asked of it where it is: the same names, the same architectures."""
    code = (
        "import sys; from psp_ray.clip.architectures import known_models, model_config; "
        "names = known_models(); found = [model_config(name) for name in names]; "
        "assert 'open_clip' not in sys.modules; import open_clip; assert sorted(known_models()) == names; "
        "assert [open_clip.get_model_config(name) for name in names] == found; print(len(names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


def test_help_lists_settings_by_section(call):
    out = call("run", "--help-all")[1]
    places = [out.index(f"\n{name.capitalize()} (") for name in SECTIONS]
    assert places == sorted(places)
    for key, start, end in zip(("dataset", "model"), places, places[1:], strict=False):
        assert start < out.index(f"\n  --{key} ") < end
    assert out.index("--dry-run") < places[0]


def test_help_shows_what_holds_where_nothing_is_given():
    """The default strategy is a preset: its self-training is what a run without options does."""
    import click

    from psp_ray.cli.run import run

    options = {parameter.name: parameter for parameter in run.params}
    shown = options["self_training"].get_help_record(click.Context(run))[1]
    assert resolve({}).selftrain.self_training == "ust"
    assert "[ust, as --strategy psp sets it; else none]" in shown
    assert options["rounds"].get_help_record(click.Context(run))[1].endswith("[8]")


def test_a_folder_may_be_given_as_other_commands_take_it(call, tmp_path):
    for command in ("continue", "report", "explain"):
        for words in ((command, "nowhere"), (command, "--run", "nowhere")):
            refused(call(*words), "nowhere: no such folder")
        for words in ((command,), (command, "a", "--run", "b")):
            refused(call(*words), "give one folder: DIR, or --run DIR")

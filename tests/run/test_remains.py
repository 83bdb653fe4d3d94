"""Files that are gone from a run's folder: it goes on without them, or whoever opens it says which and what helps."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
import yaml

from psp_ray.cli.main import main
from psp_ray.core.errors import ConfigError, OutputError
from psp_ray.core.sealed import DamagedFile
from psp_ray.run.command import run
from psp_ray.run.continuing import continued
from psp_ray.run.events import Silent
from psp_ray.run.folder import FILES, open_out
from psp_ray.run.remains import written_by
from psp_ray.run.resolve import resolve

SETTINGS = ("config.yaml", "run.json", "checkpoints/run.json")
"""The files that say a run's settings, but for the header of its prompts."""
OPENING = (
    "continue {}",
    "report {}",
    "explain {}",
    f"predict --run {{}} {__file__}",
    "export --run {} --csv {}.csv",
    "tasks export --run {}",
    "oracle check --ledger sqlite:///{}.sqlite --run {}",
)
"""Every command that opens a run's folder."""


@pytest.fixture(scope="module")
def finished(two_rounds, tmp_path_factory):
    out = tmp_path_factory.mktemp("remains") / "run"
    run(resolve({**two_rounds, "strategy": "random", "self_training": "none", "out": str(out)}), Silent())
    return out


@pytest.fixture
def lacking(finished, tmp_path):
    """A copy of the run without some of its files."""

    def copy(*gone):
        out = tmp_path / "run"
        shutil.copytree(finished, out)
        for name in gone:
            (out / name).unlink()
        return out

    return copy


def said_by(capsys, words):
    """Exit code and standard error of a command in this process."""
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    "gone", [SETTINGS[:1], SETTINGS[1:2], SETTINGS[:2], SETTINGS[1:], SETTINGS, ("prompts.safetensors", *SETTINGS[:2])]
)
def test_a_run_goes_on_without_what_its_other_files_know(lacking, finished, tiny_settings, gone):
    out = lacking(*gone)
    where = {key: tiny_settings[key] for key in ("cache", "runner")}
    summary = run(continued(out, {**where, "pictures": False}), Silent(), continuing=True)
    assert summary["status"] == "finished"
    for name in gone:
        assert (out / name).is_file()
    before, after = (json.loads((folder / "run.json").read_text()) for folder in (finished, out))
    assert (before["identity"], before["experiment"]) == (after["identity"], after["experiment"])
    assert (out / "prompts.safetensors").read_bytes() == (finished / "prompts.safetensors").read_bytes()


DERIVED = ("labels.parquet", "picks.parquet", "policy.parquet", "pool_predictions.parquet", "prompts.safetensors")
NOTED = ("classes.json", "checkpoints/classes.json", "config.yaml", "run.json", "checkpoints/run.json")
WAYS = {"gone": None, "emptied": lambda data: b"", "cut": lambda data: data[: len(data) // 2]}


def harm(file, way):
    data = file.read_bytes()
    file.unlink() if way is None else file.write_bytes(way(data))


@pytest.mark.parametrize("how", list(WAYS))
def test_what_a_run_has_written_is_written_anew(lacking, finished, tiny_settings, how):
    """Everything that it derived at once, and then each file that notes something and has a copy."""
    out = lacking()
    where = {key: tiny_settings[key] for key in ("cache", "runner")} | {"pictures": False}
    for name in (*DERIVED, "rounds.csv", "summary.json"):
        harm(out / name, WAYS[how])
    summary = run(continued(out, where), Silent(), continuing=True)
    before = json.loads((finished / "summary.json").read_text())
    assert summary["final_accuracy"] == before["final_accuracy"]
    for name in DERIVED:
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name
    one, other = (list(csv.DictReader((folder / "rounds.csv").open(newline=""))) for folder in (out, finished))
    timed = [name for name in other[0] if "seconds" in name]
    assert [{**row, **dict.fromkeys(timed)} for row in one] == [{**row, **dict.fromkeys(timed)} for row in other]
    for name in NOTED:
        harm(out / name, WAYS[how])
        run(continued(out, where), Silent(), continuing=True)
        if name != "config.yaml":  # it says how the run was gone on with, too
            assert (out / name).read_bytes() == (finished / name).read_bytes(), name


CUTS = (0, 0.2, 0.5, 0.9, 0.97)


@pytest.mark.parametrize("share", CUTS)
def test_run_json_knows_all_that_a_cut_config_yaml_lacks(lacking, share):
    """Also where and how the run is executed; whatever the cut left of the last line."""
    out = lacking()
    change = {"out": str(out), "pictures": False}
    whole, text = continued(out, change), (out / "config.yaml").read_bytes()
    assert whole.runtime.runner == "inline", "which is not the default"
    for more in range(12):
        (out / "config.yaml").write_bytes(text[: int(share * len(text)) + more])
        assert continued(out, change) == whole
    heard = []
    open_out(whole, out, heard.append)
    assert len(heard) == 1
    assert "config.yaml" in heard[0]
    assert "written anew from run.json" in heard[0]
    one, other = yaml.safe_load((out / "config.yaml").read_bytes()), yaml.safe_load(text)
    assert {**one, "out": None, "resume": None} == {**other, "out": None, "resume": None}
    open_out(whole, out, heard.append)
    assert len(heard) == 1


def test_a_damaged_config_yaml_of_an_older_version_says_so(lacking):
    """Its run.json didn't say where the run is executed."""
    out = lacking()
    for name in SETTINGS[1:]:
        record = json.loads((out / name).read_text())
        del record["where"], record["checksum"]
        (out / name).write_text(json.dumps(record))
    whole = continued(out, {})
    open_out(whole, out)
    assert "where" in json.loads((out / "run.json").read_text()), "now it does"
    for name in SETTINGS[1:]:
        (out / name).write_text("")
    (out / "prompts.safetensors").unlink()
    (out / "config.yaml").write_text("dataset: x\nrounds: 2\nsee")
    with pytest.raises(ConfigError, match=r"config.yaml: not valid YAML .*; put it right: no other file says"):
        continued(out, {})


def test_no_password_is_kept(two_rounds, tmp_path):
    given = {**two_rounds, "out": str(tmp_path / "run"), "ledger": "postgresql://me:geheim@db/labels?password=geheim"}
    for _ in range(2):
        open_out(resolve({**given, "resume": True}), tmp_path / "run")
        texts = [(tmp_path / "run" / name).read_text() for name in SETTINGS]
        assert all("me:***@db" in text and "geheim" not in text for text in texts)
        (tmp_path / "run" / "config.yaml").unlink()


@pytest.mark.parametrize("way", ["gone", "emptied"])
@pytest.mark.parametrize("asked", [True, False])
def test_a_run_that_has_done_no_round_goes_on_from_config_yaml(tiny_settings, tiny_folder, tmp_path, way, asked):
    given = {**tiny_settings, "dataset": str(tiny_folder), "labels_per_round": 3, "strategy": "random"}
    given |= {"self_training": "none", "pictures": False, "out": str(tmp_path / "run"), "resume": True}
    out = tmp_path / "run"
    config = resolve({**given, "oracle": "file"})
    if asked:
        run(config, Silent())
    else:
        open_out(config, out)
    before = json.loads((out / "run.json").read_text())
    for name in SETTINGS[1:]:
        harm(out / name, WAYS["emptied"])
    if way == "gone":
        (out / "run.json").unlink()
    heard = []
    open_out(continued(out, {}), out, heard.append)
    after = json.loads((out / "run.json").read_text())
    assert len(heard) == 1
    assert "run.json is " in heard[0]
    assert (after["identity"], after["where"]) == (before["identity"], before["where"])
    assert (after["experiment"] == before["experiment"]) == asked
    assert ("under a new name in the ledger" in heard[0]) == (not asked)


@pytest.mark.parametrize("how", list(WAYS))
def test_what_is_damaged_names_the_folder(lacking, tmp_path, how):
    out = lacking()
    for name in ("summary.json", "checkpoints/finished.json", "checkpoints/round_002/COMPLETE"):
        assert str(DamagedFile(out / name, how)).endswith(f"written anew by: psp-ray continue {out}")
    assert "the same comparison or sweep with --resume" in str(DamagedFile(tmp_path / "sweep.json", how))


@pytest.mark.parametrize("how", list(WAYS))
def test_what_a_run_has_written_is_written_anew_without_its_digests(lacking, finished, tiny_settings, how):
    """Nothing says then which of the other files are whole."""
    out = lacking("labels.parquet", "pool_predictions.parquet")
    harm(out / "checkpoints" / "finished.json", WAYS[how])
    harm(out / "prompts.safetensors", WAYS["emptied"])
    harm(out / "picks.parquet", WAYS["cut"])
    where = {key: tiny_settings[key] for key in ("cache", "runner")} | {"pictures": False}
    run(continued(out, where), Silent(), continuing=True)
    for name in DERIVED:
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name
    before = (out / "checkpoints" / "finished.json").stat().st_mtime_ns
    run(continued(out, where), Silent(), continuing=True)
    assert (out / "checkpoints" / "finished.json").stat().st_mtime_ns == before  # nothing is left to do


def test_a_finished_run_without_checkpoints_stays_as_it_is(lacking, tiny_settings):
    out = lacking()
    shutil.rmtree(out / "checkpoints")
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    where = {key: tiny_settings[key] for key in ("cache", "runner")} | {"pictures": False}
    assert run(continued(out, where), Silent(), continuing=True)["status"] == "finished"
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")} == before


def test_what_a_waiting_run_has_written_is_written_anew(tiny_settings, tiny_folder, tmp_path):
    given = {
        **tiny_settings,
        "dataset": str(tiny_folder),
        "labels_per_round": 3,
        "strategy": "random",
        "oracle": "file",
    }
    given |= {"self_training": "none", "pictures": False, "out": str(tmp_path / "run"), "resume": True}
    run(resolve(given), Silent())
    names = [*(name for name in DERIVED[:3]), "asked.parquet"]
    before = {name: (tmp_path / "run" / name).read_bytes() for name in names}
    for name in (*names, "summary.json"):
        harm(tmp_path / "run" / name, WAYS["cut"])
    assert run(continued(tmp_path / "run", {}), Silent(), continuing=True)["status"] == "awaiting_labels"
    assert {name: (tmp_path / "run" / name).read_bytes() for name in names} == before


def test_a_folder_of_runs_names_them(tmp_path, capsys):
    for place in ("study/runs/a--seed0", "study/runs/a--seed1", "sweep/trials/0000-ab/digits"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "run.json").write_text("{}")
    for words in ("explain {}", "continue {}", OPENING[3], "export --run {} --csv x.csv"):
        for name, said in (("study", "2 runs below it"), ("sweep", "1 run below it")):
            code, told = said_by(capsys, words.format(tmp_path / name))
            assert (code, told.count("\n")) == (2, 1)
            assert said in told
            first = next(path for path in sorted((tmp_path / name).rglob("run.json"))).parent
            assert f"such as {first}\n" in told


def test_without_settings_everybody_says_so(lacking, capsys):
    out = lacking(*SETTINGS, "prompts.safetensors", "pool_predictions.parquet")
    for words in OPENING[:5]:
        code, said = said_by(capsys, words.format(out, out))
        assert (code, said.count("\n")) == (2, 1), words
        assert "config.yaml and run.json are gone" in said
        assert "--resume" in said
        assert "2 rounds" in said


@pytest.mark.parametrize(
    ("words", "name"), [(OPENING[3], "prompts.safetensors"), (OPENING[4], "pool_predictions.parquet")]
)
@pytest.mark.parametrize("more", [(), ("summary.json",), ("checkpoints/finished.json",)])
def test_a_file_of_a_finished_run_is_named(lacking, capsys, words, name, more):
    out = lacking(name, *more)
    code, said = said_by(capsys, words.format(out, out))
    assert code == 2
    assert (
        said == f"error: {out / name}: is missing, though the run has finished; psp-ray continue {out} writes it anew\n"
    )


def test_a_run_under_way_is_not_called_finished(lacking, finished):
    out = lacking(*(name for name in FILES if (finished / name).exists()))
    (out / "checkpoints" / "finished.json").unlink()
    with pytest.raises(OutputError, match=r"no prompts.safetensors yet, .* has not finished \(round 2 of 2 is done\)"):
        written_by(out, "prompts.safetensors")
    waits = {"status": "awaiting_labels", "awaiting": {"round": 3, "missing": 4}}
    numbers = {"zero_shot_accuracy": None, "final_accuracy": None, "labels_used": 6, "labels_paid": 6}
    (out / "summary.json").write_text(json.dumps({**numbers, "wall_seconds": 1.0, "rounds": [], **waits}))
    with pytest.raises(OutputError, match=r"\(it waits for 4 labels of round 3\); go on with: psp-ray continue"):
        written_by(out, "prompts.safetensors")


@pytest.mark.parametrize("words", OPENING)
def test_where_no_run_is_everybody_says_so(tmp_path, capsys, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no run")
    reasons = {"nothing": "no such folder", "empty": "no run", "file": "file"}
    for name, reason in reasons.items():
        if name == "file" and words.startswith("predict"):
            continue  # prompts may be given as a file
        code, said = said_by(capsys, words.format(tmp_path / name, tmp_path / name))
        assert (code, said.count("\n")) == (2, 1), said
        assert f"{tmp_path / name}: " in said
        assert reason in said
        assert "give the " in said

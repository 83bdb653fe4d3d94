"""Runs on images that nobody has labeled: in by folder, list or Parquet, labels by file, out with an estimate."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from rich.console import Console

from psp_ray.cli.main import cli, main
from psp_ray.core.errors import ConfigError, OracleError
from psp_ray.core.files import read_tensors
from psp_ray.features.quota import entries, show
from psp_ray.labels import Ledger
from psp_ray.report.progress import Reporter
from psp_ray.run.command import run
from psp_ray.run.prepare import prepare
from psp_ray.run.resolve import resolve

ROUNDS = 2


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory, tiny_folder):
    """The tiny pictures without class folders; a picture's class is the beginning of its name."""
    folder = tmp_path_factory.mktemp("unsorted")
    for path in sorted(tiny_folder.rglob("*.png")):
        shutil.copy(path, folder / f"{path.parent.name}-{path.name}")
    return folder


@pytest.fixture
def options(tiny_settings, plain_folder, tmp_path):
    return {
        **tiny_settings,
        "dataset": str(plain_folder),
        "classes": "red,green,blue",
        "rounds": ROUNDS,
        "labels_per_round": 4,
        "learning_steps": 5,
        "update_steps": 2,
        "threads": 1,
        "out": str(tmp_path / "run"),
        "oracle": "file",
    }


def go(options, heard=None, **more):
    console = Console(quiet=True) if heard is None else Console(file=heard, width=200, soft_wrap=True)
    return run(resolve({**options, **more}), Reporter(ROUNDS, console))


def rows_of(file):
    with open(file, newline="") as handle:
        return list(csv.DictReader(handle))


def fill_in(file, answer=lambda row: row["sample_id"].split("-")[0], keep=lambda i: True):
    rows = rows_of(file)
    for i, row in enumerate(rows):
        if keep(i) and not row["label"]:
            row["label"] = answer(row)
    with open(file, "w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def check_ledger(file, *more):
    return CliRunner().invoke(cli, ["oracle", "check", "--ledger", file, *more])


def files_of(out):
    tables = {name: pq.read_table(out / f"{name}.parquet") for name in ("labels", "policy", "pool_predictions")}
    tensors = read_tensors(out / "prompts.safetensors")
    return tables, {name: value.tobytes() for name, value in tensors.items()}


def test_labels_by_file_equal_ground_truth_to_the_bit(options, tmp_path, plain_folder, capsys):
    out = tmp_path / "run"
    summary = go(options)
    assert (summary["status"], summary["labels_used"]) == ("awaiting_labels", 0)
    assert summary["awaiting"] == {"round": 1, "missing": 4, "asked": 4, "file": str(out / "round_01" / "query.csv")}
    asked = rows_of(out / "round_01" / "query.csv")
    assert list(asked[0]) == ["sample_id", "path", "image", "label"]
    assert all(
        (out / "round_01" / row["image"]).read_bytes() == (plain_folder / row["sample_id"]).read_bytes()
        for row in asked
    )
    assert (out / "round_01" / "contact_sheet.png").read_bytes().startswith(b"\x89PNG")
    before = (out / "round_01" / "query.csv").read_text()
    assert go(options, resume=True)["awaiting"]["missing"] == 4
    assert (out / "round_01" / "query.csv").read_text() == before, "asking again touches nothing"

    fill_in(out / "round_01" / "query.csv", keep=lambda i: i < 3)
    assert go(options, resume=True)["awaiting"] == summary["awaiting"] | {"missing": 1}
    with Ledger(out / "ledger.sqlite") as ledger:
        assert ledger.status()["labels_bought"] == 3, "partial answers are kept"
    fill_in(out / "round_01" / "query.csv")
    assert go(options, resume=True)["awaiting"]["round"] == 2
    fill_in(out / "round_02" / "query.csv")
    done = go(options, resume=True)
    assert (done["status"], done["labels_used"], done["labels_paid"]) == ("finished", 8, 8)
    assert done["final_accuracy"] is None
    assert done["pool_accuracy_estimate"]["round"] == ROUNDS
    assert 0 <= done["pool_accuracy_estimate"]["low"] <= done["pool_accuracy_estimate"]["value"] <= 1
    assert go(options, resume=True)["status"] == "finished"

    # The same answers, known beforehand: a manifest with labels and nothing but a pool.
    manifest = tmp_path / "list.csv"
    names = sorted(path.name for path in plain_folder.iterdir())
    lines = [f"{name},{plain_folder / name},{name.split('-')[0]},pool" for name in names]
    manifest.write_text("\n".join(["sample_id,path,label,split", *lines]))
    other = go(options, dataset=str(manifest), oracle="ground-truth", out=str(tmp_path / "truth"))
    assert other["labels_used"] == 8
    one, two = files_of(out), files_of(tmp_path / "truth")
    assert all(one[0][name].equals(two[0][name]) for name in one[0])
    assert one[1] == two[1]
    for row, twin in zip(done["rounds"], other["rounds"], strict=True):
        assert row["reward"] == twin["reward"]
        assert row["pool_accuracy_estimate"] == twin["pool_accuracy_estimate"]
    assert all(row["pseudo_label_precision"] is None for row in done["rounds"])


def test_skip_ignore_and_corrections(options, tmp_path):
    out = tmp_path / "run"
    go(options)
    answers = iter(["red", "skip", "Ignore", "red"])
    fill_in(out / "round_01" / "query.csv", lambda row: next(answers))
    first = [row["sample_id"] for row in rows_of(out / "round_01" / "query.csv")]
    assert go(options, resume=True)["status"] == "awaiting_labels"
    # The second round is asked for; meanwhile the first one's labels turn out wrong.
    rows = rows_of(out / "round_01" / "query.csv")
    text = (out / "round_01" / "query.csv").read_text().replace(f"{rows[0]['image']},red", f"{rows[0]['image']},blue")
    (out / "round_01" / "query.csv").write_text(text)
    (out / "corrections.csv").write_text(f"sample_id,label\n{first[1]},green\n")
    fill_in(out / "round_02" / "query.csv", lambda row: "green")
    heard = io.StringIO()
    done = go(options, heard, resume=True)
    assert done["status"] == "finished"
    said = heard.getvalue()
    assert f"took up 2 corrected labels of earlier rounds: {first[0]} red -> blue; {first[1]} skip -> green" in said
    table = said.splitlines()
    assert table[table.index(next(line for line in table if line.startswith("round  labels"))) + 2].split()[1] == "7"
    assert "with 7 labels (8 answers paid in this run, 1 ignored)" in said, "the last line counts as the table does"
    assert (done["skipped"], done["ignored"]) == (0, 1)
    assert [row["labels_total"] for row in done["rounds"]] == [2, 7]
    assert done["labels_used"] == 8, "seven classes and one that is none of them"
    labels = pd.read_parquet(out / "labels.parquet").set_index("sample_id")
    assert labels.loc[first].label.tolist() == ["blue", "green", "ignore", "red"]
    predictions = pd.read_parquet(out / "pool_predictions.parquet").set_index("sample_id")
    assert predictions.loc[first].source.tolist() == ["bought", "bought", "ignored", "bought"]
    assert predictions["class"].isna().sum() == predictions.probability.isna().sum() == 1
    with Ledger(out / "ledger.sqlite") as ledger:
        assert sorted((c.previous, c.label) for c in ledger.corrections()) == [(-1, 1), (0, 2)]

    # A ledger that lost what the checkpoints know is not called whole.
    file = str(out / "ledger.sqlite")
    assert f"ledger {file}: whole (8 labels" in check_ledger(file).output.replace("\n", " ")
    alone = CliRunner().invoke(cli, ["oracle", "check", "--run", str(out)])
    assert f"ledger {file}: whole (8 labels" in alone.output.replace("\n", " "), "the run's own"
    (tmp_path / "other.sqlite").touch()
    lost = check_ledger(str(tmp_path / "other.sqlite"), "--run", str(out))
    assert "8 of 8 answers that the checkpoints of" in lost.output
    assert "1 problem" in str(lost.exception)
    damaged = max((out / "checkpoints").glob("round_*")) / "labels.parquet"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1])
    assert "whole (8 labels" in check_ledger(file).output.replace("\n", " ")
    assert damaged.read_bytes() == content[:-1], "who only looks removes nothing"
    damaged.write_bytes(content)

    # Even when all is done a correction counts: the last round is repeated.
    with open(out / "corrections.csv", "a") as file:
        file.write(f"{first[3]},green\n")
    again = go(options, resume=True)
    assert again["status"] == "finished"
    labels = pd.read_parquet(out / "labels.parquet").set_index("sample_id")
    assert labels.loc[first[3]].label == "green"
    assert labels.loc[first[1]].label == "green"
    assert go(options, resume=True)["wall_seconds"] == again["wall_seconds"], "nothing to do"


def test_a_round_that_nobody_could_answer(options, tmp_path):
    go(options)
    fill_in(tmp_path / "run" / "round_01" / "query.csv", lambda row: "skip")
    summary = go(options, resume=True)
    assert summary["awaiting"]["round"] == 2
    assert summary["rounds"][0]["labels_total"] == 0
    assert summary["rounds"][0]["skipped"] == 4


def test_wrong_answers_cost_nothing(options, tmp_path, capsys):
    out = tmp_path / "run"
    go(options)
    file = out / "round_01" / "query.csv"
    fill_in(file, lambda row: "gren")
    with pytest.raises(OracleError, match=r"query\.csv:2: 'gren' is no class \(did you mean 'green'"):
        go(options, resume=True)
    words = ["run", "--resume"]
    for key, value in options.items():
        words += [f"--{key.replace('_', '-')}", str(value)]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert len(shown) == 1
    assert "query.csv:2" in shown[0]
    with Ledger(out / "ledger.sqlite") as ledger:
        assert ledger.status()["labels_bought"] == 0
    text = file.read_text().replace("gren", "")
    file.write_text("\ufeff" + text.replace(",", ";"), encoding="utf-8")  # as a spreadsheet may save it
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 3
    assert "please label 4 images" in capsys.readouterr().out
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join(lines[:-1]))
    assert go(options, resume=True)["awaiting"]["missing"] == 4
    assert len(rows_of(file)) == 4 or file.read_text().count(";") > 4, "a deleted line is put back"
    fill_in_semicolons(file)
    assert go(options, resume=True)["awaiting"]["round"] == 2


def fill_in_semicolons(file):
    table = pd.read_csv(file, sep=";", dtype=str, encoding="utf-8-sig")
    table["label"] = table.sample_id.str.split("-").str[0]
    table.to_csv(file, sep=";", index=False)


def test_what_is_known_beforehand(options, tmp_path, tiny_folder, plain_folder):
    """Initial labels, images to leave out, a test set from elsewhere, a smaller pool, suggestions."""
    names = sorted(path.name for path in plain_folder.iterdir())
    (tmp_path / "known.csv").write_text("sample_id,label\n" + "".join(f"{n},{n.split('-')[0]}\n" for n in names[::15]))
    (tmp_path / "out.txt").write_text("\n".join([names[1], str(plain_folder / names[2])]))
    extra = {
        "initial_labels": str(tmp_path / "known.csv"),
        "exclude": str(tmp_path / "out.txt"),
        "test": str(tiny_folder),
        "pool_limit": 30,
        "suggest_labels": True,
    }
    assert go(options, **extra)["status"] == "awaiting_labels"
    out = tmp_path / "run"
    rows = rows_of(out / "round_01" / "query.csv")
    assert list(rows[0]) == ["sample_id", "path", "image", "suggestion", "label"]
    assert all(row["suggestion"] in ("red", "green", "blue") for row in rows)
    assert not {row["sample_id"] for row in rows} & {*names[::15], names[1], names[2]}
    fill_in(out / "round_01" / "query.csv")
    go(options, **extra, resume=True)
    fill_in(out / "round_02" / "query.csv")
    done = go(options, **extra, resume=True)
    assert 0 <= done["final_accuracy"] <= 1
    assert (done["labels_initial"], done["labels_used"]) == (4, 8)
    assert [row["labels_total"] for row in done["rounds"]] == [8, 12]
    predictions = pd.read_parquet(out / "pool_predictions.parquet")
    assert len(predictions) == 30
    assert (predictions.source == "initial").sum() == 4
    assert (out / "calibration.png").exists()
    assert (out / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert np.isfinite(done["calibration"]["temperature"])
    assert json.loads((out / "summary.json").read_text()) == json.loads(json.dumps(done))
    # People know better about one of these, and about an image that nobody asked about.
    labels = pd.read_parquet(out / "labels.parquet").set_index("sample_id")
    known = predictions.sample_id[predictions.source == "initial"].iloc[0]
    unasked = next(name for name in predictions.sample_id if name not in labels.index)
    other = "red" if labels.loc[known].label != "red" else "blue"
    (out / "corrections.csv").write_text(f"sample_id,label\n{known},{other}\n{unasked},green\n")
    heard = io.StringIO()
    again = go(options, heard, **extra, resume=True)
    assert "more images were labeled since the run finished: repeating its last round" in heard.getvalue()
    assert f"took up 1 corrected label of earlier rounds: {known} " in heard.getvalue()
    labels = pd.read_parquet(out / "labels.parquet").set_index("sample_id")
    assert labels.loc[[known, unasked]].label.tolist() == [other, "green"]
    assert (again["labels_initial"], again["labels_used"]) == (4, 9)
    assert go(options, **extra, resume=True)["wall_seconds"] == again["wall_seconds"], "nothing to do"


def test_known_labels_leave_fewer_to_buy(options, tmp_path, tiny_folder):
    """42 images in the pool, 40 of them with a label: 2 are left to buy."""
    given = {**options, "dataset": str(tiny_folder), "oracle": "ground-truth"}
    pool = prepare(resolve(given | {"rounds": 1, "labels_per_round": 1})).dataset.pool["sample_id"].to_pylist()
    rows = "".join(f"{name},{name.split('/')[0]}\n" for name in pool[:40])
    (tmp_path / "known.csv").write_text(f"sample_id,label\n{rows}")
    given["initial_labels"] = str(tmp_path / "known.csv")
    with pytest.raises(ConfigError, match=r"= 3 labels, but the pool has 2 images beside the 40 of --initial-labels"):
        prepare(resolve(given | {"rounds": 1, "labels_per_round": 3}))
    prepare(resolve(given | {"rounds": 1, "labels_per_round": 2}))
    prepare(resolve(given | {"rounds": 1, "labels_per_round": "pool", "label_cap": 2}))


def test_a_stopping_criterion_ends_a_run(options, tmp_path, tiny_folder):
    del options["classes"], options["oracle"]
    summary = go(options, dataset=str(tiny_folder), rounds=6, stop="stable:0.01", learning_rate=1e-6)
    assert "stable" in summary["stopped"]
    assert len(summary["rounds"]) == 3
    assert summary["status"] == "finished"


def views_in(cache):
    """{content hash: views} of all view stores in a cache folder."""
    found = {}
    for file in cache.glob("*/views-*/*.arrow"):
        with pa.memory_map(str(file)) as source:
            table = pa.ipc.open_file(source).read_all()
        found.update(zip(table["content_hash"].to_pylist(), table["views"].to_pylist(), strict=True))
    return found


@pytest.mark.parametrize("source", ["prompt", "graph", "posterior"])
def test_views_on_demand_are_those_that_would_be_cached(options, tmp_path, tiny_folder, source):
    """The same views (up to rounding: batches are others) and pseudo-labels where every sample is a candidate; where
    few are, few are encoded."""
    del options["classes"], options["oracle"]
    common = {"dataset": str(tiny_folder), "pseudo_source": source, "pseudo_cap": 0, "learning_steps": 1}
    common |= {"strategy": "typiclust", "self_training": "ust"}  # psp plans by views that are there
    cached = go(options, **common, cache=str(tmp_path / "one"))
    lazy = go(options, **common, cache=str(tmp_path / "two"), views="on-demand:2", out=str(tmp_path / "lazy"))
    assert [row["pseudo_labels"] for row in cached["rounds"]] == [row["pseudo_labels"] for row in lazy["rounds"]]
    assert cached["rounds"][-1]["pseudo_labels"] > 0
    one, two = views_in(tmp_path / "one"), views_in(tmp_path / "two")
    assert len(one) == 42
    assert 30 < len(two) <= 42
    assert max(np.abs(np.subtract(one[key], two[key], dtype=np.float64)).max() for key in two) < 2e-3
    more = {**common, "pseudo_cap": 1, "cache": str(tmp_path / "three"), "out": str(tmp_path / "few")}
    assert go(options, **more, views="on-demand:2")["status"] == "finished"
    assert 0 < len(views_in(tmp_path / "three")) <= 24


@pytest.mark.parametrize("source", ["prompt", "graph", "posterior"])
def test_views_on_demand_come_in_portions_that_are_told_and_kept(options, tmp_path, tiny_folder, monkeypatch, source):
    """Progress adds up, an interruption loses one portion, and what is there is not encoded again."""
    del options["classes"], options["oracle"]
    monkeypatch.setattr("psp_ray.run.views.VIEW_PIECE", 4)
    monkeypatch.setattr("psp_ray.run.views.VIEW_PIECES", 2)
    told = []

    class Listening(Reporter):
        def views(self, round, done, total, seconds):
            told.append((done, total))
            if len(told) == 3:
                raise KeyboardInterrupt

    lazy = {"dataset": str(tiny_folder), "pseudo_source": source, "pseudo_cap": 0, "cache": str(tmp_path / "cache")}
    config = resolve({**options, **lazy, "views": "on-demand:2", "rounds": 1})
    with pytest.raises(KeyboardInterrupt):
        run(config, Listening(1, Console(quiet=True)))
    wanted = told[0][1]
    assert told == [(8, wanted), (16, wanted), (24, wanted)]
    assert len(views_in(tmp_path / "cache")) == 24
    told[:] = []
    go(options, **lazy, views="on-demand:2", rounds=1, resume=True)
    assert len(views_in(tmp_path / "cache")) == wanted
    text = "\n".join(show(entries(tmp_path / "cache")))
    assert f"{wanted} images" in text
    assert ": 2 views" in text


def test_audit_draws_estimate_where_a_strategy_has_no_probabilities(options, tmp_path, tiny_folder):
    del options["classes"], options["oracle"]
    common = {"dataset": str(tiny_folder), "self_training": "none", "labels_per_round": 6}
    plain = go(options, **common, strategy="entropy")
    assert plain["pool_accuracy_estimate"] is None
    assert all(row["pool_accuracy_estimate"] is None for row in plain["rounds"])
    audited = go(options, **common, strategy="entropy+audit", audit_fraction=0.5, out=str(tmp_path / "audited"))
    assert audited["pool_accuracy_estimate"]["planned"] == 3  # of the last round: the first's judged zero-shot
    assert audited["labels_used"] == 12
    labels = pq.read_table(tmp_path / "audited" / "labels.parquet")
    assert labels["by_chance"].to_numpy().sum() == 6


COLORS = ["red", "green", "blue"]


def test_label_studio_files(options, tmp_path):
    """Out as tasks, back as annotations: the newest counts, a cancelled one is a skip; see also the slow test."""
    from psp_ray.labels.label_studio import export_tasks, import_annotations

    out = tmp_path / "run"
    (tmp_path / "empty").mkdir()
    with pytest.raises(OracleError, match="--oracle file first"):
        export_tasks(tmp_path / "empty", COLORS)
    go(options, suggest_labels=True)
    export_tasks(out, COLORS)
    tasks = json.loads((out / "round_01" / "label_studio_tasks.json").read_text())
    assert len(tasks) == 4
    assert all(task["data"]["image"].startswith("data:image/png;base64,") for task in tasks)
    assert all(task["predictions"][0]["result"][0]["value"]["choices"][0] in ("red", "green", "blue") for task in tasks)
    assert all(1 / 3 < task["predictions"][0]["score"] <= 1 for task in tasks)
    export_tasks(out, COLORS, out=tmp_path / "named.json", name="run-12")
    named = json.loads((tmp_path / "named.json").read_text())[0]
    assert (named["predictions"][0]["model_version"], named["data"]["run"]) == ("psp-ray/run-12/round_01", "run-12")
    xml = (out / "round_01" / "label_studio_interface.xml").read_text()
    assert [c.attrib["value"] for c in ElementTree.fromstring(xml).iter("Choice")] == [
        "red",
        "green",
        "blue",
        "skip",
        "ignore",
    ]
    export_tasks(out, COLORS, url="https://images.example.org/", out=tmp_path / "t.json")
    first = json.loads((tmp_path / "t.json").read_text())[0]["data"]["image"]
    assert first.startswith("https://images.example.org/round_01/images/001_")

    def annotated(task, *answers):
        made = [
            {
                "updated_at": f"2026-01-0{day}T00:00:00Z",
                "was_cancelled": answer is None,
                "result": [] if answer is None else [{"type": "choices", "value": {"choices": [answer]}}],
            }
            for day, answer in answers
        ]
        return {"data": task["data"], "annotations": made}

    export = tmp_path / "export.json"
    export.write_text(json.dumps([annotated(tasks[0], (1, "plum"))]))
    with pytest.raises(OracleError, match="'plum' is no class"):
        import_annotations(out, COLORS, export)
    content = [
        annotated(tasks[0], (2, "red"), (1, "blue")),
        annotated(tasks[1], (1, None)),
        {"sample_id": tasks[2]["data"]["sample_id"], "class": "green", "image": "..."},
        annotated(tasks[3]),
    ]
    export.write_text(json.dumps(content))
    assert "3 annotations, 3 labels written" in import_annotations(out, COLORS, export)[0]
    answers = {row["sample_id"]: row["label"] for row in rows_of(out / "round_01" / "query.csv")}
    assert [answers[task["data"]["sample_id"]] for task in tasks] == ["red", "skip", "green", ""]
    assert go(options, suggest_labels=True, resume=True)["awaiting"]["missing"] == 1
    export_tasks(out, COLORS)
    assert len(json.loads((out / "round_01" / "label_studio_tasks.json").read_text())) == 1
    content[0]["data"] = {"sample_id": "stranger.png"}
    export.write_text(json.dumps(content))
    with pytest.raises(OracleError, match=r"'stranger\.png' was never asked"):
        import_annotations(out, COLORS, export)
    fill_in(out / "round_01" / "query.csv")
    with pytest.raises(OracleError, match="nothing to export: every image of round_01 has its label"):
        export_tasks(out, COLORS)


@pytest.mark.slow
@pytest.mark.labelstudio
def test_label_studio_itself(options, tmp_path):
    """Tasks into the real package, annotated by its API, its JSON export back. Set PSP_RAY_LABEL_STUDIO to a Python
    that has label-studio installed (an environment of its own: it wants older versions of our packages)."""
    from psp_ray.labels.label_studio import export_tasks, import_annotations

    python = os.environ.get("PSP_RAY_LABEL_STUDIO")
    if not python:
        pytest.skip("PSP_RAY_LABEL_STUDIO names no Python with label-studio")
    out, work = tmp_path / "run", tmp_path / "work"
    work.mkdir()
    go(options)
    export_tasks(out, COLORS, out=work / "tasks.json")
    (work / "label_studio_interface.xml").rename(work / "interface.xml")
    script = Path(__file__).parents[1] / "labels" / "label_studio_session.py"
    done = subprocess.run([python, str(script), str(work)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    import_annotations(out, COLORS, work / "export.json")
    rows = rows_of(out / "round_01" / "query.csv")
    assert [row["label"] for row in rows] == ["skip", *(row["sample_id"].split("-")[0] for row in rows[1:])]
    assert go(options, resume=True)["awaiting"]["round"] == 2

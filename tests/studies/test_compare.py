"""Whole comparisons: rows equal single runs, a crash or a failure changes no other number, mistakes cost nothing."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from psp_ray.acquisition import STRATEGIES
from psp_ray.acquisition.random import Random
from psp_ray.cli.main import main
from psp_ray.config.base import option_name
from psp_ray.core.errors import ConfigError, OutputError
from psp_ray.core.files import alone
from psp_ray.data.load import load_dataset
from psp_ray.report.progress import Reporter
from psp_ray.run.command import run
from psp_ray.run.resolve import resolve
from psp_ray.studies import execute as execute_module
from psp_ray.studies.command import Request, compare


def results_of(out):
    return pd.read_csv(out / "results.csv").drop(columns="seconds")


def curves_of(out):
    return pd.read_csv(out / "curves.csv").drop(columns="seconds")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tmp_path_factory.mktemp("whole") / "study"


@pytest.fixture
def finished(whole, start):
    """Two data sets x two strategies x two seeds, once for the module."""
    if not whole.exists():
        assert start(whole) == 0
    return whole


def test_a_row_is_a_run(finished, settings, tiny_folder, tmp_path):
    results, curves = results_of(finished), curves_of(finished)
    assert len(results) == 8
    assert (results.status == "finished").all()
    assert results.labels_used.tolist() == [9] * 4 + [12] * 4
    assert (
        list(zip(results.strategy, results.self_training, strict=True))[:4]
        == [("random", "none")] * 2 + [("psp", "ust")] * 2
    )
    config = {**settings, "dataset": str(tiny_folder), "strategy": "psp", "seed": 1, "out": str(tmp_path / "run")}
    summary = run(resolve(config), Reporter(3, Console(quiet=True)))
    row = results.iloc[3]
    assert (row.dataset, row.strategy, row.seed) == (tiny_folder.name, "psp", 1)
    accuracy = [item["test_accuracy"] for item in summary["rounds"]]
    macro = [item["test_macro_accuracy"] for item in summary["rounds"]]
    kept = [item["pseudo_labels"] for item in summary["rounds"]]
    right = [item["pseudo_labels"] * (item["pseudo_label_precision"] or 0) for item in summary["rounds"]]
    assert row.final_accuracy == summary["final_accuracy"]
    assert row.mean_accuracy == pytest.approx(np.mean(accuracy), abs=1e-12)
    assert row.final_macro_accuracy == summary["final_macro_accuracy"]
    assert row.mean_macro_accuracy == pytest.approx(np.mean(macro), abs=1e-12)
    assert row.pseudo_label_precision == pytest.approx(sum(right) / sum(kept))
    mine = curves[(curves.dataset == row.dataset) & (curves.strategy == "psp") & (curves.seed == 1)]
    assert mine.accuracy.tolist() == pytest.approx([summary["zero_shot_accuracy"], *accuracy])
    assert mine.labels.tolist() == [0, 3, 6, 9]


def test_what_it_writes(finished, tiny_folder, shades):
    table = (finished / "table.md").read_text()
    for words in ("Average over 2 data sets", tiny_folder.name, "shades", "| random | none |", "| psp | ust |"):
        assert words in table
    assert "psp-ray compare --datasets" in table
    assert "No differences to badge+pcb:none" in table
    assert "**test** split" in table
    for name in (tiny_folder.name, "shades"):
        assert (finished / f"curves_{name}.png").read_bytes().startswith(b"\x89PNG")
    assert not (finished / "errors").exists()


def test_finished_runs_are_not_repeated_and_new_ones_join(finished, start, tmp_path):
    shutil.copytree(finished, tmp_path / "more")
    out = tmp_path / "more"
    for path in out.glob("runs/*/run.json"):
        os.utime(path, (1, 1))
    assert start(out, strategies="random:none,psp,vssp:none", resume=True) == 0
    old, new = results_of(finished), results_of(out)
    assert len(new) == 12
    merged = new[new.strategy != "vssp"].reset_index(drop=True)
    pd.testing.assert_frame_equal(merged, old, check_dtype=False)
    assert (out / "runs" / "shades--psp--ust--k1--seed1" / "run.json").stat().st_mtime == 1


def test_a_shorter_list_says_what_its_tables_lack(finished, start, shades, tmp_path):
    out = tmp_path / "less"
    shutil.copytree(finished, out)
    assert len(list(out.glob("curves_*.png"))) == 2
    heard = io.StringIO()
    console = Console(file=heard, soft_wrap=True)
    assert start(out, datasets=str(shades), strategies="random:none", resume=True, console=console) == 0
    assert len(results_of(out)) == 2
    said = "The tables lack 6 finished runs of this folder that the command doesn't list"
    assert said in heard.getvalue()
    assert said in (out / "table.md").read_text()
    assert "2 of 2 runs finished, 6 more in the folder" in (out / "report.html").read_text()
    assert [path.name for path in out.glob("curves_*.png")] == ["curves_shades.png"]
    assert start(out, resume=True) == 0
    pd.testing.assert_frame_equal(results_of(out), results_of(finished))
    assert "The tables lack" not in (out / "table.md").read_text()
    assert len(list(out.glob("curves_*.png"))) == 2
    shutil.rmtree(out / "runs")
    assert start(out, datasets=str(shades), strategies="psp", dry_run=True) == 0, "no run is in the folder any more"


class Crash(BaseException):
    """Stands in for a killed process: nothing in the program catches it."""


@pytest.mark.parametrize("moment", [pytest.param(2, marks=pytest.mark.slow), 17])
def test_a_crash_in_the_middle_changes_nothing(finished, start, tmp_path, monkeypatch, moment):
    out, left = tmp_path / "cut", [moment]

    class Crashing(execute_module.Silent):
        def stage(self, round, name):
            if name == "update":
                left[0] -= 1
                if left[0] == 0:
                    raise Crash

    monkeypatch.setattr(execute_module, "Silent", Crashing)
    with pytest.raises(Crash):
        start(out)
    monkeypatch.undo()
    with pytest.raises(OutputError, match="--resume"):
        start(out)
    assert start(out, resume=True) == 0
    pd.testing.assert_frame_equal(results_of(out), results_of(finished))
    pd.testing.assert_frame_equal(curves_of(out), curves_of(finished))


def test_an_interrupt_leaves_a_readable_state(start, tmp_path, monkeypatch):
    class Interrupting(execute_module.Silent):
        def stage(self, round, name):
            if name == "learn" and round == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(execute_module, "Silent", Interrupting)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "out")
    status = results_of(tmp_path / "out").status.tolist()
    assert status.count("interrupted") == 1
    assert status.count("waiting") == 7


@pytest.fixture
def brittle():
    """A strategy that fails in round 2 of seed 1 until it is mended."""

    class Brittle(Random):
        broken = True

        def propose(self, state):
            if self.broken and state.round == 2 and state.seed == 1:
                raise RuntimeError("it broke | badly\nsecond line")
            return super().propose(state)

    with STRATEGIES.temporary():
        STRATEGIES.register("brittle")(Brittle)
        yield Brittle


def test_a_failure_is_shown_and_stops_nothing(finished, start, tmp_path, brittle):
    out = tmp_path / "out"
    assert start(out, strategies="brittle,random:none") == 1
    results = results_of(out)
    failed = results[results.status == "failed"]
    assert failed.strategy.tolist() == ["brittle"] * 2
    assert failed.seed.tolist() == [1, 1]
    assert (failed.error == "RuntimeError: it broke | badly").all()
    assert failed.final_accuracy.isna().all()
    assert (results[results.strategy == "random"].status == "finished").all()
    table = (out / "table.md").read_text()
    assert "2 of 8 runs are without a result" in table
    assert "| 1 of 2, 1 failed |" in table
    assert "it broke" in table
    details = next((out / "errors").glob("*brittle*")).read_text()
    assert "Traceback" in details

    brittle.broken = False
    assert start(out, strategies="brittle,random:none", resume=True) == 0
    mended = results_of(out)
    assert (mended.status == "finished").all()
    assert mended.error.isna().all()
    numbers = ["final_accuracy", "mean_accuracy", "final_macro_accuracy", "labels_used"]
    by_random = mended[mended.strategy == "random"][numbers].to_numpy()
    assert (mended[mended.strategy == "brittle"][numbers].to_numpy() == by_random).all()  # it is random by another name


def test_changed_settings_are_refused_or_replaced(finished, start, tmp_path):
    shutil.copytree(finished, tmp_path / "out")
    out = tmp_path / "out"
    with pytest.raises(OutputError, match=r"4 of 8 runs .*--beta 0.7 \(now 0.2\)"):  # random never reads it
        start(out, resume=True, beta=0.2)
    assert start(out, resume=True, replace_changed=True, beta=0.2) == 0
    assert len(list((out / "replaced").iterdir())) == 4


def test_labels_per_class_settings_of_entries_and_names(start, tmp_path, shades, tiny_folder):
    out = tmp_path / "out"
    assert (
        start(
            out,
            datasets=f"{shades}:rounds=2,{tiny_folder}",
            strategies="random,psp:none:kappa=2",
            seeds=1,
            study={"labels_per_class": "1,2"},
        )
        == 0
    )
    results = results_of(out)
    assert results[results.dataset == "shades"].labels_used.tolist() == [8, 16] * 2
    assert results[results.dataset == tiny_folder.name].labels_used.tolist() == [9, 18] * 2
    assert list(dict.fromkeys(results.strategy)) == ["random", "psp kappa=2"]
    assert set(results.self_training) == {"none"}
    kappa = [json.loads(path.read_text())["identity"]["kappa"] for path in out.glob("runs/*psp*/run.json")]
    assert kappa == [2.0] * 4
    assert "### 2 labels per class and round" in (out / "table.md").read_text()


def test_references_are_rows_and_lines(start, tmp_path, shades):
    out = tmp_path / "out"
    study = {"labels_per_class": "1,2"}
    assert start(out, datasets=str(shades), strategies="zero-shot,full,random:none", seeds=2, study=study) == 0
    results = results_of(out)
    zero, full, random = (results[results.strategy == name] for name in ("zero-shot", "full", "random"))
    assert (len(zero), len(full), len(random)) == (1, 2, 4)
    assert zero.labels_used.tolist() == [0]
    assert full.labels_used.tolist() == [round(0.9 * load_dataset(str(shades)).pool.num_rows)] * 2
    assert zero.final_accuracy.iloc[0] == random.zero_shot_accuracy.iloc[0] == zero.zero_shot_accuracy.iloc[0]
    table = (out / "table.md").read_text()
    assert table.count("| zero-shot | none |") == table.count("| full | none |") == 4  # two tables a number of labels
    assert start(out, datasets=str(shades), strategies="zero-shot", seeds=2, study=study, resume=True) == 0


def test_a_study_file_and_a_report(finished, start, settings, tiny_folder, shades, tmp_path, capsys):
    import yaml

    study = {"title": "Two worlds", "about": "A test.", "datasets": [str(tiny_folder), str(shades)]}
    study |= {"strategies": ["random:none", "psp"], "seeds": 2, **settings}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(study))
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "results.md").write_text("# Results\n\nBy hand.\n")
    words = ["compare", "--study", str(tmp_path / "two.yaml"), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--report", str(docs / "results.md")])
    assert ended.value.code == 0, capsys.readouterr().err
    pd.testing.assert_frame_equal(results_of(tmp_path / "out"), results_of(finished))
    text = (docs / "results.md").read_text()
    assert text.startswith("# Results\n\nBy hand.\n\n<!-- begin two -->\n## Two worlds\n\nA test.")
    assert f"psp-ray compare --study {tmp_path / 'two.yaml'} --out DIR" in text
    assert "results/two/curves_shades.png" in text
    assert (docs / "results" / "two" / "curves_shades.png").exists()
    with pytest.raises(SystemExit) as ended:
        main([*words, "--report", str(docs / "results.md"), "--resume"])
    assert (docs / "results.md").read_text() == text  # its own section again, nothing doubled
    assert ended.value.code == 0
    # The folder's own study file means the same runs: settings that differed would be refused, runs that did repeated.
    out = tmp_path / "out"
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/summary.json")}
    again = Request({}, {"out": str(out), "resume": True}, study_file=str(out / "study.yaml"))
    assert compare(again, Console(quiet=True)) == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("runs/*/summary.json")} == stamps
    assert len(stamps) == 8


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PSP_RAY_CACHE", str(tmp_path / "cache"))

    def answer(*words):
        with pytest.raises(SystemExit) as ended:
            main(["compare", *words])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return answer


GOOD = {"--datasets": "digits", "--strategies": "random", "--out": "o"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"--datasets": None}, "--datasets is missing"),
        ({"--strategies": ""}, "--strategies is missing"),
        ({"--out": None}, "--out is missing"),
        ({"--datasets": "digits,digitz"}, "digitz"),
        ({"--datasets": "digits,digits"}, "digits is listed twice"),
        ({"--datasets": "digits:kapa=1"}, "did you mean 'kappa'"),
        ({"--datasets": "digits:kapa=1", "--strategies": None}, "did you mean 'kappa'"),
        ({"--strategies": None}, "--strategies is missing"),
        ({"--strategies": "random,vsp"}, "did you mean 'vssp'"),
        ({"--strategies": "random,random"}, "random is listed twice"),
        ({"--strategies": "random,random:none"}, "the same runs"),
        ({"--strategies": "random:usd"}, "random:usd"),
        ({"--strategies": "random:linear"}, "'linear' is neither none nor ust nor key=value"),
        ({"--strategies": "random:ust:lineer"}, "'lineer' is neither a head (auto, gda, linear"),
        ({"--strategies": "random:ust:linear:gda"}, "'gda' is neither a head"),
        ({"--strategies": "random:ust:linear,random:ust:head=linear"}, "the same runs"),
        ({"--strategies": "random:rounds=0"}, "--rounds"),
        ({"--strategies": "random:seed=3"}, "use --seeds"),
        ({"--seeds": "0"}, "--seeds"),
        ({"--seeds": "five"}, "--seeds"),
        ({"--pool-share": "0"}, "--pool-share"),
        ({"--pool-share": "1.5"}, "--pool-share"),
        ({"--labels-per-class": "0"}, "--labels-per-class"),
        ({"--labels-per-class": "1,1"}, "--labels-per-class"),
        ({"--labels-per-class": "1,500"}, "the pool has"),
        ({"--rounds": "100000"}, "the pool has"),
        ({"--against": "psp"}, "--against psp"),
        ({"--set": "kappa"}, "--set kappa"),
        ({"--set": "labels_per_round=3"}, "use --labels-per-class"),
        ({"--set": "oracle=file"}, "the data sets' own labels answer"),
        ({"--study": "absent.yaml"}, "absent.yaml"),
        ({"--report": "results.txt"}, "Markdown"),
        ({"--report": "absent/results.md"}, "folder does not exist"),
        ({"--model": "psp-light"}, "psp-lite"),
        ({"--kapa": "2"}, "--kappa"),
    ],
)
def test_mistakes_cost_nothing(call, tmp_path, words, said):
    options = {**GOOD, **words}
    code, _, err = call(*[word for key, value in options.items() if value is not None for word in (key, value)])
    assert code == 2, err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert not any(tmp_path.iterdir())


def test_folders_that_can_not_be_used(call, tmp_path, start):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    for out, said in (("used", "something else"), ("file", "a file of that name"), ("file/below", "can't be written")):
        code, _, err = call(*[word for item in {**GOOD, "--out": out, "--resume": ""}.items() for word in item if word])
        assert code == 2, err
        assert said in err


def test_without_images_to_compare_on(call, tmp_path, shades):
    shutil.copytree(shades, tmp_path / "pool" / "train")
    code, _, err = call("--datasets", str(tmp_path / "pool"), "--strategies", "random", "--out", "o")
    assert code == 2
    assert "no test images with labels to compare on" in err
    assert not (tmp_path / "o").exists()


def test_seeds_are_replicates_paired_over_the_strategies(start, tmp_path, shades):
    """Each seed has its own part of the pool, and every strategy has the same one."""
    out = tmp_path / "out"
    assert start(out, datasets=str(shades), strategies="random:none,kmeans:none,full", study={"pool_share": 0.5}) == 0
    whole = load_dataset(str(shades)).pool.num_rows
    pools = {
        name: [
            frozenset(pd.read_parquet(path).sample_id)
            for path in sorted(out.glob(f"runs/*{name}*/pool_predictions.parquet"))
        ]
        for name in ("random", "kmeans", "full")
    }
    assert pools["random"] == pools["kmeans"] == pools["full"]
    first, second = pools["random"]
    assert first != second
    assert len(first) == len(second) == round(0.5 * whole)
    assert "its own 50 % of the pool" in (out / "table.md").read_text()
    again = tmp_path / "whole"
    assert start(again, datasets=str(shades), strategies="full", study={"pool_share": 1.0}) == 0
    assert results_of(again).labels_used.tolist() == [whole] * 2


def test_a_limited_pool_differs_by_seed(start, tmp_path, shades):
    out = tmp_path / "out"
    assert start(out, datasets=str(shades), strategies="random,full", pool_limit=20) == 0
    results = results_of(out)
    assert results[results.strategy == "full"].labels_used.tolist() == [18, 18]  # nine tenths of it
    pools = [set(pd.read_parquet(path).sample_id) for path in out.glob("runs/*full*/pool_predictions.parquet")]
    assert len(pools) == 2
    assert pools[0] != pools[1]


def test_two_at_once_are_refused(start, tmp_path):
    with alone(tmp_path / "out"), pytest.raises(OutputError, match="another process is at work"):
        start(tmp_path / "out")


def test_dry_run_lists_the_runs(call, tmp_path):
    code, out, _ = call("--datasets", "digits", "--strategies", "random,psp", "--seeds", "2", "--dry-run")
    assert code == 0
    assert out.splitlines()[0] == "digits--random--none--k1--seed0: 8 x 10 labels, evaluated on test"
    assert out.splitlines()[-1] == "4 runs, at most 320 labels to buy; nothing was started"
    assert not any(tmp_path.iterdir())


def test_a_run_is_found_again_whatever_else_is_listed(start, tmp_path, shades):
    out = tmp_path / "out"
    one, two = f"{shades}:rounds=1", f"{shades}:rounds=2"

    def stamps():
        return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("runs/*/summary.json")}

    assert start(out, datasets=two, strategies="random:none", seeds=1) == 0
    first = stamps()
    assert start(out, datasets=f"{one},{two}", strategies="random:none", seeds=1, resume=True) == 0
    both = stamps()
    assert len(both) == 2
    assert first.items() < both.items()
    results = results_of(out)
    assert results.dataset.tolist() == ["shades rounds=1", "shades rounds=2"]
    assert results.labels_used.tolist() == [4, 8]
    assert start(out, datasets=one, strategies="random:none", seeds=1, resume=True) == 0
    assert stamps() == both
    assert results_of(out).labels_used.tolist() == [4]


def test_a_dry_run_says_what_the_comparison_would_find(start, call, settings, shades, tmp_path):
    out = tmp_path / "out"
    words = ["--datasets", str(shades), "--strategies", "full", "--seeds", "1", "--out", str(out)]
    words += [word for key, value in settings.items() if key != "pictures" for word in (option_name(key), str(value))]
    assert start(out, datasets=str(shades), strategies="full", seeds=1) == 0
    before = sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*"))
    code, said, _ = call(*words, "--strategies", "full,random:none", "--dry-run", "--resume")
    assert code == 0
    assert said.splitlines() == [
        "shades--full--none--seed0: reference, evaluated on test, finished",
        "shades--random--none--k1--seed0: 3 x 4 labels, evaluated on test",
        "2 runs, 1 of them finished, at most 12 labels to buy; nothing was started",
    ]
    for more in (
        ["--track", "wandbb", "--resume"],
        ["--report", "x.txt", "--resume"],
        [],
        ["--resume", "--head", "zero-shot"],
    ):
        assert call(*words, *more, "--dry-run") == call(*words, *more)
    code, _, said = call(*words, *more)
    assert code == 2
    assert "1 of 1 runs" in said
    code, said, _ = call(*words, *more, "--dry-run", "--replace-changed")
    assert "other settings: to be run again" in said
    assert sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*")) == before


def test_study_settings_refuse_what_they_do_not_know():
    with pytest.raises(ConfigError, match="--labels-per-class"):
        compare(Request({"datasets": "digits", "strategies": "random", "labels_per_class": "x"}, {}))


def command(settings, datasets, out, *more):
    words = [sys.executable, "-m", "psp_ray.main", "compare", "--datasets", datasets, "--strategies", "random:none,psp"]
    for key, value in {**settings, **dict(more)}.items():
        words += [f"--{key.replace('_', '-')}", str(value)]
    return [*words, "--seeds", "2", "--out", str(out)]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_on_ray_signals_end_it_cleanly_and_it_resumes(finished, settings, tiny_folder, shades, tmp_path, number, code):
    out = tmp_path / "out"
    words = command(settings, f"{tiny_folder},{shades}", out, ("runner", "ray"), ("parallel", 2))
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 200
    while not list(out.glob("runs/*/checkpoints/*/COMPLETE")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == code, text
    again = subprocess.run([*words, "--resume"], capture_output=True, text=True, check=False, timeout=280)
    assert again.returncode == 0, again.stderr
    pd.testing.assert_frame_equal(results_of(out), results_of(finished))
    pd.testing.assert_frame_equal(curves_of(out), curves_of(finished))

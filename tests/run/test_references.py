"""The references `full` and `zero-shot`."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from psp_ray.cli.main import main
from psp_ray.core.errors import ConfigError
from psp_ray.report.progress import Reporter
from psp_ray.run import references
from psp_ray.run.command import run
from psp_ray.run.dry_run import dry_run
from psp_ray.run.resolve import resolve


@pytest.fixture
def options(tiny_model, tiny_folder, cache_folder):
    return {
        "dataset": str(tiny_folder),
        "model": tiny_model,
        "cache": str(cache_folder),
        "learning_steps": 5,
        "runner": "inline",
        "threads": 1,
    }


def test_full_buys_every_label_of_the_pool_in_one_round(options, tmp_path):
    config = resolve({**options, "strategy": "full", "out": str(tmp_path / "full")})
    assert config.selftrain.self_training == "none"
    summary = run(config, Reporter(1, Console(quiet=True)))
    assert summary["status"] == "finished"
    assert summary["labels_used"] == 42  # 70 % of 60
    assert len(summary["rounds"]) == 1
    again = run(resolve({**options, "strategy": "full", "out": str(tmp_path / "full"), "resume": True}))
    assert again["final_accuracy"] == summary["final_accuracy"]


def test_zero_shot_is_what_a_run_reports(options, tmp_path):
    config = resolve({**options, "strategy": "random", "rounds": 1, "out": str(tmp_path / "run")})
    run(config, Reporter(1, Console(quiet=True)))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    for name in ("random", "psp", "full"):
        found = references.zero_shot(resolve({**options, "strategy": name}))
        assert found.accuracy == summary["zero_shot_accuracy"]


def test_zero_shot_runs_like_a_strategy_and_buys_nothing(options, tmp_path, capsys):
    words = ["--strategy", "zero-shot", "--out", str(tmp_path / "zero")]
    for key, value in options.items():
        words += [f"--{key.replace('_', '-')}", str(value)]
    for more in ([], ["--resume"]):
        with pytest.raises(SystemExit) as ended:
            main(["run", *words, *more])
        assert ended.value.code == 0, capsys.readouterr().err
    summary = json.loads((tmp_path / "zero" / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert (summary["strategy"], summary["labels_used"], summary["rounds"]) == ("zero-shot", 0, [])
    alone = references.zero_shot(resolve({**options, "strategy": "random"}))
    assert summary["zero_shot_accuracy"] == alone.accuracy
    assert f"zero-shot accuracy {100 * alone.accuracy:.1f} %" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 2}, "--rounds 2 x --labels-per-round pool = 84 labels, but the pool has 42 images"),
        ({"label_cap": 10}, "--label-cap 10 is below the 42 labels"),
    ],
)
def test_more_than_the_pool_is_refused(options, change, message):
    with pytest.raises(ConfigError, match=message):
        dry_run(resolve({**options, "strategy": "full", **change}))


def test_labels_per_round_is_a_number_or_pool():
    assert resolve({"labels_per_round": "7"}).labels.labels_per_round == 7
    assert resolve({"labels_per_round": "pool"}).labels.labels_per_round == "pool"
    for bad in ("0", "all", "1.5"):
        with pytest.raises(ConfigError, match=r"^--labels-per-round .*: give a number of at least 1, or pool"):
            resolve({"labels_per_round": bad})

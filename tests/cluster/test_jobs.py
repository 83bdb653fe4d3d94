"""`ray job submit` for real: a small package, exit codes, logs, entry-point resources, two jobs and one oracle."""

import json
import subprocess
import sys

import pytest

from tests.cluster.conftest import ROOT, submit

pytestmark = pytest.mark.slow


def test_two_jobs_share_an_oracle(head, project, tmp_path, tiny_model, tiny_folder, cache_folder):
    def oracle(*words):
        command = [sys.executable, "-m", "psp_ray.main", "oracle", *map(str, words)]
        done = subprocess.run(command, cwd=ROOT, env=head, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    oracle("start", "--name", "jobs", "--ledger", tmp_path / "ledger.sqlite", "--label-cap", 40)
    common = ["--dataset", tiny_folder, "--model", tiny_model, "--cache", cache_folder, "--rounds", 2]
    common += ["--labels-per-round", 6, "--learning-steps", 3, "--update-steps", 2, "--views", 2, "--runner", "inline"]
    common += ["--oracle", "shared", "--oracle-name", "jobs", "--strategy", "random", "--self-training", "none"]
    jobs = [
        submit(head, project, "-m", "psp_ray.main", "run", *common, "--seed", seed, "--out", tmp_path / f"job{seed}")
        for seed in (0, 1)
    ]
    texts = [job.communicate(timeout=280)[0] for job in jobs]
    for job, text in zip(jobs, texts, strict=True):
        assert job.returncode == 0, text
        assert "succeeded" in text
        assert "round 2/2: 12 labels" in text, "the run's own lines are in the job's log"
    found = [json.loads((tmp_path / f"job{seed}" / "summary.json").read_text()) for seed in (0, 1)]
    status = json.loads(oracle("status", "--name", "jobs", "--json"))
    rows = {row["experiment"]: row for row in status["experiments"]}
    ids = [json.loads((tmp_path / f"job{seed}" / "run.json").read_text())["experiment"] for seed in (0, 1)]
    assert [rows[name]["labels_used"] for name in ids] == [12, 12]
    assert [rows[name]["labels_paid"] for name in ids] == [summary["labels_paid"] for summary in found]
    bought = set()
    for seed in (0, 1):
        import pyarrow.parquet as pq

        bought |= set(pq.read_table(tmp_path / f"job{seed}" / "labels.parquet")["sample_id"].to_pylist())
    assert status["labels_bought"] == len(bought) == sum(summary["labels_paid"] for summary in found) < 24

    again = submit(head, project, "-m", "psp_ray.main", "run", *common, "--out", tmp_path / "job0", "--resume")
    text = again.communicate(timeout=200)[0]
    assert again.returncode == 0, text
    assert "already finished" in text
    oracle("stop", "--name", "jobs")


def test_a_wrong_setting_fails_the_job_in_one_line(head, project):
    job = submit(head, project, "-m", "psp_ray.main", "run", "--rounds", "0")
    text = job.communicate(timeout=120)[0]
    assert job.returncode == 1
    assert "error: --rounds" in text
    assert "failed" in text


def test_the_package_is_small_and_resources_are_kept(head, project):
    code = "import os, ray; ray.init(); print('HERE', sorted(os.listdir('.')), ray.available_resources()['CPU'])"
    job = submit(head, project, "-c", code, cpus="0.5")
    text = job.communicate(timeout=120)[0]
    assert job.returncode == 0, text
    line = next(line for line in text.splitlines() if line.startswith("HERE"))
    assert "psp_ray" in line
    assert "'runs'" not in line
    assert "'tests'" not in line
    assert line.endswith("1.5"), "the entry point holds half a CPU"

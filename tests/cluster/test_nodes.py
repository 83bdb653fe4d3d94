"""The same run on three nodes as in one process, over storage on S3; and what doesn't fit is said at once."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from psp_ray.report.progress import Reporter
from psp_ray.run.command import run
from psp_ray.run.resolve import resolve
from tests.cluster.conftest import ROOT, command_line


@pytest.fixture
def options(tiny_model, tiny_folder):
    return {
        "dataset": str(tiny_folder),
        "model": tiny_model,
        "rounds": 2,
        "labels_per_round": 3,
        "learning_steps": 4,
        "update_steps": 2,
        "views": "fresh:2",
        "confidence_min": 0.0,
        "uncertainty_max": 1.0,
    }


def words(options):
    return [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]


def selections(out):
    return pq.read_table(out / "labels.parquet"), (out / "prompts.safetensors").read_bytes()


@pytest.mark.slow
def test_three_nodes_and_one_process_agree_sample_by_sample(
    three_nodes, s3_server, options, tmp_path, cache_folder, monkeypatch
):
    """Two shards and two view workers spread over the nodes; then the run is restored on 'another machine' from S3."""
    quiet = Reporter(2, Console(quiet=True))
    alone = tmp_path / "alone"
    run(resolve({**options, "runner": "inline", "cache": str(cache_folder), "out": str(alone)}), quiet)
    out = tmp_path / "three"
    more = {"storage": "s3://psp/nodes", "workers": 2, "shards": 2, "out": out, "cache": cache_folder, "timeout": 120}
    code, text = command_line("run", *words({**options, **more}), env={**s3_server, **three_nodes})
    assert code == 0, text
    wanted, found = selections(alone), selections(out)
    assert found[0].equals(wanted[0])
    assert found[1] == wanted[1]

    shutil.rmtree(out)
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    again = {**options, **more, "out": str(out), "cache": str(cache_folder), "runner": "inline", "resume": True}
    assert run(resolve(again), quiet)["labels_used"] == 6, "it was finished"
    assert selections(out)[0].equals(wanted[0])


def test_what_does_not_fit_fails_with_numbers(three_nodes, options, tmp_path, cache_folder):
    more = {"actor_cpus": 20, "out": tmp_path / "big", "cache": cache_folder}
    code, text = command_line("run", *words({**options, **more}), env=three_nodes)
    assert code == 2
    assert "CPUs and 0 GPUs (learner 1 x (6 CPU)" in text
    assert "but the cluster has 3 CPUs and 0 GPUs" in text


SPREAD = """
import ray, sys, json
from psp_ray.actors.preflight import alive_nodes, check_storage
from psp_ray.actors.pool import PoolShard
from psp_ray.actors.cluster import start_ray
start_ray(None)
assert check_storage(sys.argv[1], "--cache", 60) == 3 == len(alive_nodes())
@ray.remote(num_cpus=0.02, scheduling_strategy="SPREAD")
class Where:
    def node(self):
        return ray.get_runtime_context().get_node_id()
actors = [Where.remote() for _ in range(3)]
print(len(set(ray.get([actor.node.remote() for actor in actors]))))
"""


@pytest.mark.slow
def test_every_node_is_probed_and_shards_are_spread(three_nodes, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SPREAD, str(tmp_path)],
        env={**os.environ, **three_nodes},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.stdout.strip() == "3", done.stderr[-2000:]


@pytest.mark.slow
def test_a_pool_of_three_blocks_on_three_shards(three_nodes, options, tmp_path, tiny_model):
    """More than two blocks, so that every node holds a different part of the pool."""
    from tests.conftest import COLORS, paint

    rng = np.random.default_rng(3)
    for name, color in COLORS.items():
        for number in range(4100):
            paint(tmp_path / "many" / name / f"{number:04d}.png", color, rng)
    common = {**options, "dataset": tmp_path / "many", "views": "cached:1", "cache": tmp_path / "cache", "rounds": 2}
    found = []
    for name, more in (("one", {"runner": "inline"}), ("three", {"shards": 3, "workers": 1})):
        out = tmp_path / name
        code, text = command_line("run", *words({**common, **more, "out": out}), env=three_nodes, timeout=500)
        assert code == 0, text
        found.append(selections(out))
    assert found[0][0].equals(found[1][0])
    assert found[0][1] == found[1][1]
    assert json.loads((tmp_path / "three" / "summary.json").read_text())["labels_used"] == 6

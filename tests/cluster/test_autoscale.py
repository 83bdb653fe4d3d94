"""Ray's autoscaler for real, on its provider of pretended nodes: waiting workers make it add some, and they join in."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.conftest import ROOT

GROW = """
import json
import os
import time
import ray
from psp_ray.actors.cluster import start_ray
from tests.actors.test_workers import check, group, items

start_ray(None)
first = len(ray.nodes())
workers = group(ray, 1, 3, 0.9, timeout=90.0)  # each node has one CPU
found = []
until = time.monotonic() + 90


def endless():
    for item in items(10_000, 0.05):
        if (workers.up == 3 and len(found) >= 10) or time.monotonic() > until:
            return
        yield item


for place, value in workers.imap("double", endless()):
    found.append((place, value))
check(found, len(found))
alive = [node for node in ray.nodes() if node["Alive"]]
print(json.dumps({"first": first, "ready": workers.up, "nodes": len(alive)}))
print(os.environ["RAY_ADDRESS"])
"""


@pytest.mark.slow
def test_nodes_are_added_for_waiting_workers_and_end_with_the_cluster():
    command = [sys.executable, "-m", "cluster.local", "--nodes", "3", "--autoscale", "--", sys.executable, "-c", GROW]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    figures, address = done.stdout.strip().splitlines()[-2:]
    assert json.loads(figures) == {"first": 1, "ready": 3, "nodes": 3}
    left = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [line for line in left if address.encode() in line], "processes of the cluster outlived it"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_that_needs_more_than_there_is_makes_the_cluster_grow(tiny_folder, tiny_model, cache_folder, tmp_path):
    options = {"dataset": tiny_folder, "model": tiny_model, "cache": cache_folder, "rounds": 1, "labels_per_round": 3}
    options |= {"learning_steps": 3, "update_steps": 2, "views": 2, "workers": 1, "actor_cpus": 2}
    options["out"] = tmp_path / "run"
    run = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "cluster.local", "--nodes", "3", "--autoscale", "--"]
    command += [sys.executable, "-m", "psp_ray.main", "run", *run]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "waits for nodes: asks for" in done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"

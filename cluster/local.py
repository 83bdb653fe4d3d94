"""Many Ray nodes on one machine: `python -m cluster.local --nodes 3 -- python -m psp_ray.main ...`.

For tests and for trying things out. The nodes are processes on loopback, made by Ray's own cluster utilities; with
--autoscale the further ones are added by Ray's autoscaler when something waits for room. The command is run with
RAY_ADDRESS set; its exit code is handed on.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

OBJECT_STORE_BYTES = 80 * 2**20


@contextmanager
def many_nodes(count: int, cpus: float = 1.0) -> Iterator[str]:
    """A cluster of `count` nodes with `cpus` CPUs each; yields its address and ends it. Joins nothing by itself."""
    from ray.cluster_utils import Cluster

    _quiet()
    arguments = {"num_cpus": cpus, "num_gpus": 0, "object_store_memory": OBJECT_STORE_BYTES}
    cluster = Cluster(
        initialize_head=True,
        connect=False,
        head_node_args={**arguments, "include_dashboard": False, "node_ip_address": "127.0.0.1"},
    )
    try:
        for _ in range(count - 1):
            cluster.add_node(wait=False, **arguments)
        cluster.wait_for_nodes(timeout=120)
        yield cluster.address
    finally:
        cluster.shutdown()


@contextmanager
def autoscaling_nodes(most: int, cpus: float = 1.0) -> Iterator[str]:
    """A head node and an autoscaler that adds up to `most - 1` nodes of `cpus` CPUs; yields the address."""
    from ray.cluster_utils import AutoscalingCluster

    _quiet()
    cluster = AutoscalingCluster(
        head_resources={"CPU": cpus},
        worker_node_types={
            "worker": {
                "resources": {"CPU": cpus, "object_store_memory": OBJECT_STORE_BYTES},
                "node_config": {},
                "min_workers": 0,
                "max_workers": most - 1,
            }
        },
        idle_timeout_minutes=1,
    )
    try:
        cluster.start()
        yield "127.0.0.1:6379"
    finally:
        cluster.shutdown()


def _quiet() -> None:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def main() -> None:
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(prog="python -m cluster.local", description="Run a command on a local cluster.")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--cpus", type=float, default=1.0, help="CPUs of each node")
    parser.add_argument(
        "--autoscale", action="store_true", help="start with one node and let the autoscaler add others"
    )
    given = parser.parse_args(words[:split])
    command = words[split + 1 :]
    if not command:
        parser.error("give a command after --")
    nodes = autoscaling_nodes if given.autoscale else many_nodes
    with nodes(given.nodes, given.cpus) as address:
        sys.exit(subprocess.run(command, env={**os.environ, "RAY_ADDRESS": address}).returncode)


if __name__ == "__main__":
    main()

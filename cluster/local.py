"""Many Ray nodes on one machine: `python -m cluster.local --nodes 3 -- python -m psp_ray.main ...`.

For tests and for trying things out. The nodes are processes on loopback, made by Ray's own cluster utilities and closed
to others by a token. The command is run with RAY_ADDRESS set; its exit code is handed on.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

OBJECT_STORE_BYTES = 80 * 2**20


@contextmanager
def many_nodes(count: int, cpus: float = 1.0) -> Iterator[str]:
    """A cluster of `count` nodes with `cpus` CPUs each; yields its address and ends it. Joins nothing by itself."""
    from ray.cluster_utils import Cluster

    arguments = {"num_cpus": cpus, "num_gpus": 0, "object_store_memory": OBJECT_STORE_BYTES}
    cluster = Cluster(
        initialize_head=True,
        connect=False,
        head_node_args={**arguments, "include_dashboard": False},
    )
    try:
        for _ in range(count - 1):
            cluster.add_node(wait=False, **arguments)
        cluster.wait_for_nodes(timeout=120)
        yield cluster.address
    finally:
        cluster.shutdown()


def environment() -> dict[str, str]:
    """Variables for the nodes and for all who join them: loopback only, and a token that nobody else knows."""
    return {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's switch for staying on 127.0.0.1
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


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
    os.environ.update(environment())  # before ray is imported
    with many_nodes(given.nodes, given.cpus) as address:
        sys.exit(subprocess.run(command, env={**os.environ, "RAY_ADDRESS": address}).returncode)


if __name__ == "__main__":
    main()

"""Many Ray nodes on one machine: `python -m cluster.local --nodes 3 -- python -m psp_ray.main ...`.

For tests and for trying things out. The nodes are processes on loopback, made by Ray's own cluster utilities and closed
to others by a token. With --autoscale there is one node at first, and Ray's autoscaler adds others when work waits for
room and takes them away when they idle. The command is run with RAY_ADDRESS set; its exit code is handed on.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OBJECT_STORE_BYTES = 80 * 2**20
IDLE_MINUTES = 0.5
HEAD_TYPE = "ray.head.default"


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


@contextmanager
def growing_nodes(most: int, cpus: float = 1.0) -> Iterator[str]:
    """A cluster of one node to which Ray's autoscaler adds up to `most` - 1 others; yields its address and ends it.

    The nodes come from Ray's provider for tests, `fake_multinode`. (`ray.cluster_utils.AutoscalingCluster` isn't used:
    it stops every Ray process of the machine.)
    """
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
    from ray.cluster_utils import Cluster

    os.environ.update({"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"})
    os.environ["PSP_RAY_CLUSTER_MAX"] = f"CPU={most * cpus:g}"  # a run may ask for all of them
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "autoscaler.json"
        file.write_text(json.dumps(_autoscaler_config(most, cpus, f"127.0.0.1:{port}")))
        cluster = Cluster(
            initialize_head=True,
            connect=False,
            head_node_args={
                "num_cpus": cpus,
                "num_gpus": 0,
                "object_store_memory": OBJECT_STORE_BYTES,
                "include_dashboard": False,
                "gcs_server_port": port,
                "autoscaling_config": str(file),
                "env_vars": {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID},
            },
        )
        try:
            yield cluster.address
        finally:
            import psutil  # ray ships it

            started = psutil.Process().children(recursive=True)
            cluster.shutdown()
            for process in psutil.wait_procs(started, timeout=5)[1]:  # nodes that the autoscaler made outlive it
                process.kill()


def _autoscaler_config(most: int, cpus: float, address: str) -> dict[str, Any]:
    kinds = {
        HEAD_TYPE: {"resources": {"CPU": cpus}, "node_config": {}, "max_workers": 0},
        "worker": {
            "resources": {"CPU": cpus, "object_store_memory": OBJECT_STORE_BYTES},
            "node_config": {},
            "min_workers": 0,
            "max_workers": most - 1,
        },
    }
    lists = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "psp-ray-local",
        "max_workers": most - 1,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": IDLE_MINUTES,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "launch_multiple": True,
            "disable_node_updaters": True,  # a node is ready when it has started
            "disable_launch_config_check": True,
            "use_node_id_as_ip": True,  # they share an address
        },
        "available_node_types": kinds,
        "head_node_type": HEAD_TYPE,
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        **{f"{name}_commands": [] for name in lists},
    }


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
    parser.add_argument("--nodes", type=int, default=3, help="how many nodes, or with --autoscale how many at most")
    parser.add_argument("--cpus", type=float, default=1.0, help="CPUs of each node")
    parser.add_argument(
        "--autoscale", action="store_true", help="start with one node and let the autoscaler add others"
    )
    given = parser.parse_args(words[:split])
    command = words[split + 1 :]
    if not command:
        parser.error("give a command after --")
    os.environ.update(environment())  # before ray is imported
    nodes = growing_nodes if given.autoscale else many_nodes
    with nodes(given.nodes, given.cpus) as address:
        sys.exit(subprocess.run(command, env={**os.environ, "RAY_ADDRESS": address}).returncode)


if __name__ == "__main__":
    main()

"""Before anything starts: can every node write and read what the others need? Late, this costs hours."""

from __future__ import annotations

import uuid
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from psp_ray.actors.shell import naming
from psp_ray.core.errors import OutputError, UserError
from psp_ray.storage.remote import Storage


def alive_nodes() -> list[dict[str, Any]]:
    """Nodes that can run something."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"] and node["Resources"].get("CPU", 0) > 0]


def check_storage(place: str, setting: str, timeout: float) -> int:
    """Write a probe to `place` (a URI or folder) and let every node read it and write one of its own.

    Returns the number of nodes asked.

    Raises:
        OutputError: naming the nodes that don't see the same place.
        ResourceError: a node doesn't answer in time.
    """
    token = uuid.uuid4().hex
    storage = Storage(place)
    storage.write(f".probe/{token}-driver", token.encode())
    nodes = alive_nodes()
    probe: Any = ray.remote(num_cpus=0, max_retries=0)(_probe)
    names = [f".probe/{token}-{number}" for number in range(len(nodes))]
    asked = [
        probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            place, f".probe/{token}-driver", token, name
        )
        for node, name in zip(nodes, names, strict=True)
    ]
    try:
        with naming("storage probe", timeout):
            told = ray.get(asked, timeout=timeout)
        there = storage.list(".probe")
        for node, name, reason in zip(nodes, names, told, strict=True):
            if not reason and name.removeprefix(".probe/") not in there:
                reason = "what it wrote can't be seen here"
            if reason:
                raise OutputError(
                    f"{setting} {place}: node {node['NodeManagerHostname']} ({node['NodeManagerAddress']}) doesn't "
                    f"share it ({reason}); mount the same folder on every node, or give --storage URI"
                )
    finally:
        for name in (f".probe/{token}-driver", *names):
            try:
                storage.delete(name)
            except UserError:
                continue  # it was never written
    return len(nodes)


def _probe(place: str, given: str, token: str, own: str) -> str:
    """Runs on a node: why it can't take part, or nothing."""
    try:
        storage = Storage(place)
        if storage.read(given).decode() != token:
            return "it reads something else"
        storage.write(own, token.encode())
    except UserError as error:
        return str(error)
    return ""

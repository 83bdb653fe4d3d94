"""Is this container's Ray node alive? Exit code 0 or 1. A container without a node is healthy."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

RAYLET = b"raylet"
METRICS_PORT = 8080


def should_be_node(command: bytes) -> bool:
    """Whether the container's first process started a Ray node."""
    words = command.split(b"\0")
    return b"start" in words and any(word.endswith(b"ray") for word in words)


def raylet_runs(proc: Path) -> bool:
    for entry in proc.iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")[0]
            except OSError:
                continue  # it has just ended
            if command.endswith(RAYLET):
                return True
    return False


def answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main() -> None:
    proc = Path("/proc")
    if not should_be_node((proc / "1" / "cmdline").read_bytes()):
        sys.exit(0)
    sys.exit(0 if raylet_runs(proc) and answers(METRICS_PORT) else 1)


if __name__ == "__main__":
    main()

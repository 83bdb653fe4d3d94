"""Entry point of the containers: `head`, `worker ADDRESS`, or any command.

A head or worker runs until it is told to stop. Ray's ports answer whoever reaches them and run code, so both insist on
Ray's token authentication: RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) must be set, the same on all nodes.
"""

from __future__ import annotations

import os
import sys


def command_of(words: list[str], environment: dict[str, str]) -> list[str]:
    """The command that `words` stand for.

    Raises:
        ValueError: no token, or no address for a worker.
    """
    if not words or words[0] not in ("head", "worker"):
        return words or ["psp-ray", "--help"]
    if not environment.get("RAY_AUTH_TOKEN") and not environment.get("RAY_AUTH_TOKEN_PATH"):
        raise ValueError("set RAY_AUTH_TOKEN, the same on all nodes; `ray get-auth-token --generate` makes one")
    common = ["--block", "--disable-usage-stats", "--metrics-export-port=8080"]
    if words[0] == "head":
        ports = ["--port=6379", "--dashboard-host=0.0.0.0", "--dashboard-port=8265"]
        return ["ray", "start", "--head", *ports, *common, *words[1:]]
    if len(words) < 2:
        raise ValueError("worker needs the address of the head, as in `worker head:6379`")
    return ["ray", "start", f"--address={words[1]}", *common, *words[2:]]


def main() -> None:
    environment = dict(os.environ)
    if sys.argv[1:2] in (["head"], ["worker"]):
        environment.setdefault("RAY_AUTH_MODE", "token")
    try:
        command = command_of(sys.argv[1:], environment)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    os.execvpe(command[0], command, environment)


if __name__ == "__main__":
    main()

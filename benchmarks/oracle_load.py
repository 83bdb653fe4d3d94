"""Load on one shared ledger: many clients, overlapping sets; nothing lost, nothing paid twice, requests per second.

    python -m benchmarks.oracle_load [--clients 64] [--samples 10000] [--ledger URL] [--actor]

Every client is an experiment of its own that asks for random sets until all clients together have asked for each
sample about `--overlap` times. Without --actor the clients are threads on a ledger each; with it they all ask one
shared oracle on a local Ray.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from psp_ray.labels import GroundTruthAnnotator, LabelRequest, Ledger, Oracle
from psp_ray.labels.accounting import account

CLASSES = tuple(f"class {i}" for i in range(10))


def measure(ledger: str, n_clients: int, n_samples: int, size: int, overlap: float, actor: bool) -> dict[str, Any]:
    """Run the load and check it; figures as plain values. Raises AssertionError where a label is lost or paid twice."""
    truth = {f"hash{i}": i % 10 for i in range(n_samples)}
    per_client = max(1, round(overlap * n_samples / (n_clients * size)))
    asked: list[set[str]] = [set() for _ in range(n_clients)]
    seconds: list[float] = []
    failures: list[BaseException] = []
    paid = [0] * n_clients
    ask = _by_actor(ledger, truth) if actor else _by_ledger(ledger, truth)

    def client(number: int) -> None:
        try:
            generator = np.random.default_rng(number)
            label = ask()
            for round in range(per_client):
                free = np.array(sorted({f"hash{i}" for i in range(n_samples)} - asked[number]))
                names = generator.choice(free, size, replace=False).tolist()
                start = time.perf_counter()
                request = LabelRequest(f"{number}/{round}", f"client{number}", round, tuple(names), tuple(names))
                response = label(request)
                seconds.append(time.perf_counter() - start)
                assert response.labels.tolist() == [truth[name] for name in names]
                asked[number].update(names)
                paid[number] = response.labels_paid
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(n_clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - start
    if failures:
        raise failures[0]
    with Ledger(ledger) as book:
        bought = account(book)["content_hash"].to_pylist()
        status = book.status()
    everything = set().union(*asked)
    assert len(bought) == len(set(bought)), "a label was paid twice"
    assert set(bought) == everything, "a label was lost"
    assert sum(paid) == len(bought)
    assert [row["labels_used"] for row in status["experiments"]] == [per_client * size] * n_clients
    return {
        "requests": len(seconds),
        "requests_per_second": len(seconds) / wall,
        "labels_told": sum(len(names) for names in asked),
        "labels_bought": len(bought),
        "wall_seconds": wall,
        "median_ms": 1000 * float(np.median(seconds)),
        "p95_ms": 1000 * float(np.quantile(seconds, 0.95)),
    }


def _by_ledger(ledger: str, truth: dict[str, int]) -> Any:
    def connect() -> Any:
        return Oracle(Ledger(ledger), GroundTruthAnnotator(truth), CLASSES).label

    return connect


def _by_actor(ledger: str, truth: dict[str, int]) -> Any:
    from psp_ray.actors import oracle as shared
    from psp_ray.actors.cluster import start_ray
    from psp_ray.run.inputs import OracleInput
    from psp_ray.run.resolve import resolve

    start_ray("local")
    shared.start_oracle("load", ledger)
    config = resolve({"oracle": "shared", "oracle_name": "load"})
    names = list(truth)
    labels = np.array(list(truth.values()), np.int32)
    given = OracleInput(config.labels, list(CLASSES), "", names, labels, content_hashes=names)
    handle = shared.connect_shared(config, given)

    def connect() -> Any:
        return lambda request: handle.label(request).result()

    return connect


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=100, help="samples per request")
    parser.add_argument("--overlap", type=float, default=3.0, help="how often each sample is asked for, on average")
    parser.add_argument("--ledger", help="database URL or path; default: a temporary SQLite file")
    parser.add_argument("--actor", action="store_true", help="through one shared oracle on a local Ray")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ledger = given.ledger or str(Path(folder) / "ledger.sqlite")
        found = measure(ledger, given.clients, given.samples, given.size, given.overlap, given.actor)
    print(f"{given.clients} clients, {given.samples:,} samples, requests of {given.size}:")
    for key, value in found.items():
        print(f"  {key:20} {value:,.1f}" if isinstance(value, float) else f"  {key:20} {value:,}")
    print("  nothing lost, nothing paid twice")


if __name__ == "__main__":
    main()

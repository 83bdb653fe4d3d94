"""One oracle for many experiments: a named, detached actor, its clients, and the commands that manage it.

The actor keeps nothing that matters (`psp_ray.labels.shared`), so Ray may restart it at any time.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import RayActorError

from psp_ray.actors.cluster import Need, check_needs, start_ray
from psp_ray.actors.shell import naming, wait_for
from psp_ray.actors.transport import Packet, pack, unpack
from psp_ray.config.config import Config
from psp_ray.core.errors import OracleError
from psp_ray.core.names import Digests
from psp_ray.labels import Ledger, label_space_of, resolve_ledger_url
from psp_ray.labels.accounting import LedgerAccounting
from psp_ray.labels.annotators.simulated import SimulatedGroup
from psp_ray.labels.database import shown
from psp_ray.labels.restore import KnownAnswers, LedgerRepair
from psp_ray.labels.service import LabelRequest, LabelResponse
from psp_ray.labels.shared import Enrollment, Knowledge, NotEnrolled, Question, SharedOracle
from psp_ray.run.inputs import OracleInput
from psp_ray.run.local import Done

T = TypeVar("T")
NAMESPACE = "psp-ray"
PROTOCOL = 6
"""Version of what client and actor say to each other. Raise it with every change of a method or record."""
RESTARTS = 1000
"""Restarts of the actor that a client's request outlives."""
CONCURRENCY = 64
"""Requests that the actor works on at a time; more wait in line."""


class OracleActor:
    """The actor. Methods take and give packets; each call names the caller's protocol."""

    def __init__(self, name: str, ledger: str, group: Packet | None = None):
        self._name, self._ledger = name, Ledger(ledger)
        self._group = SimulatedGroup(**unpack(group)) if group is not None else None
        self._oracle = SharedOracle(name, self._ledger, self._group)
        self._accounting = LedgerAccounting(self._ledger)

    def hello(self, protocol: int) -> dict[str, Any]:
        """The handshake. Raises OracleError for a client of another protocol."""
        self._check(protocol)
        about = {"name": self._name, "protocol": PROTOCOL}
        return about | {"ledger": self._ledger.name, "annotators": self._oracle.annotators}

    def enroll(self, protocol: int, packet: Packet) -> None:
        """Take in an `Enrollment`. Raises as `SharedOracle.enroll`."""
        self._check(protocol)
        self._oracle.enroll(self._unpacked(packet, Enrollment))

    def label(self, protocol: int, packet: Packet) -> Packet:
        """Answer a `Question` with a `LabelResponse`. Raises as `SharedOracle.label`."""
        self._check(protocol)
        return pack(self._oracle.label(self._unpacked(packet, Question)))

    def status(self, protocol: int) -> dict[str, Any]:
        """As `Accounting.status`, with the oracle's name, annotators and requests."""
        self._check(protocol)
        return self._accounting.status() | {
            "name": self._name,
            "protocol": PROTOCOL,
            "annotators": self._group.model_dump(mode="json") if self._group else "ground truth",
            "requests": self._oracle.requests,
        }

    def change_limits(self, protocol: int, label_cap: float | None, cost_cap: float | None) -> None:
        self._check(protocol)
        self._accounting.change_limits(label_cap, cost_cap)

    def account(self, protocol: int, experiment: str | None) -> pa.Table:
        self._check(protocol)
        return self._accounting.account(experiment)

    def correction_history(self, protocol: int) -> pa.Table:
        self._check(protocol)
        return self._accounting.correction_history()

    def import_labels(self, protocol: int, table: pa.Table, origin: str) -> tuple[int, int, int]:
        self._check(protocol)
        return self._accounting.import_labels(table, origin)

    def correct_labels(self, protocol: int, table: pa.Table, origin: str, by: str) -> tuple[int, int]:
        self._check(protocol)
        return self._accounting.correct_labels(table, origin, by)

    def drop_claims(self, protocol: int, experiment: str | None) -> int:
        self._check(protocol)
        return self._accounting.drop_claims(experiment)

    def backup(self, protocol: int) -> bytes:
        self._check(protocol)
        return self._accounting.backup()

    def check(self, protocol: int) -> list[str]:
        self._check(protocol)
        return self._accounting.check()

    def restore(self, protocol: int, packet: Packet) -> Packet:
        """Put back `KnownAnswers` of classes and an annotator that the actor knows; gives a `LedgerRepair`."""
        self._check(protocol)
        given = self._unpacked(packet, Knowledge)
        return pack(self._oracle.restore(given))

    def _unpacked(self, packet: Packet, kind: type[T]) -> T:
        """What a packet holds. Raises OracleError where it is something else, made up or of another version."""
        try:
            value = unpack(packet)
        except (AttributeError, IndexError, ImportError, KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:160]
            raise OracleError(f"oracle {self._name}: a request that can't be read ({reason})") from None
        if not isinstance(value, kind):
            raise OracleError(f"oracle {self._name}: a request of type {type(value).__name__}, not {kind.__name__}")
        return value

    def _check(self, protocol: int) -> None:
        if protocol != PROTOCOL:
            raise OracleError(
                f"oracle {self._name}: speaks protocol {PROTOCOL}, this psp-ray {protocol}; install the same version "
                "on both sides, or stop and start the oracle"
            )


# -- clients -----------------------------------------------------------------------------------------------------------


@dataclass
class Asked:
    """A request under way; enrolls again and asks again where the actor has forgotten the data set."""

    oracle: SharedOracleHandle
    question: Question
    reference: Any
    seconds: float = 0.0

    def result(self) -> LabelResponse:
        start = time.perf_counter()
        packet = self.oracle.enrolled(self._wait)
        self.seconds = time.perf_counter() - start
        response: LabelResponse = unpack(packet)
        return response

    def _wait(self) -> Any:
        reference, self.reference = self.reference or self.oracle.ask(self.question), None
        return self.oracle.wait(reference, "label")


class SharedOracleHandle:
    """What a run holds in place of an oracle of its own: a `LabelSource`.

    Raises OracleError where no such oracle runs or it speaks another protocol.
    """

    def __init__(self, name: str, given: OracleInput, timeout: float):
        self.name, self.timeout = name, timeout
        self._actor = find_oracle(name)
        self._caps = (given.settings.label_cap, given.settings.cost_cap)
        self._space = label_space_of(given.classes)
        known = np.flatnonzero(given.labels >= 0)
        self._complete = len(known) == len(given.labels)
        hashes = given.content_hashes
        some = Digests(hashes.hashes[known]) if isinstance(hashes, Digests) else [hashes[i] for i in known.tolist()]
        self._enrollment = Enrollment(given.classes, some, given.labels[known])
        self.wait(self._actor.hello.remote(PROTOCOL), "hello")
        self.enroll()

    def label(self, request: LabelRequest) -> Asked:
        """Start a request; caps are those of the run's settings."""
        question = Question(self._space, request, *self._caps)
        return Asked(self, question, self.ask(question))

    def ask(self, question: Question) -> Any:
        return self._actor.label.remote(PROTOCOL, pack(question))

    def enroll(self) -> None:
        self.wait(self._actor.enroll.remote(PROTOCOL, pack(self._enrollment)), "enroll")

    def restore(self, known: KnownAnswers) -> Done[LedgerRepair]:
        """Let the oracle put back into its ledger what the run's checkpoint knows."""
        packet = pack(Knowledge(self._space, known))
        found = self.enrolled(lambda: self.wait(self._actor.restore.remote(PROTOCOL, packet), "restore"))
        return Done(unpack(found), 0.0)

    def enrolled(self, ask: Callable[[], T]) -> T:
        """What `ask` gives, asked again after enrolling as often as the oracle has restarted in between.

        Raises NotEnrolled where some of the run's images have no class, or after `RESTARTS` restarts.
        """
        for _ in range(RESTARTS - 1):
            try:
                return ask()
            except NotEnrolled:
                if not self._complete:
                    raise
            self.enroll()
        return ask()

    def wait(self, reference: Any, what: str) -> Any:
        return wait_for(reference, f"oracle {self.name}.{what}", self.timeout)


def connect_shared(config: Config, given: OracleInput) -> SharedOracleHandle:
    """The cluster's oracle `oracle_name`, for a run.

    Raises:
        ResourceError: no cluster. OracleError: no such oracle in it, or another protocol.
    """
    join_cluster(config.runtime.ray_address)
    return SharedOracleHandle(config.labels.oracle_name, given, config.runtime.timeout)


def join_cluster(address: str | None) -> None:
    """Join a running cluster; unlike a run, an oracle has no use for one of its own.

    Raises:
        ResourceError: there is none.
    """
    if not ray.is_initialized():
        start_ray(address or os.environ.get("RAY_ADDRESS") or "auto")


def actor_name(name: str) -> str:
    return f"oracle/{name}"


def find_oracle(name: str) -> Any:
    try:
        return ray.get_actor(actor_name(name), namespace=NAMESPACE)
    except ValueError:
        running = ", ".join(oracle_names()) or "none"
        raise OracleError(
            f"--oracle-name {name}: no such oracle in this cluster (running: {running}); start it with "
            f"`psp-ray oracle start --name {name} --ledger ...`"
        ) from None


def oracle_names() -> list[str]:
    """Names of the cluster's oracles."""
    actors = ray.util.list_named_actors(all_namespaces=True)
    prefix = actor_name("")
    return sorted(
        actor["name"].removeprefix(prefix)
        for actor in actors
        if actor["namespace"] == NAMESPACE and actor["name"].startswith(prefix)
    )


# -- management --------------------------------------------------------------------------------------------------------


def start_oracle(
    name: str,
    ledger: str,
    group: SimulatedGroup | None = None,
    label_cap: float | None = None,
    cost_cap: float | None = None,
    cpus: float = 0.05,
    timeout: float = 120.0,
) -> dict[str, Any]:
    """Start the named oracle, or find it running; returns its handshake. It lives until it is stopped.

    `label_cap`, `cost_cap`: None leaves the ledger's cap as it is, infinity lifts it.

    Raises:
        OracleError: the ledger can't be opened, or the running one has another ledger, protocol or annotators.
        ResourceError: it can't be placed in `timeout` seconds.
    """
    check_needs([Need("oracle", 1, cpus)])
    known = shown(resolve_ledger_url(ledger))
    remote: Any = ray.remote(OracleActor)
    actor = remote.options(
        name=actor_name(name),
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=cpus,
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=CONCURRENCY,
    ).remote(name, ledger, pack(group.model_dump(mode="json")) if group else None)
    with naming(f"oracle {name}", timeout):
        try:
            found: dict[str, Any] = ray.get(actor.hello.remote(PROTOCOL), timeout=timeout)
        except RayActorError as error:
            ray.kill(actor)  # or Ray starts it again and again
            raise OracleError(f"oracle {name}: can't be started ({last_line(error)})") from None
    if found["ledger"] != known:
        raise OracleError(
            f"oracle {name}: runs already, with ledger {found['ledger']}; choose another --name, or stop it first"
        )
    if group is not None and found["annotators"] != group.digest:
        raise OracleError(
            f"oracle {name}: runs already, with other annotators; choose another --name, or stop it first"
        )
    if label_cap is not None or cost_cap is not None:
        ray.get(actor.change_limits.remote(PROTOCOL, label_cap, cost_cap), timeout=timeout)
    return found


def stop_oracle(name: str) -> None:
    """End the actor; everything it sold is in the ledger. Requests under way can be asked again."""
    ray.kill(find_oracle(name))


class RemoteAccounting:
    """The accounts of the ledger that a running oracle has open. See `psp_ray.labels.accounting.Accounting`.

    Raises OracleError where no such oracle runs.
    """

    def __init__(self, name: str, timeout: float = 600.0):
        self._name, self._timeout, self._actor = name, timeout, find_oracle(name)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self._call("status")
        return found

    def account(self, experiment: str | None = None) -> pa.Table:
        return self._call("account", experiment)

    def correction_history(self) -> pa.Table:
        return self._call("correction_history")

    def import_labels(self, table: pa.Table, origin: str) -> tuple[int, int, int]:
        counts: tuple[int, int, int] = self._call("import_labels", table, origin)
        return counts

    def correct_labels(self, table: pa.Table, origin: str, by: str) -> tuple[int, int]:
        counts: tuple[int, int] = self._call("correct_labels", table, origin, by)
        return counts

    def drop_claims(self, experiment: str | None = None) -> int:
        count: int = self._call("drop_claims", experiment)
        return count

    def change_limits(self, label_cap: float | None, cost_cap: float | None) -> None:
        self._call("change_limits", label_cap, cost_cap)

    def backup(self) -> bytes:
        data: bytes = self._call("backup")
        return data

    def check(self) -> list[str]:
        lines: list[str] = self._call("check")
        return lines

    def _call(self, method: str, *args: Any) -> Any:
        reference = getattr(self._actor, method).remote(PROTOCOL, *args)
        return wait_for(reference, f"oracle {self._name}.{method}", self._timeout)


def last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r"^psp_ray[\w.]*Error: ", "", lines[-1]) if lines else type(error).__name__

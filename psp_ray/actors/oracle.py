"""One oracle for many experiments: a named, detached actor, its clients, and the commands that manage it.

The actor keeps nothing that matters: labels, caps and accounts are in the ledger, so Ray may restart it at any time.
What a restart loses, the true classes that the clients' data sets brought along, clients bring again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import RayActorError

from psp_ray.actors.cluster import Need, check_needs, start_ray
from psp_ray.actors.shell import naming, wait_for
from psp_ray.actors.transport import Packet, pack, unpack
from psp_ray.config.config import Config
from psp_ray.core.errors import OracleError
from psp_ray.core.records import Int32Array
from psp_ray.labels import Ledger, Oracle, OracleSettings, label_space_of, make_annotator, resolve_ledger_url
from psp_ray.labels.accounting import Books, change_limits, load_votes, record_votes
from psp_ray.labels.annotators.base import Item
from psp_ray.labels.annotators.simulated import CrowdAnnotator, CrowdSettings
from psp_ray.labels.schema import shown
from psp_ray.labels.service import LabelRequest, LabelResponse
from psp_ray.run.build import OracleInput, config_of

NAMESPACE = "psp-ray"
PROTOCOL = 3
"""Version of what client and actor say to each other. Raise it with every change of a method or record."""
CONCURRENCY = 64
"""Requests that the actor works on at a time; more wait in line."""


class NotEnrolled(OracleError):
    """The actor doesn't know the classes of a client's data set, or not any more: enroll, and ask again."""


@dataclass(frozen=True)
class Enrollment:
    """A client's data set: ordered class names, and the true classes (n,) of its images by content hash."""

    classes: list[str]
    content_hashes: list[str]
    labels: Int32Array


@dataclass(frozen=True)
class Question:
    """A label request with the caps of its experiment."""

    label_space: str
    request: LabelRequest
    label_cap: int | None
    cost_cap: float | None


class SharedOracle:
    """The actor. Methods take and give packets; each call names the caller's protocol."""

    def __init__(self, name: str, ledger: str, crowd: Packet | None = None):
        self._name, self._ledger = name, Ledger(ledger)
        self._books = Books(self._ledger)
        self._crowd = CrowdSettings(**unpack(crowd)) if crowd is not None else None
        self._crowds: dict[str, CrowdAnnotator] = {}
        self._classes: dict[str, list[str]] = {}
        self._truth: dict[str, dict[str, int]] = {}
        self._oracles: dict[tuple[str, str, int | None, float | None], Oracle] = {}
        self._lock = threading.Lock()
        self._requests = 0

    def hello(self, protocol: int) -> dict[str, Any]:
        """The handshake. Raises OracleError for a client of another protocol."""
        self._check(protocol)
        annotators = self._crowd.digest if self._crowd else "ground truth"
        return {"name": self._name, "protocol": PROTOCOL, "ledger": self._ledger.name, "annotators": annotators}

    def enroll(self, protocol: int, packet: Packet) -> None:
        """Take in a data set's classes and truth. Raises OracleError where another client said otherwise."""
        self._check(protocol)
        given: Enrollment = unpack(packet)
        space = label_space_of(given.classes)
        with self._lock:
            known = self._truth.setdefault(space, {})
            new = dict(zip(given.content_hashes, given.labels.tolist(), strict=True))
            for content_hash, label in new.items():
                if known.get(content_hash, label) != label:
                    raise OracleError(
                        f"oracle {self._name}: image {content_hash} has class {given.classes[label]!r} here "
                        f"but {given.classes[known[content_hash]]!r} in an earlier one; give one of them its own ledger"
                    )
            known.update(new)
            self._classes[space] = list(given.classes)

    def label(self, protocol: int, packet: Packet) -> Packet:
        """Answer a `Question` with a `LabelResponse`. Raises as `Oracle.label`, or NotEnrolled."""
        self._check(protocol)
        question: Question = unpack(packet)
        oracle = self._oracle(question)
        with self._lock:
            self._requests += 1
        response: LabelResponse = oracle.label(question.request)
        return pack(response)

    def status(self, protocol: int) -> dict[str, Any]:
        """Counts of the ledger and each experiment, caps, and what each of several annotators earned."""
        self._check(protocol)
        return self._books.status() | {
            "name": self._name,
            "protocol": PROTOCOL,
            "annotators": self._crowd.model_dump(mode="json") if self._crowd else "ground truth",
            "requests": self._requests,
        }

    def limit(self, protocol: int, label_cap: float | None, cost_cap: float | None) -> None:
        """Set what all experiments together may buy: None leaves a cap as it is, infinity lifts it."""
        self._check(protocol)
        change_limits(self._ledger, label_cap, cost_cap)

    def account(self, protocol: int, experiment: str | None) -> pa.Table:
        """Who paid for what, and when (`psp_ray.labels.accounting.ACCOUNT_SCHEMA`)."""
        self._check(protocol)
        return self._books.account(experiment)

    def take_in(self, protocol: int, table: pa.Table, origin: str) -> tuple[int, int, int]:
        """Import an account: (new, known already, known otherwise)."""
        self._check(protocol)
        return self._books.take_in(table, origin)

    def drop_claims(self, protocol: int, experiment: str | None) -> int:
        """Drop claims whose lease is over (`psp_ray.labels.accounting.drop_claims`)."""
        self._check(protocol)
        return self._books.drop_claims(experiment)

    def correct(self, protocol: int, table: pa.Table, origin: str, by: str) -> tuple[int, int]:
        """Make labels what the table says: (changed, right already)."""
        self._check(protocol)
        return self._books.correct(table, origin, by)

    def history(self, protocol: int) -> pa.Table:
        """Every correction, oldest first."""
        self._check(protocol)
        return self._books.history()

    def backup(self, protocol: int) -> bytes:
        """The whole ledger as a SQLite file."""
        self._check(protocol)
        return self._books.backup()

    def _check(self, protocol: int) -> None:
        if protocol != PROTOCOL:
            raise OracleError(
                f"oracle {self._name}: speaks protocol {PROTOCOL}, this psp-ray {protocol}; install the same version "
                "on both sides, or stop and start the oracle"
            )

    def _oracle(self, question: Question) -> Oracle:
        """One oracle an experiment: requests of an experiment follow each other, experiments don't wait."""
        space, request = question.label_space, question.request
        key = (space, request.experiment, question.label_cap, question.cost_cap)
        with self._lock:
            truth = self._truth.get(space)
            if truth is None or any(name not in truth for name in request.content_hashes):
                raise NotEnrolled(
                    f"oracle {self._name}: knows no class of some images of {request.experiment!r}; a shared "
                    "oracle answers for data sets whose labels are all known, people are asked with --oracle file"
                )
            if key not in self._oracles:
                settings = OracleSettings(label_cap=question.label_cap, cost_cap=question.cost_cap)
                annotator = self._annotator(space, truth, request.experiment)
                self._oracles[key] = Oracle(self._ledger, annotator, self._classes[space], settings)
            return self._oracles[key]

    def _annotator(self, space: str, truth: dict[str, int], experiment: str) -> Any:
        if self._crowd is None:
            return ByHash(make_annotator("ground-truth", labels=truth))
        if space not in self._crowds:
            earlier = load_votes(self._ledger, space, self._crowd.digest)
            self._crowds[space] = CrowdAnnotator(truth, self._crowd, len(self._classes[space]), earlier)
        return ByHash(
            self._crowds[space],
            lambda votes: record_votes(self._ledger, space, self._crowds[space].name, experiment, votes),
        )


class ByHash:
    """Asks an annotator for images by content hash: sample names differ between experiments.

    `record` is handed to a crowd for the time of a call, so that votes are entered under the experiment that pays.
    """

    def __init__(self, annotator: Any, record: Any = None):
        self._annotator, self._record = annotator, record
        self.name, self.cost, self.batch_size = annotator.name, annotator.cost, annotator.batch_size

    def annotate(self, items: Sequence[Item]) -> Sequence[int | None]:
        hashed = [replace(item, sample_id=item.content_hash) for item in items]
        if self._record is None:
            return list(self._annotator.annotate(hashed))
        return list(self._annotator.annotate(hashed, self._record))


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
        try:
            packet = self.oracle.wait(self.reference, "label")
        except NotEnrolled:
            self.oracle.enroll()
            packet = self.oracle.wait(self.oracle.ask(self.question), "label")
        self.seconds = time.perf_counter() - start
        response: LabelResponse = unpack(packet)
        return response


class SharedOracleHandle:
    """What a run holds in place of an oracle of its own: a `Handle` whose only method is `label`.

    Raises OracleError where no such oracle runs or it speaks another protocol.
    """

    def __init__(self, name: str, given: OracleInput, timeout: float):
        config = config_of(given.settings)
        self.name, self.timeout = name, timeout
        self._actor = find_oracle(name)
        self._caps = (config.labels.label_cap, config.labels.cost_cap)
        self._space = label_space_of(given.classes)
        known = np.flatnonzero(given.labels >= 0)
        hashes = [given.content_hashes[i] for i in known]
        self._enrollment = pack(Enrollment(given.classes, hashes, given.labels[known]))
        self.wait(self._actor.hello.remote(PROTOCOL), "hello")
        self.enroll()

    def submit(self, method: str, *args: Any) -> Asked:
        if method != "label":
            raise AttributeError(f"a shared oracle has no method {method!r}")
        question = Question(self._space, args[0], *self._caps)
        return Asked(self, question, self.ask(question))

    def ask(self, question: Question) -> Any:
        return self._actor.label.remote(PROTOCOL, pack(question))

    def enroll(self) -> None:
        self.wait(self._actor.enroll.remote(PROTOCOL, self._enrollment), "enroll")

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
    crowd: CrowdSettings | None = None,
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
    remote: Any = ray.remote(SharedOracle)
    actor = remote.options(
        name=actor_name(name),
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=cpus,
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=CONCURRENCY,
    ).remote(name, ledger, pack(crowd.model_dump(mode="json")) if crowd else None)
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
    if crowd is not None and found["annotators"] != crowd.digest:
        raise OracleError(
            f"oracle {name}: runs already, with other annotators; choose another --name, or stop it first"
        )
    if label_cap is not None or cost_cap is not None:
        ray.get(actor.limit.remote(PROTOCOL, label_cap, cost_cap), timeout=timeout)
    return found


def stop_oracle(name: str) -> None:
    """End the actor; everything it sold is in the ledger. Requests under way can be asked again."""
    ray.kill(find_oracle(name))


def call_oracle(name: str, method: str, *args: Any, timeout: float = 600.0) -> Any:
    """Call a managing method (status, account, take_in, drop_claims, correct, history, backup) of a running oracle."""
    return wait_for(getattr(find_oracle(name), method).remote(PROTOCOL, *args), f"oracle {name}.{method}", timeout)


def last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__

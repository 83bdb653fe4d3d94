"""Several hosts on one machine: `python -m cluster.hosts [--log FILE] [-- RUN OPTIONS]`, as root, with iproute2.

Every host is a network namespace with an address of its own on a bridge, and a file system of its own: an overlay over
this machine's, with its own /tmp/ray and shared memory. The drill starts a Ray head, two workers, an object store
(moto's S3 server) and PostgreSQL on them, submits a run from a host that has no psp-ray, kills a worker in the middle,
cuts the other one off for a minute, and compares what the run chose with an undisturbed run's in one process.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NETWORK = "10.213.77"
BRIDGE = "pspbr0"
CUT_SECONDS = 60.0
PATIENCE = 900.0
"""Seconds in which the disturbed run has to end."""
TRIES = 8
"""How often the job is submitted at most."""
RAY = str(Path(sys.executable).parent / "ray")
RUN = (
    *("--dataset", "digits", "--rounds", "5", "--labels-per-round", "6", "--learning-steps", "30"),
    *("--update-steps", "5", "--views", "2", "--pool-limit", "300", "--no-pictures"),
)
SETUP = """
set -e
hostname "$1"
mount -t tmpfs -o size=1g tmpfs "$2"
mkdir "$2/upper" "$2/work" "$2/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$2/upper,workdir=$2/work" "$2/root"
for part in proc sys dev; do mount --rbind "/$part" "$2/root/$part"; done
mount -t tmpfs -o size=512m tmpfs "$2/root/dev/shm"
mkdir -p "$2/root/tmp/ray"
mount -t tmpfs -o size=512m tmpfs "$2/root/tmp/ray"
shift_to="$2/root"
shift 2
for hidden in "$@"; do mount -t tmpfs -o ro tmpfs "$shift_to$hidden"; done
echo ready
exec chroot "$shift_to" sleep infinity
"""


class Unable(Exception):
    """This machine can't pretend to be several; the message says why."""


def why_not() -> str:
    """Why the drill can't be run here; empty where it can."""
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    missing = [name for name in ("ip", "nsenter", "unshare", "chroot", "setpriv") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)}: not installed (Debian: iproute2, util-linux)"
    if _postgres("initdb") is None:
        return "PostgreSQL is not installed (Debian: postgresql)"
    return ""


def packages() -> list[str]:
    """Folders of this package: in the repository, and where it is installed."""
    places = [ROOT]
    code = "import os, importlib.util as u; s = u.find_spec('psp_ray'); print(os.path.dirname(s.origin) if s else '')"
    alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    line = subprocess.run(
        [sys.executable, "-c", code], cwd="/", env=alone, capture_output=True, text=True
    ).stdout.strip()
    if line:
        places.append(Path(line).parent)
    return sorted({str(place / "psp_ray") for place in places})


def _postgres(program: str) -> str | None:
    return next(iter(sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{program}"), reverse=True)), shutil.which(program))


def _run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise Unable(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


@dataclass
class Host:
    """A pretended machine. Its processes end with it."""

    name: str
    address: str
    environment: Mapping[str, str]
    holder: subprocess.Popen[str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def command(self, words: Sequence[str], user: str = "") -> list[str]:
        """`words` as a command that runs on the host."""
        enter = ["nsenter", "-t", str(self.holder.pid), "--mount", "--uts", "--net", "--root", "--wd"]
        who = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
        return [*enter, "--", *who, *words]

    def run(self, *words: str, user: str = "", timeout: float = 240) -> tuple[int, str]:
        """Exit code and output of a command on the host."""
        command = self.command(words, user)
        given = {**os.environ, **self.environment}
        try:
            done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            return 124, f"no end within {timeout:g} s"
        return done.returncode, done.stdout + done.stderr

    def start(self, *words: str, log: Path, user: str = "") -> subprocess.Popen[bytes]:
        """A command that goes on."""
        with open(log, "ab") as handle:
            process = subprocess.Popen(
                self.command(words, user), env={**os.environ, **self.environment}, stdout=handle, stderr=handle
            )
        self.processes.append(process)
        return process

    def kill(self) -> int:
        """SIGKILL for all that runs on the host, as when its power fails; returns how many processes that were."""
        found = [int(pid) for pid in _run("ip", "netns", "pids", self.name).split() if int(pid) != self.holder.pid]
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.processes:
            process.wait()
        self.processes.clear()
        return len(found)

    def cut(self, off: bool) -> None:
        """Take the host off the network, or put it back."""
        _run("ip", "link", "set", f"v-{self.name}", "down" if off else "up")


@contextmanager
def hosts(
    names: Sequence[str], environment: Mapping[str, str], hidden: Mapping[str, Sequence[str]]
) -> Iterator[list[Host]]:
    """Hosts on one network, reachable from this machine; `hidden`: folders that one of them sees empty.

    Raises:
        Unable: with what the machine refused.
    """
    with ExitStack() as stack:
        _run("ip", "link", "add", BRIDGE, "type", "bridge")
        stack.callback(lambda: _run("ip", "link", "del", BRIDGE))
        _run("ip", "address", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        _run("ip", "link", "set", BRIDGE, "up")
        found = [
            stack.enter_context(_host(name, f"{NETWORK}.{number}", environment, hidden.get(name, ())))
            for number, name in enumerate(names, 2)
        ]
        yield found


@contextmanager
def _host(name: str, address: str, environment: Mapping[str, str], hidden: Sequence[str]) -> Iterator[Host]:
    with ExitStack() as stack:
        _run("ip", "netns", "add", name)
        stack.callback(lambda: _run("ip", "netns", "del", name))
        _run("ip", "link", "add", f"v-{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "link", "set", f"v-{name}", "master", BRIDGE, "up")
        for words in (["link", "set", "lo", "up"], ["address", "add", f"{address}/24", "dev", "eth0"]):
            _run("ip", "-n", name, *words)
        _run("ip", "-n", name, "link", "set", "eth0", "up")
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=f"host-{name}-"))
        command = ["ip", "netns", "exec", name, "unshare", "--mount", "--uts", "sh", "-c", SETUP, "sh", name, folder]
        holder = subprocess.Popen([*command, *hidden], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        host = Host(name, address, environment, holder)
        stack.callback(holder.wait)
        stack.callback(holder.kill)
        stack.callback(host.kill)
        assert holder.stdout is not None
        line = holder.stdout.readline().strip()
        if line != "ready":
            raise Unable(f"host {name}: {line}")
        yield host


# -- the drill ---------------------------------------------------------------------------------------------------------


@dataclass
class Drill:
    """A run on several hosts that are disturbed. `options`: of `psp-ray run`, but for where it runs."""

    folder: Path
    options: Sequence[str]
    say: Callable[[str], None]
    started: float = field(default_factory=time.monotonic)

    def log(self, text: str) -> None:
        self.say(f"{time.monotonic() - self.started:7.1f} s  {text}")

    def go(self) -> dict[str, object]:
        """All of it; returns what was found: whether selections are the same, labels, tries. Raises Unable."""
        reason = why_not()
        if reason:
            raise Unable(reason)
        hidden = {"client": packages()}
        with hosts(["store", "head", "one", "two", "client"], self._environment, hidden) as (store, head, *rest):
            one, two, client = rest
            self.log(f"hosts: {', '.join(f'{host.name} {host.address}' for host in (store, head, *rest))}")
            self._start_store(store)
            self._start_node(head, head)
            for worker in (one, two):
                self._start_node(worker, head)
            self._expect(head, "oracle", "start", "--name", "hosts")
            code, text = client.run(sys.executable, "-c", "import psp_ray.main")
            self.log(f"client: importing psp-ray ends with {code} ({text.strip().splitlines()[-1]})")
            if not code:
                raise Unable("the client sees the repository")
            tries = self._disturbed(head, one, two, client)
            return self._compared(tries)

    @cached_property
    def _environment(self) -> dict[str, str]:
        store = f"{NETWORK}.2"
        return {
            "AWS_ENDPOINT_URL": f"http://{store}:5000",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "PSP_RAY_LEDGER": f"postgresql://postgres@{store}:5432/postgres",
            "PSP_RAY_CACHE": "/var/tmp/psp-ray-cache",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": str(ROOT),
            "RAY_ADDRESS": f"{NETWORK}.3:6379",
            "RAY_API_SERVER_ADDRESS": f"http://{NETWORK}.3:8265",
        }

    def _start_store(self, store: Host) -> None:
        data, log = "/var/tmp/psp-ray-postgres", self.folder / "store.log"
        initdb, server = _postgres("initdb"), _postgres("postgres")
        assert initdb is not None
        assert server is not None
        store.run("install", "-d", "-o", "postgres", "-g", "postgres", data, "/var/run/postgresql")
        code, text = store.run(initdb, "-D", data, "-U", "postgres", "-A", "trust", "--no-sync", user="postgres")
        if code:
            raise Unable(f"PostgreSQL: {text.strip().splitlines()[-1]}")
        store.run("sh", "-c", f"echo 'host all all {NETWORK}.0/24 trust' >> {data}/pg_hba.conf")
        settings = ["-c", f"listen_addresses={store.address}", "-c", "fsync=off"]
        store.start(server, "-D", data, *settings, log=log, user="postgres")
        store.start(sys.executable, "-m", "moto.server", "-H", store.address, "-p", "5000", log=log)
        url = self._environment["AWS_ENDPOINT_URL"]
        self._until(lambda: bool(urllib.request.urlopen(f"{url}/moto-api/", timeout=2).read()), 120)
        urllib.request.urlopen(urllib.request.Request(f"{url}/psp", method="PUT"), timeout=20).read()
        self.log("store: PostgreSQL and an S3 server run")

    def _start_node(self, host: Host, head: Host) -> None:
        ray = [RAY, "start", "--block", f"--node-ip-address={host.address}"]
        room = ["--num-cpus=1", "--num-gpus=0", f"--object-store-memory={80 * 2**20}"]
        if host is head:
            room += ["--head", "--port=6379", "--dashboard-host=0.0.0.0", "--dashboard-port=8265"]
        else:
            room += [f"--address={head.address}:6379"]
        before = set() if host is head else self._alive(host)  # a node that was killed is missed after a while
        host.start(*ray, *room, log=self.folder / f"{host.name}.log")
        self._until(lambda: bool(self._alive(host) - before), 240)
        self.log(f"{host.name}: its Ray node is up")

    def _alive(self, host: Host) -> set[str]:
        """Nodes at the host's address that the head takes for alive."""
        nodes = [node["raylet"] for node in self._ask("nodes?view=summary")["data"]["summary"]]
        return {n["nodeId"] for n in nodes if n["nodeManagerAddress"] == host.address and n.get("state") == "ALIVE"}

    def _ask(self, path: str) -> Any:
        """What the head's dashboard says."""
        token = {"Authorization": f"Bearer {self._environment['RAY_AUTH_TOKEN']}"}
        asked = urllib.request.Request(f"{self._environment['RAY_API_SERVER_ADDRESS']}/{path}", headers=token)
        with urllib.request.urlopen(asked, timeout=20) as answer:
            return json.load(answer)

    def _disturbed(self, head: Host, one: Host, two: Host, client: Host) -> int:
        """Submit the run until it has succeeded, and disturb it; returns how often it was submitted."""
        until, tries, rounds = time.monotonic() + PATIENCE, 1, -1
        killed = cut = False
        job = self._submit(client)
        while time.monotonic() < until:
            status, text = self._ask(f"api/jobs/{job}")["status"], self._ask(f"api/jobs/{job}/logs")["logs"]
            done = len(set(re.findall(r"round (\d+)/\d+: \d+ labels", text)))
            if done != rounds:
                rounds = done
                self.log(f"{job}: {rounds} rounds are told")
            if rounds >= 1 and not killed:
                killed = True
                self.log(f"two: killed, {two.kill()} processes")
                self._start_node(two, head)
            elif rounds >= 2 and killed and not cut:
                cut = True
                self._cut(head, one)
            if status == "SUCCEEDED":
                self.log(f"{job}: succeeded, submitted {tries} times")
                return tries
            if status == "FAILED":
                line = next((line for line in text.splitlines()[::-1] if "error" in line), text.strip()[-200:])
                self.log(f"{job}: failed: {line[:300]}")
                if tries == TRIES:
                    break
                tries, rounds = tries + 1, -1
                job = self._submit(client)
            time.sleep(1)
        raise AssertionError(f"the run did not end within {PATIENCE:g} s and {tries} tries; see {self.folder}")

    def _cut(self, head: Host, host: Host) -> None:
        host.cut(True)
        self.log(f"{host.name}: cut off for {CUT_SECONDS:g} s")
        time.sleep(CUT_SECONDS)
        alive = bool(self._alive(host))
        host.cut(False)
        self.log(f"{host.name}: back; the head takes it for {'alive' if alive else 'dead'}")
        if not alive:
            self.log(f"{host.name}: {host.kill()} processes of its old node end")
            self._start_node(host, head)

    def _submit(self, client: Host) -> str:
        words = ["-m", "psp_ray.main", "run", *self.options, "--oracle", "shared", "--oracle-name", "hosts"]
        places = [
            "--shards",
            "2",
            "--workers",
            "2",
            "--out",
            "/var/tmp/disturbed",
            "--storage",
            "s3://psp/all",
            "--resume",
        ]
        name = f"drill-{secrets.token_hex(3)}"
        submit = [RAY, "job", "submit", "--no-wait", "--submission-id", name]
        code, text = client.run(*submit, "--", sys.executable, *words, *places)
        if code:
            raise AssertionError(f"submitting: {text[-500:]}")
        self.log(f"client: submitted {name}")
        return name

    def _compared(self, tries: int) -> dict[str, object]:
        """Fetch the run from the storage, and do it again here, in one process and undisturbed."""
        environment = {**os.environ, **self._environment, "PSP_RAY_CACHE": str(self.folder / "cache")}
        del environment["RAY_ADDRESS"]
        psp_ray = [sys.executable, "-m", "psp_ray.main"]
        common = [*psp_ray, "run", *self.options, "--runner", "inline"]
        shared = ["--oracle", "shared", "--oracle-name", "hosts"]
        found = self.folder / "disturbed"
        self._here([*common, *shared, "--out", str(found), "--storage", "s3://psp/all", "--resume"], environment)
        status = json.loads(
            self._here(
                [*psp_ray, "oracle", "status", "--ledger", environment.pop("PSP_RAY_LEDGER"), "--json"], environment
            )
        )
        self._here([*common, "--out", str(self.folder / "undisturbed")], environment)
        import pyarrow.parquet as pq

        columns = ["sample_id", "label", "round"]
        tables = [
            pq.read_table(self.folder / name / "labels.parquet", columns=columns)
            for name in ("disturbed", "undisturbed")
        ]
        result: dict[str, object] = {
            "same": tables[0].equals(tables[1]),
            "labels": tables[1].num_rows,
            "bought": status["labels_bought"],
            "tries": tries,
        }
        self.log(f"compared: {json.dumps(result)}")
        return result

    def _here(self, words: Sequence[str], environment: Mapping[str, str]) -> str:
        done = subprocess.run(words, env=dict(environment), cwd=ROOT, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise AssertionError(f"{' '.join(words[2:5])}: {done.stderr[-500:]}")
        return done.stdout

    def _expect(self, host: Host, *words: str) -> None:
        code, text = host.run(sys.executable, "-m", "psp_ray.main", *words)
        if code:
            raise AssertionError(f"{host.name}: {text[-500:]}")
        self.log(f"{host.name}: {text.strip().splitlines()[-1]}")

    @staticmethod
    def _until(holds: Callable[[], bool], seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            with suppress(OSError, IndexError):
                if holds():
                    return
            if time.monotonic() > until:
                raise AssertionError(f"nothing within {seconds:g} s")
            time.sleep(0.5)


def main() -> None:
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(prog="python -m cluster.hosts", description="A run on several disturbed hosts.")
    parser.add_argument("--log", type=Path, help="file that the log is written into, too")
    given = parser.parse_args(words[:split])

    def say(line: str) -> None:
        print(line, flush=True)
        if given.log is not None:
            with given.log.open("a") as handle:
                handle.write(line + "\n")

    with tempfile.TemporaryDirectory(prefix="psp-ray-hosts-") as folder:
        try:
            result = Drill(Path(folder), words[split + 1 :] or RUN, say).go()
        except Unable as error:
            sys.exit(f"error: {error}")
    sys.exit(0 if result["same"] and result["labels"] == result["bought"] else 1)


if __name__ == "__main__":
    main()

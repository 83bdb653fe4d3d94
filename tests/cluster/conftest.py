"""One cluster of three nodes and one S3 server for all tests of this folder."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.local import environment

ROOT = Path(__file__).resolve().parents[2]


WAIT = (
    "import os, sys; print(*(f'{k}={v}' for k, v in os.environ.items() if k.startswith('RAY_')), flush=True); "
    "sys.stdin.read()"
)


@pytest.fixture(scope="session")
def three_nodes(s3_server):
    """Environment for clients of a cluster of three nodes, which have the credentials of the S3 server."""
    command = [sys.executable, "-m", "cluster.local", "--nodes", "3", "--", sys.executable, "-c", WAIT]
    given = {**os.environ, **s3_server}
    cluster = subprocess.Popen(command, cwd=ROOT, env=given, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    line = cluster.stdout.readline().split()
    assert any(word.startswith("RAY_ADDRESS=") for word in line), line
    yield dict(word.split("=", 1) for word in line)
    cluster.stdin.close()
    cluster.wait(timeout=60)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """Environment for clients of moto's S3 server, with a bucket `psp`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = open(tmp_path_factory.mktemp("moto") / "log", "w")  # noqa: SIM115 - lives as long as the server
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{url}/moto-api/", timeout=1).read()
                break
            except OSError:
                assert server.poll() is None, "moto's server ended"
                time.sleep(0.1)
        urllib.request.urlopen(urllib.request.Request(f"{url}/psp", method="PUT"), timeout=10).read()
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }
    finally:
        server.terminate()
        server.wait(timeout=20)
        log.close()


def command_line(*words, env=None, timeout=300):
    """Run `psp-ray WORDS` as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "psp_ray.main", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return done.returncode, done.stdout + done.stderr


HEAD = """
import sys
from ray.cluster_utils import Cluster

arguments = {"num_cpus": 2, "num_gpus": 0, "object_store_memory": 100 * 2**20, "include_dashboard": True}
arguments |= {"dashboard_host": "127.0.0.1", "dashboard_port": 0}
arguments["dashboard_agent_listen_port"] = 0  # another Ray on the machine may have the usual one
cluster = Cluster(initialize_head=True, connect=False, head_node_args=arguments)
print(cluster.address, cluster.webui_url, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@contextmanager
def cluster_with_jobs(**more):
    """Environment for clients of a cluster with a job server, on loopback and with a token; its nodes have `more`."""
    given = {**os.environ, **environment(), **more}
    command = [sys.executable, "-c", HEAD]
    server = subprocess.Popen(command, cwd=ROOT, env=given, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline().split()
        assert len(line) == 2, line
        urls = {"RAY_ADDRESS": line[0], "RAY_API_SERVER_ADDRESS": f"http://{line[1]}"}
        yield {**given, **urls, "CLUSTER_PID": str(server.pid)}
    finally:
        server.stdin.close()
        server.wait(timeout=60)


@pytest.fixture(scope="module")
def head():
    with cluster_with_jobs() as environment:
        yield environment


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """A checkout with the clutter of daily work in it."""
    folder = tmp_path_factory.mktemp("project")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in {*tracked, ".rayignore"}:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    (folder / "runs").mkdir()
    (folder / "runs" / "huge.bin").write_bytes(os.urandom(3 * 2**20))
    return folder


def submit(head, project, *words, cpus="0.3"):
    ray = str(Path(sys.executable).parent / "ray")
    server = head["RAY_API_SERVER_ADDRESS"]
    command = [ray, "job", "submit", "--address", server, "--working-dir", str(project), "--entrypoint-num-cpus", cpus]
    return subprocess.Popen(
        [*command, "--", sys.executable, *map(str, words)],
        cwd=project,
        env=head,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

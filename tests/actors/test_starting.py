"""Joining a cluster that isn't there is told at once; signals stay ours; long paths are gone around."""

import signal
import socket
import threading

import pytest

from psp_ray.actors.starting import joining, require_listener, temporary_folder
from psp_ray.core.errors import ResourceError


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "[::1]:{}", "no-such-host.invalid:{}"])
@pytest.mark.parametrize(("name", "advice"), [("--ray-address", "leave it out"), ("RAY_ADDRESS", "unset it")])
def test_nothing_listens(form, name, advice, free_port):
    address = form.format(free_port)
    with pytest.raises(ResourceError, match="no cluster answers") as error:
        require_listener(address, name)
    assert str(error.value).startswith(f"{name} {address}: ")
    assert advice in str(error.value)


def test_a_listener_and_other_forms_pass():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        require_listener(f"127.0.0.1:{server.getsockname()[1]}", "--ray-address")
    require_listener("auto", "--ray-address")
    with pytest.raises(ResourceError, match="is no address"):
        require_listener("host:many", "--ray-address")


def wait_as_ray_does():
    with joining("a:1", "RAY_ADDRESS", seconds=0.05):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        threading.Event().wait(60)


def test_joining_is_bounded_and_signals_come_back():
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)]
    with pytest.raises(ResourceError, match=r"RAY_ADDRESS a:1: no cluster answers \(no answer within 0\.05 s\)"):
        wait_as_ray_does()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)] == handlers


def start_as_ray_does_where_a_machine_is_busy():
    with joining("local", "--ray-address"):
        raise Exception("The current node timed out during startup.\nThis could happen because ...")


def test_ray_that_does_not_start_is_a_line():
    with pytest.raises(ResourceError, match="Ray did not start on this machine") as error:
        start_as_ray_does_where_a_machine_is_busy()
    assert "\n" not in str(error.value)
    assert "--runner inline" in str(error.value)


def test_a_long_folder_for_temporary_files(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    assert temporary_folder() is None
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 60)))
    found = temporary_folder()
    assert found is not None
    path = f"{found}/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
    with socket.socket(socket.AF_UNIX) as probe, pytest.raises(OSError, match="No such file"):
        probe.bind(path)  # the path is short enough: only the folder is missing

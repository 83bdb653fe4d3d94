"""Addresses in lists that may come from anybody: which are read, from where, how much, and what a bad one costs."""

import http.server
import threading

import numpy as np
import pytest

from psp_ray.core.errors import DatasetError
from psp_ray.data import remote
from psp_ray.data.images import ImageError, read_file
from psp_ray.data.load import load_dataset
from psp_ray.data.remote import RemoteError, fetch, is_public, version, why_refused
from psp_ray.features.cache import EncoderSpec, FeatureCache
from psp_ray.features.featurize import featurize
from tests.data.made import DIM, PREP, encoded, picture, save, toy_encoder

REFUSED = [
    "zip://x::y",
    "zip://a.png::file:///etc/x.zip",
    "https://h/x::https://h/y",
    "simplecache::https://h/x",
    "file://x/y",
    "ftp://h/x",
    "sftp://h/x",
    "ssh://h/x",
    "smb://h/x",
    "hdfs://h/x",
    "github://o:r@/x",
    "data://x",
    "memory://x",
    "reference://x",
    "jar://x",
    "local://etc/passwd",
    "gopher://h/x",
    "://x",
    "http:///x",
    "http://h:port/x",
    "http://[::1/x",
    "https://user:secret@h/x",
    "https://token@h/x",
    "s3://key:secret@bucket/x",
]
PRIVATE = ["127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "::1"]
PRIVATE += ["fe80::1", "fd00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "224.0.0.1", "2002:7f00:1::", "::", "text"]
PRIVATE += ["fe80::1%eth0", "240.0.0.1", "255.255.255.255", "ff02::1"]
SMALL = encoded(picture(1))


@pytest.mark.parametrize("url", REFUSED)
def test_what_is_never_read(url):
    assert why_refused(url)
    with pytest.raises(RemoteError) as caught:
        fetch(url)
    assert "secret" not in str(caught.value)
    with pytest.raises(ImageError):
        read_file(url)
    assert version(url) is None


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_of_this_network(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_addresses_of_the_internet(address):
    assert is_public(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "[::1]", "0"])
def test_loopback_by_any_name(host):
    with pytest.raises(RemoteError, match=r"this machine or network|no address|not known|refused|family"):
        fetch(f"http://{host}:1/x")


@pytest.fixture
def server(monkeypatch):
    """A web server on 127.0.0.1, which alone is called public here."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            kinds = {
                "/other": f"http://127.0.0.2:{port}/a.png",
                "/file": "file:///etc/passwd",
                "/round": f"http://127.0.0.1:{port}/round",
                "/there": f"http://127.0.0.1:{port}/a.png",
            }
            if self.path in kinds:
                self.send_response(302)
                self.send_header("Location", kinds[self.path])
                self.end_headers()
                return
            self.send_response(404 if self.path == "/none" else 200)
            if self.path != "/endless":
                told = {"/short": 10 * len(SMALL), "/large": 1 << 40}.get(self.path, len(SMALL))
                self.send_header("Content-Length", str(told))
            self.send_header("ETag", "v1")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(SMALL * (100 if self.path == "/endless" else 1))

        do_HEAD = do_GET

        def log_message(self, *given): ...

    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port = made.server_address[1]
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(remote, "is_public", lambda address: address == "127.0.0.1")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield f"http://127.0.0.1:{port}"
    made.shutdown()
    made.server_close()
    thread.join()


def test_what_is_fetched(server, monkeypatch):
    assert fetch(f"{server}/a b ü.png?x=1") == SMALL
    assert fetch(f"{server}/there") == SMALL
    assert version(f"{server}/a.png") == (len(SMALL), "v1")
    with pytest.raises(FileNotFoundError):
        version(f"{server}/none")
    monkeypatch.setattr(remote, "LARGEST", 50 * len(SMALL))
    for path, reason in (
        ("other", "127.0.0.2"),
        ("file", "answers 302|not read"),
        ("round", "redirect|answers 302"),
        ("none", "file not found"),
        ("large", "larger than"),
        ("endless", "larger than"),
        ("short", "ended after|IncompleteRead"),
    ):
        with pytest.raises(RemoteError, match=reason):
            fetch(f"{server}/{path}")


def test_a_list_of_addresses(server, tmp_path):
    """One bad row costs one image; nothing is fetched unless that is asked for."""
    save(tmp_path / "b.png", 2)
    rows = [f"{server}/a.png", "b.png", f"{server}/none", "zip://x::y", "http://127.0.0.2/x.png"]
    (tmp_path / "list.csv").write_text("path\n" + "\n".join(rows))
    with pytest.raises(DatasetError, match=r"is not on this machine; add --allow-remote") as caught:
        load_dataset(str(tmp_path / "list.csv"), classes="cat,dog")
    assert "\n" not in str(caught.value)
    dataset = load_dataset(str(tmp_path / "list.csv"), classes="cat,dog", allow_remote=True)
    found = featurize(dataset, EncoderSpec("w", PREP, DIM), FeatureCache.open(tmp_path / "cache"), toy_encoder)
    assert {image.sample_id for image in found.broken} == {*rows[2:]}
    assert found.pool.n == 2
    np.testing.assert_array_equal(found.pool.block(0).features.shape, (2, DIM))
    (tmp_path / "list.csv").write_text("path\nzip://x::y\nb.png\n")
    assert load_dataset(str(tmp_path / "list.csv"), classes="cat,dog").manifest.num_rows == 2
    for name in (f"{server}/list.csv", "https://example.org/list.parquet"):
        with pytest.raises(DatasetError, match="add --allow-remote"):
            load_dataset(name, classes="cat,dog")
    with pytest.raises(DatasetError, match=r"add --allow-remote"):
        load_dataset(str(tmp_path / "list.csv"), classes="cat,dog", test=f"{server}/list.csv")

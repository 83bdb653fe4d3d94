"""Files by address, for lists that may come from anybody: few schemes, no addresses of this network, bounded in size
and time.

A list of images could otherwise make a worker fetch from services that only this machine reaches (a cloud's metadata,
an admin page on loopback), or read local files through a chain of file systems.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.parse import quote, urlsplit

from psp_ray.core.errors import DatasetError
from psp_ray.core.words import masked, short

WEB = ("http", "https")
SCHEMES = frozenset({*WEB, "s3", "gs", "gcs", "az", "abfs", "abfss"})
"""What addresses may begin with. All but the first two go through fsspec, with the credentials of its packages."""
LARGEST = 1 << 28
"""Bytes of the largest file that is fetched."""
SILENCE = 20.0
"""Seconds without an answer after which a server is given up."""
LONGEST = 300.0
"""Seconds that fetching one file may take."""
_CHUNK = 1 << 18
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class RemoteError(ValueError):
    """An address can't be read; the message is a short reason."""


def is_url(path: str) -> bool:
    """Whether a path is an address: `s3://…`, `https://…`."""
    return "://" in path


def why_refused(url: str) -> str:
    """Why an address is never read, whatever it holds; empty where it is."""
    found = _SCHEME.match(url)
    scheme = found.group(1).lower() if found else ""
    chained = "::" in re.sub(r"\[[^\]/]*\]", "", url)  # not those of an IPv6 address
    if scheme not in SCHEMES or chained:
        return f"addresses of the form {short(url.partition('://')[0], 20)}:// are not read"
    try:
        address = urlsplit(url)
        _ = address.port
    except ValueError:
        return "not an address"
    if address.password is not None or (address.username is not None and scheme in WEB):
        return "an address with a password in it; leave it to the environment (a .netrc file, AWS_... and the like)"
    return "" if address.hostname or scheme not in WEB else "not an address"


def require_local(path: str, allowed: bool, where: str) -> None:
    """Raise a DatasetError for an address that could be read, unless that was asked for."""
    if not allowed and is_url(path) and not why_refused(path):
        raise DatasetError(
            f"{masked(where)}: {short(masked(path))} is not on this machine; add --allow-remote to read addresses "
            "(http, https, s3, gs, az)"
        )


def fetch(url: str, largest: int | None = None) -> bytes:
    """The bytes of what an address names.

    Raises:
        RemoteError: a scheme that isn't read, an address of this network, too large, too slow, or not there.
    """
    limit = LARGEST if largest is None else largest
    refused = why_refused(url)
    if refused:
        raise RemoteError(refused)
    with _one_line():
        if urlsplit(url).scheme.lower() in WEB:
            with _opener().open(urllib.request.Request(_quoted(url)), timeout=SILENCE) as answer:
                return _whole(answer, int(answer.headers.get("Content-Length") or 0), limit)
        import fsspec

        system, place = fsspec.core.url_to_fs(url)
        with system.open(place, "rb") as file:
            return _whole(file, int(system.info(place).get("size") or 0), limit)


def _quoted(url: str) -> str:
    """An address as it goes over the wire: blanks and letters beyond ASCII escaped, what is escaped left alone."""
    return quote(url, safe="%/:=&?~#+!$,;'@()*[]")


def version(url: str) -> tuple[int, str] | None:
    """(size, a text that changes with the content) of what an address names; None where the server doesn't say.

    Raises:
        FileNotFoundError: nothing is there.
    """
    if why_refused(url):
        return None
    try:
        if urlsplit(url).scheme.lower() in WEB:
            with _opener().open(urllib.request.Request(_quoted(url), method="HEAD"), timeout=SILENCE) as answer:
                info: dict[str, Any] = {"size": answer.headers.get("Content-Length"), **dict(answer.headers)}
        else:
            import fsspec

            system, place = fsspec.core.url_to_fs(url)
            info = system.info(place)
    except FileNotFoundError:
        raise
    except urllib.error.HTTPError as error:
        if error.code in (404, 410):
            raise FileNotFoundError(url) from None
        return None
    except Exception:  # whatever a server or a file system raises: then the file is read, and that error counts
        return None
    keys = ("ETag", "etag", "mtime", "Last-Modified", "LastModified", "created")
    mark = next((info[key] for key in keys if info.get(key)), None)
    return None if mark is None or info.get("size") is None else (int(info["size"]), str(mark))


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet: not of this machine, this network, or a cloud's services."""
    try:
        ip: Any = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    inner = [getattr(ip, name, None) for name in ("ipv4_mapped", "sixtofour")]
    inner += list(getattr(ip, "teredo", None) or ())
    return all(one.is_global and not one.is_multicast for one in (ip, *(each for each in inner if each is not None)))


def connect(host: str, port: int, timeout: float) -> socket.socket:
    """A connection to a public address of `host`: what was looked at is what is connected to, at every redirect.

    Raises:
        RemoteError: one of its addresses is not public. OSError: none answers.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    trusted = (host.lower(), port) in _proxies()
    for *_, place in found:
        if not trusted and not is_public(str(place[0])):
            raise RemoteError(f"{short(host, 60)} is an address of this machine or network ({place[0]})")
    last: OSError = ConnectionError(f"{host} has no address")
    for family, kind, protocol, _, place in found:
        made = socket.socket(family, kind, protocol)
        made.settimeout(timeout)
        try:
            made.connect(place)
            return made
        except OSError as error:
            made.close()
            last = error
    raise last


def _proxies() -> set[tuple[str, int]]:
    """(host, port) of the proxies that the environment names: those are this network's, and meant."""
    places = [urlsplit(url if "://" in url else f"http://{url}") for url in urllib.request.getproxies().values()]
    return {(place.hostname.lower(), place.port or 80) for place in places if place.hostname}


class _Plain(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = connect(self.host, self.port, self.timeout or SILENCE)
        if getattr(self, "_tunnel_host", None):
            self._tunnel()  # type: ignore[attr-defined]


@cache
def _tls() -> ssl.SSLContext:
    """One a process: reading the certificates of this machine's authorities takes longer than many a file."""
    return ssl.create_default_context()


class _Secure(http.client.HTTPSConnection):
    def connect(self) -> None:
        self.sock = connect(self.host, self.port, self.timeout or SILENCE)
        name = getattr(self, "_tunnel_host", None) or self.host
        if name != self.host:
            self._tunnel()  # type: ignore[attr-defined]
        self.sock = _tls().wrap_socket(self.sock, server_hostname=name)


class _PlainHandler(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_Plain, request)


class _SecureHandler(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(_Secure, request, context=_tls())


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = 5

    def redirect_request(self, request: Any, *more: Any) -> urllib.request.Request | None:
        refused = why_refused(str(more[-1]))
        if refused or urlsplit(str(more[-1])).scheme.lower() not in WEB:
            raise RemoteError(f"redirects to what is not read: {refused or 'no web address'}")
        return super().redirect_request(request, *more)


def _opener() -> urllib.request.OpenerDirector:
    """Knows http and https, and nothing else of what urllib opens."""
    opener = urllib.request.OpenerDirector()
    handlers = (
        urllib.request.ProxyHandler(),
        _PlainHandler(),
        _SecureHandler(context=_tls()),
        _Redirects(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    )
    for handler in handlers:
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", "psp-ray")]
    return opener


def _whole(file: Any, told: int, limit: int) -> bytes:
    """All of a file, unless it is larger or slower than allowed."""
    deadline = time.monotonic() + LONGEST
    parts: list[bytes] = []
    size = 0
    while True:
        if max(told, size) > limit:
            raise RemoteError(f"larger than {limit / 2**20:.0f} MiB, the most that is fetched")
        if time.monotonic() > deadline:
            raise RemoteError(f"took longer than {LONGEST:.0f} s")
        part = file.read(_CHUNK)
        if not part:
            break
        parts.append(part)
        size += len(part)
    if told and size < told:
        raise RemoteError(f"ended after {size:,} of {told:,} bytes")
    return b"".join(parts)


@contextmanager
def _one_line() -> Iterator[None]:
    """Whatever a server, a network or a file system's package raises, as a short reason."""
    try:
        yield
    except RemoteError:
        raise
    except FileNotFoundError:
        raise RemoteError("file not found") from None
    except urllib.error.HTTPError as error:
        raise RemoteError("file not found" if error.code == 404 else f"the server answers {error.code}") from None
    except urllib.error.URLError as error:
        inner = error.reason
        raise RemoteError(_reason(inner) if isinstance(inner, Exception) else short(str(inner), 160)) from None
    except Exception as error:  # fsspec's packages raise all kinds
        raise RemoteError(_reason(error)) from None


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {SILENCE:.0f} s"
    return short(masked(str(getattr(error, "strerror", "") or error)), 160) or type(error).__name__

"""The page served: a session, its worker and its desk behind a socket, until somebody ends it."""

from __future__ import annotations

import ipaddress
import socket
import webbrowser
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from psp_ray.core.errors import ConfigError, UserError
from psp_ray.run.asking import ASKED
from psp_ray.run.people import People
from psp_ray.run.session import Session
from psp_ray.web.app import Page
from psp_ray.web.board import PoolView
from psp_ray.web.crew import LEAD, Crew
from psp_ray.web.desk import Desk, Rules
from psp_ray.web.pictures import Pictures
from psp_ray.web.worker import WebEvents, Worker

PORT = 8420
TRIES = 20
"""Ports from `PORT` on that are tried where none is asked for."""
AHEAD = 30
"""Images set aside for the time of learning, or as many as a query set has where that is more."""
LEAVING = 5.0
"""Seconds in which a round that is being saved may end when the program does; it is repeated otherwise."""


@dataclass(frozen=True)
class Serving:
    """Where the page is, who has a link besides `you`, and how images are handed out."""

    host: str = "127.0.0.1"
    people: Sequence[tuple[str, str]] = ()
    rules: Rules = field(default_factory=Rules)
    ahead: int | None = None
    browser: bool = True


class Station:
    """Everything behind the page of one session; `worker` is to be started. Raises UserError for a run that asks
    nobody."""

    def __init__(self, session: Session, events: WebEvents, serving: Serving) -> None:
        require_people(session.rounds.config.labels.oracle)
        names, classes = session.rounds.names, session.run_classes
        self.session, self.crew = session, Crew(session.out)
        self.crew.invite("you", LEAD)
        for name, role in serving.people:
            self.crew.invite(name, role)
        self.desk = Desk(
            self._people().answers,
            PoolView.of(names.sample_ids, names.content_hashes, names.classes, classes.added_at),
            serving.rules,
        )
        self.desk.status = events.status
        count = session.rounds.context.n_query
        ahead = max(AHEAD, count) if serving.ahead is None else serving.ahead
        self.worker = Worker(session, self._people, self.desk, lambda: session.rounds.config.labels.rounds, ahead)
        self.pictures = Pictures(session.out, session.rounds.data.dataset.pool, names.content_hashes)

    def _people(self) -> People:
        """Who answers, of the session as it is now."""
        people = self.session.rounds.people
        assert people is not None
        return people

    def app(self, hosts: Sequence[str]) -> Starlette:
        """The page; see `Page.app`."""
        title = Path(self.session.rounds.config.data.dataset).name or self.session.out.name
        return Page(self.desk, self.crew, self.pictures, self.worker, title).app(hosts)


def require_people(oracle: str) -> None:
    """Raise UserError for a run whose labels are known: there is nobody for whom to show a page."""
    if oracle not in ASKED:
        raise UserError(
            f"--oracle {oracle}: this run asks nobody, its labels are known; label with --oracle people in a new --out "
            "folder"
        )


def serve(
    listener: socket.socket, session: Session, events: WebEvents, serving: Serving, say: Callable[[str], None]
) -> None:
    """Serve on what `bind` gave until interrupted; every link is said."""
    station = Station(session, events, serving)
    address = f"http://{named_host(serving.host)}:{listener.getsockname()[1]}"
    local = is_loopback(serving.host)
    if not local:
        say(f"warning: --host {serving.host}: whoever can reach this machine and has a link can label; links and")
        say("  answers travel in the clear, so put a proxy with TLS in front where you don't trust the network")
    for person in station.crew.people:
        say(f"{person.name} ({person.role}): {address}/?token={person.token}")
    say("Ctrl-C ends; every answer is saved at once")
    station.worker.start()
    if serving.browser and local:
        webbrowser.open(f"{address}/?token={station.crew.people[0].token}")
    hosts = ["127.0.0.1", "localhost", "[::1]"] if local else ["*"]
    config = uvicorn.Config(station.app(hosts), log_level="warning", access_log=False, server_header=False)
    try:
        with suppress(KeyboardInterrupt):  # the usual way to end
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        station.worker.stop()
        station.worker.join(LEAVING)
        if not station.worker.is_alive():
            leave(session)


def leave(session: Session) -> None:
    """A summary of how far the run is, unless it is done, and the folder free for others."""
    if not session.over:
        session.rounds.interrupted(f"everything is saved; go on with: psp-ray label {session.out}")
    session.close()


def bind(host: str, port: int | None) -> socket.socket:
    """A listening socket; without a `port`, on the first free one from `PORT` on.

    Raises:
        ConfigError: the host is none of this machine, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    problem = ""
    for number in range(PORT, PORT + TRIES) if port is None else [port]:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, number))
            listener.listen(128)
            return listener
        except (OSError, OverflowError) as error:
            listener.close()
            problem = str(getattr(error, "strerror", None) or error)
    where = f"--port {port}" if port is not None else f"--host {host}"
    raise ConfigError(f"{where}: can't be listened on ({problem}); choose another one")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def named_host(host: str) -> str:
    """The host as it stands in a link."""
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host

"""Where the page of a ledger is hosted: as a Ray Serve deployment beside a cluster's oracles, or in this process."""

from __future__ import annotations

import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import uvicorn

from psp_ray.core.errors import OracleError, ResourceError, UserError
from psp_ray.labels.database import resolve_ledger_url, shown
from psp_ray.labels.ledger import Ledger
from psp_ray.labels.questions import Questions
from psp_ray.web.crew import LEAD, Crew, Person
from psp_ray.web.desk import Rules
from psp_ray.web.ledger_people import people_of
from psp_ray.web.serve import PORT, bind, is_loopback, named_host
from psp_ray.web.shared import SharedPage

VARIABLE = "PSP_RAY_LEDGER"
CPUS = 0.0
"""It hardly computes, and has its place on a head without CPUs, too."""
READY_SECONDS = 60.0
LOCAL = ("127.0.0.1", "localhost", "[::1]")


def hosts_of(host: str) -> list[str]:
    """Names that a page on `host` answers to."""
    return list(LOCAL) if is_loopback(host) else ["*"]


def invite(ledger: str, people: Sequence[tuple[str, str]]) -> list[Person]:
    """Links for `you`, who leads, and for `people`; gives everybody's. Raises UserError."""
    with Ledger(ledger) as opened:
        crew = Crew(people_of(opened, ledger))
        crew.invite("you", LEAD)
        for name, role in people:
            crew.invite(name, role)
        return crew.people


def forget(ledger: str, experiment: str) -> None:
    """Take a run that won't come back off the page. Raises OracleError where it isn't there."""
    with Ledger(ledger) as opened:
        posts = Questions(opened)
        if not posts.forget(experiment):
            known = ", ".join(item.experiment for item in posts.sets()) or "none"
            raise OracleError(f"--forget {experiment}: asks nothing on this ledger (runs that do: {known})")


def say_links(people: Sequence[Person], address: str, host: str, say: Callable[[str], None]) -> None:
    """Everybody's link, and a warning where others than this machine reach it."""
    if not is_loopback(host):
        say(f"warning: --host {host}: whoever can reach this machine and has a link can label; links and")
        say("  answers travel in the clear, so put a proxy with TLS in front where you don't trust the network")
    for person in people:
        say(f"{person.name} ({person.role}): {address}/?token={person.token}")


def host_here(ledger: str, host: str, port: int | None, rules: Rules, ready: Callable[[str], None]) -> None:
    """Host the page in this process until it is ended; `ready` is called with its address before."""
    with bind(host, port) as listener, Ledger(ledger) as opened:
        page = SharedPage(opened, people_of(opened, ledger), rules)
        ready(f"http://{named_host(host)}:{listener.getsockname()[1]}")
        config = uvicorn.Config(page.app(hosts_of(host)), log_level="warning", access_log=False, server_header=False)
        with suppress(KeyboardInterrupt):  # the usual way to end
            uvicorn.Server(config).run(sockets=[listener])


# -- Ray Serve ---------------------------------------------------------------------------------------------------------


def serve_api() -> Any:
    """Ray Serve. Raises UserError where it isn't installed."""
    try:
        from ray import serve
    except ImportError as error:
        raise UserError(
            f"Ray Serve can't be imported ({error}); run: pip install 'psp-ray[serve]', or host the page in this "
            "process with --here"
        ) from None
    return serve


def application(ledger: str | None, hosts: Sequence[str], rules: Rules) -> Callable[[], Any]:
    """Builds, in Serve's replica, a FastAPI application with the page in it; `ledger` None: as the replica's node says
    in PSP_RAY_LEDGER."""

    def build() -> Any:
        from fastapi import FastAPI

        from psp_ray.labels.ledger import Ledger
        from psp_ray.web.ledger_people import people_of
        from psp_ray.web.shared import SharedPage

        address = os.environ["PSP_RAY_LEDGER"] if ledger is None else ledger
        opened = Ledger(address)
        page = SharedPage(opened, people_of(opened, address), rules)
        app = FastAPI(title="psp-ray", docs_url=None, redoc_url=None, openapi_url=None)
        app.mount("/", page.app(list(hosts)))
        return app

    return build


def deploy(name: str, ledger: str | None, host: str, port: int | None, rules: Rules) -> str:
    """Start the page `name` on the cluster that was joined, or replace it; returns its address.

    It outlives this program, and Serve restarts it. On a SQLite ledger it stays on this node, where the file is.

    Raises:
        UserError: Serve isn't installed, or doesn't start the page in time.
    """
    import ray

    serve = serve_api()
    address = ledger_here(ledger)
    options: dict[str, Any] = {"num_cpus": CPUS}
    if resolve_ledger_url(address).get_backend_name() == "sqlite":
        ledger = str(resolve_ledger_url(address).database)
        options["resources"] = {f"node:{ray.util.get_node_ip_address()}": 0.001}
    port = PORT if port is None else port
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port})
    build = application(ledger, hosts_of(host), rules)
    page = serve.deployment(
        serve.ingress(build)(), name="LabelingPage", num_replicas=1, max_ongoing_requests=64, ray_actor_options=options
    )
    try:
        serve.run(page.bind(), name=_app(name), route_prefix=f"/{name}")
    except RuntimeError as error:
        raise ResourceError(f"page {name}: Serve can't start it ({' '.join(str(error).split())[-300:]})") from None
    found = f"http://{named_host(host)}:{port}/{name}"
    _require_page(f"{found}/", name, port)
    return found


def withdraw(name: str) -> None:
    """Stop the page; what people said is in the ledger. Raises OracleError where there is none of that name."""
    serve = serve_api()
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    running = set(serve.status().applications)
    if _app(name) not in running:
        known = ", ".join(sorted(app.removeprefix(_app("")) for app in running if app.startswith(_app("")))) or "none"
        raise OracleError(f"page {name}: not on this cluster (running: {known})")
    serve.delete(_app(name))
    if running == {_app(name)}:
        serve.shutdown()


def ledger_for(ledger: str | None, of_oracle: str | None) -> str | None:
    """The ledger that a page on a cluster opens: None where its node's PSP_RAY_LEDGER is to say it.

    `of_oracle`: the ledger's name as the oracle tells it, without a password. Raises OracleError where none is known,
    or its password would be written into Serve's settings.
    """
    variable = os.environ.get(VARIABLE)
    if of_oracle is not None:
        if variable is not None and shown(resolve_ledger_url(variable)) == of_oracle:
            return None
        if "://" not in of_oracle:
            if os.path.isfile(of_oracle):
                return of_oracle
            raise OracleError(f"ledger {of_oracle}: a SQLite file of another machine; start the page there")
        raise OracleError(f"ledger {of_oracle}: set {VARIABLE} to its address here and on the cluster's nodes")
    if ledger is None:
        if variable is None:
            raise OracleError(f"no ledger: give --ledger or the --name of an oracle, or set {VARIABLE}")
        resolve_ledger_url(variable)
        return None
    if resolve_ledger_url(ledger).password is not None and ledger != variable:
        raise OracleError(f"--ledger {shown(resolve_ledger_url(ledger))}: set {VARIABLE} to it, on all nodes")
    return None if ledger == variable else ledger


def ledger_here(ledger: str | None) -> str:
    """The ledger that a page in this process opens. Raises OracleError where none is known, or its file isn't there."""
    found = ledger or os.environ.get(VARIABLE)
    if found is None:
        raise OracleError(f"no ledger: give --ledger, or set {VARIABLE}")
    url = resolve_ledger_url(found)
    if url.get_backend_name() == "sqlite" and not os.path.isfile(str(url.database)):
        raise OracleError(f"ledger {found}: no such file; start a run or an oracle with it first")
    return found


def _require_page(address: str, name: str, port: int) -> None:
    """Wait until the page answers there. Raises ResourceError where something else does, or nothing."""
    until = time.monotonic() + READY_SECONDS
    found = ""
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            found = "it lets in whoever comes"
        except urllib.error.HTTPError as error:
            if error.code == 401 and "content-security-policy" in error.headers:
                return
            found = f"status {error.code}"
        except OSError as error:
            found = str(error)
        time.sleep(0.2)
    raise ResourceError(
        f"page {name}: nothing that is ours answers at {address} ({found}); where Serve runs on this cluster already, "
        f"give the --host and --port that it listens on in place of {port}"
    )


def _app(name: str) -> str:
    return f"psp-ray-label-{name}"

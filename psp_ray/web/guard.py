"""What keeps strangers out: secret links, headers that tell browsers what the page may do, small requests only."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from psp_ray.web.crew import Crew, Person

LONGEST_BODY = 1 << 20
HEADER = "x-psp-ray"
"""A page of another origin can't send it without asking first, and is not allowed to."""
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """Middleware: sets the headers, and refuses what writes without `HEADER` or is too long."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        request = Request(scope)
        if request.method not in ("GET", "HEAD"):
            length = whole(request.headers.get("content-length", ""))
            if HEADER not in request.headers:
                await JSONResponse({"error": "only the page itself may write"}, 403)(scope, receive, guarded)
                return
            if length is None or length > LONGEST_BODY:
                await JSONResponse({"error": "too much at once"}, 413)(scope, receive, guarded)
                return
        await self._app(scope, receive, guarded)


def whole(text: str) -> int | None:
    """A number as a browser writes it; None for anything else. Python refuses to read thousands of digits."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None


def cookie_name(request: Request) -> str:
    """One a port: two runs labeled on one machine don't sign each other out."""
    return f"psp_ray_{request.url.port or 80}"


def person_of(request: Request, crew: Crew) -> Person | None:
    """Who asks, by the cookie that a link has set."""
    token = request.cookies.get(cookie_name(request), "")
    return crew.find(token) if token else None

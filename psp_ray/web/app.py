"""The page as a Starlette application over a desk. What comes from a browser names images by number, never by path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from jinja2 import Environment, PackageLoader, select_autoescape
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from psp_ray.core.errors import ConfigError, LedgerError, UserError
from psp_ray.web.crew import LABEL, LEAD, REVIEW, Crew, Person
from psp_ray.web.desk import Desk, Given
from psp_ray.web.guard import Guard, cookie_name, person_of, whole
from psp_ray.web.pictures import SIZES, TYPE, PictureSource
from psp_ray.web.shown import (
    agreement_of,
    disputed,
    doubted,
    examples,
    handed_of,
    history,
    latest,
    none_before,
    state_of,
)

HERE = Path(__file__).parent
MOST = 500
"""Images that one request may ask for, or answer."""
MANY = 12
"""Images that a request gets that doesn't say how many."""
M = TypeVar("M", bound=BaseModel)


class Steering(Protocol):
    """What whoever leads may ask of the run (`psp_ray.web.worker.Worker`)."""

    def learn_now(self) -> None: ...
    def extend(self, rounds: int) -> None: ...
    def add_class(self, name: str) -> None: ...
    def rename_class(self, old: str, new: str) -> None: ...


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class OneAnswer(_Body):
    """An answer to an image."""

    position: int
    label: int
    seconds: float = Field(0.0, ge=0, le=86400, strict=False)


class Answers(_Body):
    """One action: answers, and which of their images were shown with a suggestion. By its `id` it is known when it
    comes again."""

    answers: list[OneAnswer] = Field(min_length=1, max_length=MOST)
    shown: list[int] = Field(default_factory=list, max_length=MOST)
    way: str = Field("", max_length=16)
    id: str = Field("", pattern="^([0-9a-f]{32})?$")


class Decision(_Body):
    """A reviewer's last word."""

    position: int
    label: int


class Positions(_Body):
    """Images by number."""

    positions: list[int] = Field(max_length=MOST)


class Rounds(_Body):
    """Rounds to add."""

    rounds: int = Field(ge=1, le=1000)


class Invitation(_Body):
    """Somebody new."""

    name: str = Field(max_length=200)
    role: str = Field(max_length=20)


class NewClass(_Body):
    """A class that was forgotten; with `instead` of an old name, that class's new one."""

    name: str = Field(max_length=400)
    instead: str = Field("", max_length=400)


class Nothing(_Body):
    """A wish without details."""


Work = Callable[[Request, Person], Any]


def templates() -> Environment:
    """The pages' templates; what is put in is escaped."""
    return Environment(loader=PackageLoader("psp_ray.web", "templates"), autoescape=select_autoescape())


def stranger(pages: Environment) -> Response:
    """What whoever has no link is told."""
    return HTMLResponse(pages.get_template("stranger.html").render(), status_code=401)


def let_in(request: Request, token: str) -> Response:
    """Makes a link's token a cookie of this application alone, and goes to the page without it."""
    place = f"{str(request.scope.get('root_path', '')).rstrip('/')}/"
    response = RedirectResponse(place, status_code=303)
    response.set_cookie(cookie_name(request), token, max_age=30 * 86400, path=place, httponly=True, samesite="lax")
    return response


class Page:
    """The routes of one run's page.

    Without `steering` nobody can tell the run what to do: it is elsewhere, and waits for its query set. `home`: where
    other runs are, as an address that the page's own one is the base of.
    """

    def __init__(
        self,
        desk: Desk,
        crew: Crew,
        pictures: PictureSource,
        steering: Steering | None,
        title: str,
        home: str = "",
    ) -> None:
        self._desk, self._crew, self._pictures, self._steering = desk, crew, pictures, steering
        self._title, self._home_link = title, home
        self._templates = templates()

    def app(self, hosts: Sequence[str]) -> Starlette:
        """The application; `hosts` are the names it answers to ("*": any)."""
        calls = [
            self._get("/api/state", lambda request, person: self._state(person)),
            self._get("/api/work", self._work),
            self._get("/api/review", lambda request, person: self._review(person)),
            self._get("/api/examples", lambda request, person: examples(self._desk)),
            self._get("/api/agreement", lambda request, person: agreement_of(self._desk), REVIEW),
            self._post("/api/answers", Answers, self._answer),
            self._post("/api/undo", Nothing, self._undo),
            self._post("/api/give-back", Positions, self._give_back),
            self._post("/api/decide", Decision, self._decide, REVIEW),
            self._post("/api/learn", Nothing, self._learn, LEAD),
            self._post("/api/extend", Rounds, self._extend, LEAD),
            self._post("/api/classes", NewClass, self._classes, LEAD),
            self._post("/api/people", Invitation, self._invite, LEAD),
        ]
        routes = [
            Route("/", self._home),
            Route("/image/{position}", self._image),
            Mount("/static", StaticFiles(directory=HERE / "static")),
            *calls,
        ]
        middleware = [Middleware(Guard), Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))]
        return Starlette(routes=routes, middleware=middleware)

    # ---- pages and pictures --------------------------------------------------------------------------------------

    async def _home(self, request: Request) -> Response:
        """The page; a link's token becomes a cookie, so that it stays out of histories and other links."""
        token = request.query_params.get("token", "")
        if token:
            if self._crew.find(token) is None:
                return self._stranger()
            return let_in(request, token)
        person = person_of(request, self._crew)
        if person is None:
            return self._stranger()
        text = self._templates.get_template("page.html").render(
            title=self._title,
            classes=self._desk.pool.classes,
            person=person,
            may_review=person.may(REVIEW),
            may_lead=person.may(LEAD),
            may_steer=person.may(LEAD) and self._steering is not None,
            home=self._home_link,
        )
        return HTMLResponse(text)

    def _stranger(self) -> Response:
        return stranger(self._templates)

    async def _image(self, request: Request) -> Response:
        position, size = whole(request.path_params["position"]), request.query_params.get("size", "thumb")
        if person_of(request, self._crew) is None:
            return Response(status_code=401)
        if position is None or position >= len(self._desk.pool.ids) or size not in SIZES:
            return Response(status_code=404)
        data = await run_in_threadpool(self._pictures.get, position, size)
        if data is None:
            return Response(status_code=404)
        return Response(data, media_type=TYPE, headers={"cache-control": "private, max-age=86400"})

    # ---- what the page asks for and says ---------------------------------------------------------------------------

    def _state(self, person: Person) -> dict[str, Any]:
        return state_of(self._desk, person, self._crew.people)

    def _work(self, request: Request, person: Person) -> dict[str, Any]:
        asked = whole(request.query_params.get("n", ""))
        handed = self._desk.hand_out(person, MANY if asked is None else min(asked, MOST))
        return {"items": handed_of(self._desk, handed), "state": self._state(person)}

    def _answer(self, body: Answers, person: Person) -> dict[str, Any]:
        given = [Given(item.position, item.label, item.seconds) for item in body.answers]
        self._desk.answer(person, given, shown=body.shown, way=body.way, action=body.id)
        return {"state": self._state(person)}

    def _undo(self, body: Nothing, person: Person) -> dict[str, Any]:
        items = handed_of(self._desk, self._desk.undo(person))
        return {"items": items, "state": self._state(person)}

    def _give_back(self, body: Positions, person: Person) -> dict[str, Any]:
        self._desk.give_back(person, body.positions)
        return {}

    def _review(self, person: Person) -> dict[str, Any]:
        reviewer = person.may(REVIEW)
        return {
            "disputed": disputed(self._desk) if reviewer else [],
            "doubted": doubted(self._desk) if reviewer else [],
            "none": none_before(self._desk) if reviewer else [],
            "mine": history(self._desk, latest(self._desk, person)),
        }

    def _decide(self, body: Decision, person: Person) -> dict[str, Any]:
        self._desk.review(person, body.position, body.label)
        return {"state": self._state(person)}

    def _learn(self, body: Nothing, person: Person) -> dict[str, Any]:
        self._steered.learn_now()
        return {"state": self._state(person)}

    def _extend(self, body: Rounds, person: Person) -> dict[str, Any]:
        self._steered.extend(body.rounds)
        return {"state": self._state(person)}

    def _classes(self, body: NewClass, person: Person) -> dict[str, Any]:
        if body.instead:
            self._steered.rename_class(body.instead, body.name)
        else:
            self._steered.add_class(body.name)
        return {"state": self._state(person)}

    def _invite(self, body: Invitation, person: Person) -> dict[str, Any]:
        self._crew.invite(body.name, body.role)
        return {"state": self._state(person)}

    @property
    def _steered(self) -> Steering:
        if self._steering is None:
            raise ConfigError("this run is elsewhere: it learns as soon as its query set is answered")
        return self._steering

    # ---- what these are made of ------------------------------------------------------------------------------------

    def _get(self, path: str, work: Work, role: str = LABEL) -> Route:
        async def endpoint(request: Request) -> Response:
            return await self._as(request, role, lambda person: work(request, person))

        return Route(path, endpoint)

    def _post(self, path: str, kind: type[M], work: Callable[[M, Person], Any], role: str = LABEL) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                body = kind.model_validate_json(await request.body())
            except ValidationError:
                return JSONResponse({"error": "the page and the server don't understand each other; reload it"}, 422)
            return await self._as(request, role, lambda person: work(body, person))

        return Route(path, endpoint, methods=["POST"])

    async def _as(self, request: Request, role: str, work: Callable[[Person], Any]) -> Response:
        """Do what a person asks, if the person may."""
        person = person_of(request, self._crew)
        if person is None:
            return JSONResponse({"error": "open your own link again"}, 401)
        if not person.may(role):
            return JSONResponse({"error": f"this needs the role {role}; yours is {person.role}"}, 403)
        try:
            return JSONResponse(await run_in_threadpool(work, person))
        except LedgerError as error:  # the page keeps what it sent, and sends it again
            return JSONResponse({"error": str(error)}, 503)
        except UserError as error:
            return JSONResponse({"error": str(error)}, 400)

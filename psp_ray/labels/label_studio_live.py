"""A connection to a running Label Studio: tasks of an open round into a project, its annotations back.

Through the library label-studio-sdk (`pip install 'psp-ray[label-studio]'`), which knows Label Studio's keys and pages.
Which project a run's tasks are in, and which of them, is noted in the run's folder, so that nothing is pushed twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from psp_ray.core.errors import ConfigError, OracleError
from psp_ray.core.paths import local_path
from psp_ray.core.sealed import DamagedFile, Document, read_document, write_sealed
from psp_ray.core.words import counted, masked, reason_of, short
from psp_ray.labels.asked_anew import dropped
from psp_ray.labels.label_studio import interface, open_query, open_tasks, take_in

FILE = "label_studio.json"
KEY = "LABEL_STUDIO_API_KEY"
"""Environment variable with the access token, as the library itself names it; nothing writes it anywhere."""
AT_ONCE = 50
"""Tasks of one request: they carry their images."""


class Project(Document):
    """`label_studio.json`: the server, the project's number, and the tasks there, `round/sample_id` each."""

    server: str
    project: int
    tasks: list[str] = Field(default_factory=list)


def push(
    run: str | os.PathLike[str],
    classes: Sequence[str],
    server: str | None = None,
    *,
    project: int | None = None,
    url: str | None = None,
    name: str = "",
) -> list[str]:
    """Bring the open tasks of a run into its project, which is made where there is none; returns lines that say so.

    Args:
        server: Label Studio's address; default: that of the run's project.
        project: number of a project that is there already; its labeling interface becomes the run's.
        url, name: as for `psp_ray.labels.label_studio.open_tasks`.

    Raises:
        OracleError: as `open_tasks`; the server doesn't answer, or refuses. ConfigError: no library, key or server.
    """
    folder = local_path(run)
    tasks = open_tasks(run, url=url, name=name)
    known = _known(folder)
    if known is not None and (server not in (None, known.server) or project not in (None, known.project)):
        known = None  # another place: it has none of the tasks
    place = server or (known.server if known is not None else None)
    client = _client(place)
    assert place is not None
    with _Told(place):
        if known is None:
            known = Project(server=place, project=_project(client, project, classes, name or folder.name))
            write_sealed(folder / FILE, known.model_dump())
        else:
            client.projects.update(known.project, label_config=interface(classes))
    there = set(known.tasks)
    new = [task for task in tasks if _id(task) not in there]
    for start in range(0, len(new), AT_ONCE):
        part = new[start : start + AT_ONCE]
        with _Told(place):
            client.projects.import_tasks(known.project, request=part)
        known = known.model_copy(update={"tasks": [*known.tasks, *(_id(task) for task in part)]})
        write_sealed(folder / FILE, known.model_dump())
    told = f"{counted(len(new), 'task')} in {masked(place)}/projects/{known.project}"
    if len(new) < len(tasks):
        told += f", {len(tasks) - len(new):,} were there already"
    return [told, *_not_asked(folder, known), f"when they are annotated: psp-ray tasks pull --run {run}"]


def pull(run: str | os.PathLike[str], classes: Sequence[str]) -> list[str]:
    """Write what was annotated in the run's project into its query files, as `take_in` does; returns its lines.

    Raises:
        OracleError: nothing was pushed; as `take_in`; the server doesn't answer, or refuses. ConfigError: as `push`.
    """
    known = _known(local_path(run))
    if known is None:
        raise OracleError(f"--run {run}: nothing was pushed to Label Studio yet; run psp-ray tasks push first")
    client = _client(known.server)
    with _Told(known.server):
        data = b"".join(client.projects.exports.download_sync(known.project, export_type="JSON"))
    where = f"{masked(known.server)}/projects/{known.project}"
    try:
        content = json.loads(data)
    except ValueError:
        raise OracleError(f"{where}: its export is no JSON ({short(data[:60].decode(errors='replace'))})") from None
    mine = set(known.tasks)
    return take_in(run, classes, [task for task in content if _id(task) in mine], where)


def _not_asked(folder: Path, known: Project) -> list[str]:
    """Tasks in the project that the open round doesn't ask about any more, in words. Nothing is removed there: somebody
    may be at work on it."""
    query = open_query(folder)
    gone = [sample for sample in dropped(query.parent) if f"{query.parent.name}/{sample}" in set(known.tasks)]
    if not gone:
        return []
    names = ", ".join(short(sample, 40) for sample in gone[:3]) + (", ..." if len(gone) > 3 else "")
    return [f"{counted(len(gone), 'task')} there no longer asked about, delete what nobody has annotated: {names}"]


def _known(folder: Path) -> Project | None:
    if not (folder / FILE).exists():
        return None
    try:
        return read_document(folder / FILE, Project)
    except DamagedFile as error:
        raise OracleError(f"{error}; or remove it and push to --project N again") from None


def _id(task: Any) -> str:
    data = task.get("data") if isinstance(task, dict) else None
    return f"{data.get('round')}/{data.get('sample_id')}" if isinstance(data, dict) else ""


def _project(client: Any, number: int | None, classes: Sequence[str], name: str) -> int:
    """The project's number; a new one's where none is given."""
    if number is None:
        return int(client.projects.create(title=f"psp-ray {name}"[:50], label_config=interface(classes)).id)
    client.projects.update(number, label_config=interface(classes))
    return number


def _client(server: str | None) -> Any:
    """A client of the library. Raises ConfigError for no server, key or library."""
    if not server:
        raise ConfigError("--server: say where Label Studio is, such as http://localhost:8080")
    key = os.environ.get(KEY)
    if not key:
        raise ConfigError(f"{KEY}: is not set; copy an access token from Label Studio's account page into it")
    try:
        from label_studio_sdk import LabelStudio
    except ImportError as error:
        raise ConfigError(
            f"the library label-studio-sdk is not there ({reason_of(error, 80)}): pip install 'psp-ray[label-studio]'"
        ) from None
    return LabelStudio(base_url=server.rstrip("/"), api_key=key)


class _Told:
    """What the library raises, in one line."""

    def __init__(self, server: str) -> None:
        self._server = masked(server)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or not isinstance(error, Exception):
            return
        status = getattr(error, "status_code", None)
        said = f"answered {status}: {short(str(getattr(error, 'body', '')), 160)}" if status else reason_of(error, 160)
        raise OracleError(f"Label Studio at {self._server}: {said}; check --server, --project and {KEY}") from None

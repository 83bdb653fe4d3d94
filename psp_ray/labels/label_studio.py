"""Label Studio: a round's images out as tasks, annotations back into its query.csv. Files only, no connection.

The interface offers the classes, and `skip` and `ignore` besides; a task that is skipped in Label Studio itself
(a cancelled annotation) is a skip too. Where several people annotated a task, the newest annotation counts.
"""

from __future__ import annotations

import base64
import csv
import io
import mimetypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from psp_ray.core.answers import WORDS, AnswerReader, UnknownLabel
from psp_ray.core.errors import OracleError
from psp_ray.core.files import read_json, write_json, write_text
from psp_ray.core.writing import writing
from psp_ray.labels.query import QUERY, query_files, read_table

TASKS = "label_studio_tasks.json"
INTERFACE = "label_studio_interface.xml"
FROM, TO = "class", "image"


def interface(classes: Sequence[str]) -> str:
    """The labeling interface (XML) for single-choice classification with `skip` and `ignore`."""
    taken = {name.lower() for name in classes}
    words = [word for word in WORDS if word not in taken]
    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in [*classes, *words])
    return (
        "<View>\n"
        f'  <Image name="{TO}" value="$image"/>\n'
        f'  <Choices name="{FROM}" toName="{TO}" choice="single" showInline="true">\n{choices}\n  </Choices>\n'
        "</View>\n"
    )


def open_query(run: Path) -> Path:
    """The newest round's query.csv.

    Raises:
        OracleError: no run with labels by file there.
    """
    files = query_files(run)
    if not files:
        raise OracleError(f"--run {run}: no round_*/{QUERY} there; run with --oracle file first")
    return files[-1]


def export_tasks(
    run: str | os.PathLike[str],
    classes: Sequence[str],
    *,
    url: str | None = None,
    out: str | os.PathLike[str] | None = None,
) -> list[str]:
    """Write the tasks of a run that are still open, and the interface beside them; returns lines that say so.

    Without `url` images are put into the task file as data URLs, so that nothing needs to be served; with it, a task
    names `URL/round_NN/images/...`.

    Raises:
        OracleError: no query set there, or none with an open task. OutputError: a file can't be written.
    """
    folder = Path(run)
    query = open_query(folder)
    tasks: list[dict[str, Any]] = []
    for row in _rows(query):
        if (row.get("label") or "").strip():
            continue
        if not row.get("image") and not row.get("path"):
            raise OracleError(f"{query}: sample {row['sample_id']!r} has no image to show; label it in that file")
        image = query.parent / row["image"] if row.get("image") else Path(row["path"])
        data = {"sample_id": row["sample_id"], "round": query.parent.name}
        task: dict[str, Any] = {"data": {"image": _address(image, query, url), **data}}
        if row.get("suggestion"):
            task["predictions"] = [{"model_version": "psp-ray", "result": [_choice(row["suggestion"])]}]
        tasks.append(task)
    if not tasks:
        raise OracleError(
            f"--run {run}: nothing to export: every image of {query.parent.name} has its label; go on with: psp-ray "
            f"continue {run}"
        )
    file = Path(out) if out is not None else query.parent / TASKS
    with writing(file, "choose another place with --out"):
        write_json(file, tasks)
        write_text(file.with_name(INTERFACE), interface(classes))
    return [
        f"{len(tasks):,} tasks in {file}",
        f"the labeling interface, to paste into the project's settings: {file.with_name(INTERFACE)}",
        f"then export as JSON and run: psp-ray tasks import --run {run} EXPORT.json",
    ]


def _choice(name: str) -> dict[str, Any]:
    return {"from_name": FROM, "to_name": TO, "type": "choices", "value": {"choices": [name]}}


def _address(image: Path, query: Path, url: str | None) -> str:
    if url is not None:
        return f"{url.rstrip('/')}/{query.parent.name}/{image.parent.name}/{image.name}"
    kind = mimetypes.guess_type(image.name)[0] or "image/png"
    try:
        data = image.read_bytes()
    except OSError as error:
        raise OracleError(f"{image}: can't be read ({error.strerror}); restore it or give --url") from None
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def import_annotations(
    run: str | os.PathLike[str], classes: Sequence[str], annotations: str | os.PathLike[str]
) -> list[str]:
    """Write what was annotated into the label column of the run's query files; returns lines that say so.

    Takes Label Studio's exports JSON and JSON-MIN. Labels that are there already are replaced where they differ.

    Raises:
        OracleError: unreadable, a task of no image of the run, or a choice that is no class; nothing is changed then.
    """
    folder = Path(run)
    open_query(folder)
    try:
        content = read_json(Path(annotations))
    except (OSError, ValueError) as error:
        raise OracleError(f"{annotations}: can't be read as JSON ({error}); export from Label Studio as JSON") from None
    if not isinstance(content, list) or not all(isinstance(task, dict) for task in content):
        raise OracleError(f"{annotations}: not a list of tasks; export from Label Studio as JSON")
    answers: dict[str, str] = {}
    read = AnswerReader(classes)
    for number, task in enumerate(content, 1):
        where = f"{annotations}: task {task.get('id', number)}"
        answer = _answer(task)
        if answer is None:
            continue
        sample = (task.get("data") or task).get("sample_id")
        if not sample:
            raise OracleError(f"{where}: no sample_id; import the tasks that psp-ray tasks export wrote")
        try:
            read(answer)
        except UnknownLabel as error:
            raise OracleError(f"{where}: {error}") from None
        answers[str(sample)] = answer
    known: set[str] = set()
    changed = 0
    tables = []
    for query in query_files(folder):
        rows = _rows(query)
        known |= {row["sample_id"] for row in rows}
        touched = False
        for row in rows:
            answer = answers.get(row["sample_id"])
            if answer is not None and row["label"] != answer:
                row["label"], touched = answer, True
                changed += 1
        if touched:
            tables.append((query, rows))
    strange = sorted(set(answers) - known)
    if strange:
        raise OracleError(f"{annotations}: {strange[0]!r} was never asked in {run}; give the run's own annotations")
    for query, rows in tables:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(query, text.getvalue())
    return [f"{len(answers):,} annotations, {changed:,} labels written; continue the run with --resume"]


def _answer(task: dict[str, Any]) -> str | None:
    """The newest annotation of a task as text; None where there is none."""
    if "annotations" not in task:  # JSON-MIN: the choice stands beside the data
        choice = task.get(FROM)
        choice = choice.get("choices", [None])[0] if isinstance(choice, dict) else choice
        return str(choice) if choice else None
    found = [item for item in task["annotations"] if isinstance(item, dict)]
    for item in sorted(
        found, key=lambda item: str(item.get("updated_at") or item.get("created_at") or ""), reverse=True
    ):
        if item.get("was_cancelled"):
            return "skip"
        for result in item.get("result", []):
            choices = result.get("value", {}).get("choices") if result.get("type") == "choices" else None
            if choices:
                return str(choices[0])
    return None


def _rows(query: Path) -> list[dict[str, str]]:
    _, header, records = read_table(query)
    return [
        {name: record[place] if place < len(record) else "" for place, name in enumerate(header)}
        for _, record in records
    ]

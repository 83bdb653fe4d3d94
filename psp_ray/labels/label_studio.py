"""Label Studio: a round's images out as tasks, annotations back into its query.csv, as files.

The interface offers the classes, and `skip` and `ignore` besides; a task that is skipped in Label Studio itself
(a cancelled annotation) is a skip too. Of one person the newest annotation of a task counts; where several people
annotated it, what most of them say, and how far they agree is told. What exports look like,
`psp_ray.labels.annotations` knows; `psp_ray.labels.label_studio_live` connects to a server.
"""

from __future__ import annotations

import base64
import json
import mimetypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from psp_ray.core.answers import SKIP, WORDS, AnswerReader, UnknownLabel
from psp_ray.core.errors import OracleError
from psp_ray.core.files import write_json, write_text
from psp_ray.core.paths import local_path
from psp_ray.core.tables import read_text
from psp_ray.core.words import counted, printable, same_text, short
from psp_ray.core.writing import writing
from psp_ray.labels.agreement import nominal_alpha
from psp_ray.labels.annotations import CANCELLED, CONTROL, Export, Unreadable, read_export
from psp_ray.labels.asked_anew import dropped
from psp_ray.labels.layout import laid_out, scores_of
from psp_ray.labels.query import QUERY, line_of, query_files, read_table, write_table

TASKS = "label_studio_tasks.json"
INTERFACE = "label_studio_interface.xml"
FROM, TO = CONTROL, "image"


def interface(classes: Sequence[str]) -> str:
    """The labeling interface (XML) for single-choice classification with `skip` and `ignore`."""
    read = AnswerReader(classes)
    words = [word for word, code in WORDS.items() if read(word) == code]  # where no class is called so
    names = [printable(name) for name in [*classes, *words]]
    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in names)
    return (
        "<View>\n"
        f'  <Image name="{TO}" value="$image"/>\n'
        f'  <Choices name="{FROM}" toName="{TO}" choice="single" showInline="true">\n{choices}\n  </Choices>\n'
        "</View>\n"
    )


def open_query(run: Path) -> Path:
    """The query.csv of the newest round that has an open line, or of the newest one.

    Raises:
        OracleError: no run with labels by file there.
    """
    files = query_files(run)
    if not files:
        raise OracleError(f"--run {run}: no round_*/{QUERY} there; run with --oracle file first")
    # Where checkpoints were lost, a round is asked again that tables of later ones lie behind.
    return next((file for file in reversed(files) if any(map(_is_open, _rows(file)))), files[-1])


def _is_open(row: dict[str, str]) -> bool:
    return not (row.get("label") or "").strip()


def open_tasks(run: str | os.PathLike[str], *, url: str | None = None, name: str = "") -> list[dict[str, Any]]:
    """The tasks of a run that are still open.

    Without `url` images are put into the tasks as data URLs, so that nothing needs to be served; with it, a task names
    `URL/round_NN/images/...`. Where the run suggests labels, a task brings the prediction and its score; `name` is that
    of the run, by which predictions of several runs and rounds are told apart.

    Raises:
        OracleError: no query set there, or none with an open task.
    """
    query = open_query(local_path(run))
    tasks: list[dict[str, Any]] = []
    shown, scores = laid_out(query.parent), scores_of(query.parent)
    version = "/".join(part for part in ("psp-ray", name, query.parent.name) if part)
    for row in _rows(query):
        if not _is_open(row):
            continue
        # Not what the table says, which people sent back, but what was laid out under this name.
        image = shown.get(row["sample_id"])
        if image is None:
            raise OracleError(f"{query}: sample {row['sample_id']!r} has no image to show; label it in that file")
        data = {"sample_id": row["sample_id"], "round": query.parent.name, **({"run": name} if name else {})}
        task: dict[str, Any] = {"data": {"image": _address(image, query, url), **data}}
        if row.get("suggestion"):
            prediction: dict[str, Any] = {"model_version": version, "result": [_choice(row["suggestion"])]}
            if row["sample_id"] in scores:
                prediction["score"] = round(scores[row["sample_id"]], 4)
            task["predictions"] = [prediction]
        tasks.append(task)
    if not tasks:
        raise OracleError(
            f"--run {run}: nothing to export: every image of {query.parent.name} has its label; go on with: psp-ray "
            f"continue {run}"
        )
    return tasks


def export_tasks(
    run: str | os.PathLike[str],
    classes: Sequence[str],
    *,
    url: str | None = None,
    out: str | os.PathLike[str] | None = None,
    name: str = "",
) -> list[str]:
    """Write the tasks of a run that are still open (`open_tasks`), and the interface beside them; returns lines that
    say so.

    Raises:
        OracleError: as `open_tasks`. OutputError: a file can't be written.
    """
    tasks, query = open_tasks(run, url=url, name=name), open_query(local_path(run))
    file = local_path(out) if out is not None else query.parent / TASKS
    with writing(file, "choose another place with --out"):
        write_json(file, tasks)
        write_text(file.with_name(INTERFACE), interface(classes))
    return [
        f"{counted(len(tasks), 'task')} in {file}",
        f"the labeling interface, to paste into the project's settings: {file.with_name(INTERFACE)}",
        f"then export as JSON and run: psp-ray tasks import --run {run} EXPORT.json",
    ]


def _choice(name: str) -> dict[str, Any]:
    return {"from_name": FROM, "to_name": TO, "type": "choices", "value": {"choices": [name]}}


def _address(image: Path, query: Path, url: str | None) -> str:
    if url is not None:
        return f"{url.rstrip('/')}/{query.parent.name}/{image.parent.name}/{quote(image.name)}"
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
        OracleError: unreadable, a task of no image of the run, a choice that is no class or several at once, or nothing
            but annotations without a choice; nothing is changed then.
    """
    open_query(local_path(run))
    try:
        content = json.loads(read_text(local_path(annotations).read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())[:160]
        raise OracleError(
            f"{annotations}: can't be read as JSON ({reason}); export from Label Studio as JSON"
        ) from None
    return take_in(run, classes, content, annotations)


def take_in(
    run: str | os.PathLike[str], classes: Sequence[str], content: Any, annotations: str | os.PathLike[str]
) -> list[str]:
    """The same of an export's `content`; `annotations` says where it is from, for messages."""
    try:
        export = read_export(content)
    except Unreadable as error:
        raise OracleError(f"{annotations}: {error}") from None
    if export.empty and not export.choices:
        raise OracleError(
            f"{annotations}: {counted(export.empty, 'annotation')}, but none chose a class; "
            "annotate with the interface "
            "that psp-ray tasks export wrote"
        )
    answers, open_again = _texts(export, classes, annotations)
    changed = _fill(local_path(run), run, answers, annotations)
    told = [
        f"{counted(len(answers), 'annotation')}, {counted(changed, 'label')} written; go on with: "
        f"psp-ray continue {run}"
    ]
    if open_again:
        skipped = counted(open_again, "task was skipped", "tasks were skipped")
        told.append(f"{skipped}, but a class is called skip: {'it stays' if open_again == 1 else 'they stay'} open")
    if export.empty:
        told.append(f"{counted(export.empty, 'annotation')} passed over, where nothing was chosen")
    return told + _agreement(export)


def _agreement(export: Export) -> list[str]:
    """How far several people agree, in words."""
    several = {sample: said for sample, said in export.opinions().items() if len(said) > 1}
    if not several:
        return []
    alpha = nominal_alpha([choice.value for choice in said] for said in several.values())
    people = len({choice.person for said in several.values() for choice in said})
    told = [
        f"{counted(len(several), 'image was', 'images were')} annotated by several of {people} people"
        + ("" if alpha is None else f", Krippendorff's alpha {alpha:.2f} (1: always the same, 0: as by chance)")
    ]
    differ = [sample for sample, said in several.items() if len({choice.value for choice in said}) > 1]
    decided = export.decided()
    tied = [sample for sample in differ if sample not in decided]
    if len(differ) > len(tied):
        told.append(f"{len(differ) - len(tied):,} of them differently: what most of them say counts")
    if tied:
        names = ", ".join(short(sample, 40) for sample in tied[:3]) + (", ..." if len(tied) > 3 else "")
        told.append(f"{len(tied):,} of them with nothing said by most ({names}): left open, decide in Label Studio")
    return told


def _texts(export: Export, classes: Sequence[str], annotations: str | os.PathLike[str]) -> tuple[dict[str, str], int]:
    """({sample_id: what to write into its label}, how many skipped tasks there is no word for)."""
    read = AnswerReader(classes)
    can_skip = read("skip") == SKIP
    answers: dict[str, str] = {}
    open_again = 0
    for sample, choice in export.decided().items():
        if choice.value is CANCELLED:
            if can_skip:
                answers[sample] = "skip"
            open_again += not can_skip
            continue
        try:
            read(choice.value)
        except UnknownLabel as error:
            raise OracleError(f"{annotations}: task {short(choice.task, 30)}: {error}") from None
        answers[sample] = choice.value
    return answers, open_again


def _fill(folder: Path, run: str | os.PathLike[str], answers: dict[str, str], annotations: Any) -> int:
    """Write answers into the query files; returns how many labels changed. Raises OracleError for a strange sample."""
    alike = {same_text(sample): sample for sample in answers}
    known: set[str] = set()
    changed = 0
    tables = {}
    for query in query_files(folder):
        delimiter, header, records = read_table(query)
        place, label = header.index("sample_id"), header.index("label")
        rows = [record + [""] * (len(header) - len(record)) for _, record in records]
        before = changed
        for record in rows:
            cell = record[place]
            sample = cell if cell in answers else alike.get(same_text(cell), cell)
            known.add(sample)
            if sample in answers and record[label] != answers[sample]:
                record[label] = answers[sample]
                changed += 1
        tables[query] = (delimiter, header, rows, changed > before)
    for query, (delimiter, header, rows, touched) in tables.items():
        # What is not asked any more may have been annotated meanwhile: no answer is dropped.
        late = [sample for sample in dropped(query.parent) if sample in answers and sample not in known]
        tables[query] = (
            delimiter,
            header,
            [*rows, *(line_of(header, s, answers[s]) for s in late)],
            touched or bool(late),
        )
        known.update(late)
        changed += len(late)
    strange = sorted(set(answers) - known)
    if strange:
        raise OracleError(
            f"{annotations}: {short(strange[0])!r} was never asked in {run}; give the run's own annotations"
        )
    for query, (delimiter, header, rows, touched) in tables.items():
        if touched:
            write_table(query, [header, *rows], delimiter)
    return changed


def _rows(query: Path) -> list[dict[str, str]]:
    _, header, records = read_table(query)
    return [
        {name: record[place] if place < len(record) else "" for place, name in enumerate(header)}
        for _, record in records
    ]

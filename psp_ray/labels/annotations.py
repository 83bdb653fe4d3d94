"""Label Studio's exports: what people chose for each task, in every shape that it writes JSON in.

JSON has tasks with their annotations, each a list of results of named controls; JSON-MIN has a record an annotation,
with the value of each control beside the data. The interface that `psp-ray tasks export` writes has one control,
`class`; in an interface of somebody else's, the only control of choices or a taxonomy is taken.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from psp_ray.core.words import short
from psp_ray.labels.agreement import most_said

CONTROL = "class"
"""The name of the control in the interface that psp-ray writes."""
CANCELLED = object()
"""Stands for a choice where the task was skipped in Label Studio itself."""
_LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)
_OURS = frozenset(
    ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "image", "sample_id", "round")
)
"""Keys of a record of JSON-MIN that are no control."""


class Unreadable(ValueError):
    """An annotation can't be taken for one class; the message says why."""


@dataclass(frozen=True)
class Choice:
    """One annotation: what was chosen (a class's name, or CANCELLED), for which sample, when, in which task, by whom
    (empty where the export doesn't say)."""

    task: str
    sample_id: str
    value: Any
    when: datetime
    person: str = ""


@dataclass(frozen=True)
class Export:
    """All annotations of an export that chose something, and how many there are that chose nothing."""

    choices: list[Choice]
    empty: int
    tasks: int

    def opinions(self) -> dict[str, list[Choice]]:
        """By sample, what each person says: the newest choice, of several at one time the last."""
        found: dict[str, dict[str, Choice]] = {}
        for choice in sorted(self.choices, key=lambda choice: choice.when):
            found.setdefault(choice.sample_id, {})[choice.person] = choice
        return {sample: list(said.values()) for sample, said in found.items()}

    def decided(self) -> dict[str, Choice]:
        """By sample, what most people say; samples of which several things are said equally often are not in it."""
        found = {}
        for sample, said in self.opinions().items():
            most = most_said([choice.value for choice in said])
            if most is not None:
                found[sample] = next(choice for choice in said if choice.value == most)
        return found


def read_export(content: Any) -> Export:
    """What an export's JSON says.

    Raises:
        Unreadable: not a list of tasks; several classes for one image, controls of which none is ours, no sample_id.
    """
    if isinstance(content, dict):
        content = content.get("tasks") if isinstance(content.get("tasks"), list) else [content]
    if not isinstance(content, list) or not all(isinstance(task, dict) for task in content):
        raise Unreadable("not a list of tasks; export from Label Studio as JSON")
    choices: list[Choice] = []
    empty = 0
    control = _control(content)
    for number, task in enumerate(content, 1):
        name = str(task.get("id", number))
        for annotation in _annotations(task):
            value = _value(annotation, control, f"task {short(name, 30)}")
            if value is None:
                empty += 1
                continue
            choices.append(Choice(name, _sample(task, name), value, _when(annotation), _person(annotation)))
    return Export(choices, empty, len(content))


def _is_min(task: dict[str, Any]) -> bool:
    """Whether a record is one of JSON-MIN: no annotations in it, and no data of its own."""
    return "annotations" not in task and "completions" not in task and not isinstance(task.get("data"), dict)


def _annotations(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A task's annotations; a record of JSON-MIN is one itself."""
    if _is_min(task):
        yield task
        return
    for key in ("annotations", "completions"):
        found = task.get(key)
        for item in found if isinstance(found, list) else []:
            if isinstance(item, dict):
                yield item


def _results(annotation: dict[str, Any]) -> list[dict[str, Any]]:
    results = annotation.get("result")
    return [result for result in results if isinstance(result, dict)] if isinstance(results, list) else []


def _control(tasks: Sequence[dict[str, Any]]) -> str:
    """The control that holds the class: ours, or the only one of choices or a taxonomy.

    Raises:
        Unreadable: several, and none is called `class`.
    """
    found = Counter[str]()
    for task in tasks:
        if _is_min(task):
            found.update(key for key, value in task.items() if key not in _OURS and _may_be_choice(key, value))
            continue
        for annotation in _annotations(task):
            found.update(
                str(result["from_name"])
                for result in _results(annotation)
                if result.get("type") in ("choices", "taxonomy") and result.get("from_name") is not None
            )
    if CONTROL in found or not found:
        return CONTROL
    if len(found) > 1:
        names = ", ".join(repr(short(name, 30)) for name in sorted(found))
        raise Unreadable(f"several controls ({names}) and none called {CONTROL!r}; rename the one with the class")
    return next(iter(found))


def _may_be_choice(key: str, value: Any) -> bool:
    """Whether a value of JSON-MIN may be that of choices or a taxonomy, which only ours is sure to be."""
    return key == CONTROL or (isinstance(value, dict) and "choices" in value) or isinstance(value, list)


def _value(annotation: dict[str, Any], control: str, where: str) -> Any:
    """What an annotation chose; None for nothing."""
    if annotation.get("was_cancelled"):
        return CANCELLED
    if "result" not in annotation:
        return _one(_plain(annotation.get(control)), where)
    values: list[Any] = []
    for result in _results(annotation):
        value = result.get("value")
        if result.get("from_name") in (control, None) and isinstance(value, dict):
            kind = next((kind for kind in ("choices", "taxonomy") if kind in value), None)
            if kind is None:
                raise Unreadable(f"{where}: control {control!r} holds {short(', '.join(value), 40)}, not choices")
            values += _plain({kind: value[kind]})
    return _one(values, where)


def _plain(value: Any) -> list[Any]:
    """A control's value as the list of what was chosen; of a taxonomy's paths, their last parts."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            return [value]
    if isinstance(value, dict):
        value = next((value[kind] for kind in ("choices", "taxonomy") if kind in value), None)
    if value is None or value == "":
        return []
    items = value if isinstance(value, list) else [value]
    if items and all(isinstance(item, str) for item in items):
        return items
    return [item[-1] if isinstance(item, list) and item else item for item in items]


def _one(values: list[Any], where: str) -> str | None:
    distinct = list(dict.fromkeys(str(value).strip() for value in values if value is not None and value != []))
    distinct = [value for value in distinct if value]
    if len(distinct) > 1:
        raise Unreadable(f"{where}: several classes ({short(', '.join(distinct))}); choose one")
    return distinct[0] if distinct else None


def _sample(task: dict[str, Any], name: str) -> str:
    data = task.get("data")
    sample = (data if isinstance(data, dict) else task).get("sample_id")
    if sample is None or sample == "":
        raise Unreadable(f"task {short(name, 30)}: no sample_id; import the tasks that psp-ray tasks export wrote")
    return str(sample)


def _person(annotation: dict[str, Any]) -> str:
    """Who annotated: a number, an address, or a record of both; JSON-MIN calls it `annotator`."""
    found = annotation.get("completed_by", annotation.get("annotator"))
    if isinstance(found, dict):
        found = found.get("email") or found.get("id")
    return "" if found is None else str(found)


def _when(annotation: dict[str, Any]) -> datetime:
    for key in ("updated_at", "created_at"):
        try:
            when = datetime.fromisoformat(str(annotation.get(key)))
        except ValueError:
            continue
        return when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    return _LONG_AGO

"""Checksums: what was damaged on a disk or by a hand is found before it is believed.

A sealed document is a JSON object that carries the checksum of its own content. One without a checksum (of an older
version, or written by hand) is believed where it fits its schema.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from psp_ray.core.errors import OutputError
from psp_ray.core.files import plain, write_json
from psp_ray.core.ours import run_above
from psp_ray.core.words import reason_of

CHECKSUM = "checksum"


class DamagedFile(OutputError):
    """A file that psp-ray wrote is not what it wrote: `path`, and `reason` without the path."""

    def __init__(self, path: Path, reason: str) -> None:
        run = run_above(path)
        anew = "by the same comparison or sweep with --resume" if run is None else f"by: psp-ray continue {run}"
        super().__init__(f"{path}: {reason}; restore it, or have it written anew {anew}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.reason)


class Document(BaseModel):
    """Schema of a JSON object on disk; keys that it doesn't name are left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


D = TypeVar("D", bound=Document)
T = TypeVar("T")


def digest_of(data: bytes) -> str:
    """Hex digest of a file's content (BLAKE2b, 16 bytes)."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def file_digest(path: Path) -> str | None:
    """The digest of the file's content; None where there is no such file, or it can't be read."""
    try:
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError:
        return None


def sealed_bytes(content: dict[str, Any]) -> bytes:
    """An object with its checksum, as a file's content."""
    return (json.dumps(plain({**content, CHECKSUM: _checksum(content)}), indent=1, allow_nan=False) + "\n").encode()


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Write an object with its checksum. Raises OutputError."""
    write_json(path, {**content, CHECKSUM: _checksum(content)})


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object, sealed or not.

    Raises:
        DamagedFile: missing, unreadable, no JSON object, or its checksum is another one.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DamagedFile(path, "is missing") from None
    except OSError as error:
        raise DamagedFile(path, f"can't be read ({error.strerror})") from None
    return parse_object(path, data)


def parse_object(path: Path, data: bytes) -> dict[str, Any]:
    """As `read_object`, of the content `data` of `path`."""
    try:
        content = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise DamagedFile(path, "is damaged (no JSON)" if data else "is empty") from None
    if not isinstance(content, dict):
        raise DamagedFile(path, "is damaged (no JSON object)")
    seal = content.pop(CHECKSUM, None)
    if seal is not None and seal != _checksum(content):
        raise DamagedFile(path, "is damaged (its checksum is another one)")
    return content


def read_document(path: Path, schema: type[D]) -> D:
    """A JSON object that fits `schema`. Raises DamagedFile as `read_object`, or where it doesn't."""
    return fitting(path, read_object(path), schema)


def fitting(path: Path, content: dict[str, Any], schema: type[D]) -> D:
    """`content` of the file `path` as its schema. Raises DamagedFile naming the first key that doesn't fit."""
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "content"
        raise DamagedFile(path, f"is damaged ({place}: {' '.join(first['msg'].split())[:120].lower()})") from None


def read_record(path: Path, kind: type[T]) -> T:
    """A JSON object as the dataclass `kind`, every field checked. Raises DamagedFile as `read_document`."""
    content = read_object(path)
    try:
        return TypeAdapter(kind).validate_python(content)
    except (ValidationError, ValueError, TypeError) as error:
        raise DamagedFile(path, f"is damaged ({reason_of(error, 160)})") from None


def _checksum(content: dict[str, Any]) -> str:
    text = json.dumps(plain(content), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return digest_of(text.encode())

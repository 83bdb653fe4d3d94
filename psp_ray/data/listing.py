"""Image files below a folder, by content rather than by name, and what lies there besides."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from psp_ray.core.errors import DatasetError
from psp_ray.core.ours import is_ours
from psp_ray.core.words import short
from psp_ray.data.images import ImageError, check_header, image_extensions, may_be_image

Parts = tuple[str, ...]

NO_IMAGE = "not an image"
HIDDEN = "hidden, or left there by a system"
NO_FILE = "not a regular file"
DANGLING = "a link to nothing"
RAW = "a camera's raw format: convert it to JPEG or PNG"
NOT_UTF8 = "its name is not UTF-8: rename it"
LOOSE = "in no class folder"
OUTPUT = "an output folder of psp-ray"
EMPTY = "a folder without an image"
FOREIGN = {
    "HEIC": (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
    "AVIF": (b"avif", b"avis"),
}
"""Brands of ISO media files that hold images."""
_RAW_ENDINGS = frozenset(
    (".3fr", ".arw", ".cr2", ".cr3", ".dng", ".erf", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw")
)
_JXL = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")
_HEAD = 32
SHOWN = 3


@dataclass
class Listing:
    """Image files as path parts relative to a folder, and by reason what else was found."""

    files: list[Parts] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def skip(self, parts: Parts, reason: str) -> None:
        self.skipped[reason].append("/".join(parts))

    def notes(self) -> list[str]:
        """A line for each reason: how many were left out, and the names of some."""
        return [left_out(names, reason) for reason, names in sorted(self.skipped.items()) if names]


def left_out(names: Iterable[str], reason: str) -> str:
    """`left out 5 files (a.txt, b.txt, c.txt, ...): not an image`."""
    found = sorted(names)
    kind = "folder" if reason in (EMPTY, OUTPUT) else "file"
    more = ", ..." if len(found) > SHOWN else ""
    shown = ", ".join(short(name, 60) for name in found[:SHOWN])
    return f"left out {len(found):,} {kind}{'s' if len(found) > 1 else ''} ({shown}{more}): {reason}"


def image_files(root: Path, *, any_name: bool = False) -> Listing:
    """What lies below `root`. Links are followed, each real folder once on a path.

    A file with an image's ending is one (what it holds is seen when it is decoded); of the others, those that begin
    like an image are. `any_name`: names that are not UTF-8 will do, too.

    Raises:
        DatasetError: a folder can't be read.
    """
    found = Listing()
    extensions = image_extensions()

    def walk(folder: str, parts: Parts, above: frozenset[str]) -> int:
        real = os.path.realpath(folder)
        if real in above:
            return 1  # a link back: not an empty folder
        count = 0
        empty: list[Parts] = []
        with os.scandir(folder) as scan:
            entries = list(scan)
        if parts and is_ours(folder, {entry.name for entry in entries}):
            found.skip(parts, OUTPUT)
            return 1
        for entry in entries:
            here = (*parts, entry.name)
            if entry.name.startswith(".") or entry.name in ("__MACOSX", "Thumbs.db", "desktop.ini"):
                found.skip(here, HIDDEN)
            elif entry.is_dir():
                inside = walk(entry.path, here, above | {real})
                count += inside
                if not inside:
                    empty.append(here)
            else:
                reason = _refused(entry, extensions) or ("" if any_name or _is_utf8(entry.name) else NOT_UTF8)
                if reason:
                    found.skip(here, reason)
                else:
                    found.files.append(here)
                    count += 1
        if count or not parts:  # of folders in each other, the outermost empty one is named
            for name in empty:
                found.skip(name, EMPTY)
        return count

    try:
        walk(str(root), (), frozenset())
    except OSError as error:
        raise DatasetError(
            f"folder {error.filename} can't be read ({error.strerror}); change its permissions"
        ) from None
    return found


def _is_utf8(name: str) -> bool:
    return not any("\udc80" <= character <= "\udcff" for character in name)


def _refused(entry: os.DirEntry[str], extensions: frozenset[str]) -> str:
    """Why a directory entry is no image; empty where it is one."""
    if not entry.is_file():  # known from the listing, without a look at each file
        return DANGLING if entry.is_symlink() and not os.path.exists(entry.path) else NO_FILE
    ending = os.path.splitext(entry.name)[1].lower()
    if ending in extensions:
        return ""
    if ending in _RAW_ENDINGS:
        return RAW
    try:
        with open(entry.path, "rb") as handle:
            head = handle.read(_HEAD)
    except OSError:
        return "it can't be read: change its permissions"
    if may_be_image(head):
        try:
            check_header(entry.path)
            return ""
        except ImageError:
            pass
    return _foreign(head) or NO_IMAGE


def _foreign(head: bytes) -> str:
    """An image format that Pillow doesn't read here."""
    kind = next((name for name, brands in FOREIGN.items() if head[4:8] == b"ftyp" and head[8:12] in brands), None)
    if head.startswith(_JXL):
        kind = "JPEG XL"
    return "" if kind is None else f"{kind}, which Pillow doesn't read here: convert it to JPEG or PNG"

"""What other packages add by entry points, and whether an error is theirs: then it is one line that names the place."""

from __future__ import annotations

import traceback
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from psp_ray.core.errors import OthersError, UserError

_OURS = __name__.partition(".")[0]
_NAMED: dict[str, dict[str, str]] = defaultdict(dict)
"""Of each module the names of what was loaded from it, and what messages call that: "strategy 'farthest'"."""


def note_others(module: str, name: str, what: str) -> None:
    """Remember that `what` is the class or function `name` in `module` of another package."""
    if _package(module) != _OURS:
        _NAMED[module][name] = what


def is_others(value: object) -> bool:
    """Whether a class or function comes from a package that was remembered."""
    return _is_others(str(getattr(value, "__module__", "")))


def fault_of(error: BaseException) -> OthersError | None:
    """The error in one line, with the file and line of the other package; None where none had a part in it."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    theirs = [place for place, frame in enumerate(frames) if _is_others(_module(frame))]
    if not theirs:
        return None
    step = traceback.extract_tb(error.__traceback__)[theirs[-1]]
    said = " ".join(f"{type(error).__name__}: {error}".rstrip(": ").split())[:300]
    where = f"{step.filename}:{step.lineno}, in {step.name}"
    found = OthersError(
        f"{_what([frames[place] for place in theirs])} failed at {where}: {said}; mend it",
        "".join(traceback.format_exception(error)),
    )
    for note in getattr(error, "__notes__", ()):
        found.add_note(note)
    return found


@contextmanager
def named_faults() -> Iterator[None]:
    """What fails in another package comes out as an `OthersError` that names the place."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        found = fault_of(error)
        if found is None:
            raise
        raise found from None


def _what(frames: Sequence[FrameType]) -> str:
    """What was called: by the class or function of a frame, or by the package where it holds nothing else."""
    known = {}
    for module, named in _NAMED.items():
        known.update(named if _same(module, _module(frames[-1])) else {})
    for frame in frames:
        kind = type(frame.f_locals.get("self"))
        for name in (kind.__qualname__, frame.f_code.co_qualname.partition(".")[0]):
            if name in known:
                return known[name]
    return next(iter(known.values())) if len(known) == 1 else f"package {_package(_module(frames[-1]))!r}"


def _is_others(module: str) -> bool:
    return any(_same(other, module) for other in _NAMED)


def _same(one: str, other: str) -> bool:
    return _package(one) == _package(other)


def _package(module: str) -> str:
    return module.partition(".")[0]


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))

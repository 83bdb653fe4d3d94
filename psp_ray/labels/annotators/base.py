"""The contract of an annotator: whoever knows, or is paid to find out, the class of an image."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from psp_ray.core.errors import ConfigError


@dataclass(frozen=True)
class Item:
    """One image to be labeled.

    `content_hash` names its bytes; a paid service should use it as its idempotency key, since after a crash between
    the answer and the ledger's commit the same item is asked again. `round`: in which round it is asked. `suggestion`:
    the class that the current prompts predict, where people are to be shown it; else empty.
    """

    sample_id: str
    content_hash: str
    round: int = 0
    suggestion: str = ""


class Annotator(Protocol):
    """A source of labels.

    `name` is part of a bought label's key: labels of one annotator are never taken for another's. `cost` is the
    price of one label, in any unit. `batch_size` is how many items are asked, and made durable, at a time; None for
    all of them.
    """

    @property
    def name(self) -> str: ...
    @property
    def cost(self) -> float: ...
    @property
    def batch_size(self) -> int | None: ...

    def annotate(self, items: Sequence[Item]) -> Sequence[int | None]:
        """One answer for each item, in their order: a class index (0..C-1), SKIP (can't tell), IGNORE (none of the
        classes), or None where there is no answer yet: what was answered is kept, and the request waits.

        Raises OracleError where it fails.
        """
        ...


class RevisingAnnotator(Annotator, Protocol):
    """An annotator that may change its mind: asked before each request about what it answered in earlier ones.

    Where it also has a method `settled()`, that is called once the revisions are durable in the ledger: an annotator
    that must tell its own changes from those made elsewhere remembers there what it said.
    """

    def revisions(self, told: Mapping[str, int]) -> Mapping[str, int]:
        """Given {sample_id: answer} of all earlier requests: the answers that are different now."""
        ...


Factory = TypeVar("Factory", bound=Callable[..., Any])
_ANNOTATORS: dict[str, Callable[..., Any]] = {}


def register_annotator(name: str) -> Callable[[Factory], Factory]:
    """Class decorator that makes an annotator available under `name`. Raises ValueError for a name already taken."""

    def add(factory: Factory) -> Factory:
        if name in _ANNOTATORS:
            raise ValueError(f"annotator {name!r} is registered twice")
        _ANNOTATORS[name] = factory
        return factory

    return add


def annotator_names() -> list[str]:
    """Names of all annotators, sorted."""
    return sorted(_ANNOTATORS)


def make_annotator(name: str, **arguments: Any) -> Annotator:
    """The annotator called `name`. Raises ConfigError, with the nearest name, for an unknown one."""
    if name not in _ANNOTATORS:
        near = difflib.get_close_matches(name, _ANNOTATORS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"oracle: unknown {name!r}, known are {', '.join(annotator_names())}{hint}")
    annotator: Annotator = _ANNOTATORS[name](**arguments)
    return annotator

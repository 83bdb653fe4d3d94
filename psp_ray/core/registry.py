"""Registries: one for each kind of thing that somebody may add a new one of in one new file.

A registry knows its kind ("reward"), and the package in which its entries live. A name is looked for in the module of
that package that is called like it (`alfa-mix` in `alfa_mix.py`), then in every one (but those that begin with an
underscore), which are imported and register what they hold:

    REWARDS: Registry[Reward] = Registry("reward", "psp_ray.policy.rewards")

    @REWARDS.register("gap", source="method.md, step 7")
    def gap(...): ...

Other packages add theirs by an entry point in a group named like the package. A file that can't be imported is one
clear line when its name is asked for, or a note in a listing; it doesn't keep anybody from using the others.
Files of a registry must be cheap to import: heavy libraries are imported in functions.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from psp_ray.core.errors import ConfigError
from psp_ray.core.others import note_others
from psp_ray.core.words import did_you_mean

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered thing: its name, itself, what it is in one line, where it comes from, and its settings class."""

    name: str
    value: T
    summary: str
    source: str
    settings: type[Any] | None = None


@dataclass(frozen=True)
class Broken:
    """A file or entry point that could not be imported, and why."""

    name: str
    place: str
    reason: str


class Registry(Generic[T]):
    """Things of one kind by name.

    Args:
        kind: what one of them is called in messages, say "reward".
        package: where this package's own ones live; also the entry-point group of those of others. None: only what
            code registers itself.
        option: the option that names one, for messages; "" where none does.
    """

    def __init__(self, kind: str, package: str | None = None, option: str = ""):
        self.kind, self.package, self.option = kind, package, option
        self._entries: dict[str, Entry[T]] = {}
        self._broken: dict[str, Broken] = {}
        self._discovered = False

    def register(
        self, name: str, *, source: str = "", summary: str = "", settings: type[Any] | None = None
    ) -> Callable[[T], T]:
        """Decorator that makes something known as `name`.

        `summary` is one line; default: the first of its docstring. `source`: default: what the docstring says behind
        "Source:". `settings`: default: its attribute `settings_class`. Raises ConfigError where the name is taken by
        something else, or is not lower case without spaces and plus signs.
        """

        def decorate(value: T) -> T:
            if not name or "+" in name or ":" in name or name != "".join(name.split()).lower():
                raise ConfigError(
                    f"{self.kind} name {name!r} must be lower case, without spaces, plus signs and colons"
                )
            known = self._entries.get(name)
            if known is not None and known.value is not value:
                raise ConfigError(f"{self.kind} {name!r} is registered already; choose another name")
            kind = settings or getattr(value, "settings_class", None)
            self._entries[name] = Entry(name, value, summary or _first_line(value), source or _source(value), kind)
            return value

        return decorate

    def names(self) -> list[str]:
        """All names, sorted: this package's and those of entry points (which are not loaded)."""
        self._discover()
        return sorted({*self._entries, *self._points()})

    def entry(self, name: str) -> Entry[T]:
        """What is registered as `name`.

        Raises:
            ConfigError: an unknown name, with the nearest known one; or its file can't be imported.
        """
        if not self._at_home(name):
            self._discover()
        if name not in self._entries and (point := self._points().get(name)) is not None:
            self._load(point)
        if name not in self._entries:
            raise ConfigError(self.unknown(name))
        return self._entries[name]

    def find(self, name: str) -> T:
        """The thing itself. Raises ConfigError as `entry` does."""
        return self.entry(name).value

    def unknown(self, name: str, others: Iterable[str] = ()) -> str:
        """The line for a name that nothing is registered under; `others` are names that would do as well."""
        broken = self._broken.get(name)
        if broken is not None:
            return f"{self.kind} {name!r} can't be used: {broken.place}: {broken.reason}; mend or remove it"
        known = sorted({*self.names(), *others})
        what = f"{self.option} {name}: unknown {self.kind}" if self.option else f"{self.kind} {name!r} is unknown"
        also = "".join(f"; {item.place} can't be imported ({item.reason})" for item in self._broken.values())
        return f"{what}{did_you_mean(name, known)}; known: {', '.join(known) or 'none'}{also}"

    def __contains__(self, name: object) -> bool:
        if isinstance(name, str) and self._at_home(name):
            return True
        self._discover()
        return name in self._entries or name in self._points()

    def __iter__(self) -> Iterator[Entry[T]]:
        """All entries by name; what can't be loaded is left out and found in `broken`."""
        for name in self.names():
            try:
                yield self.entry(name)
            except ConfigError:
                continue

    @property
    def broken(self) -> list[Broken]:
        """Files and entry points that could not be imported so far."""
        self._discover()
        return list(self._broken.values())

    @contextmanager
    def temporary(self) -> Iterator[Registry[T]]:
        """What is registered within is forgotten afterwards: for tests and notebooks."""
        self._discover()
        entries, broken = dict(self._entries), dict(self._broken)
        try:
            yield self
        finally:
            self._entries, self._broken = entries, broken

    def _at_home(self, name: str) -> bool:
        """Whether `name` is known already, or is after the module that is called like it: the others stay unread."""
        module = name.replace("-", "_")
        if name not in self._entries and not self._discovered and self.package is not None and module.isidentifier():
            package = importlib.import_module(self.package)
            if not module.startswith("_") and any(m.name == module for m in pkgutil.iter_modules(package.__path__)):
                self._import(module)
        return name in self._entries

    def _discover(self) -> None:
        if self._discovered or self.package is None:
            return
        self._discovered = True
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            if not module.name.startswith("_"):
                self._import(module.name)

    def _import(self, module: str) -> None:
        place = f"{self.package}.{module}"
        try:
            importlib.import_module(place)
        except Exception as error:  # anything may be wrong with a file that somebody just wrote
            name = module.replace("_", "-")
            self._broken[name] = Broken(name, place.replace(".", "/") + ".py", _one_line(error))

    def _points(self) -> dict[str, EntryPoint]:
        if self.package is None:
            return {}
        return {point.name: point for point in entry_points(group=self.package)}

    def _load(self, point: EntryPoint) -> None:
        try:
            value = point.load()
        except Exception as error:
            self._broken[point.name] = Broken(point.name, f"entry point {point.value}", _one_line(error))
            return
        note_others(point.module, point.attr, f"{self.kind} {point.name!r}")
        if point.name not in self._entries:  # the module may have registered it itself
            self.register(point.name)(value)


def _first_line(value: object) -> str:
    return (inspect.getdoc(value) or "").strip().partition("\n")[0]


def _source(value: object) -> str:
    found = re.search(r"Sources?: (.*?)(?:[;.](?:\s|$)|\n\s*\n|$)", inspect.getdoc(value) or "", re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]

"""The protocol of acquisition functions, their registry, and the checks around them.

A strategy is a file of its own in this package (or an entry point of the group `psp_ray.acquisition` in anybody's)
that registers a factory:

    @register("random")
    class Random:
        name = "random"
        def __init__(self, pool: PoolReader, settings: Settings | None) -> None: ...
        def propose(self, state: PoolState) -> Proposal: ...
        def observe(self, feedback: Feedback) -> Observation: ...
        def state_dict(self) -> StateDict: ...
        def load_state_dict(self, state: StateDict) -> None: ...

`propose` is a function of (state, what `observe` taught, the constructor's arguments): asked twice, it answers the
same. Importing a strategy's file must be cheap: heavy libraries are imported in its methods. Wrappers take the strategy
they go around and are named behind a plus sign, as in `badge+pcb`.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from psp_ray.config.base import Settings
from psp_ray.core.errors import ConfigError, UserError
from psp_ray.core.records import Feedback, Observation, PoolReader, PoolState, Proposal, StateDict

GROUP = "psp_ray.acquisition"
"""Entry-point group for strategies of other packages: `name = "module:factory"`."""


@runtime_checkable
class AcquisitionFunction(Protocol):
    """Decides who is asked, and may learn from what came of it."""

    name: str

    def propose(self, state: PoolState) -> Proposal:
        """Choose `state.n_query` distinct unlabeled samples."""
        ...

    def observe(self, feedback: Feedback) -> Observation:
        """Learn from a finished round; strategies that don't learn return `Observation()`."""
        ...

    def state_dict(self) -> StateDict:
        """All that `load_state_dict` needs to continue to the same bits; {} for strategies without state."""
        ...

    def load_state_dict(self, state: StateDict) -> None:
        """Continue where `state_dict` was taken, on an instance built with the same arguments."""
        ...


Factory = Callable[[PoolReader, Any], AcquisitionFunction]
WrapperFactory = Callable[[AcquisitionFunction, PoolReader, Any], AcquisitionFunction]
F = TypeVar("F", bound=Callable[..., Any])

RENAMED = {"trustset": "is called 'el2n-policy' now; it was never the TrustSet of BRAL-T"}
"""Strategies that have another name now, and what to say about it."""


@dataclass(frozen=True)
class Registration:
    """A strategy or wrapper: its factory and the class of its settings (None: it has none)."""

    name: str
    factory: Callable[..., AcquisitionFunction]
    settings: type[Settings] | None


_STRATEGIES: dict[str, Registration] = {}
_WRAPPERS: dict[str, Registration] = {}


def register(name: str, settings: type[Settings] | None = None) -> Callable[[F], F]:
    """Decorator that makes a factory `(pool, settings) -> AcquisitionFunction` known as `name`.

    Raises ConfigError where the name is taken by another factory, or holds a plus sign.
    """
    return _register(_STRATEGIES, "strategy", name, settings)


def register_wrapper(name: str, settings: type[Settings] | None = None) -> Callable[[F], F]:
    """Decorator for a factory `(inner, pool, settings) -> AcquisitionFunction`, used as `STRATEGY+name`."""
    return _register(_WRAPPERS, "wrapper", name, settings)


def _register(
    registry: dict[str, Registration], kind: str, name: str, settings: type[Settings] | None
) -> Callable[[F], F]:
    def decorate(factory: F) -> F:
        if not name or "+" in name or name != name.strip().lower():
            raise ConfigError(f"{kind} name {name!r} must be lower case, without spaces around it or a plus sign")
        if name in registry and registry[name].factory is not factory:
            raise ConfigError(f"{kind} {name!r} is registered already; choose another name")
        registry[name] = Registration(name, factory, settings)
        return factory

    return decorate


@functools.cache
def _discover() -> None:
    """Import this package's strategy files, which register themselves."""
    package = importlib.import_module("psp_ray.acquisition")
    for module in pkgutil.iter_modules(package.__path__):
        if module.name != "base" and not module.name.startswith("_"):
            importlib.import_module(f"psp_ray.acquisition.{module.name}")


def _points() -> dict[str, EntryPoint]:
    """Entry points of other packages, not yet loaded. Looking for them reads every installed package's metadata."""
    return {point.name: point for point in entry_points(group=GROUP)}


def strategy_names() -> list[str]:
    """All strategies known, sorted: this package's and those of entry points (not loaded)."""
    _discover()
    return sorted({*_STRATEGIES, *_points()})


def wrapper_names() -> list[str]:
    """All wrappers known, sorted."""
    _discover()
    return sorted(_WRAPPERS)


def find(name: str) -> tuple[Registration, list[Registration]]:
    """The strategy of `name` and its wrappers, innermost first.

    Raises ConfigError for an unknown name, with the nearest known one.
    """
    _discover()
    base, *wrappers = name.split("+")
    if base not in _STRATEGIES and (point := _points().get(base)) is not None:
        _load(point)
    if base in RENAMED:
        raise ConfigError(f"strategy {base!r} {RENAMED[base]}")
    if base not in _STRATEGIES:
        raise ConfigError(_unknown("strategy", base, strategy_names()))
    for wrapper in wrappers:
        if wrapper not in _WRAPPERS:
            raise ConfigError(_unknown(f"strategy {name}: wrapper", wrapper, sorted(_WRAPPERS)))
    return _STRATEGIES[base], [_WRAPPERS[wrapper] for wrapper in wrappers]


def _load(point: EntryPoint) -> None:
    try:
        factory = point.load()
    except Exception as error:
        raise ConfigError(
            f"strategy {point.name} ({point.value}) can't be imported: {error}; repair or uninstall its package"
        ) from error
    if point.name not in _STRATEGIES:  # the module may have registered it itself
        register(point.name, getattr(factory, "settings_class", None))(factory)


def _unknown(kind: str, name: str, known: list[str]) -> str:
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {match[0]!r}?" if match else ""
    return f"{kind} {name!r} is unknown{hint}; known: {', '.join(known) or 'none'}"


def create(name: str, pool: PoolReader, settings: Settings | None = None) -> AcquisitionFunction:
    """Build the strategy `name` (with wrappers, as in `badge+pcb`) over a pool.

    `settings` is any settings object that holds the fields of the strategy's own settings class; the part it needs is
    taken out of it. None: defaults. Raises ConfigError for an unknown name.
    """
    base, wrappers = find(name)
    strategy: AcquisitionFunction = base.factory(pool, _part(base, settings))
    for wrapper in wrappers:
        strategy = wrapper.factory(strategy, pool, _part(wrapper, settings))
    return strategy


def _part(registration: Registration, settings: Settings | None) -> Settings | None:
    kind = registration.settings
    if kind is None or type(settings) is kind:
        return None if kind is None else settings
    if settings is None:
        return kind()
    return kind(**{key: getattr(settings, key) for key in kind.model_fields if hasattr(settings, key)})


def validate_state(state: PoolState, pool: PoolReader) -> None:
    """Check what a strategy is asked. Raises UserError for an empty pool or a query larger than the pool."""
    n = len(state.unlabeled)
    if n == 0:
        raise UserError("no unlabeled sample is left in the pool; run fewer rounds or add images")
    if state.n_query < 1:
        raise UserError(f"labels_per_round {state.n_query} must be at least 1")
    if state.n_query > n:
        raise UserError(
            f"labels_per_round {state.n_query} is more than the {n} unlabeled samples left; lower it or the rounds"
        )
    if state.unlabeled[0] < 0 or state.unlabeled[-1] >= pool.n or np.any(np.diff(state.unlabeled) <= 0):
        raise UserError(f"the unlabeled positions are not sorted, distinct and within the pool of {pool.n} samples")


def validate_proposal(proposal: Proposal, state: PoolState) -> None:
    """Check a proposal: exactly `n_query` distinct, unlabeled samples. Raises UserError before anything is bought."""
    positions = np.asarray(proposal.positions)
    if positions.shape != (state.n_query,) or positions.dtype.kind not in "iu":
        raise UserError(
            f"the strategy proposed positions of shape {positions.shape} ({positions.dtype}) where {state.n_query} "
            "integers were asked for; mend the strategy"
        )
    if len(np.unique(positions)) != len(positions):
        raise UserError("the strategy proposed a sample twice; mend the strategy")
    if not np.isin(positions, state.unlabeled).all():
        bad = int(positions[~np.isin(positions, state.unlabeled)][0])
        raise UserError(f"the strategy proposed sample {bad}, which is not unlabeled; mend the strategy")
    if np.shape(proposal.log_prob) != positions.shape:
        raise UserError("the strategy's log_prob must have one entry per proposed sample (NaN where unknown)")

"""The protocol of acquisition functions, their registries, and the checks around them.

A strategy is a file of its own in this package (or an entry point of the group `psp_ray.acquisition` in anybody's):

    @STRATEGIES.register("entropy")
    class Entropy(Strategy):
        def score(self, block: Block, state: PoolState) -> Float64Array: ...

`psp_ray.acquisition.strategy` has the base class. `propose` is a function of (state, what `observe` taught, the
constructor's arguments): asked twice, it answers the same. Importing a strategy's file must be cheap: heavy libraries
are imported in its methods. Wrappers take the strategy they go around and are named behind a plus sign, as in
`badge+pcb`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from psp_ray.config.acquisition import AuditSettings, SamplerSettings
from psp_ray.config.base import Settings, option_name
from psp_ray.core.errors import ConfigError, UserError
from psp_ray.core.pool import class_embeddings
from psp_ray.core.records import Feedback, Float64Array, Observation, PoolReader, PoolState, Proposal, StateDict
from psp_ray.core.registry import Entry, Registry
from psp_ray.core.words import did_you_mean


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

    def utilities(self, state: PoolState) -> Float64Array | None:
        """Scores (n_t,) of the unlabeled samples, the larger the sooner; None where there are none."""
        ...

    def state_dict(self) -> StateDict:
        """All that `load_state_dict` needs to continue to the same bits; {} for strategies without state."""
        ...

    def load_state_dict(self, state: StateDict) -> None:
        """Continue where `state_dict` was taken, on an instance built with the same arguments."""
        ...


Factory = Callable[[PoolReader, Any], AcquisitionFunction]
WrapperFactory = Callable[[AcquisitionFunction, PoolReader, Any], AcquisitionFunction]

STRATEGIES: Registry[Factory] = Registry("strategy", "psp_ray.acquisition", option="--strategy")
WRAPPERS: Registry[WrapperFactory] = Registry("wrapper", "psp_ray.acquisition.wrappers", option="--strategy ...")
RENAMED = {"trustset": "is called 'el2n-policy' now; it was never the TrustSet of BRAL-T"}
"""Strategies that have another name now, and what to say about it."""


def strategy_names() -> list[str]:
    """All strategies known, sorted: this package's and those of entry points (not loaded)."""
    return STRATEGIES.names()


def wrapper_names() -> list[str]:
    """All wrappers known, sorted."""
    return WRAPPERS.names()


def find(name: str) -> tuple[Entry[Factory], list[Entry[WrapperFactory]]]:
    """The strategy of `name` and its wrappers, innermost first.

    Raises ConfigError for an unknown name, with the nearest known one, or for a file that can't be imported.
    """
    base, *wrappers = name.split("+")
    if base in RENAMED:
        raise ConfigError(f"strategy {base!r} {RENAMED[base]}")
    return STRATEGIES.entry(base), [WRAPPERS.entry(wrapper) for wrapper in wrappers]


def create(name: str, pool: PoolReader, settings: Settings | None = None) -> AcquisitionFunction:
    """Build the strategy `name` (with wrappers, as in `badge+pcb`) over a pool.

    `settings` is any settings object that holds the fields of the strategy's own settings class; the part it needs is
    taken out of it, and what it lacks out of its `strategy_settings`. None: defaults.
    Raises ConfigError for an unknown name, or a setting that is none.
    """
    base, wrappers = find(name)
    parts = settings_of(name, settings)
    strategy = base.value(pool, parts[0])
    if not strategy.name:
        strategy.name = base.name
    for wrapper, part in zip(wrappers, parts[1:], strict=True):
        strategy = wrapper.value(strategy, pool, part)
    return strategy


def settings_of(name: str, settings: Settings | None) -> list[Settings | None]:
    """The settings of the strategy `name` and of its wrappers, innermost first; None for those that have none.

    Raises ConfigError for an unknown name, for a key of `strategy_settings` that nobody has, and for a wrong value.
    """
    base, wrappers = find(name)
    kinds = [base.settings, *(wrapper.settings for wrapper in wrappers)]
    given = {} if settings is None else vars(settings)
    extra: dict[str, Any] = given.get("strategy_settings", {})
    own = {key for kind in kinds if kind is not None for key in kind.model_fields if key not in given}
    for key in extra:
        if key not in own:
            known = f"it has {', '.join(sorted(own))}" if own else "it has none of its own"
            near = did_you_mean(key, own)
            raise ConfigError(f"--strategy-settings {key}: strategy {name} has no such setting{near}; {known}")
    parts: list[Settings | None] = []
    for kind in kinds:
        if kind is None or type(settings) is kind:
            parts.append(None if kind is None else settings)
            continue
        values = {**given, **extra}
        try:
            parts.append(kind(**{key: values[key] for key in kind.model_fields if key in values}))
        except ConfigError as error:
            raise ConfigError(_as_given(str(error), extra)) from None
    return parts


def _as_given(text: str, extra: Mapping[str, Any]) -> str:
    """What a settings class says of its keys, where those of `extra` are no options of their own."""
    for key in extra:
        text = re.sub(rf"(^|; ){re.escape(option_name(key))} ", rf"\1--strategy-settings {key}=", text)
    return text


def unread(name: str) -> frozenset[str]:
    """Config keys that belong to other strategies and wrappers than those of `name`, which never sees them.

    Empty where the name is unknown. The audit's settings are nobody's: a run may wrap any strategy in it.
    """
    try:
        base, wrappers = find(name)
    except ConfigError:
        return frozenset()
    kinds = [base.settings, *(wrapper.settings for wrapper in wrappers)]
    mine = {key for kind in kinds if kind is not None for key in kind.model_fields}
    owned = [kind for kind in SamplerSettings.__bases__ if issubclass(kind, Settings) and kind is not AuditSettings]
    return frozenset(key for kind in owned for key in kind.model_fields if key not in mine)


def validate_state(state: PoolState, pool: PoolReader) -> None:
    """Check what a strategy is asked.

    Raises UserError for an empty pool or a query larger than the pool, DatasetError for a prompt that is not finite or
    of another model.
    """
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
    class_embeddings(state.text, pool)


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

"""What all rounds of a run share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from psp_ray.config.config import Config
from psp_ray.config.kinds import PSEUDO_SOURCES
from psp_ray.core.records import Float32Array, Int64Array, Proposal, TextState, UInt64Array
from psp_ray.posterior.audit import Answers, audit_order
from psp_ray.run.events import Events
from psp_ray.run.interfaces import Components
from psp_ray.run.self_training import SelfTraining
from psp_ray.run.state import PoolNames, RunState
from psp_ray.run.stop import parse_stop
from psp_ray.run.stopping import stop_set
from psp_ray.run.stops import Stop
from psp_ray.selftrain.source import PseudoSource


@dataclass(frozen=True)
class RunContext:
    """Settings, names, components, and who listens.

    `config` has `labels_per_round` filled in; `experiment_id` is the run's name in the ledger, kept across restarts.
    `chosen` is told of each query set before anybody is asked, with the state that it follows.
    """

    config: Config
    names: PoolNames
    components: Components
    experiment_id: str
    events: Events
    chosen: Callable[[RunState, Proposal], None] = lambda state, proposal: None
    rules: list[Stop] = field(init=False)
    stop_set: Int64Array = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", parse_stop(self.config.labels.stop))
        object.__setattr__(self, "stop_set", stop_set(self.names.keys, self.config.runtime.seed))

    @property
    def n_query(self) -> int:
        assert isinstance(self.config.labels.labels_per_round, int)
        return self.config.labels.labels_per_round

    @property
    def n_pool(self) -> int:
        return len(self.names.sample_ids)

    @cached_property
    def zero_shot(self) -> TextState:
        """The hand-written templates' classifier: the teacher that weighed evidence begins with."""
        return self.components.learner.zero_shot().result()

    @cached_property
    def source(self) -> PseudoSource:
        """Whose word pseudo-labels are."""
        return PSEUDO_SOURCES.find(self.config.selftrain.pseudo_source)()

    @cached_property
    def audit_order(self) -> UInt64Array:
        """Each pool sample's word (n,) in the sequence that the audit draws from."""
        return audit_order(self.config.runtime.seed, self.names.keys)

    def logits(self, state: RunState, positions: Int64Array) -> Float32Array:
        """Logits (k, C) at `positions` of the classifier that `state` ends with."""
        cosines = self.components.learner.cosines(state.text, positions).result()
        return np.float32(state.text.logit_scale) * cosines

    def answers(self, state: RunState) -> Answers:
        """What estimates of the accuracy are made of."""
        order = self.audit_order[state.asked]
        return Answers(state.asked, state.answers, state.asked_in, state.by_chance, order, state.logits)

    def self_training(self, number: int, student: TextState, unlabeled: Int64Array) -> SelfTraining | None:
        """Who makes round `number`'s pseudo-labels of what is `unlabeled`; None where nobody does.

        The teacher is the last round's `student`, or zero-shot where evidence is weighed.
        """
        labeler = self.components.pseudo_labeler
        if labeler is None:
            return None
        teacher = self.zero_shot if self.source.weighs_evidence else student
        return SelfTraining(labeler, self.source, self.config, self.events, number, teacher, unlabeled)

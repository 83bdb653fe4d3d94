"""What cross-fitting hands from round to round, so that a resumed run judges itself to the same bits."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from psp_ray.core.records import Float64Array, StateDict, TextState


@dataclass(frozen=True)
class Line:
    """What a fold learned in the last round, never having seen the labels that it is judged by: its classifier, and
    the state of the learner that learned it."""

    text: TextState
    learner: StateDict = field(default_factory=dict)


@dataclass(frozen=True)
class CrossFitted:
    """`logits` (k, C) of everything asked till then, NaN outside the audit stratum, and a line of descent per fold."""

    logits: Float64Array
    lines: tuple[Line, ...]

    @classmethod
    def start(cls, count: int, first: Line) -> CrossFitted:
        """Before the first round all of `count` folds know what everybody knows."""
        return cls(np.zeros((0, len(first.text.features))), (first,) * count)

    def state_dict(self) -> StateDict:
        """All of it, for a checkpoint."""
        state: StateDict = {"logits": self.logits, "count": np.asarray(len(self.lines), np.int64)}
        for number, line in enumerate(self.lines):
            state[f"{number}.text"] = line.text.features
            state[f"{number}.logit_scale"] = np.asarray(line.text.logit_scale, np.float64)
            if line.text.bias is not None:
                state[f"{number}.bias"] = line.text.bias
            state |= {f"{number}.learner.{name}": value for name, value in line.learner.items()}
        return state

    @classmethod
    def restored(cls, state: StateDict) -> CrossFitted:
        """What `state_dict` told. Raises KeyError where another version wrote it."""
        lines = []
        for number in range(int(state["count"])):
            prefix = f"{number}.learner."
            learner = {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}
            scale = float(state[f"{number}.logit_scale"])
            lines.append(Line(TextState(state[f"{number}.text"], scale, state.get(f"{number}.bias")), learner))
        return cls(state["logits"], tuple(lines))

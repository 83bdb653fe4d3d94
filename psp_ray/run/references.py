"""What the strategies are read against: `zero-shot`, without labels, and `full`, with the labels of the whole pool.

Both are presets and run like any strategy, `psp-ray run --strategy full`. `zero-shot` buys nothing, so that there is no
round to run: `run_zero_shot` evaluates it once and writes the summary of a run without rounds.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from psp_ray.config.config import Config
from psp_ray.core.errors import DatasetError
from psp_ray.core.files import alone
from psp_ray.core.records import Evaluation, TextState
from psp_ray.core.threads import limit_threads
from psp_ray.report.progress import Reporter
from psp_ray.run.assemble import learner_input
from psp_ray.run.build import build_learner
from psp_ray.run.featurizing import featurize_only
from psp_ray.run.folder import check_out, default_out, open_out
from psp_ray.run.output import write_summary
from psp_ray.run.prepare import prepare
from psp_ray.run.state import RunState


def run_zero_shot(config: Config, wait: float = 0.0) -> dict[str, Any]:
    """Evaluate the preset `zero-shot` into its output folder; returns the content of `summary.json`.

    Where another process is at work in the folder, its end is awaited for `wait` seconds.

    Raises:
        UserError: what `psp_ray.run.command.run` raises before its first round, or no labeled images to evaluate on.
    """
    started = time.perf_counter()
    limit_threads(config.runtime.threads)
    out = Path(config.output.out) if config.output.out else default_out(config)
    check_out(config, out)
    evaluation = zero_shot(config)
    with alone(out, wait):
        open_out(config, out)
        nothing = TextState(np.zeros((0, 0), np.float32), 1.0)
        state = RunState.before_rounds(nothing, evaluation, np.zeros(0, np.int64), np.zeros(0, np.int32))
        seconds = time.perf_counter() - started
        return write_summary(out, config, "finished", state, seconds, config.model.image_size)


def zero_shot(config: Config) -> Evaluation:
    """Accuracy of the hand-written templates on `config.evaluate_on`, in this process and without a run folder.

    Encodes images that the feature cache lacks. Raises what `psp_ray.run.command.run` raises before its first round.
    """
    least = {"runner": "inline", "self_training": "none", "strategy": "random", "rounds": 1, "labels_per_round": 1}
    config = prepare(config.changed(**least, label_cap=None)).config
    data = featurize_only(config, Reporter(1, Console(quiet=True)))
    learner = build_learner(learner_input(config, data), data.pool)
    evaluation = learner.evaluate(learner.zero_shot())
    if evaluation is None:
        raise DatasetError(
            f"{data.dataset.name}: no labeled {config.data.evaluate_on} images; choose another --evaluate-on, or add "
            "some"
        )
    return evaluation

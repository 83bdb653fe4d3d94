"""What the strategies are read against: `zero-shot`, without labels, and `full`, with the labels of the whole pool.

`full` is a preset and runs like any strategy: `psp-ray run --strategy full`. `zero-shot` buys nothing, so that there is
no round to run; every run's `summary.json` has it as `zero_shot_accuracy`, and `zero_shot` computes it alone.
"""

from __future__ import annotations

from rich.console import Console

from psp_ray.config.config import Config
from psp_ray.core.errors import DatasetError
from psp_ray.core.records import Evaluation
from psp_ray.report.progress import Reporter
from psp_ray.run.assemble import learner_input
from psp_ray.run.build import build_learner
from psp_ray.run.featurizing import featurize_only
from psp_ray.run.prepare import prepare

REFERENCES = ("zero-shot", "full")


def zero_shot(config: Config) -> Evaluation:
    """Accuracy of the hand-written templates on `config.evaluate_on`, in this process and without a run folder.

    Encodes images that the feature cache lacks. Raises what `psp_ray.run.command.run` raises before its first round.
    """
    alone = {"runner": "inline", "self_training": "none", "strategy": "random", "rounds": 1, "labels_per_round": 1}
    config = prepare(config.changed(**alone, label_cap=None)).config
    data = featurize_only(config, Reporter(1, Console(quiet=True)))
    learner = build_learner(learner_input(config, data), data.pool)
    evaluation = learner.evaluate(learner.zero_shot())
    if evaluation is None:
        raise DatasetError(
            f"{data.dataset.name}: no labeled {config.data.evaluate_on} images; choose another --evaluate-on, or add "
            "some"
        )
    return evaluation

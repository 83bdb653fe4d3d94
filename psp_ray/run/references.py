"""What the strategies are read against: `zero-shot`, without labels, and `full`, with the labels of the whole pool.

`full` is a preset and runs like any strategy: `psp-ray run --strategy full`. `zero-shot` buys nothing, so that there is
no round to run; every run's `summary.json` has it as `zero_shot_accuracy`, and `zero_shot` computes it alone.
"""

from __future__ import annotations

from rich.console import Console

from psp_ray.config.config import Config
from psp_ray.core.records import Evaluation

REFERENCES = ("zero-shot", "full")


def zero_shot(config: Config) -> Evaluation:
    """Accuracy of the hand-written templates on `config.evaluate_on`, in this process and without a run folder.

    Encodes images that the feature cache lacks. Raises what `psp_ray.run.command.run` raises before its first round.
    """
    from psp_ray.features.cache import FeatureCache
    from psp_ray.report.progress import Reporter
    from psp_ray.run import build as components
    from psp_ray.run.command import descriptions_of, featurize_only, prepare, templates_of

    alone = {"runner": "inline", "self_training": "none", "strategy": "random", "rounds": 1, "labels_per_round": 1}
    config = prepare(config.changed(**alone, label_cap=None)).config
    data = featurize_only(config, Reporter(1, Console(quiet=True)))
    evaluation = data.test if config.data.evaluate_on == "test" else data.val
    assert evaluation.labels is not None
    cache = FeatureCache.open(config.runtime.cache).folder
    learner = components.build_learner(
        components.LearnerInput(
            settings=components.settings_json(config),
            classes=data.dataset.prompt_names,
            templates=templates_of(config, data.dataset),
            descriptions=descriptions_of(config, data.dataset),
            evaluation=components.PoolSource.of(evaluation.reader, cache),
            evaluation_labels=evaluation.labels,
            pool_labels=data.dataset.labels("pool"),
        ),
        data.pool,
    )
    return learner.evaluate(learner.zero_shot())

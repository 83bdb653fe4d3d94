"""Every setting of a run: typed, documented and checked in one place.

A key is a command-line option of the same name (dashes for underscores), a line of a `--config` file, and a dimension
that a sweep can reach. The algorithms' own settings live beside the algorithms; `Config` inherits them. `resolve`
builds it from a preset, a file and what the user gave.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import Field, field_validator

from psp_ray.acquisition._settings import AcquisitionSettings
from psp_ray.errors import ConfigError
from psp_ray.learn.settings import LearnSettings
from psp_ray.policy.settings import PolicySettings
from psp_ray.presets import PRESETS, preset_settings
from psp_ray.selftrain.settings import SelfTrainingSettings
from psp_ray.settings import Settings, read_yaml

Part = TypeVar("Part", bound=Settings)

RUN_ONLY = frozenset(
    {
        "runner",
        "ray_address",
        "shards",
        "workers",
        "workers_max",
        "storage",
        "actor_cpus",
        "learner_gpus",
        "worker_gpus",
        "timeout",
        "cache",
        "cache_gib",
        "out",
        "resume",
        "data_root",
        "ledger",
        "label_cap",
        "cost_cap",
        "oracle_name",
    }
)
"""Keys that say where and how a run is executed, not what it computes: they may change when it is resumed."""


class Config(AcquisitionSettings, PolicySettings, LearnSettings, SelfTrainingSettings):
    """The resolved settings of one run. `preset` remembers the name that `--strategy` was given."""

    # data
    dataset: str = Field(
        "digits",
        description="digits, a folder, a CSV or Parquet manifest, FOLDER:SPLIT.json, or a named data set",
    )
    data_root: str | None = Field(
        None, description="folder that holds the named data sets (caltech101, dtd, rsscn7, ...)"
    )
    split: str | None = Field(None, description="CoOp-format split file (JSON) for a folder of images")
    classes: str | None = Field(
        None, description="class names for unlabeled images: a,b,c or a file of lines 'name' or 'name: phrase, phrase'"
    )
    test: str | None = Field(
        None, description="labeled test images: a folder of class folders, or a CSV or Parquet manifest"
    )
    initial_labels: str | None = Field(
        None, description="CSV of labels known beforehand: columns sample_id (or path) and label"
    )
    exclude: str | None = Field(None, description="file that lists images to leave out, a name or path a line")
    pool_limit: int | None = Field(None, ge=2, description="use at most this many pool images, chosen by chance")
    template: str | None = Field(
        None, description="zero-shot template such as 'a photo of a {}.'; default: the data set's own"
    )
    evaluate_on: Literal["test", "val"] = Field("test", description="split on which accuracies are reported")

    # model
    model: str = Field("psp-lite", description="open_clip model: NAME or NAME/TAG")
    checkpoint: str | None = Field(None, description="weights from a file: safetensors or a plain state dict")
    image_size: int | None = Field(
        None,
        ge=32,
        le=1024,
        description="image side in pixels; default: 96 for digits with psp-lite, else the model's own",
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")
    precision: Literal["auto", "fp32", "fp16", "bf16"] = Field(
        "auto", description="precision of the image tower; auto: fp32 on a CPU, fp16 on a GPU"
    )

    # class descriptions
    description_file: str | None = Field(
        None, description="JSON file {class: [description, ...]}; used as AS unless --descriptions says otherwise"
    )

    # rounds
    strategy: str = Field(
        "psp", description="acquisition function (random, badge+pcb, vssp, ...) or preset (psp, psp-paper, full, ...)"
    )
    preset: str | None = Field(None, description="the preset that --strategy named; set by the program")
    self_training: Literal["none", "ust"] = Field(
        "none", description="learn from pseudo-labels too (ust) or not; presets choose their own"
    )
    rounds: int = Field(8, ge=1, description="rounds of query, labels and learning (R)")
    labels_per_round: Annotated[int, Field(ge=1)] | Literal["pool"] | None = Field(
        None, description="labels bought in a round (n_s), or pool: all there are; default: the number of classes"
    )
    seed: int = Field(0, ge=0, description="seed of all noise")

    stop: str | None = Field(
        None, description="end early: stable[:KAPPA], gain:POINTS a label, target:ACCURACY, or several with commas"
    )
    estimate_folds: int | None = Field(
        None,
        ge=0,
        description="parts in which labels are left out to judge the final prompts; 0: don't; default: 4 without a "
        "test set, else 0",
    )

    # views
    views: str = Field(
        "cached:5",
        description="augmented views a sample: a number (L), and cached, fresh (anew each round) or on-demand (only of "
        "likely pseudo-labels), as in fresh:3",
    )
    view_scale: float = Field(0.5, gt=0, le=1, description="smallest share of the image area that a view shows")
    view_flip: bool = Field(True, description="views may be mirrored; switch off where mirrored images change class")
    view_seed: int = Field(0, ge=0, description="seed of the cached views (part of the cache key)")

    # labels
    oracle: Literal["ground-truth", "file", "shared"] = Field(
        "ground-truth",
        description="who labels: the data set's own labels, people by query.csv, or the cluster's --oracle-name",
    )
    suggest_labels: bool = Field(False, description="show the predicted class in query.csv (it may bias people)")
    ledger: str | None = Field(
        None,
        description="label ledger: a SQLite file or a database URL; default: PSP_RAY_LEDGER, else in the output folder",
    )
    oracle_name: str = Field("default", description="name of a shared oracle; see `psp-ray oracle start`")
    annotators: str | None = Field(
        None, description="YAML file of simulated annotators with costs and mistakes; default: the true labels"
    )
    cost_cap: float | None = Field(None, ge=0, description="refuse labels worth more than this, bought or reused")
    label_cap: int | None = Field(None, ge=1, description="refuse to use more labels than this, bought or reused")

    # execution
    runner: Literal["ray", "inline"] = Field("ray", description="separate Ray actors, or everything in this process")
    ray_address: str | None = Field(None, description="Ray cluster to join; default: RAY_ADDRESS, else a local one")
    shards: int = Field(1, ge=1, description="pool shard actors")
    workers: int | None = Field(None, ge=1, description="featurizing workers; default: one a CPU, at most 8")
    workers_max: int | None = Field(
        None, ge=1, description="workers that may join as an autoscaler adds nodes; default: as many as --workers"
    )
    storage: str | None = Field(
        None,
        description="folder or URI (s3://, gs://, ...) that keeps a copy of the run and its features for all nodes",
    )
    actor_cpus: float = Field(1.0, gt=0, description="factor on the CPU shares that actors ask Ray for")
    learner_gpus: float | None = Field(
        None, ge=0, description="share of a GPU for the learner; default: 0.5 where the run uses one"
    )
    worker_gpus: float | None = Field(
        None, ge=0, description="share of a GPU for each worker; default: what the learner leaves of one, evenly"
    )
    threads: int = Field(1, ge=1, description="threads of each process; part of the result to the last bit")
    timeout: float = Field(3600.0, gt=0, description="seconds to wait for an actor before giving up")
    cache: str | None = Field(
        None, description="feature cache folder; default: PSP_RAY_CACHE, else the user's cache folder"
    )
    cache_gib: float | None = Field(
        None, gt=0, description="quota of the cache folder: before encoding, what was not used for longest makes room"
    )
    out: str | None = Field(None, description="output folder; default: runs/DATASET-STRATEGY-seedN")
    resume: bool = Field(False, description="continue the run in the output folder, or start it")

    @field_validator("labels_per_round", mode="before")
    @classmethod
    def _number_or_pool(cls, value: Any) -> Any:
        if value is not None and value != "pool" and not (str(value).isdecimal() and int(value) > 0):
            raise ValueError("give a number of at least 1, or pool")
        return value

    @field_validator("views", mode="before")
    @classmethod
    def _views_text(cls, value: Any) -> str:
        mode, count = parse_views(str(value))
        return f"{mode}:{count}"

    @field_validator("stop")
    @classmethod
    def _stop_readable(cls, value: str | None) -> str | None:
        from psp_ray.stopping import parse_stop

        parse_stop(value)
        return value

    @property
    def view_mode(self) -> str:
        """`cached`: encoded once; `fresh`: encoded anew each round; `on-demand`: once, for samples that need them."""
        return parse_views(self.views)[0]

    @property
    def view_count(self) -> int:
        """L, the number of augmented views a sample."""
        return parse_views(self.views)[1]

    @property
    def shown_strategy(self) -> str:
        """The name to show: the preset if one was given, else the acquisition function."""
        return self.preset or self.strategy

    def part(self, kind: type[Part]) -> Part:
        """The settings of one algorithm, for example `config.part(PolicySettings)`."""
        return kind(**{name: getattr(self, name) for name in kind.model_fields})

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def identity(self) -> dict[str, Any]:
        """What determines the result: all keys but `RUN_ONLY`. A resumed run must agree on it."""
        return {k: v for k, v in self.model_dump(mode="json").items() if k not in RUN_ONLY}


def parse_views(text: str) -> tuple[str, int]:
    """`5`, `cached`, `fresh`, `on-demand`, `cached:3`, `fresh:3` ... -> (mode, count). Raises ValueError otherwise."""
    mode, _, count = text.strip().partition(":")
    if mode.isdigit() and not count:
        mode, count = "cached", mode
    if mode not in ("cached", "fresh", "on-demand") or not (count or "5").isdigit() or int(count or 5) < 1:
        raise ValueError("give a number of views of at least 1, 'cached', 'fresh' or 'on-demand', or both as 'fresh:3'")
    return mode, int(count or 5)


def resolve(given: Mapping[str, Any], file: str | Path | None = None) -> Config:
    """Combine defaults < preset < config file < `given` (the command line) into a checked `Config`.

    Raises:
        ConfigError: an unknown key (with the nearest match), a malformed file, or a value out of range.
    """
    explicit = {**(_read_file(file) if file else {}), **{k: v for k, v in given.items() if v is not None}}
    _check_keys(explicit, str(file) if file else "settings")
    name = str(explicit.get("strategy", explicit.get("preset") or Config.model_fields["strategy"].default))
    if explicit.get("preset") and given.get("strategy") is None:
        name = str(explicit["preset"])  # a resolved config.yaml names both
    settings = preset_settings(name)
    preset = name if name in PRESETS else None
    merged = {**settings, **explicit, "strategy": settings["strategy"], "preset": preset}
    if merged.get("labels_per_round") is not None and str(merged["labels_per_round"]) == "":
        merged["labels_per_round"] = None
    config = Config(**merged)
    _check_strategy(name, config)
    described = bool(config.description_file) or _classes_describe(config)
    if config.descriptions != "none" and not described:
        raise ConfigError(
            f"--descriptions {config.descriptions} needs --description-file FILE.json, or phrases in the --classes file"
        )
    if described and "descriptions" not in explicit and config.descriptions == "none":
        config = config.model_copy(update={"descriptions": "AS"})
    return config


def _classes_describe(config: Config) -> bool:
    from psp_ray.data.classes import read_classes

    return config.classes is not None and bool(read_classes(config.classes).descriptions)


def _check_strategy(name: str, config: Config) -> None:
    from psp_ray.acquisition.base import find, strategy_names

    if name == "zero-shot":
        raise ConfigError(
            "--strategy zero-shot: it buys no labels, so there are no rounds to run; every run's summary.json has "
            "zero_shot_accuracy"
        )
    try:
        find(config.strategy)
    except ConfigError:
        choices = sorted({*strategy_names(), *PRESETS})
        raise ConfigError(f"--strategy {name}: unknown{_nearest(name, choices)}; known: {', '.join(choices)}") from None


def _check_keys(keys: Mapping[str, Any], where: str) -> None:
    for key in keys:
        if key not in Config.model_fields:
            raise ConfigError(f"{where}: unknown setting '{key}'{_nearest(key, list(Config.model_fields))}")


def _nearest(word: str, choices: list[str]) -> str:
    match = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else ""


def _read_file(path: str | Path) -> dict[str, Any]:
    data = read_yaml(path, "--config")
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"--config {path}: expected lines of 'key: value'")
    return {str(key).replace("-", "_"): value for key, value in data.items()}

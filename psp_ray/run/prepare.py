"""From settings to a checked run: the data set, what its size decides, and all that can be refused early."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from psp_ray.clip.spec import BackboneSpec, resolve
from psp_ray.config.acquisition import automatic_audit
from psp_ray.config.config import Config
from psp_ray.core.errors import ConfigError, DatasetError, OutputError
from psp_ray.core.records import TextState
from psp_ray.core.words import counted, normalize_name
from psp_ray.data.dataset import Dataset
from psp_ray.data.descriptions import load_descriptions, match_descriptions
from psp_ray.data.embedded.classes import ClassEmbeddings, read_class_embeddings
from psp_ray.data.load import load_dataset
from psp_ray.data.own import initial_labels, limited, readable
from psp_ray.features import mapped
from psp_ray.features.cache import EncoderSpec, FeatureCache
from psp_ray.features.tower import backbone_spec, encoder_spec
from psp_ray.run.asking import ASKED, answers_from_truth, check_annotators
from psp_ray.run.classes import RunClasses, arranged, classes_of, told
from psp_ray.run.given import check_given
from psp_ray.run.prompts import model_metadata

DIGITS_IMAGE_SIZE = 96
Loaded = tuple[Dataset, RunClasses]
"""A data set, and the classes of the run that it is for."""


@dataclass(frozen=True)
class Prepared:
    """A checked run: complete settings, the data set, and what its features depend on."""

    config: Config
    dataset: Dataset
    classes: RunClasses
    """As the run will have them, where they are not so yet."""

    @cached_property
    def spec(self) -> EncoderSpec | None:
        """What the features depend on; None where the data set brings embeddings. Reads the model's weights."""
        return encoder_spec(self.config.model) if self.dataset.embeddings is None else None


def prepare(
    config: Config,
    dataset: Dataset | None = None,
    begun: bool = False,
    out: Path | None = None,
    classes: RunClasses | None = None,
) -> Prepared:
    """Check all that can be checked before anything is written, encoded or bought, and fill in what depends on it.

    `dataset` spares loading the configuration's data set where it is at hand, with the run's `classes` (default: the
    data set's own); `begun`: as for `check_budget`; `out`: the run's folder, which knows its classes (default: as the
    settings say).

    Raises:
        UserError: one line for the first thing that is wrong.
    """
    if dataset is None:
        dataset, classes = load_for_run(config, out or (Path(config.output.out) if config.output.out else None))
    else:
        check_given(config)
        classes = classes or RunClasses.begun(dataset.classes)
    config = complete(config, dataset)
    check_budget(config, dataset, begun)
    check_classes(config, dataset)
    if dataset.embeddings is None:
        check_way_back(backbone_spec(config.model))
    return Prepared(config, dataset, classes)


def settled(prepared: Prepared) -> Prepared:
    """The same, once nothing is refused any more: names, places and parts of a large data set are mapped files now.

    Raises:
        OutputError: the cache folder can't be made or written to.
    """
    if prepared.dataset.manifest.nbytes <= mapped.LARGE_BYTES:
        return prepared
    folder = FeatureCache.open(prepared.config.runtime.cache).folder
    return replace(prepared, dataset=mapped.mapped_dataset(prepared.dataset, folder))


def check_classes(config: Config, dataset: Dataset) -> None:
    """Raise a UserError where a class lacks what the settings want of each: a description, an embedding."""
    check_annotators(config.labels, len(dataset.classes))
    templates_of(config, dataset)
    descriptions_of(config, dataset)
    teacher_of(config, dataset)


def check_way_back(spec: BackboneSpec) -> None:
    """Whether `predict` will find the very model again by what the run writes down: looked up before a label is bought.

    Raises:
        ConfigError: it would be another model, or shown images of another size.
    """
    header = model_metadata(spec)
    again = replace(
        spec,
        model=header["model"],
        checkpoint=json.loads(header["checkpoint"]),
        image_size=json.loads(header["image_size"]),
    )
    now, then = resolve(spec), resolve(again)
    if (now.config, now.preprocessing) != (then.config, then.preprocessing) or not now.weights.samefile(then.weights):
        raise ConfigError(
            f"--model {spec.model}: predict would not find this model again, and labels would be bought for nothing; "
            "name it by an absolute path, or give --checkpoint"
        )


def load_data(config: Config) -> Dataset:
    """The data set that the settings name, with all that belongs to it.

    Raises:
        DatasetError: as `load_dataset`, or unusable initial labels.
    """
    return load_for_run(config, None)[0]


def load_for_run(config: Config, out: Path | None) -> Loaded:
    """The same with the classes of the run in `out`, as they are after what data set and settings say now.

    Raises:
        UserError: as `check_given`. DatasetError: as `load_data`. OutputError: the classes changed in a way in which
            they can't.
    """
    check_given(config)
    given = class_embeddings(config)
    known = classes_of(out)
    found: list[RunClasses] = []

    def arrange(loaded: Dataset) -> Dataset:
        now = RunClasses.begun(loaded.classes) if known is None else _taken_up(config, out, known, loaded.classes)
        found.append(now)
        return loaded if known is None else arranged(loaded, now)

    dataset = load_dataset(
        config.data.dataset,
        config.data.data_root,
        config.data.split,
        classes=config.data.classes,
        test=config.data.test,
        exclude=config.data.exclude,
        named=None if given is None else given.class_list,
        allow_remote=config.data.allow_remote,
        arrange=arrange,
    )
    labeled = (
        initial_labels(dataset, config.data.initial_labels)[0] if config.data.initial_labels else np.zeros(0, np.int64)
    )
    if config.data.pool_limit is not None:
        dataset = limited(dataset, config.data.pool_limit, config.runtime.seed, labeled)
    return dataset, found[0]


def _taken_up(config: Config, out: Path | None, known: RunClasses, given: list[str]) -> RunClasses:
    """A run's classes after those of its data set and settings have become `given`."""
    try:
        now = known.with_given(given)
    except ConfigError as error:
        raise OutputError(f"{out}: {error}; {_elsewhere(out)}") from None
    if now.names != known.names and config.labels.oracle not in ASKED:
        raise OutputError(
            f"{out}: {told(known.names, now.names)}; restore the classes (they may change where people answer, not "
            f"with --oracle {config.labels.oracle}), {_elsewhere(out)}"
        )
    return now


def _elsewhere(out: Path | None) -> str:
    return f"or start in a new --out folder with --initial-labels {(out or Path()) / 'labels.parquet'}"


def class_embeddings(config: Config) -> ClassEmbeddings | None:
    """What `--class-embeddings` names; None where it names nothing. Raises DatasetError as `read_class_embeddings`."""
    if config.data.class_embeddings is None:
        return None
    return read_class_embeddings(config.data.class_embeddings, config.data.logit_scale)


def teacher_of(config: Config, dataset: Dataset) -> TextState | None:
    """The teacher that `--class-embeddings` gives; None where a text tower does.

    Raises:
        ConfigError: class embeddings for images; or embeddings that the model's text tower doesn't fit, views made of
            images, prompts without a text tower.
        DatasetError: a class without an embedding, or embeddings of another width.
    """
    given, source = class_embeddings(config), dataset.embeddings
    if source is None:
        if given is not None:
            raise ConfigError("--class-embeddings: is for data sets of embeddings; images have --model's text tower")
        return None
    if config.selftrain.self_training != "none" and config.model.view_mode != "cached":
        raise ConfigError(f"--views {config.model.views}: embeddings have the views of column 'views'; leave it out")
    if given is not None:
        if config.learn.head == "prompt":
            raise ConfigError(
                "--head prompt: class embeddings alone make no prompts; choose --head auto, linear, residual or gda, "
                "or leave --class-embeddings out and name the --model that fits"
            )
        return given.text_state(dataset.classes, source.dim, dataset.former_names, dataset.class_vectors)
    width = int(resolve(backbone_spec(config.model)).config["embed_dim"])
    if width != source.dim:
        raise ConfigError(
            f"--model {config.model.model}: its text tower gives {width} numbers but the data set's embeddings have "
            f"{source.dim}; name the model that they are of, or give --class-embeddings"
        )
    return None


def complete(config: Config, dataset: Dataset) -> Config:
    """Fill in the settings whose default depends on the data set."""
    updates: dict[str, Any] = {}
    if config.labels.labels_per_round is None:
        updates["labels_per_round"] = len(dataset.classes)
    if config.model.image_size is None and config.data.dataset == "digits" and config.model.model == "psp-lite":
        updates["image_size"] = DIGITS_IMAGE_SIZE
    if not dataset.mirror and config.model.view_flip:
        updates["view_flip"] = False
    if config.policy.audit_fraction == "auto":
        tested = (dataset.val if config.data.evaluate_on == "val" else dataset.test).num_rows > 0
        per_round = config.labels.labels_per_round or len(dataset.classes)
        labels = dataset.pool.num_rows if per_round == "pool" else per_round * config.labels.rounds
        updates["audit_fraction"] = automatic_audit(min(labels, dataset.pool.num_rows), tested)
    return config.changed(**updates)


def with_pool_size(config: Config, dataset: Dataset) -> Config:
    """`labels_per_round: pool` in numbers, once it is known which images can be read."""
    if config.labels.labels_per_round != "pool":
        return config
    return config.changed(labels_per_round=dataset.pool.num_rows)


def check_budget(config: Config, dataset: Dataset, begun: bool = False, whole: Dataset | None = None) -> None:
    """Raise a UserError where the rounds ask for more labels than there are, or there is nothing to evaluate on.

    `whole`: the data set with the images that can't be read, which `dataset` lacks; initial labels may name them.

    Of a run that has begun, the pool may have shrunk since: it goes on with what is left, and what it may want more is
    for `psp_ray.run.continuing.check_left` to tell.
    """
    if not begun:
        _check_labels(config, dataset, whole or dataset)
    if config.data.evaluate_on == "val" and not dataset.val.num_rows:
        raise DatasetError(f"{dataset.name}: no val images; choose another --evaluate-on or add some")


def _check_labels(config: Config, dataset: Dataset, whole: Dataset) -> None:
    known = 0
    if config.data.initial_labels:
        known = len(readable(initial_labels(whole, config.data.initial_labels), whole, dataset)[0][0])
    n, size = dataset.pool.num_rows - known, config.labels.labels_per_round
    per_round = size if isinstance(size, int) else n
    wanted = config.labels.rounds * per_round
    if per_round > n or (wanted > n and answers_from_truth(config.labels)):
        has = f"the pool has {counted(n, 'image')}" + (f" beside the {known} of --initial-labels" if known else "")
        raise ConfigError(
            f"--rounds {config.labels.rounds} x --labels-per-round {size} = {counted(wanted, 'label')}, but "
            f"{has}; lower one of them"
        )
    if config.labels.label_cap is not None and wanted > config.labels.label_cap:
        raise ConfigError(
            f"--label-cap {config.labels.label_cap} is below the {counted(wanted, 'label')} that the rounds buy"
        )


def require_labels(config: Config, dataset: Dataset) -> None:
    """Ground truth, where it is to answer, can do so for all of the pool."""
    if not answers_from_truth(config.labels):
        return
    unknown = int((dataset.known_labels("pool") < 0).sum())
    if unknown:
        raise DatasetError(
            f"{dataset.name}: {unknown:,} of {counted(dataset.pool.num_rows, 'pool image')} without a label; "
            "add --oracle file to label images by hand, or complete the labels"
        )


def descriptions_of(config: Config, dataset: Dataset) -> dict[str, list[str]]:
    """The descriptions of the data set's classes, or nothing where they are not used.

    Those of `--description-file`, else those given with the class names; there a class without any describes itself.
    """
    if config.learn.descriptions == "none" or not (config.data.description_file or dataset.descriptions):
        return {}
    if config.data.description_file:
        phrases = match_descriptions(_described(config.data.description_file, dataset), dataset.prompt_names)
    else:
        phrases = tuple(tuple(dataset.descriptions.get(name) or [name]) for name in dataset.classes)
    return {name: list(items) for name, items in zip(dataset.prompt_names, phrases, strict=True)}


def _described(file: str, dataset: Dataset) -> dict[str, list[str]]:
    """The file's phrases; of a class that it calls by a former name, or that was added with some, under its name."""
    found = load_descriptions(file)
    known = {normalize_name(name): phrases for name, phrases in found.items()}
    for name in dataset.classes:
        if normalize_name(name) in known:
            continue
        old = (known.get(normalize_name(former)) for former in dataset.former_names.get(name, ()))
        phrases = next((phrases for phrases in old if phrases), dataset.descriptions.get(name))
        if phrases:
            found[name] = list(phrases)
    return found


def templates_of(config: Config, dataset: Dataset) -> list[str]:
    return list(dataset.templates) if config.data.template is None else [config.data.template]


def uses_cached_views(config: Config) -> bool:
    """Whether the views of the whole pool are encoded before the first round."""
    return config.selftrain.self_training != "none" and config.model.view_mode == "cached"

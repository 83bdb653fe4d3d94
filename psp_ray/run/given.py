"""What is wrong with settings whatever the data are: told before a data set is listed, which may take its time."""

from __future__ import annotations

import os

from psp_ray.clip.backbone import precision_on
from psp_ray.clip.spec import resolve
from psp_ray.config.base import option_name
from psp_ray.config.config import Config
from psp_ray.core.errors import ConfigError
from psp_ray.core.paths import exists
from psp_ray.core.words import counted
from psp_ray.data.load import find_dataset
from psp_ray.features.tower import backbone_spec
from psp_ray.run.asking import check_annotators
from psp_ray.run.stop import parse_stop

FILES = {
    "test": "a folder of class folders, or a CSV or Parquet file",
    "initial_labels": "a text or CSV file",
    "exclude": "a text or CSV file",
    "description_file": "a JSON file",
    "class_embeddings": "a table of class and embedding",
}
"""Settings that name what must be there already, and what that is."""


def check_given(config: Config) -> None:
    """Raise a UserError for the first setting that no data set would put right.

    A model that is not needed, because class embeddings take its place, is not asked for.
    """
    check_annotators(config.labels)
    parse_stop(config.labels.stop)
    _check_cap(config)
    _check_files(config)
    _check_ledger(config)
    template = config.data.template
    if template is not None and template.count("{}") != 1:
        raise ConfigError(f"--template {template!r}: put {{}} once where the class name goes")
    if config.data.class_embeddings is None:
        if config.data.logit_scale is not None:
            raise ConfigError("--logit-scale: belongs to --class-embeddings; give that file too, or leave it out")
        resolve(backbone_spec(config.model))
        precision_on(config.model.device, config.model.precision)


def check_named(config: Config) -> None:
    """The same, and a UserError for a data set that isn't there, or class names that can't be read. Lists nothing."""
    check_given(config)
    data = config.data
    find_dataset(
        data.dataset,
        data.data_root,
        data.split,
        classes=data.classes,
        test=data.test,
        allow_remote=data.allow_remote,
    )


def _check_cap(config: Config) -> None:
    cap, size = config.labels.label_cap, config.labels.labels_per_round
    if cap is None or not isinstance(size, int) or config.output.resume:
        return  # of rounds that are done other sizes may have been asked
    wanted = config.labels.rounds * size
    if wanted > cap:
        raise ConfigError(f"--label-cap {cap} is below the {counted(wanted, 'label')} that the rounds buy")


def _check_files(config: Config) -> None:
    for key, what in FILES.items():
        name = getattr(config.data, key)
        if name is not None and "://" not in name and not exists(name):
            raise ConfigError(f"{option_name(key)} {name}: no such file; give {what}")


def _check_ledger(config: Config) -> None:
    ledger = config.labels.ledger or os.environ.get("PSP_RAY_LEDGER")
    if ledger and config.labels.oracle != "shared":
        from psp_ray.labels.database import resolve_ledger_url

        resolve_ledger_url(ledger)

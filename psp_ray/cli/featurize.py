"""`psp-ray featurize`: images into the feature cache, and features out of it as files."""

from __future__ import annotations

from typing import Any

import click

from psp_ray.cli.options import SettingsCommand, config_option, setting_options
from psp_ray.run.resolve import resolve


@click.command(cls=SettingsCommand)
@config_option
@click.option("--export", metavar="FILE", help="also write features, labels and parts to FILE (.parquet)")
@click.option("--export-classes", metavar="FILE", help="also write zero-shot class embeddings (.parquet)")
@setting_options
def featurize(config_file: str | None, export: str | None, export_classes: str | None, **given: Any) -> None:
    """Encode a data set's images into the feature cache, ahead of runs; embeddings are checked and taken there.

    What --export writes is read by --dataset, and --export-classes by --class-embeddings.
    """
    from psp_ray.actors.opening import open_runtime
    from psp_ray.report.progress import Reporter
    from psp_ray.run.exporting import check_exports, export_features
    from psp_ray.run.featurizing import featurize_only

    check_exports(export, export_classes)
    config = resolve(given, config_file)
    reporter = Reporter(config.labels.rounds)
    data = featurize_only(config, reporter, open_runtime)
    export_features(config, data, reporter, features=export, classes=export_classes)

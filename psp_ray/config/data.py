"""Settings of the data: which images, classes and labels a run is about."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from psp_ray.config.base import Settings


class DataSettings(Settings):
    """The data set, and what belongs to it."""

    dataset: str = Field(
        "digits",
        description="digits, a folder, a CSV or Parquet manifest, FOLDER:SPLIT.json, a named data set, or embeddings "
        "(.parquet, .arrow, .npz or .jsonl with a column embedding, or a folder of them)",
    )
    data_root: str | None = Field(
        None, description="folder that holds the named data sets (caltech101, dtd, rsscn7, ...)"
    )
    split: str | None = Field(None, description="CoOp-format split file (JSON) for a folder of images")
    classes: str | None = Field(
        None, description="class names for unlabeled images: a,b,c or a file of lines 'name' or 'name: phrase, phrase'"
    )
    class_embeddings: str | None = Field(
        None,
        description="table with columns class and embedding, in place of a text tower; for a data set of embeddings",
    )
    logit_scale: float | None = Field(
        None, gt=0, description="scale of --class-embeddings; default: what its file says, else 100"
    )
    test: str | None = Field(
        None, description="labeled test images: a folder of class folders, or a CSV or Parquet manifest"
    )
    allow_remote: bool = Field(
        False, description="read images by address (http, https, s3, gs, az) where a list names some"
    )
    initial_labels: str | None = Field(
        None,
        description="labels known beforehand: a CSV or Parquet file with columns sample_id (or path) and label, such "
        "as a run's query.csv or labels.parquet, or an account of `psp-ray oracle export`",
    )
    exclude: str | None = Field(None, description="file that lists images to leave out, a name or path a line")
    pool_limit: int | None = Field(None, ge=2, description="use at most this many pool images, chosen by chance")
    template: str | None = Field(
        None, description="zero-shot template such as 'a photo of a {}.'; default: the data set's own"
    )
    evaluate_on: Literal["test", "val"] = Field("test", description="split on which accuracies are reported")
    description_file: str | None = Field(
        None, description="JSON file {class: [description, ...]}; used as AS unless --descriptions says otherwise"
    )

"""Features of a data set as files that other tools, and `--dataset` and `--class-embeddings`, read."""

from __future__ import annotations

from psp_ray.config.config import Config
from psp_ray.core.records import TextState
from psp_ray.core.words import counted
from psp_ray.data.dataset import Dataset
from psp_ray.features.export import check_export, write_class_embeddings, write_features
from psp_ray.features.featurize import FeaturizedDataset
from psp_ray.features.tower import backbone_spec
from psp_ray.run.events import Events
from psp_ray.run.prepare import teacher_of, templates_of


def check_exports(*files: str | None) -> None:
    """Raise an OutputError for a file that can't be written, before anything is encoded."""
    for file in files:
        if file is not None:
            check_export(file)


def export_features(
    config: Config, data: FeaturizedDataset, events: Events, *, features: str | None, classes: str | None
) -> None:
    """Write the features, and the zero-shot class embeddings, each where a file is named.

    Raises:
        OutputError: as `write_features`. UserError: as the checks of `run`.
    """
    if features is not None:
        named = config.data.class_embeddings if data.dataset.embeddings is not None else None
        about = {"model": named or config.model.model, "dataset": data.dataset.name}
        count = write_features(data, features, about)
        events.note(f"{counted(count, 'row')} in {features}; read them with --dataset {features}")
    if classes is not None:
        write_class_embeddings(data.dataset.classes, zero_shot_of(config, data.dataset), classes)
        events.note(f"{len(data.dataset.classes):,} classes in {classes}; read them with --class-embeddings {classes}")


def zero_shot_of(config: Config, dataset: Dataset) -> TextState:
    """The zero-shot classifier: the class embeddings given, or those of the model's text tower."""
    from psp_ray.clip import load_backbone
    from psp_ray.clip.zero_shot import zero_shot_text

    given = teacher_of(config, dataset)
    if given is not None:
        return given
    text = load_backbone(backbone_spec(config.model), towers="text").text
    assert text is not None
    return zero_shot_text(text, dataset.prompt_names, templates_of(config, dataset))

"""What a run is for: a classifier of new images, from the prompts that the run learned."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Union

import numpy as np

from psp_ray.clip.backbone import backbone_hash
from psp_ray.clip.spec import BackboneSpec, offline
from psp_ray.core.errors import DatasetError, ModelError
from psp_ray.core.paths import is_file, is_folder, local_path
from psp_ray.core.probability import class_probabilities
from psp_ray.core.records import Float32Array, TextState
from psp_ray.core.tables import csv_lines
from psp_ray.data.adapters.embedded import scan_embeddings
from psp_ray.data.images import ImageError, center_view, decode, read_file
from psp_ray.data.listing import image_files
from psp_ray.features.embedded import BLOCK_ROWS, half_rows
from psp_ray.features.tower import load_image_tower
from psp_ray.run.folder import require_as_written
from psp_ray.run.prompts import read_prompts, trusted_spec

ImageSource = Union[str, "os.PathLike[str]", bytes]


@dataclass(frozen=True)
class Prediction:
    """`label` is the class name; both it and `probability` are empty where the image can't be read (see `error`)."""

    path: str
    label: str
    probability: float
    error: str = ""


class Classifier:
    """Learned prompts with the image tower they belong to.

    >>> Classifier.load("runs/digits-psp-seed0").predict(["a.png", "b.jpg"])  # doctest: +SKIP
    """

    def __init__(
        self, tower: Any, text: TextState, classes: Sequence[str], spec: BackboneSpec | None = None, caution: str = ""
    ):
        self.tower, self.text, self.classes, self.spec = tower, text, list(classes), spec
        self.caution = caution
        """What must be said wherever its probabilities are shown, such as that few labels calibrate them; or empty."""

    @classmethod
    def load(
        cls,
        run: str | os.PathLike[str],
        *,
        device: str = "auto",
        checkpoint: str | None = None,
        allow_hub: bool = False,
        images: bool = True,
    ) -> Classifier:
        """Load from a run's output folder, or from a `prompts.safetensors` file.

        Args:
            run: folder or file.
            device: auto, cpu, cuda or cuda:N.
            checkpoint: the model's weights, where they are no longer where the run found them.
            allow_hub: download the model that the file names where it is not on this machine.
            images: False for embeddings alone: no tower is loaded.

        Raises:
            ModelError: no prompts there, or the weights are not those that the prompts were learned with.
            OutputError: they are not what the run wrote when it finished.
        """
        learned = read_prompts(run)
        require_as_written(learned.path)
        if not images:
            return cls(None, learned.text, learned.classes, caution=learned.caution)
        if not learned.has_tower:
            raise ModelError(
                f"{learned.path}: learned from embeddings and class embeddings alone, so no image can be encoded; give "
                "a table of embeddings instead"
            )
        spec = trusted_spec(learned, checkpoint=checkpoint, device=device)
        with offline(not allow_hub):
            if backbone_hash(spec) != learned.weights_hash:  # before anything of the weights is read
                raise ModelError(
                    f"{learned.path}: the prompts were learned with other weights of {spec.model}; give --checkpoint"
                )
            tower, _ = load_image_tower(spec)
        return cls(tower, learned.text, learned.classes, spec, learned.caution)

    def predict_embeddings(self, source: str | os.PathLike[str]) -> Iterator[Prediction]:
        """Classify the rows of a table of embeddings (or a folder of tables), read a block at a time.

        `path` of a prediction is the row's `sample_id`. Rows that are empty, of another length, of NaN, infinity or
        zeros get an `error`.

        Raises:
            DatasetError: no table there, or embeddings of another width than the classifier's.
        """
        found, _ = scan_embeddings(os.fspath(source))
        dim = self.text.features.shape[1]
        if found.dim != dim:
            raise DatasetError(
                f"{source}: embeddings have {found.dim} numbers but the run's {dim}; give those of the same model"
            )
        for block in found.blocks(BLOCK_ROWS, lenient=True):
            features, bad = half_rows(block.vectors)
            bad |= block.faults
            probabilities = self._of_features(features.astype(np.float32))
            best, chances = probabilities.argmax(axis=1).tolist(), probabilities.max(axis=1).tolist()
            names = found.sample_ids.slice(block.start, len(best)).to_pylist()
            for row, name in enumerate(names):
                if row in bad:
                    yield Prediction(name, "", float("nan"), bad[row])
                else:
                    yield Prediction(name, self.classes[best[row]], chances[row])

    def predict(
        self,
        images: Sequence[ImageSource],
        *,
        batch_size: int = 64,
        progress: Callable[[int, int], None] | None = None,
        notes: list[str] | None = None,
    ) -> list[Prediction]:
        """Classify image files, folders of them (searched through), or encoded bytes.

        `progress` is told (done, total) after every batch, `notes` what folders held besides images. Unreadable images
        get an `error` instead of a class.

        Raises:
            DatasetError: a path that doesn't exist, or a folder without images.
        """
        found: list[Prediction] = []
        sources = list(_expand(images, notes))
        for start in range(0, len(sources), batch_size):
            found += self._predict_batch(sources[start : start + batch_size])
            if progress is not None:
                progress(len(found), len(sources))
        return found

    def _predict_batch(self, sources: list[ImageSource]) -> list[Prediction]:
        pixels, errors = [], {}
        for place, source in enumerate(sources):
            try:
                data = source if isinstance(source, bytes) else read_file(source)
                pixels.append(center_view(decode(data), self.tower.preprocessing).transpose(2, 0, 1))
            except ImageError as error:
                errors[place] = str(error)
        probabilities = self._probabilities(np.stack(pixels)) if pixels else np.zeros((0, len(self.classes)))
        rows = iter(probabilities)
        predictions = []
        for place, source in enumerate(sources):
            name = f"bytes[{place}]" if isinstance(source, bytes) else os.fspath(source)
            if place in errors:
                predictions.append(Prediction(name, "", float("nan"), errors[place]))
                continue
            row = next(rows)
            best = int(row.argmax())
            predictions.append(Prediction(name, self.classes[best], float(row[best])))
        return predictions

    def _probabilities(self, pixels: Any) -> Float32Array:
        return self._of_features(self.tower.encode(pixels).numpy())

    def _of_features(self, features: Float32Array) -> Float32Array:
        text = self.text
        return class_probabilities(features, text.features, text.logit_scale, text.bias).astype(np.float32)


def _expand(images: Sequence[ImageSource], notes: list[str] | None) -> Iterator[ImageSource]:
    for source in images:
        if isinstance(source, bytes):
            yield source
        elif is_file(source):
            yield local_path(source)
        elif is_folder(source):
            folder = local_path(source)
            found = image_files(folder, any_name=True)
            if notes is not None:
                notes += found.notes()
            if not found.files:
                raise DatasetError(f"{source}: no images in this folder{_besides(found.notes())}")
            yield from (folder.joinpath(*parts) for parts in sorted(found.files))
        else:
            raise DatasetError(f"{source!s}: no such file or folder")


def _besides(notes: Sequence[str]) -> str:
    return f" ({'; '.join(notes)})" if notes else ""


def predictions_csv(predictions: Iterable[Prediction]) -> Iterator[str]:
    """Lines of a CSV with the columns path, class, probability, error."""
    yield from csv_lines([["path", "class", "probability", "error"]])
    yield from csv_lines(
        [item.path, item.label, "" if item.error else f"{item.probability:.4f}", item.error] for item in predictions
    )

"""What a session tells of images and labels; open or closed, it writes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from psp_ray.core.records import Float64Array
from psp_ray.run.session.beliefs import Beliefs
from psp_ray.run.session.classifying import Encoder, Images
from psp_ray.run.session.given import whole
from psp_ray.run.session.records import Doubt

if TYPE_CHECKING:
    import pandas as pd

DOUBT_FOLDS = 10
"""The labels are doubted by evidence that leaves out one in so many at a time."""


class Telling:
    """The part of `psp_ray.Session` that only looks."""

    beliefs: Beliefs
    classes_: np.ndarray
    _encode: Encoder

    def predict_proba(self, images: Images = None) -> Float64Array:
        """Calibrated probabilities (n, C) of the classes, in the order of `classes_`, of images (files, encoded bytes,
        PIL images), of embeddings (n, d) of the run's model, or of the whole pool (None).

        Raises UserError for an image that can't be read.
        """
        return self.beliefs.probabilities(self._encode(images))

    def predict(self, images: Images = None) -> np.ndarray:
        """The likeliest class of each image, by name (n,); see `predict_proba`."""
        return np.asarray(self.classes_[self.predict_proba(images).argmax(axis=1)])

    def top(self, images: Images = None, k: int = 3) -> list[list[tuple[str, float]]]:
        """The `k` likeliest classes of each image with their probabilities, the likeliest first."""
        chances = self.predict_proba(images)
        order = np.argsort(-chances, axis=1, kind="stable")[:, : whole("k", k, 1)]
        return [[(str(self.classes_[c]), float(chances[i, c])) for c in row] for i, row in enumerate(order)]

    def confusion(self) -> pd.DataFrame:
        """Labels (rows) against what classifiers said that had not seen them (columns), in images."""
        return self.beliefs.confusion()

    def doubtful(self, n: int = 20, folds: int = DOUBT_FOLDS) -> list[Doubt]:
        """The bought labels that all other evidence speaks against, the most doubtful first: likely label errors."""
        n, folds = whole("n", n, 0), whole("folds", folds, 2)
        return self.beliefs.doubtful(folds)[:n]

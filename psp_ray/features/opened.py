"""Features of a data set that are in the cache already, for who only looks: nothing is encoded."""

from __future__ import annotations

import numpy as np

from psp_ray.data.dataset import Dataset
from psp_ray.features.cache import EncoderSpec, FeatureCache
from psp_ray.features.featurize import FeaturizedDataset, open_features
from psp_ray.features.hashes import hash_manifest


def open_cached(dataset: Dataset, spec: EncoderSpec, cache: FeatureCache) -> FeaturizedDataset | None:
    """Readers over the features of all images that the cache knows; None where it knows none of the pool.

    What it doesn't know is left out, as broken images are: whether these are the images of a run is for the caller to
    find out (by the fingerprint of their names and contents).
    """
    hashes = hash_manifest(dataset.manifest, cache.folder, root=dataset.root).values
    features = cache.features(spec)
    known = features.contains(hashes)
    ids = np.asarray(dataset.manifest["sample_id"].to_pylist(), dtype=object)
    kept = dataset.without(ids[~known])
    return open_features(kept, hashes[known], features, None) if kept.pool.num_rows else None

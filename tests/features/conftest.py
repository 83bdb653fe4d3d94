"""A small data set of class folders, and an empty cache."""

import pytest

from psp_ray.data import load_dataset
from psp_ray.features.cache import FeatureCache
from tests.data.made import class_folders


@pytest.fixture
def dataset(tmp_path):
    return load_dataset(str(class_folders(tmp_path / "data", per_class=25)))


@pytest.fixture
def cache(tmp_path):
    return FeatureCache.open(tmp_path / "cache")

"""Encoding by itself: fresh views, images one by one, and towers of open_clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from psp_ray.actors.transport import pack, unpack
from psp_ray.clip.preprocess import Preprocessing
from psp_ray.core.errors import DatasetError
from psp_ray.data import load_dataset
from psp_ray.data.images import (
    ImageError,
)
from psp_ray.features.cache import EncoderSpec, FeatureCache
from psp_ray.features.encoder import ChunkEncoder, encode_images
from psp_ray.features.featurize import featurize, plan_featurize
from psp_ray.features.fresh import FreshViews
from tests.data.made import DIM, ToyTower, class_folders, toy_encoder
from tests.features.made import SPEC, VIEWS, all_bits


def test_fresh_views_differ_by_round_and_not_by_company(dataset, cache):
    done = featurize(dataset, SPEC, cache, toy_encoder, VIEWS)
    fresh = unpack(pack(FreshViews(done.dataset.pool, done.pool.hashes, VIEWS)))
    positions = np.array([30, 2, 17, 5, 9, 11, 0, 35])
    first = fresh.encode(toy_encoder(), positions, round=1)
    assert first.shape == (8, 3, DIM)
    assert first.dtype == np.float16
    np.testing.assert_array_equal(first, fresh.encode(toy_encoder(decode_threads=1), positions, round=1))
    np.testing.assert_array_equal(first[[3, 0]], fresh.encode(toy_encoder(), positions[[3, 0]], round=1))
    assert not np.array_equal(first, fresh.encode(toy_encoder(), positions, round=2))
    assert not np.array_equal(first, done.pool.block(0, views=True).views[positions])
    assert fresh.encode(toy_encoder(), positions[:0], round=1).shape == (0, 3, 0)
    cached = done.pool.block(0, views=True).views[positions]
    np.testing.assert_allclose(fresh.encode(toy_encoder(), positions, round=0), cached, atol=1e-3)
    with pytest.raises(ValueError, match="round 0"):
        fresh.encode(toy_encoder(), positions, round=-1)


def test_fresh_views_of_an_image_twice_in_the_pool(tmp_path, cache):
    root = class_folders(tmp_path / "data", per_class=6)
    for path in root.rglob("*.png"):
        path.write_bytes((root / "cat" / "000.png").read_bytes() if "00" in path.name else path.read_bytes())
    done = featurize(load_dataset(str(root)), SPEC, cache, toy_encoder)
    fresh = FreshViews(done.dataset.pool, done.pool.hashes, VIEWS)
    out = fresh.encode(toy_encoder(), np.arange(done.pool.n), round=1)
    assert (out == out[0]).all()


def test_fresh_views_name_an_image_that_has_gone(dataset, cache, tmp_path):
    done = featurize(dataset, SPEC, cache, toy_encoder)
    (tmp_path / "data" / done.sample_ids[4]).unlink()
    with pytest.raises(DatasetError, match=done.sample_ids[4]):
        FreshViews(done.dataset.pool, done.pool.hashes, VIEWS).encode(toy_encoder(), np.arange(8), round=1)


# -- images in no cache ------------------------------------------------------------------------------------------


def test_encode_images_streams_and_keeps_the_order(dataset, cache):
    data = [Path(path).read_bytes() for path in dataset.pool["path"].to_pylist()]
    data[5] = b"broken"
    data[6] = data[7]
    drawn = []

    def images():
        for item in data:
            drawn.append(1)
            yield item

    stream = encode_images(toy_encoder(), images(), chunk_size=10)
    place, _ = next(stream)
    assert place == 0
    assert len(drawn) == 10
    out = dict(stream)
    assert sorted(out) == list(range(1, 36))
    assert isinstance(out[5], ImageError)
    done = featurize(dataset, SPEC, cache, toy_encoder)
    expected = done.pool.rows(np.arange(36))
    for i in set(range(1, 36)) - {5, 6}:
        np.testing.assert_array_equal(out[i], expected[i])
    np.testing.assert_array_equal(out[6], expected[7])


# -- a real tower ------------------------------------------------------------------------------------------------


def test_open_clip_tower_gives_the_same_bits_in_any_company_and_the_numbers_of_open_clip(dataset, tmp_path):
    """A small ViT and a small ResNet of open_clip (random weights), through the project's own image tower."""
    torch = pytest.importorskip("torch")
    from open_clip import image_transform
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.transformer import VisionTransformer
    from PIL import Image

    from psp_ray.clip.image import ImageTower

    torch.manual_seed(0)
    prep = Preprocessing(size=(32, 32))
    vit = VisionTransformer(image_size=32, patch_size=8, width=32, layers=2, heads=2, mlp_ratio=2.0, output_dim=16)
    resnet = ModifiedResNet(layers=[1, 1, 1, 1], output_dim=16, heads=4, image_size=32, width=16)
    for visual in (vit, resnet):
        spec = EncoderSpec(type(visual).__name__, prep, 16)
        tower = ImageTower(visual, prep, "cpu")
        runs = [
            featurize(
                dataset,
                spec,
                FeatureCache.open(tmp_path / f"{spec.weights_hash}-{size}"),
                lambda tower=tower: ChunkEncoder(lambda: tower, prep, batch_size=8),
                VIEWS,
                chunk_size=size,
            )
            for size in (3, 50)
        ]
        assert all_bits(runs[0]) == all_bits(runs[1])
        transform = image_transform(32, is_train=False, mean=prep.mean, std=prep.std)
        images = [transform(Image.open(path)) for path in dataset.pool["path"].to_pylist()]
        with torch.no_grad():
            expected = torch.nn.functional.normalize(visual(torch.stack(images)), dim=-1).numpy()
        np.testing.assert_allclose(runs[0].pool.rows(np.arange(36)).astype(np.float32), expected, atol=1e-3)


def test_an_encoder_of_another_size_is_refused(dataset, cache):
    other = ChunkEncoder(ToyTower, Preprocessing(size=(24, 24)))
    with pytest.raises(RuntimeError, match="encoder and cache disagree"):
        featurize(dataset, SPEC, cache, lambda: other)
    assert plan_featurize(dataset, SPEC, cache).n_missing == dataset.manifest.num_rows, "nothing was filed"

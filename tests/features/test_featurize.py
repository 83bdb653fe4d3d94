"""Featurizing: the same bits however the work is cut, nothing twice, broken images named, memory bounded."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from psp_ray.actors.transport import pack, unpack
from psp_ray.clip.preprocess import Preprocessing
from psp_ray.core.errors import DatasetError, ModelError
from psp_ray.core.noise import sample_keys
from psp_ray.data import load_dataset
from psp_ray.data.images import (
    ViewSettings,
    augmented_views,
    center_view,
    content_hash,
    decode,
    view_noise,
)
from psp_ray.features import encoder as encoder_module
from psp_ray.features.cache import EncoderSpec, FeatureCache
from psp_ray.features.encoder import ChunkEncoder
from psp_ray.features.featurize import featurize, plan_featurize, write_broken
from tests.data.made import DIM, PREP, ToyTower, class_folders, encoded, picture, save, toy_encoder
from tests.features.made import SPEC, VIEWS, all_bits, unit


def test_features_are_those_of_a_plain_loop(dataset, cache):
    done = featurize(dataset, SPEC, cache, toy_encoder, VIEWS, chunk_size=7)
    block = done.pool.block(0, views=True)
    pool = dataset.pool
    assert block.features.shape == (36, DIM)
    assert block.views.shape == (36, 3, DIM)
    assert done.sample_ids == pool["sample_id"].to_pylist()
    assert done.n_encoded == 36 * 4 + 14
    np.testing.assert_array_equal(block.keys, sample_keys(done.sample_ids))
    for i, path in enumerate(pool["path"].to_pylist()):
        data = Path(path).read_bytes()
        image = decode(data)
        digest = np.frombuffer(content_hash(data), np.uint8)
        views = augmented_views(image, PREP, VIEWS, view_noise(digest[None], VIEWS)[0])
        plain = unit(ToyTower().encode(np.stack([center_view(image, PREP), *views]).transpose(0, 3, 1, 2)))
        np.testing.assert_array_equal(block.features[i], plain[0])
        np.testing.assert_array_equal(block.views[i], plain[1:])
        assert done.content_hashes[i] == digest.tobytes().hex()
    for part in (done.val, done.test):
        name = "val" if part is done.val else "test"
        assert part.sample_ids == dataset.part(name)["sample_id"].to_pylist()
        np.testing.assert_array_equal(part.labels, dataset.labels(name))
        assert part.load().shape == (part.n, DIM)
        assert part.reader.n_views == 0


def test_batches_have_one_shape(dataset, cache):
    tower = ToyTower()
    featurize(dataset, SPEC, cache, lambda: toy_encoder(tower), VIEWS, chunk_size=7)
    assert tower.shapes == {(8, 3, 16, 16)}
    for side, batch in ((96, 32), (224, 16)):
        assert ChunkEncoder(ToyTower, Preprocessing(size=(side, side))).batch_size == batch


@pytest.mark.parametrize("chunk_size", [1, 5, 64])
@pytest.mark.parametrize("workers", [1, 3])
def test_same_bits_for_any_workers_and_order_and_chunks(dataset, cache, tmp_path, chunk_size, workers):
    reference = featurize(dataset, SPEC, cache, toy_encoder, VIEWS, chunk_size=16)

    def scattered(tasks):
        """Workers that each hold an encoder; what crosses is packed as for Ray; results in reverse."""
        encoders = [toy_encoder(decode_threads=1 + i) for i in range(workers)]
        with ThreadPoolExecutor(workers) as executor:
            futures = [
                executor.submit(lambda i, packet: pack(encoders[i % workers](unpack(packet))), i, pack(task))
                for i, task in enumerate(tasks)
            ]
            yield from (unpack(future.result()) for future in reversed(futures))

    other = FeatureCache.open(tmp_path / "other")
    done = featurize(dataset, SPEC, other, toy_encoder, VIEWS, map_fn=scattered, chunk_size=chunk_size)
    assert all_bits(done) == all_bits(reference)


def test_nothing_is_encoded_twice_and_the_encoder_is_not_built(dataset, cache):
    first = featurize(dataset, SPEC, cache, toy_encoder, VIEWS)

    def never():
        raise AssertionError("built an encoder though nothing was missing")

    again = featurize(dataset, SPEC, cache, never, VIEWS)
    assert again.n_encoded == 0
    assert all_bits(again) == all_bits(first)
    centers_only = featurize(dataset, SPEC, cache, never)
    assert centers_only.pool.n_views == 0
    assert centers_only.pool.block(0, views=True).views is None
    other = featurize(dataset, SPEC, cache, toy_encoder, ViewSettings(count=3, seed=9))
    assert other.n_encoded == 36 * 3  # new views, old centers


def test_moved_and_copied_images_are_known_by_content(dataset, cache, tmp_path):
    featurize(dataset, SPEC, cache, toy_encoder)
    os.rename(tmp_path / "data", tmp_path / "moved")
    for i in range(5):
        (tmp_path / "moved" / "cat" / f"copy{i}.png").write_bytes((tmp_path / "moved" / "cat" / "000.png").read_bytes())
    done = featurize(load_dataset(str(tmp_path / "moved")), SPEC, cache, toy_encoder)
    assert done.n_encoded == 0


def test_an_image_in_pool_and_test_is_encoded_once_and_found_in_both(tmp_path, cache):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            save(tmp_path / "data" / part / name / "a.png", 1 if name == "cat" else 2)
    done = featurize(load_dataset(str(tmp_path / "data")), SPEC, cache, toy_encoder, VIEWS)
    assert done.n_encoded == 2 + 2 * 3
    np.testing.assert_array_equal(done.pool.rows(np.arange(2)), done.test.load())
    assert done.val.n == 0
    assert done.val.load().shape == (0, DIM)


def test_an_interrupted_run_goes_on_where_it_was(dataset, cache, tmp_path):
    whole = featurize(dataset, SPEC, FeatureCache.open(tmp_path / "other"), toy_encoder, VIEWS, chunk_size=8)
    with pytest.raises(KeyboardInterrupt):
        featurize(dataset, SPEC, cache, lambda: toy_encoder(ToyTower(fail_after=9)), VIEWS, chunk_size=8)
    plan = plan_featurize(dataset, SPEC, cache, VIEWS)
    assert 0 < plan.n_missing < 50
    done = featurize(dataset, SPEC, cache, toy_encoder, VIEWS, chunk_size=8)
    assert 0 < done.n_encoded == plan.n_encodings < whole.n_encoded
    assert all_bits(done) == all_bits(whole)


KILLED = """
import os, signal, sys
from psp_ray.data import load_dataset
from psp_ray.features.cache import FeatureCache
from psp_ray.features.featurize import featurize
from tests.data.made import toy_encoder
from tests.features.made import SPEC, VIEWS
def progress(p):
    if p.done > 60:
        os.kill(os.getpid(), signal.SIGKILL)
featurize(load_dataset(sys.argv[1]), SPEC, FeatureCache.open(sys.argv[2]), toy_encoder, VIEWS, progress=progress,
          chunk_size=8)
"""


def test_a_killed_process_leaves_a_cache_to_go_on_with(dataset, cache, tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "data"), cache.folder], check=False)
    assert done.returncode == -signal.SIGKILL
    rest = featurize(dataset, SPEC, cache, toy_encoder, VIEWS, chunk_size=8)
    whole = featurize(dataset, SPEC, FeatureCache.open(tmp_path / "other"), toy_encoder, VIEWS, chunk_size=8)
    assert 0 < rest.n_encoded < whole.n_encoded
    assert all_bits(rest) == all_bits(whole)


def test_a_damaged_segment_is_encoded_again(dataset, cache):
    first = featurize(dataset, SPEC, cache, toy_encoder, VIEWS, chunk_size=16)
    bits = all_bits(first)
    store = cache.encoder_folder(SPEC)
    for folder, damage in (("features", 40), (os.path.basename(cache.views(SPEC, VIEWS).folder), 90)):
        file = sorted((store / folder).glob("*.arrow"))[1]
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= damage
        file.write_bytes(data)
    again = featurize(dataset, SPEC, cache, toy_encoder, VIEWS, chunk_size=16)
    assert again.n_encoded > 0
    assert all_bits(again) == bits


def test_broken_images_are_named_and_left_out(tmp_path, cache):
    root = class_folders(tmp_path / "data", per_class=25)
    dataset = load_dataset(str(root))
    pool, test = dataset.pool["sample_id"].to_pylist(), dataset.test["sample_id"].to_pylist()
    whole = encoded(picture(1, size=(90, 90)))
    (root / pool[3]).write_bytes(whole[: len(whole) // 2])
    (root / pool[10]).write_bytes(b"")
    (root / test[0]).write_bytes(b"<html>not found</html>")
    (root / pool[20]).unlink()
    done = featurize(dataset, SPEC, cache, toy_encoder, VIEWS, chunk_size=7)
    reasons = {image.sample_id: image.reason for image in done.broken}
    assert set(reasons) == {pool[3], pool[10], pool[20], test[0]}
    assert reasons[pool[10]] == "empty file"
    assert reasons[pool[20]] == "file not found"
    assert "truncated" in reasons[pool[3]]
    assert "not an image" in reasons[test[0]]
    assert done.sample_ids == [name for name in pool if name not in reasons]
    assert done.pool.n == 33
    assert done.test.sample_ids == test[1:]
    assert done.test.n == len(test) - 1 == len(done.test.labels)
    assert done.dataset.manifest.num_rows == 46
    write_broken(tmp_path / "broken_images.csv", done.broken)
    rows = list(csv.DictReader((tmp_path / "broken_images.csv").open()))
    assert [row["sample_id"] for row in rows] == sorted(reasons)
    assert rows[0]["reason"]
    again = featurize(dataset, SPEC, cache, toy_encoder, VIEWS, chunk_size=7)
    assert again.broken == done.broken
    assert again.n_encoded == 0


def test_no_tower_is_loaded_for_images_that_are_all_broken(tmp_path, cache):
    root = class_folders(tmp_path / "data", per_class=4)
    dataset = load_dataset(str(root))
    for path in root.rglob("*.png"):
        path.write_bytes(b"gone bad")

    def never():
        raise AssertionError("loaded the tower")

    with pytest.raises(DatasetError, match="no readable image among"):
        featurize(dataset, SPEC, cache, lambda: ChunkEncoder(never, PREP))


def test_numbers_that_are_not_finite_are_broken_images(dataset, cache):
    class Sick(ToyTower):
        def encode(self, images):
            out = super().encode(images)
            out[out[:, 0] > 12] = np.nan
            out[out[:, 0] < -12] = 0
            return out

    done = featurize(dataset, SPEC, cache, lambda: toy_encoder(Sick()), VIEWS)
    assert done.broken
    assert {image.reason for image in done.broken} == {"the model gave no finite feature"}
    assert np.isfinite(done.pool.block(0, views=True).views).all()

    class Dead(ToyTower):
        def encode(self, images):
            return super().encode(images) * np.nan

    with pytest.raises(ModelError, match="fp32"):
        featurize(dataset, EncoderSpec("dead", PREP, DIM), cache, lambda: toy_encoder(Dead()))


def test_a_file_that_changes_under_way_is_not_filed_under_its_old_name(dataset, cache):
    def meddle(tasks):
        encoder = toy_encoder()
        for task in tasks:
            path = task.images["path"][0].as_py()
            with open(path, "wb") as handle:
                handle.write(encoded(picture(99999)))
            yield encoder(task)

    done = featurize(dataset, SPEC, cache, toy_encoder, map_fn=meddle, chunk_size=10)
    assert {image.reason for image in done.broken} == {"the file changed while it was being read"}
    assert len(done.broken) == 5


def test_tasks_are_made_one_at_a_time_and_results_are_not_kept(dataset, cache, monkeypatch):
    """A pool larger than memory: never more than one task and one result are alive."""
    import weakref

    alive: list[weakref.ref] = []

    def watched(tasks):
        encoder = toy_encoder()
        for task in tasks:
            assert sum(ref() is not None for ref in alive) <= 2  # this task and, in the caller's hands, the last result
            result = encoder(task)
            alive.extend([weakref.ref(task), weakref.ref(result)])
            yield result
            del task, result

    featurize(dataset, SPEC, cache, toy_encoder, VIEWS, map_fn=watched, chunk_size=5)
    assert len(alive) == 20


def test_decoding_stays_a_bounded_way_ahead(dataset, cache, monkeypatch):
    decoded = []
    real = encoder_module.decode
    monkeypatch.setattr(encoder_module, "decode", lambda data: decoded.append(1) or real(data))
    ahead = []

    class Watching(ToyTower):
        def encode(self, images):
            ahead.append(len(decoded) - self.batches * 8)
            return super().encode(images)

    featurize(dataset, SPEC, cache, lambda: toy_encoder(Watching()), chunk_size=50)
    assert max(ahead) <= 8 + 8 + 1  # the batch itself and one batch of window


def test_digits_bytes_travel_inline(cache):
    dataset = load_dataset("digits")
    small = dataset.without(dataset.manifest["sample_id"].to_pylist()[60:])
    done = featurize(small, SPEC, cache, toy_encoder, ViewSettings(count=2, flip=dataset.mirror))
    assert done.pool.n + done.val.n + done.test.n == 60
    assert not done.broken

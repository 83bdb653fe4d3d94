"""What featurizing will take, told before and while it goes on."""

from __future__ import annotations

import pytest

from psp_ray.core.errors import OutputError
from psp_ray.data import load_dataset
from psp_ray.features import encoder as encoder_module
from psp_ray.features import featurize as featurize_module
from psp_ray.features.cache import FeatureCache
from psp_ray.features.encoder import ChunkEncoder
from psp_ray.features.featurize import featurize, plan_featurize
from tests.data.made import DIM, PREP, ToyTower, class_folders, toy_encoder
from tests.features.made import SPEC, VIEWS


def test_plan(dataset, cache):
    plan = plan_featurize(dataset, SPEC, cache, VIEWS)
    assert (plan.n_samples, plan.n_images, plan.n_cached, plan.n_missing) == (50, 50, 0, 50)
    assert plan.n_encodings == 50 + 36 * 3
    assert plan.seconds is None
    assert plan.bytes_free > 0
    assert plan.bytes_needed == 50 * (2 * DIM + 16) + 36 * (2 * DIM * 3 + 16)
    timed = plan_featurize(dataset, SPEC, cache, VIEWS, toy_encoder())
    assert timed.encodings_per_second > 0
    assert timed.seconds > 0
    featurize(dataset, SPEC, cache, toy_encoder, VIEWS)
    done = plan_featurize(dataset, SPEC, cache, VIEWS, toy_encoder())
    assert (done.n_cached, done.n_missing, done.n_encodings, done.bytes_needed, done.seconds) == (50, 0, 0, 0, 0.0)
    store = cache.encoder_folder(SPEC)
    used = sum(file.stat().st_size for file in store.rglob("*.arrow"))
    assert used >= plan.bytes_needed


def test_copies_are_counted_and_encoded_once(tmp_path, cache):
    root = class_folders(tmp_path / "data", per_class=25)
    files = sorted(root.rglob("*.png"))
    for file in files[1:4]:
        file.write_bytes(files[0].read_bytes())
    dataset = load_dataset(str(root))
    files[9].unlink()
    plan = plan_featurize(dataset, SPEC, cache)
    assert (plan.n_samples, plan.n_copies, plan.n_images) == (50, 3, 46)


def test_a_plan_spares_the_second_look(dataset, cache, monkeypatch):
    plan = plan_featurize(dataset, SPEC, cache, VIEWS)
    monkeypatch.setattr(featurize_module, "hash_manifest", None)
    done = featurize(dataset, SPEC, cache, toy_encoder, VIEWS, plan=plan)
    assert done.n_encoded == plan.n_encodings


def test_loading_the_tower_is_not_counted_as_encoding(dataset, cache):
    class Clock:
        now = 0.0

        def perf_counter(self):
            return self.now

    clock = Clock()

    class Timed(ToyTower):
        def encode(self, images):
            clock.now += 0.5
            return super().encode(images)

    def load():
        clock.now += 100.0
        return Timed()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder_module, "time", clock)
        patch.setattr(featurize_module, "time", clock)
        told = []
        encoder = ChunkEncoder(load, PREP, batch_size=8)
        featurize(dataset, SPEC, cache, lambda: encoder, progress=told.append)
    assert told[1].done == 16  # the first chunk is a small one
    assert all(p.images_per_second == pytest.approx(16, rel=0.2) for p in told[1:])
    assert told[1].eta_seconds == pytest.approx(34 / 16, rel=0.2)


def test_a_full_disk_is_found_before_work_begins(dataset, cache, monkeypatch):
    monkeypatch.setattr(FeatureCache, "free_bytes", 10)
    with pytest.raises(OutputError, match="MiB are free"):
        featurize(dataset, SPEC, cache, toy_encoder)


def test_progress(dataset, cache):
    told = []
    featurize(dataset, SPEC, cache, toy_encoder, VIEWS, progress=told.append, chunk_size=10)
    assert told[0].done == 0
    assert told[0].eta_seconds is None
    assert told[0].total == 158
    assert [p.done for p in told] == sorted(p.done for p in told)
    assert told[-1].done == 158
    assert told[-1].eta_seconds == 0
    assert all(p.images_per_second > 0 for p in told[1:])
    quiet = []
    featurize(dataset, SPEC, cache, toy_encoder, VIEWS, progress=quiet.append)
    assert quiet == []


def test_progress_reaches_its_total_when_images_are_broken(tmp_path, cache):
    root = class_folders(tmp_path / "data", per_class=10)
    dataset = load_dataset(str(root))
    (root / dataset.pool["sample_id"][0].as_py()).write_bytes(b"broken")
    told = []
    featurize(dataset, SPEC, cache, toy_encoder, VIEWS, progress=told.append, chunk_size=4)
    assert told[-1].done == told[-1].total

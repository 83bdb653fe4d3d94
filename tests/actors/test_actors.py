"""On Ray: the same bits as in one process, on one shard or several, and errors that say what to do."""

from __future__ import annotations

import json
import os
import re
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from psp_ray.actors.cluster import Need, check_needs, most_resources
from psp_ray.actors.opening import open_runtime
from psp_ray.actors.pool import PoolShape, PoolShard, ShardedPool, first_blocks
from psp_ray.actors.shell import ActorHandle, ComponentActor, wait_for
from psp_ray.actors.transport import pack
from psp_ray.core.errors import ConfigError, ResourceError
from psp_ray.core.noise import sample_keys
from psp_ray.core.records import BLOCK_SIZE, PoolState, TextState
from psp_ray.features.cache import FeatureStore
from psp_ray.features.pool import CachedPool
from psp_ray.report.progress import Reporter
from psp_ray.run.build import build_pseudo_labeler, build_sampler
from psp_ray.run.command import run
from psp_ray.run.featurizing import featurize_only
from psp_ray.run.inputs import PseudoLabelerInput
from psp_ray.run.pool_source import PoolSource
from psp_ray.run.resolve import resolve
from psp_ray.selftrain import KnownLabels, ScoreRequest

N, DIM, VIEWS, CLASSES = 2 * BLOCK_SIZE + 500, 8, 2, 5


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A pool of three blocks of random features in a cache of its own."""
    folder = tmp_path_factory.mktemp("pool")
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (N, 16), dtype=np.uint8)
    features = rng.normal(size=(N, DIM))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    views = features[:, None] + 0.1 * rng.normal(size=(N, VIEWS, DIM))
    views /= np.linalg.norm(views, axis=2, keepdims=True)
    feature_store = FeatureStore(str(folder / "features"), "features", DIM)
    view_store = FeatureStore(str(folder / "views"), "views", VIEWS * DIM)
    for rows in np.array_split(np.arange(N), 7):
        feature_store.write(hashes[rows], features[rows].astype(np.float16))
        view_store.write(hashes[rows], views[rows].reshape(len(rows), -1).astype(np.float16))
    pool = CachedPool(feature_store, hashes, sample_keys([str(i) for i in range(N)]), view_store)
    return PoolSource.of(pool, str(folder))


def sharded(ray, source, shards):
    pool = source.open()
    starts = first_blocks(pool.n, shards)
    ends = [*starts[1:], pool.n_blocks]
    actors = [
        ray.remote(PoolShard).options(num_cpus=0.01).remote(pack(source), first, last)
        for first, last in zip(starts, ends, strict=True)
    ]
    return ShardedPool(PoolShape(pool.n, pool.dim, pool.n_views, starts), actors, 60.0)


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_sharded_pool_reads_like_the_cache(local_ray, source, shards):
    pool, remote = source.open(), sharded(local_ray, source, shards)
    assert (remote.n, remote.dim, remote.n_views, remote.n_blocks) == (N, DIM, VIEWS, 3)
    np.testing.assert_array_equal(remote.keys, pool.keys)
    for index in (0, 1, 2, 0):
        for views in (False, True):
            ours, theirs = pool.block(index, views=views), remote.block(index, views=views)
            assert (ours.index, ours.start) == (theirs.index, theirs.start)
            assert np.array_equal(ours.keys, theirs.keys)
            assert ours.features.tobytes() == theirs.features.tobytes()
            assert (ours.views is None) == (theirs.views is None)
            if views:
                assert ours.views.tobytes() == theirs.views.tobytes()
    positions = np.random.default_rng(1).integers(0, N, 1000)
    assert remote.rows(positions).tobytes() == pool.rows(positions).tobytes()
    assert remote.rows(positions[:0]).shape == (0, DIM)


def state(n_query=40):
    rng = np.random.default_rng(2)
    text = rng.normal(size=(CLASSES, DIM)).astype(np.float32)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    labeled = np.sort(rng.choice(N, 60, replace=False))
    return PoolState(
        round=2,
        seed=3,
        n_query=n_query,
        n_classes=CLASSES,
        text=TextState(text, 30.0),
        unlabeled=np.setdiff1d(np.arange(N), labeled),
        labeled=labeled,
        labels=rng.integers(0, CLASSES, 60).astype(np.int32),
    )


def test_selections_and_pseudo_labels_do_not_depend_on_shards(local_ray, source):
    config = resolve({"threads": 1, "confidence_min": 0.3, "uncertainty_max": 1.0})
    settings = PseudoLabelerInput(config.selftrain, VIEWS)
    given = state()
    bought, request = KnownLabels.at_once(given.labeled, given.labels), ScoreRequest(2, given.text, given.unlabeled)
    pools = [source.open(), *(sharded(local_ray, source, shards) for shards in (1, 3))]
    proposals = [build_sampler(config.policy, pool).propose(given) for pool in pools]
    labelers = [build_pseudo_labeler(settings, pool) for pool in pools]
    pseudo = [labeler.select(labeler.score(request), bought, given.unlabeled[:0]) for labeler in labelers]
    assert len(pseudo[0].positions) > 0
    for other in proposals[1:]:
        assert other.positions.tobytes() == proposals[0].positions.tobytes()
        assert other.log_prob.tobytes() == proposals[0].log_prob.tobytes()
    for other in pseudo[1:]:
        for name, column in vars(pseudo[0]).items():
            assert getattr(other, name).tobytes() == column.tobytes()


def result(out):
    summary = json.loads((out / "summary.json").read_text())
    rounds = [{k: v for k, v in row.items() if k not in ("seconds", "wall_seconds")} for row in summary["rounds"]]
    tables = {name: pq.read_table(out / f"{name}.parquet") for name in ("labels", "policy", "pool_predictions")}
    return rounds, tables, (out / "prompts.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("views", "strategy"), [("cached:2", "vssp"), pytest.param("fresh:2", "random", marks=pytest.mark.slow)]
)
def test_a_run_on_ray_equals_one_in_process(local_ray, tiny_model, tiny_folder, tmp_path, views, strategy):
    """The policy over cached views; fresh views by a worker, where a simple strategy keeps torch out of an actor."""
    options = {
        "dataset": str(tiny_folder),
        "model": tiny_model,
        "rounds": 2,
        "labels_per_round": 3,
        "learning_steps": 4,
        "update_steps": 2,
        "pictures": False,
        "views": views,
        "strategy": strategy,
        "self_training": "ust",
        "confidence_min": 0.0,
        "uncertainty_max": 1.0,
        "threads": 1,
        "workers": 1,
    }
    outs = {}
    for runner in ("inline", "ray"):
        outs[runner] = tmp_path / runner
        # Cached views are encoded by either runner; for fresh ones, which are never cached, the features may be there.
        cache = tmp_path / (f"{runner}-cache" if views == "cached:2" else "cache")
        given = {**options, "out": str(outs[runner]), "runner": runner, "cache": str(cache)}
        run(resolve(given), Reporter(2, Console(quiet=True)), open_runtime=open_runtime)
    inline, on_ray = result(outs["inline"]), result(outs["ray"])
    assert (inline[1]["policy"].num_rows > 0) == (strategy == "vssp")
    assert inline[0] == on_ray[0]
    for name in inline[1]:
        assert inline[1][name].equals(on_ray[1][name]), name
    assert inline[2] == on_ray[2]


class Odd:
    """A component that fails in every way."""

    def __init__(self, behavior):
        if behavior == "refuse":
            raise ConfigError("--beta -1: no")

    def wait(self):
        time.sleep(30)

    def complain(self):
        raise ConfigError("--gamma 2: no")

    def die(self):
        os._exit(1)


def odd(ray, behavior="live", timeout=20.0):
    actor = ray.remote(ComponentActor).options(num_cpus=0.01).remote(f"{__name__}:Odd", pack([behavior]), 1)
    return ActorHandle("odd", actor, timeout)


def test_errors_of_components_arrive_as_they_are(local_ray):
    with pytest.raises(ConfigError, match="--gamma 2"):
        odd(local_ray).ask(Odd.complain).result()
    with pytest.raises(ConfigError, match="--beta -1"):
        odd(local_ray, "refuse").ask(Odd.complain).result()


def test_a_dead_or_silent_actor_is_named(local_ray):
    with pytest.raises(ResourceError, match=r"odd\.die.*--resume"):
        odd(local_ray).ask(Odd.die).result()
    handle = odd(local_ray)
    assert wait_for(handle.actor.ping.remote(), "ping", 60.0) != os.getpid()
    handle.timeout = 0.2
    with pytest.raises(ResourceError, match=r"odd\.wait.*--timeout 0.2"):
        handle.ask(Odd.wait).result()


def test_what_can_not_be_placed_is_refused_with_numbers(local_ray):
    check_needs([Need("learner", 1, 0.5)])
    with pytest.raises(ResourceError, match=r"10000 CPUs.*cluster has [0-9.]+ CPUs"):
        check_needs([Need("learner", 1, 9_999.0), Need("sampler", 1, 1.0)])
    with pytest.raises(ResourceError, match=r"7 GPU"):
        check_needs([Need("learner", 1, 0.1, 7.0)])


def test_what_the_autoscaler_could_add_counts(local_ray, monkeypatch, capsys):
    needs = [Need("learner", 1, 0.1, 0.5), Need("sampler", 2, 4_000.0)]
    monkeypatch.setenv("PSP_RAY_CLUSTER_MAX", "CPU=8001, GPU=2")
    check_needs(needs)
    assert re.search(r"waits for nodes: asks for 8000\.1 CPUs and 0\.5 GPUs .* may grow", capsys.readouterr().err)
    assert most_resources()["GPU"] == 2
    check_needs([Need("learner", 1, 0.5)])
    assert capsys.readouterr().err == "", "it fits as it is"
    monkeypatch.setenv("PSP_RAY_CLUSTER_MAX", "CPU=8001")
    with pytest.raises(ResourceError, match=r"grows to 8001 CPUs and 0 GPUs at most"):
        check_needs(needs)
    for wrong in ("8", "CPU=many", "CPU=-1", "=3"):
        monkeypatch.setenv("PSP_RAY_CLUSTER_MAX", wrong)
        with pytest.raises(ResourceError, match=r"write it as CPU=20,GPU=2"):
            check_needs(needs)


def test_an_absent_cluster_is_one_line(local_ray, monkeypatch):
    from psp_ray.actors import cluster

    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)

    def refuse(**_):
        raise ConnectionError("nothing listens\nthere")

    monkeypatch.setattr(cluster.ray, "init", refuse)
    with pytest.raises(ResourceError, match=r"--ray-address 127\.0\.0\.1:1: no cluster answers"):
        cluster.start_ray("127.0.0.1:1")


@pytest.mark.slow
def test_labels_by_file_wait_on_ray_too(local_ray, tiny_model, tiny_folder, tmp_path):
    """The oracle is an actor; what it waits for reaches the driver, and views on demand are encoded by a worker.

    The run then goes on in this process: where it runs may change, and the features are there already.
    """
    import pandas as pd

    options = {
        "dataset": str(tiny_folder),
        "model": tiny_model,
        "cache": str(tmp_path / "cache"),
        "rounds": 1,
        "labels_per_round": 4,
        "learning_steps": 2,
        "strategy": "random",
        "self_training": "ust",
        "views": "on-demand:2",
        "pseudo_source": "prompt",
        "confidence_min": 0.0,
        "uncertainty_max": 1.0,
        "threads": 1,
        "workers": 1,
        "oracle": "file",
        "out": str(tmp_path / "run"),
        "resume": True,
    }
    quiet = Reporter(1, Console(quiet=True))
    featurize_only(resolve({**options, "runner": "inline"}), quiet)
    assert not list((tmp_path / "cache").glob("*/views-*/*")), "views are made when they are asked for"
    assert run(resolve({**options, "runner": "ray"}), quiet, open_runtime=open_runtime)["status"] == "awaiting_labels"
    assert list((tmp_path / "cache").glob("*/views-*/*")), "by the worker"
    file = tmp_path / "run" / "round_01" / "query.csv"
    table = pd.read_csv(file, dtype=str)
    table["label"] = table.sample_id.str.split("/").str[0]
    table.to_csv(file, index=False)
    done = run(resolve({**options, "runner": "inline"}), quiet)
    assert (done["status"], done["labels_used"]) == ("finished", 4)
    assert done["rounds"][0]["pseudo_labels"] > 0

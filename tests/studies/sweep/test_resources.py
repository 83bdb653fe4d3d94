"""What a trial asks for, nested actors included, and whether a cluster can ever give it."""

import pytest

from psp_ray.actors.runtime import crew_needs, worker_gpus
from psp_ray.core.errors import ResourceError
from psp_ray.run.resolve import resolve
from psp_ray.studies.sweep import resources
from psp_ray.studies.sweep.plan import Plan
from psp_ray.studies.sweep.resources import check_trial_fits, trial_bundles


def plan(**settings):
    return Plan({"a": {"dataset": "digits"}, "b": {"dataset": "digits"}}, [1], {}, settings)


def total(bundles, kind):
    return pytest.approx(sum(bundle.get(kind, 0.0) for bundle in bundles))


def test_a_trial_in_one_process_asks_for_what_it_is_given():
    assert trial_bundles(plan(runner="inline"), {"CPU": 1.0, "GPU": 0.0}) == [{"CPU": 1.0}]
    assert trial_bundles(plan(runner="inline"), {"CPU": 0.5, "GPU": 0.25}) == [{"CPU": 0.5, "GPU": 0.25}]


def test_a_trial_on_actors_asks_for_all_of_them():
    """Of each data set: learner 0.3, sampler 0.2, oracle 0.05, pool shard 0.02, pseudo-labeler 0.15."""
    cached = trial_bundles(plan(runner="ray"), {"CPU": 1.0, "GPU": 0.0})
    assert len(cached) == 1 + 2 * 5
    assert total(cached, "CPU") == 1.0 + 2 * 0.72
    assert total(cached, "GPU") == 0.0
    fresh = trial_bundles(plan(runner="ray", views="fresh:2", shards=3, actor_cpus=2), {"CPU": 1.0, "GPU": 0.0})
    assert total(fresh, "CPU") == 1.0 + 2 * 2 * (0.72 + 2 * 0.02 + 0.25)
    alone = trial_bundles(plan(runner="ray", self_training="none", oracle="shared"), {"CPU": 1.0, "GPU": 0.0})
    assert total(alone, "CPU") == 1.0 + 2 * (0.3 + 0.2 + 0.02)
    with_gpu = trial_bundles(plan(runner="ray", views="fresh:2"), {"CPU": 1.0, "GPU": 1.0})
    assert [bundle["GPU"] for bundle in with_gpu if "GPU" in bundle] == [0.5, 0.5, 0.5, 0.5]
    assert "GPU" not in with_gpu[0], "the learner has it"


def test_workers_share_what_the_learner_leaves_of_a_gpu():
    assert worker_gpus(resolve({}), 4) == 0.125
    assert worker_gpus(resolve({"learner_gpus": 0.25}), 3) == 0.25
    assert worker_gpus(resolve({"learner_gpus": 1}), 2) == 0.0
    assert worker_gpus(resolve({"worker_gpus": 0.3}), 3) == 0.3
    needs = {need.what: need for need in crew_needs(resolve({"views": "fresh:2"}), gpu=True, workers=3)}
    assert needs["learner"].gpus + 3 * needs["view worker"].gpus <= 1.0
    assert needs["view worker"].gpus == pytest.approx(1 / 6, abs=1e-3)


def test_pieces_must_fit_nodes_and_not_only_their_sum(monkeypatch):
    def nodes(*sizes):
        found = [{"Alive": True, "Resources": dict(zip(("CPU", "GPU"), size, strict=True))} for size in sizes]
        monkeypatch.setattr(resources.ray, "nodes", lambda: [*found, {"Alive": False, "Resources": {"CPU": 99.0}}])

    nodes((1.0, 0.0), (1.0, 0.0), (1.0, 0.0))
    assert check_trial_fits([{"CPU": 1.0}]) == 3
    assert check_trial_fits([{"CPU": 0.5}, {"CPU": 0.75}]) == 2, "the third 0.75 fits, its 0.5 doesn't"
    with pytest.raises(
        ResourceError, match=r"needs 2 CPUs and 0 GPUs \(in 2 pieces, the largest 1.5 CPUs\) .* 3 CPUs .* on 3 nodes"
    ):
        check_trial_fits([{"CPU": 1.5}, {"CPU": 0.5}])
    nodes((4.0, 1.0), (4.0, 0.0))
    assert check_trial_fits([{"CPU": 1.0, "GPU": 0.5}, {"CPU": 2.0}]) == 2
    assert check_trial_fits([{"CPU": 0.5, "GPU": 0.25}]) == 4
    with pytest.raises(ResourceError, match="needs 2 CPUs and 2 GPUs"):
        check_trial_fits([{"CPU": 2.0, "GPU": 2.0}])

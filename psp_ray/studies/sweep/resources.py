"""What a trial asks of the cluster, known before it starts, and whether the cluster can ever give it."""

from __future__ import annotations

import ray

from psp_ray.core.errors import ResourceError
from psp_ray.studies.sweep.plan import Plan

Bundle = dict[str, float]


def trial_bundles(plan: Plan, resources: dict[str, float]) -> list[Bundle]:
    """Placement bundles of a trial: its own process, and the actors of its runs where `runner` is ray.

    The GPU share is that of the process which learns; actors ask for `learner_gpus` and `worker_gpus`.
    """
    bundles: list[Bundle] = [{"CPU": resources["CPU"]}]
    if plan.settings.get("runner") != "ray":
        bundles[0] |= {"GPU": resources["GPU"]} if resources["GPU"] else {}
    else:
        from psp_ray.actors.runtime import crew_needs

        for name in plan.datasets:
            for need in crew_needs(plan.config(name, {}), gpu=bool(resources["GPU"])):
                bundles += [{"CPU": need.cpus} | ({"GPU": need.gpus} if need.gpus else {}) for _ in range(need.count)]
    return bundles


def check_trial_fits(bundles: list[Bundle]) -> int:
    """How many trials fit the cluster at the same time, at least one.

    Raises:
        ResourceError: not even one does, with the numbers.
    """
    nodes = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    room = 0
    while room < 1000 and _place(bundles, nodes):
        room += 1
    if room:
        return room
    needs = [sum(bundle.get(kind, 0.0) for bundle in bundles) for kind in ("CPU", "GPU")]
    total = [sum(node["Resources"].get(kind, 0.0) for node in ray.nodes() if node["Alive"]) for kind in ("CPU", "GPU")]
    raise ResourceError(
        f"a trial needs {needs[0]:g} CPUs and {needs[1]:g} GPUs (in {len(bundles)} pieces, the largest "
        f"{max(bundle.get('CPU', 0.0) for bundle in bundles):g} CPUs) but the cluster has {total[0]:g} CPUs and "
        f"{total[1]:g} GPUs on {len(nodes)} nodes; lower --cpus-per-trial or --gpus-per-trial, or use --runner inline"
    )


def _place(bundles: list[Bundle], nodes: list[Bundle]) -> bool:
    """Take room for one trial from `nodes`, largest pieces first; false (and nothing taken) where there is none."""
    taken: list[tuple[Bundle, Bundle]] = []
    for bundle in sorted(bundles, key=lambda item: (item.get("GPU", 0.0), item.get("CPU", 0.0)), reverse=True):
        home = next((node for node in nodes if all(node.get(k, 0.0) + 1e-9 >= v for k, v in bundle.items())), None)
        if home is None:
            for node, given in taken:
                for kind, amount in given.items():
                    node[kind] += amount
            return False
        for kind, amount in bundle.items():
            home[kind] -= amount
        taken.append((home, bundle))
    return True

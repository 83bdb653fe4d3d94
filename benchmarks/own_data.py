"""One round without learning on a large pool of one's own: 50,000 images, 200 classes, made-up features.

What a team waits for between two query sets, but for the prompts' learning: the policy's proposal, pseudo-labels over
the views, its update, the accuracy estimate, and predictions for the whole pool. Goal: 60 s on two cores. Each part is
also given as a multiple of the time that one pass of predictions over the pool takes, which any machine can compare.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from psp_ray.core.noise import sample_keys
from psp_ray.core.records import BLOCK_SIZE, FeatureBlock, Feedback, LearnOutcome, PoolState, TextState
from psp_ray.core.threads import limit_threads
from psp_ray.learn.evaluate import predict_proba
from psp_ray.posterior.accuracy import round_estimate
from psp_ray.posterior.audit import Answers, audit_order
from psp_ray.run.build import build_sampler
from psp_ray.run.resolve import resolve
from psp_ray.selftrain.near import confidences, near_decision
from psp_ray.selftrain.records import KnownLabels, ScoreRequest
from psp_ray.selftrain.service import PseudoLabeler


class MadePool:
    """Clusters around class directions in half precision; `views` are noisy copies, made block by block."""

    def __init__(self, n: int, classes: int, dim: int, views: int, seed: int = 0):
        draw = np.random.default_rng(seed)
        self.centers = draw.standard_normal((classes, dim)).astype(np.float32)
        self.centers /= np.linalg.norm(self.centers, axis=1, keepdims=True)
        self.labels = draw.integers(0, classes, n).astype(np.int32)
        self._features = np.empty((n, dim), np.float16)
        for start in range(0, n, BLOCK_SIZE):
            rows = self.labels[start : start + BLOCK_SIZE]
            self._features[start : start + BLOCK_SIZE] = self._around(self.centers[rows], draw, 1.5)
        self._keys = sample_keys([f"image-{i}" for i in range(n)])
        self.n, self.dim, self.n_views, self.n_blocks = n, dim, views, -(-n // BLOCK_SIZE)
        self.block_size = BLOCK_SIZE

    def _around(self, rows: np.ndarray, draw: np.random.Generator, spread: float) -> np.ndarray:
        noisy = rows + spread / np.sqrt(rows.shape[-1]) * draw.standard_normal(rows.shape).astype(np.float32)
        return (noisy / np.linalg.norm(noisy, axis=-1, keepdims=True)).astype(np.float16)

    def block(self, index: int, *, views: bool = False) -> FeatureBlock:
        span = slice(index * BLOCK_SIZE, min(self.n, (index + 1) * BLOCK_SIZE))
        seen = None
        if views:
            draw = np.random.default_rng(index)
            wide = np.repeat(self._features[span, None].astype(np.float32), self.n_views, axis=1)
            seen = self._around(wide, draw, 0.3)
        return FeatureBlock(index, span.start, self._keys[span], self._features[span], seen)

    def rows(self, positions: np.ndarray) -> np.ndarray:
        return self._features[positions]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--strategy", default="psp")
    parser.add_argument("--sub-size", type=int, default=5000)
    arguments = parser.parse_args()
    limit_threads(arguments.threads)
    # Only now: torch obeys the limits above from its import on; and these seconds belong to no round.
    from psp_ray.learn.gap import label_gap

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    pool = MadePool(arguments.images, arguments.classes, arguments.dim, 5)
    made = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    given = {"strategy": arguments.strategy, "self_training": "ust", "sub_size": arguments.sub_size}
    config = resolve({**given, "threads": arguments.threads})
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        value = work()
        seconds[name] = time.perf_counter() - start
        return value

    draw = np.random.default_rng(1)
    blurred = pool.centers + 1.2 / np.sqrt(pool.dim) * draw.standard_normal(pool.centers.shape).astype(np.float32)
    text = TextState(blurred / np.linalg.norm(blurred, axis=1, keepdims=True), 30.0)
    empty = np.zeros(0, np.int64)
    state = PoolState(
        1, 0, arguments.classes, arguments.classes, text, np.arange(pool.n), empty, empty.astype(np.int32)
    )
    strategy = build_sampler(config.policy, pool)
    proposal = timed("propose", lambda: strategy.propose(state))
    labels = pool.labels[proposal.positions]
    labeler = PseudoLabeler(pool, config.selftrain)
    pseudo = timed("pseudo-label", lambda: _pseudo(labeler, text, proposal.positions, labels, pool.n))
    student = TextState(pool.centers, 30.0)
    gaps = [
        label_gap(prompts, pool.rows(at), of)
        for prompts in (student, text)
        for at, of in ((proposal.positions, labels), (pseudo.positions, pseudo.labels))
    ]
    outcome = LearnOutcome(student, np.zeros((0, 0), np.float32), gaps[0], gaps[1], gaps[2], gaps[3], 0.0, 0, 0)
    left = np.setdiff1d(state.unlabeled, proposal.positions)
    timed("reward and update", lambda: strategy.observe(Feedback(state, proposal, labels, outcome, left, False)))
    cosines = pool.rows(proposal.positions).astype(np.float32) @ text.features.T
    answers = Answers(
        proposal.positions,
        labels,
        np.ones(len(labels), np.int32),
        np.arange(len(labels)) < proposal.n_audit,
        audit_order(0, sample_keys([f"image-{i}" for i in range(pool.n)]))[proposal.positions],
        np.float32(text.logit_scale) * cosines,
    )
    estimate = timed("estimate", lambda: round_estimate(answers, 1))
    timed("predictions", lambda: [predict_proba(student, pool.block(i).features) for i in range(pool.n_blocks)])
    right, sure = confidences(pool, text, state.unlabeled)
    near = near_decision(state.unlabeled, right, sure, config.selftrain)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    total = sum(seconds.values())
    for name, value in seconds.items():
        print(f"{name:20} {value:7.2f} s   {value / seconds['predictions']:6.1f} x predictions")
    print(f"{'a round':20} {total:7.2f} s   {total / seconds['predictions']:6.1f} x predictions")
    print(f"pseudo-labels: {len(pseudo.positions):,}; views on demand would encode {len(near):,} of {pool.n:,} images")
    if estimate is not None:
        truth = float(np.mean(right == pool.labels))
        print(f"estimate {estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f}), truth {truth:.3f}")
    print(f"memory: {before:.0f} MiB with torch, {made:.0f} with the features, {peak:.0f} at most")
    record = {
        "benchmark": "own_data",
        "strategy": config.policy.strategy,
        "images": pool.n,
        "classes": arguments.classes,
        "round_seconds": total,
    }
    print(json.dumps({**record, "peak_mib": peak, "goal_met": total <= 60.0}))


def _pseudo(labeler: PseudoLabeler, text: TextState, bought: np.ndarray, labels: np.ndarray, n: int) -> Any:
    scores = labeler.score(ScoreRequest(1, text, np.arange(n)))
    return labeler.select(scores, KnownLabels.at_once(bought, labels), bought)


if __name__ == "__main__":
    main()

"""`check-data`: what is worth knowing about images and class names before a label is bought."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from rich.console import Console

from psp_ray.acquisition.wrappers.audit import with_audit
from psp_ray.config.config import Config
from psp_ray.core.records import Float32Array, Int64Array, TextState
from psp_ray.core.words import counted
from psp_ray.data.dataset import PARTS, Dataset
from psp_ray.data.images import ImageError, decode, read_file
from psp_ray.features.cache import EncoderSpec, FeatureCache
from psp_ray.features.featurize import Plan, plan_featurize
from psp_ray.features.hashes import Hashes, hash_manifest
from psp_ray.features.tower import make_encoder, view_settings
from psp_ray.report.progress import LOOKING, Reporter, counting, duration
from psp_ray.run.check_embeddings import describe, look_through
from psp_ray.run.exporting import zero_shot_of
from psp_ray.run.given import check_given
from psp_ray.run.prepare import Prepared, prepare, uses_cached_views

TINY = 16
"""Shorter side in pixels below which an image is called tiny."""
STRIP = 5.0
"""Ratio of the sides above which an image is called odd: a square crop shows little of it."""
CLOSE = 0.95
"""Text cosine from which two class names are hard to tell apart, whatever the image."""
NEAR = 0.9
"""Text cosine from which they are not called distinct any more."""
PEEK = 2000
"""Most images that are opened to look at their sizes, and most features for the guess of the class balance."""
SHOWN = 5
WITH_TEXT = "which class names the model confuses, and how common it guesses the classes are"
WITH_MODEL = "which class names the model confuses, how common it guesses the classes are, and how long encoding takes"
WORTH_A_SESSION = 20
"""Fewest labels for which somebody sits down."""


def check(config: Config, with_model: bool = False) -> Iterator[str]:
    """Lines of a report on the data set that `config` names. Reads embeddings once.

    `with_model` loads the model (seconds, and its memory) and lets it say which class names it confuses, how common the
    classes are, and how long a batch takes to encode.

    Raises:
        UserError: as the checks of `run`, for what makes a run impossible.
    """
    reporter = Reporter(config.labels.rounds, Console(stderr=True, highlight=False, soft_wrap=True))
    check_given(config)
    prepared = prepare(config.changed(oracle="file", annotators=None, label_wait=0))  # labels may be missing here
    config, dataset = prepared.config, prepared.dataset
    what = "images" if dataset.embeddings is None else "embeddings"
    parts = ", ".join(f"{dataset.part(part).num_rows:,} {part}" for part in PARTS)
    yield f"{dataset.name}: {dataset.manifest.num_rows:,} {what} ({parts}), {len(dataset.classes)} classes"
    yield from dataset.notes
    yield from _labels(dataset, what)
    # Class embeddings that were given cost nothing.
    text = zero_shot_of(config, dataset) if with_model or config.data.class_embeddings is not None else None
    if prepared.spec is None:
        yield from _embeddings(dataset, text, reporter)
        yield from _price(config, dataset)
    else:
        yield from _images(prepared, prepared.spec, text, reporter)
    if text is None:
        yield f"add --with-model to see {WITH_MODEL if prepared.spec else WITH_TEXT} (takes seconds more)"


def _images(prepared: Prepared, spec: EncoderSpec, text: TextState | None, reporter: Reporter) -> Iterator[str]:
    """What is particular to images: doubles, sizes, damage, and what encoding them takes."""
    config, dataset = prepared.config, prepared.dataset
    cache = FeatureCache.open(config.runtime.cache)
    hashes = hash_manifest(dataset.manifest, cache.folder, root=dataset.root, progress=counting(reporter, LOOKING))
    reporter.stop()
    yield from _duplicates(dataset, hashes)
    yield from _sizes(dataset, hashes)
    if text is not None:
        yield from names_said(dataset.classes, text.features)
    views = view_settings(config.model) if uses_cached_views(config) else None
    encoder = make_encoder(config.model, config.runtime.threads) if text is not None else None
    plan = plan_featurize(dataset, spec, cache, views, encoder)
    if text is not None:
        yield from _balance(dataset, spec, text, cache)
    yield from _cost(config, dataset, plan, cache)


def _embeddings(dataset: Dataset, text: TextState | None, reporter: Reporter) -> Iterator[str]:
    """What is particular to rows of numbers: their shape and health, and what the class embeddings make of them."""
    looked = look_through(dataset, text, counting(reporter, LOOKING))
    reporter.stop()
    yield from describe(dataset, looked)
    if text is not None:
        yield from names_said(dataset.classes, text.features)
    if looked.guessed.sum():
        yield from _shares(dataset, looked.guessed, int(looked.guessed.sum()), "rows of the pool")


def _labels(dataset: Dataset, what: str) -> Iterator[str]:
    known = dataset.known_labels("pool")
    count = int((known >= 0).sum())
    if not count:
        yield "labels: none in the pool; use --oracle file to label by hand"
    else:
        yield f"labels: {count:,} of {len(known):,} pool {what} have one"
        counts = np.bincount(known[known >= 0], minlength=len(dataset.classes))
        order = np.argsort(counts, kind="stable")
        shown = [f"{dataset.classes[i]} {counts[i]:,}" for i in order]
        few = ", ".join(shown[:SHOWN])
        yield (
            f"  {', '.join(shown)}"
            if len(shown) <= 2 * SHOWN
            else f"  fewest: {few}; most: {', '.join(shown[-SHOWN:])}"
        )
    for part in ("val", "test"):
        missing = np.setdiff1d(np.arange(len(dataset.classes)), dataset.known_labels(part))
        if dataset.part(part).num_rows and len(missing):
            yield f"warning: no {part} image of {_some([dataset.classes[i] for i in missing])}"
    if not dataset.test.num_rows:
        yield "test set: none; accuracies will be estimated from the draws (--test adds one)"


def _duplicates(dataset: Dataset, hashes: Hashes) -> Iterator[str]:
    ids = dataset.manifest["sample_id"].to_pylist()
    splits = dataset.manifest["split"].to_pylist()
    same: dict[bytes, list[int]] = defaultdict(list)
    for row, digest in enumerate(hashes.values):
        if row not in hashes.unreadable:
            same[digest.tobytes()].append(row)
    groups = [rows for rows in same.values() if len(rows) > 1]
    if groups:
        extra = sum(len(rows) - 1 for rows in groups)
        yield f"warning: {extra:,} image{'s repeat' if extra > 1 else ' repeats'} the bytes of another: " + "; ".join(
            " = ".join(ids[row] for row in rows[:3]) for rows in groups[:SHOWN]
        )
        leaks = [rows for rows in groups if len({splits[row] for row in rows}) > 1]
        if leaks:
            yield f"warning: {len(leaks):,} of them are both in the pool and in val or test, which flatters accuracy"
        if dataset.ground_truth is not None:
            labels = dict(
                zip(
                    dataset.ground_truth["sample_id"].to_pylist(),
                    dataset.ground_truth["label"].to_pylist(),
                    strict=True,
                )
            )
            torn = [r for r in groups if len({labels[ids[row]] for row in r if ids[row] in labels}) > 1]
            if torn:
                yield f"warning: {len(torn):,} of them have different labels, such as {ids[torn[0][0]]}"
    else:
        yield "duplicates: none"


def _sizes(dataset: Dataset, hashes: Hashes) -> Iterator[str]:
    """Opens images (all, or an even selection of a large set) to see whether and how they can be used."""
    ids = dataset.manifest["sample_id"].to_pylist()
    paths, images = dataset.manifest["path"], dataset.manifest["image"]
    rows = np.unique(np.linspace(0, len(ids) - 1, min(len(ids), PEEK)).astype(int))
    bad = [(ids[row], reason) for row, reason in sorted(hashes.unreadable.items())]
    tiny, odd, sides = [], [], []
    for row in rows.tolist():
        if row in hashes.unreadable:
            continue
        try:
            data = images[row].as_py() if not paths[row].is_valid else read_file(paths[row].as_py())
            width, height = decode(data).size
        except ImageError as error:
            bad.append((ids[row], str(error)))
            continue
        sides.append(min(width, height))
        if min(width, height) < TINY:
            tiny.append(f"{ids[row]} ({width} x {height})")
        if max(width, height) > STRIP * min(width, height):
            odd.append(f"{ids[row]} ({width} x {height})")
    looked = f"{counted(len(rows), 'image')} opened" + ("" if len(rows) == len(ids) else f" of {len(ids):,}")
    if sides:
        low, high = min(sides), max(sides)
        reach = f"{low} px" if low == high else f"{low} to {high} px, median {int(np.median(sides))}"
        yield f"sizes: {looked}; shorter side {reach}"
    if bad:
        shown = "; ".join(f"{name}: {reason}" for name, reason in bad[:SHOWN])
        yield f"warning: {len(bad):,} can't be read and would be left out: {shown}"
    if tiny:
        yield f"warning: {len(tiny):,} are smaller than {TINY} px: {_some(tiny)}"
    if odd:
        yield f"warning: {len(odd):,} are longer than {STRIP:g} times their width or height: {_some(odd)}"


def names_said(names: list[str], embeddings: Float32Array) -> Iterator[str]:
    """Whether the text tower tells the class `names` apart, by the cosines of their `embeddings` (C, d)."""
    cosines = embeddings @ embeddings.T
    cosines[np.tril_indices(len(cosines))] = -np.inf  # each pair once; cosines may be negative, all of them
    pairs = np.argwhere(cosines >= CLOSE)
    if not len(pairs):
        at = np.unravel_index(int(cosines.argmax()), cosines.shape)
        one, other = (names[i] for i in at)
        pair = f"{one!r} and {other!r}, cosine {cosines[at]:.2f}"
        if cosines[at] >= NEAR:
            yield f"class names: the model tells them apart, some only just (closest: {pair})"
        else:
            yield f"class names: all distinct to the model (closest: {pair})"
        return
    order = np.argsort(-cosines[tuple(pairs.T)], kind="stable")
    shown = [f"{names[a]!r} and {names[b]!r} ({cosines[a, b]:.2f})" for a, b in pairs[order][:SHOWN]]
    more = f" and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
    yield f"warning: the model hardly tells these names apart: {', '.join(shown)}{more}; add descriptions to --classes"


def _balance(dataset: Dataset, spec: EncoderSpec, text: TextState, cache: FeatureCache) -> Iterator[str]:
    """Zero-shot guess of how common the classes are, from features that are in the cache already."""
    from psp_ray.learn.evaluate import predict_proba

    hashes = hash_manifest(dataset.pool, cache.folder, root=dataset.root).values
    store = cache.features(spec)
    rows = np.flatnonzero(store.contains(hashes))[:PEEK]
    if not len(rows):
        yield "class balance: unknown before the images are encoded (psp-ray featurize), then guessed here"
        return
    features = store.gather(*(part[rows] for part in store.locate(hashes)))
    guess = np.bincount(predict_proba(text, features).argmax(axis=1), minlength=len(dataset.classes))
    yield from _shares(dataset, guess, len(rows), "images")


def _shares(dataset: Dataset, guess: Int64Array, count: int, what: str) -> Iterator[str]:
    """How common each class is by a guess: `guess` (C,) of `count` predictions name it."""
    shares = sorted(((guess[i] / count, name) for i, name in enumerate(dataset.classes)), reverse=True)
    top = ", ".join(f"{name} {100 * share:.0f} %" for share, name in shares[: 2 * SHOWN])
    empty = [name for share, name in shares if share == 0]
    yield f"class balance, a zero-shot guess from {count:,} {what}: {top}"
    if empty:
        yield f"  nothing looks like {_some(empty)}"


def _cost(config: Config, dataset: Dataset, plan: Plan, cache: FeatureCache) -> Iterator[str]:
    if plan.n_encodings:
        time_text = "" if plan.seconds is None else f"about {duration(plan.seconds)} with one worker, "
        yield (
            f"featurizing: {plan.n_encodings:,} encodings, {time_text}{plan.bytes_needed / 2**20:.1f} MiB "
            f"({plan.bytes_free / 2**30:.1f} GiB free in {cache.folder})"
        )
    else:
        yield f"featurizing: nothing to do, {counted(plan.n_images, 'image is', 'images are')} in {cache.folder}"
    yield from _price(config, dataset)


def _price(config: Config, dataset: Dataset) -> Iterator[str]:
    """What the labels cost, and what they will tell."""
    n, classes = dataset.pool.num_rows, len(dataset.classes)
    per_round = n if config.labels.labels_per_round == "pool" else int(config.labels.labels_per_round or classes)
    labels = min(n, config.labels.rounds * per_round)
    yield (
        f"cost: {counted(per_round, 'label')} a round, {counted(config.labels.rounds, 'round')}: "
        f"{counted(labels, 'label')}; at 5 s a label "
        f"{duration(5 * per_round)} of work a round"
    )
    if not dataset.test.num_rows:
        yield _judged(config, labels)
    yield suggested(n, classes, config.labels.rounds)


def _judged(config: Config, labels: int) -> str:
    """What the draws will tell of the accuracy: those by chance alone, as if half the predictions were wrong."""
    base, *wrappers = with_audit(config.policy.strategy, config.policy).split("+")
    by_chance = base == "random" and not wrappers
    if "audit" not in wrappers and not by_chance:
        return (
            f"accuracy: unknown without --test, since {config.policy.strategy} draws nothing by chance; "
            f"{config.policy.strategy}+audit draws a share of the labels so"
        )
    draws = labels if by_chance else config.policy.audit_share * labels
    points = 100 * min(0.5, 1.96 * math.sqrt(0.25 / max(draws, 1.0)))
    more = "" if by_chance else f" (--audit-fraction {config.policy.audit_share:g})"
    return (
        f"accuracy: about {draws:.0f} of the {counted(labels, 'label')} are drawn by chance "
        f"alone{more}, which tells it to "
        f"about ±{points:.0f} points; --test tells it sharply"
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def suggested(n: int, classes: int, rounds: int) -> str:
    """How many labels a round a pool of `n` images is worth, in words."""
    wanted, room = max(classes, WORTH_A_SESSION), max(1, n // max(rounds, 1))
    reason = f"as many as classes, at least {WORTH_A_SESSION}: fewer are not worth a session"
    if room < wanted:
        reason = (
            f"{counted(n, 'image')} in {counted(rounds, 'round')} allow no more; fewer rounds make them worth a session"
        )
    return f"suggested: --labels-per-round {min(wanted, room)} ({reason})"

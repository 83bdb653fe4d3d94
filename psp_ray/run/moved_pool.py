"""A pool that changed between two rounds: which of the samples that a run remembers are where now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from psp_ray.core.errors import OutputError
from psp_ray.core.records import Int64Array, PseudoLabels
from psp_ray.core.words import counted
from psp_ray.run.state import PoolNames, RunState

GONE = -1


@dataclass(frozen=True)
class Remembered:
    """Samples by name and content, in any order."""

    sample_ids: Sequence[str]
    content_hashes: Sequence[str]


def places(known: Remembered, names: PoolNames) -> Int64Array:
    """Where each remembered sample is in the pool now (k,); `GONE` where it is not there any more.

    The same name with the same content is the same sample; else the one sample of the same content that bears a name
    which nobody remembers: it was renamed.

    Raises:
        OutputError: a remembered name bears another content now.
    """
    by_name = names.places(known.sample_ids)
    contents = list(dict.fromkeys(known.content_hashes))
    positions, rows = names.with_content(contents)
    counts = np.bincount(rows, minlength=len(contents))
    pairs = zip(positions.tolist(), rows.tolist(), strict=True)
    by_content = {contents[row]: place for place, row in pairs if counts[row] == 1}
    remembered = set(known.sample_ids)
    found = np.full(len(known.sample_ids), GONE, np.int64)
    for row, (name, content) in enumerate(zip(known.sample_ids, known.content_hashes, strict=True)):
        place = by_name.get(name)
        if place is not None and names.content_hashes[place] == content:
            found[row] = place
            continue
        renamed = by_content.get(content)
        if renamed is not None and names.sample_ids[renamed] not in remembered:
            found[row] = renamed
        elif place is not None:
            raise OutputError(
                f"image {name!r} was labeled and has another content now; restore it, or give the new one a name of "
                "its own, then continue with --resume"
            )
    return found


def moved(state: RunState, known: Remembered, pseudo: Remembered, names: PoolNames, out: Path) -> tuple[RunState, str]:
    """`state` of an earlier pool in the pool of `names`, and what changed in words.

    What was asked about and is gone leaves the state; its label stays in the ledger. `known` are the samples asked
    about, `pseudo` those of the pseudo-labels, in the state's order.

    Raises:
        OutputError: as `places`; or nothing that was labeled is left.
    """
    place = places(known, names)
    keep = place != GONE
    if len(keep) and not keep.any():
        raise OutputError(
            f"{out}: nothing that was labeled ({counted(len(keep), 'image')}) is in the pool any "
            "more; restore the data, or "
            "start in a new --out folder"
        )
    old = names.places(pseudo.sample_ids)
    still = np.array([old.get(name, GONE) for name in pseudo.sample_ids], np.int64)
    given = state.pseudo
    with_place = np.flatnonzero(still != GONE)
    order = with_place[np.argsort(still[with_place], kind="stable")]
    before = [name for name, still_there in zip(known.sample_ids, keep.tolist(), strict=True) if still_there]
    renamed = sum(one != other for one, other in zip(names.named(place[keep]), before, strict=True))
    changed = replace(
        state,
        asked=place[keep],
        answers=state.answers[keep],
        log_prob=state.log_prob[keep],
        asked_in=state.asked_in[keep],
        by_chance=state.by_chance[keep],
        logits=state.logits[keep],
        grounds=state.grounds.at(keep),
        judged=replace(state.judged, logits=state.judged.logits[keep[: len(state.judged.logits)]]),
        pseudo=PseudoLabels(still[order], given.labels[order], given.confidence[order], given.uncertainty[order]),
    )
    gone = int((~keep).sum())
    left = "gone (the ledger keeps what was said)"
    parts = [f"{counted(gone, 'labeled image is', 'labeled images are')} {left}"] if gone else []
    parts += [f"{counted(renamed, 'labeled image was', 'labeled images were')} renamed"] if renamed else []
    return changed, "; ".join(parts)

"""Noun synsets read from the text files of a WordNet 3.0 distribution.

Debian's ``wordnet-base`` puts them in ``/usr/share/wordnet``; ``PSP_WORDNET`` names another folder.
ImageNet's class ids are byte offsets into the same files, which is what ties the two together.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_FOLDER = "/usr/share/wordnet"
# Lexicographer files of nouns that can be photographed (lexnames(5WN)).
VISIBLE = {
    5: "animal",
    6: "artifact",
    8: "body",
    13: "food",
    15: "location",
    17: "object",
    18: "person",
    19: "phenomenon",
    20: "plant",
    25: "shape",
    27: "substance",
}


@dataclass
class Synset:
    """One noun meaning: ``id`` such as ``n02084071``, its words, its gloss and its relations by id."""

    id: str
    lexfile: int
    lemmas: list[str]
    gloss: str
    parents: list[str]
    children: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)


def folder() -> Path:
    """Folder with ``data.noun``; raises ``FileNotFoundError`` with the remedy where there is none."""
    path = Path(os.environ.get("PSP_WORDNET", DEFAULT_FOLDER))
    if not (path / "data.noun").is_file():
        raise FileNotFoundError(f"no data.noun in {path}: install Debian's wordnet-base or set PSP_WORDNET")
    return path


def load_nouns() -> dict[str, Synset]:
    """All 82,115 noun synsets by id, in file order."""
    nouns: dict[str, Synset] = {}
    for line in (folder() / "data.noun").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("  "):  # the license text at the top
            continue
        head, _, gloss = line.partition(" | ")
        parts = head.split()
        n_words = int(parts[3], 16)
        words = [parts[4 + 2 * i].replace("_", " ") for i in range(n_words)]
        at = 4 + 2 * n_words
        pointers = [parts[at + 1 + 4 * i : at + 5 + 4 * i] for i in range(int(parts[at]))]
        parents = ["n" + p[1] for p in pointers if p[0] in ("@", "@i") and p[2] == "n"]
        text = re.sub(r'\s*;?\s*"[^"]*"', "", gloss)  # drop usage examples
        nouns["n" + parts[0]] = Synset("n" + parts[0], int(parts[1]), words, text.strip(" ;"), parents)
    for s in nouns.values():
        for p in s.parents:
            nouns[p].children.append(s.id)
    return nouns


def sense_ranks() -> dict[tuple[str, str], int]:
    """``(lemma in lower case, synset id) -> 0-based rank`` of the sense, by frequency, from ``index.noun``."""
    ranks: dict[tuple[str, str], int] = {}
    for line in (folder() / "index.noun").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("  "):
            continue
        parts = line.split()
        n = int(parts[2])
        for rank, offset in enumerate(parts[-n:]):
            ranks[parts[0].replace("_", " "), "n" + offset] = rank
    return ranks


def leaves_below(nouns: dict[str, Synset], leaf_ids: list[str]) -> dict[str, list[int]]:
    """For every synset above (or at) a leaf, the sorted positions in ``leaf_ids`` of the leaves below it."""
    below: dict[str, set[int]] = defaultdict(set)
    for index, leaf in enumerate(leaf_ids):
        stack, seen = [leaf], set()
        while stack:
            node = stack.pop()
            if node in seen or node not in nouns:
                continue
            seen.add(node)
            below[node].add(index)
            stack.extend(nouns[node].parents)
    return {k: sorted(v) for k, v in below.items()}

"""Who chooses best on pools of odd kinds, under one posterior and one head?

    python -m benchmarks.kinds_of_pools --out kinds.csv [--kinds tree,heavy] [--strategies vssp,uherding,random]
        [--seeds 5] [--rounds 6] [--set KEY=VALUE ...]

Made-up features, labels and teachers, each kind unlike an ordinary pool in its own way (`KINDS`); every seed makes
another pool of the kind. Select -> label -> posterior -> head -> accuracy on 1,500 images of a test part, as in
`benchmarks.rounds`. Rows are appended to `--out`, and what is there is not done again; printed is a table of all of it:
per kind zero-shot, and the first strategy beside the others; at the end differences over all kinds, paired, with 95 %
intervals over the kinds.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from benchmarks.rounds import Data, played
from benchmarks.rounds import play as rounds_of
from psp_ray.core.records import TextState
from psp_ray.core.threads import limit_threads
from psp_ray.neighbors.space import unit

Array = NDArray[Any]
TEST = 1500
STEPS = 30


@dataclass(frozen=True)
class Kind:
    """How a pool is made.

    Centers of C classes lie `apart` in `dim` dimensions of falling variance, images around them with deviation 0.9; all
    is moved by `cone` times a common direction and brought to length 1.
    """

    classes: int = 10
    n: int = 800
    labels: int = 0
    """Labels a round; 0: one for each class."""
    dim: int = 64
    apart: float = 0.55
    cone: float = 1.5
    teacher: float = 0.4
    """How far zero-shot's accuracy lies between chance (0) and that of the classes' true means (1)."""
    knows: float = 1.0
    """Share of the classes that the teacher has heard of; of the others it says anything."""
    wrong: bool = False
    """The teacher's words for the classes have moved on by one."""
    scale: float = 60.0
    """The teacher's logit scale."""
    sizes: float = 0.0
    """Class k has a share of k to the minus this in the pool; in the test part all are alike."""
    groups: int = 0
    """The classes are kinds of that many groups, and the teacher knows the groups."""
    modes: bool = False
    """Each class has a large cluster and two small ones, far apart."""
    curved: bool = False
    """Each class is a bent line."""
    tails: float = 0.0
    """Degrees of freedom of a t distribution around the centers; 0: normal."""
    binary: bool = False
    """Each feature is there or not."""
    broad: float = 1.0
    """Deviation of two classes against that of the others."""
    nuisance: float = 0.0
    """Size of four backgrounds that have nothing to do with the classes."""
    moved: float = 0.0
    """How far the test part is moved away from the pool."""
    same: float = 0.0
    """Share of the pool that is one image again and again."""
    mistakes: float = 0.0
    """Share of the pool whose bought labels are drawn by chance."""


KINDS = {
    "groups": Kind(24, 1200, groups=6),
    "curved": Kind(8, 900, curved=True),
    "narrow cone": Kind(12, 900, cone=8.0),
    "heavy tails": Kind(12, 900, tails=2.0),
    "binary features": Kind(12, 900, binary=True, apart=0.25),
    "4 dimensions": Kind(6, 600, dim=4, apart=0.9),
    "1024 dimensions": Kind(12, 500, dim=1024),
    "more classes than images": Kind(150, 120, labels=25),
    "few labels": Kind(40, 1500, labels=10),
    "one label a round": Kind(20, 800, labels=1, teacher=0.8),
    "many labels": Kind(10, 1000, labels=100),
    "teacher is wrong": Kind(10, 800, wrong=True, teacher=0.9),
    "teacher knows half": Kind(20, 1000, knows=0.5, teacher=0.9),
    "teacher is right": Kind(15, 900, teacher=0.95, apart=0.9),
    "teacher is unsure": Kind(15, 900, teacher=0.7, scale=1.0),
    "unlike sizes": Kind(15, 900, sizes=1.5),
    "unlike sizes and a strong teacher": Kind(15, 900, sizes=1.5, teacher=0.95, apart=0.8),
    "test part is moved": Kind(15, 900, moved=0.3),
    "broad classes": Kind(8, 900, broad=3.0),
    "rare modes": Kind(10, 1000, modes=True),
    "wrong labels": Kind(10, 800, mistakes=0.15),
    "wrong labels and a strong teacher": Kind(10, 800, mistakes=0.15, teacher=0.9),
    "one image again and again": Kind(10, 800, same=0.1),
    "backgrounds": Kind(10, 1000, nuisance=1.5),
    "backgrounds and a strong teacher": Kind(10, 1000, nuisance=1.5, teacher=0.9),
    "two classes": Kind(2, 600, teacher=0.6, apart=0.2),
}


@dataclass(frozen=True)
class Source:
    """What images (n, d) are drawn from."""

    kind: Kind
    deviation: Array
    centers: Array
    modes: Array
    lines: Array
    backgrounds: Array

    @classmethod
    def drawn(cls, kind: Kind, draw: np.random.Generator) -> Source:
        deviation = np.arange(1, kind.dim + 1) ** -0.6
        deviation *= np.sqrt((np.arange(1, 65) ** -1.2).sum() / (deviation**2).sum())
        shape = (kind.classes, kind.dim)
        centers = draw.normal(size=shape) * deviation * kind.apart
        if kind.groups:
            tops = draw.normal(size=(kind.groups, kind.dim)) * deviation
            centers = tops[np.arange(kind.classes) % kind.groups] + 0.6 * centers
        modes = centers[:, None] + draw.normal(size=(kind.classes, 3, kind.dim)) * deviation * 0.7
        lines = draw.normal(size=(kind.classes, 3, kind.dim)) * deviation
        return cls(kind, deviation, centers, modes, lines, unit(draw.normal(size=(4, kind.dim))) * kind.nuisance)

    def images(self, labels: Array, draw: np.random.Generator) -> Array:
        kind, n = self.kind, len(labels)
        around = draw.normal(size=(n, kind.dim)) * self.deviation * 0.9
        if kind.tails:
            around /= np.sqrt(draw.chisquare(kind.tails, size=(n, 1)) / kind.tails)
        if kind.broad > 1:
            around *= np.where(labels < 2, kind.broad, 0.6)[:, None]
        images = self.modes[labels, draw.choice(3, n, p=[0.85, 0.1, 0.05])] if kind.modes else self.centers[labels]
        if kind.curved:
            at = draw.uniform(-1, 1, size=(n, 1))
            first, second, third = self.lines[labels].transpose(1, 0, 2)
            images = images + 1.5 * (first * at + second * np.sin(3 * at) + third * np.cos(4 * at))
            around *= 0.5
        images = images + around + self.backgrounds[draw.integers(4, size=n)]
        return (images > 0.3 * self.deviation).astype(float) if kind.binary else images


def taught(kind: Kind, means: Array, images: Array, labels: Array, draw: np.random.Generator) -> TextState:
    """A teacher whose accuracy on `images` lies as far between chance and that of the class means as the kind says."""
    if kind.groups:
        group = np.arange(kind.classes) % kind.groups
        means = np.stack([means[group == g].mean(axis=0) for g in group])
    noise = draw.normal(size=means.shape) / np.sqrt(kind.dim)

    def words(error: float) -> Array:
        return unit(unit(means) + error * noise)

    def accuracy(error: float) -> float:
        return float(np.mean((images @ words(error).T).argmax(axis=1) == labels))

    chance = 1.0 / kind.classes
    aim = chance + kind.teacher * (accuracy(1e-6) - chance)
    low, high = 1e-3, 1e3
    for _ in range(STEPS):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if accuracy(middle) > aim else (low, middle)
    found = words(low)
    if kind.wrong:
        found = np.roll(found, 1, axis=0)
    unknown = draw.permutation(kind.classes)[round(kind.knows * kind.classes) :]
    anything, common = draw.normal(size=(len(unknown), kind.dim)), unit(images.mean(axis=0, keepdims=True))
    found[unknown] = unit(anything - anything @ common.T * common)
    return TextState(found.astype(np.float32), kind.scale)


def make(name: str, seed: int) -> Data:
    """A pool of a kind and its test part; classes of the tail may be absent from the pool."""
    kind = KINDS[name]
    draw = np.random.default_rng([seed, list(KINDS).index(name)])
    source = Source.drawn(kind, draw)
    sizes = np.arange(1, kind.classes + 1.0) ** -kind.sizes
    labels = draw.choice(kind.classes, kind.n, p=sizes / sizes.sum())
    wanted = draw.integers(kind.classes, size=TEST)
    images, test = source.images(labels, draw), source.images(wanted, draw)
    if kind.same:
        images[draw.random(kind.n) < kind.same] = images[0]
    test = test + kind.moved * draw.normal(size=kind.dim) * source.deviation
    common = kind.cone * draw.normal(size=kind.dim) * (1 - kind.binary) / np.sqrt(max(kind.dim / 64, 1.0))
    images, test = unit(images + common), unit(test + common)
    shown = np.repeat(np.arange(kind.classes), 40)
    seen = unit(source.images(shown, draw) + common)
    means = seen.reshape(kind.classes, 40, -1).mean(axis=1) - seen.mean(axis=0)
    teacher = taught(kind, means, seen, shown, draw)
    mistaken = draw.random(kind.n) < kind.mistakes
    labels[mistaken] = draw.integers(kind.classes, size=mistaken.sum())
    return Data(
        features=np.concatenate([images, test]).astype(np.float16),
        labels=np.concatenate([labels, wanted]).astype(np.int32),
        pool=np.arange(kind.n),
        test=np.arange(kind.n, kind.n + TEST),
        names=[str(i) for i in range(kind.n + TEST)],
        teacher=teacher,
    )


def play(name: str, strategy: str, seed: int, rounds: int, settings: dict[str, Any]) -> list[float]:
    """Test accuracy after zero labels and after each round."""
    asked = KINDS[name].labels or KINDS[name].classes
    found = rounds_of(make(name, seed), strategy, seed, rounds, settings, n_query=asked)
    return [*found, *[found[-1]] * (rounds + 1 - len(found))]


def curves(results: pd.DataFrame) -> pd.DataFrame:
    """Percent: `before`, `final`, `mean` over the rounds and `lead`, the lowest over zero-shot; a row a run."""
    rows = 100 * np.array([[float(x) for x in text.split()] for text in results["accuracies"]])
    after = rows[:, 1:]
    found = {
        "before": rows[:, 0],
        "final": after[:, -1],
        "mean": after.mean(axis=1),
        "lead": after.min(axis=1) - rows[:, 0],
    }
    return pd.concat([results[["kind", "strategy", "seed"]].reset_index(drop=True), pd.DataFrame(found)], axis=1)


def differences(runs: pd.DataFrame, strategies: list[str]) -> pd.DataFrame:
    """The first strategy less each other, paired over the seeds: mean of `final` and `mean` for each kind."""
    wide = runs.pivot(index=["kind", "seed"], columns="strategy", values=["final", "mean"])
    first = strategies[0]
    found = {
        (other, what): (wide[what][first] - wide[what][other]).groupby("kind", sort=False).mean()
        for other in strategies[1:]
        for what in ("final", "mean")
    }
    return pd.DataFrame(found).reindex(runs["kind"].unique())


def interval(values: Array) -> str:
    """Mean with its 95 % interval by Student's t."""
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values) if len(values) > 1 else np.nan
    return f"{values.mean():+.1f} [{values.mean() - half:+.1f}, {values.mean() + half:+.1f}]"


def table(runs: pd.DataFrame, strategies: list[str]) -> str:
    """Markdown: per kind zero-shot, the first strategy, and its difference to each other; then all kinds together."""
    first, *others = strategies
    apart = differences(runs, strategies)
    head = ["kind", "zero-shot", f"{first}, final", "mean", "lowest lead over zero-shot"]
    against = [f"− {name}, {what}" for name in others for what in ("final", "mean")]
    lines = [" | ".join(["", *head, *against, ""]).strip()]
    lines.append("|---" + "|---:" * (len(head) - 1 + len(against)) + "|")
    for kind, group in runs[runs["strategy"] == first].groupby("kind", sort=False):
        cells = [f"{group[what].mean():.1f}" for what in ("before", "final", "mean")]
        more = [f"{value:+.1f}" for value in apart.loc[kind]]
        lines.append(" | ".join(["", str(kind), *cells, f"{group['lead'].min():+.1f}", *more, ""]).strip())
    lines.append("")
    for name in others:
        final, mean = (interval(apart[name][what].to_numpy()) for what in ("final", "mean"))
        lines.append(f"{first} − {name} over {len(apart)} kinds: {final} at the end, {mean} over the rounds")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--strategies", default="vssp,uherding,random")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    limit_threads(1)
    settings = dict(item.split("=", 1) for item in options.set)
    strategies, names = options.strategies.split(","), options.kinds.split(",")
    jobs = [(kind, name, seed) for seed in range(options.seeds) for kind in names for name in strategies]

    def curve_of(kind: str, strategy: str, seed: int) -> list[float]:
        return play(kind, strategy, seed, options.rounds, settings)

    results = played(options.out, "kind", jobs, curve_of)
    chosen = results["kind"].isin(names) & results["strategy"].isin(strategies) & (results["seed"] < options.seeds)
    print(table(curves(results[chosen]), strategies))


if __name__ == "__main__":
    main()

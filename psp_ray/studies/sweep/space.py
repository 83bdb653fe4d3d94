"""What a sweep varies: dimensions by the name of a setting, drawn at random, laid out as a grid, or left to Optuna."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from psp_ray.config.config import fields
from psp_ray.core.errors import ConfigError

if TYPE_CHECKING:
    from numpy.random import Generator
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

Point = dict[str, Any]
"""One value for each dimension; `labels_per_class` among them."""
BUDGET = "labels_per_class"
DEFAULT_SPACE = {"beta": "0..1", "tau": "0.01..0.5:log", "gamma": "0.5..0.99"}
"""What a sweep varies unless it is told otherwise, in the form that `Dimension.parse` reads."""
_MOST_TRIES = 50


@dataclass(frozen=True)
class Dimension:
    """A setting and where its values come from: `choices`, or the interval [low, high], on a log scale or not."""

    key: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False

    @classmethod
    def parse(cls, key: str, text: str) -> Dimension:
        """`0.3,0.7` (choices), `0.1..0.9` (an interval), `1e-4..1e-2:log`, `2..8` (whole numbers).

        Raises:
            ConfigError: not a setting, an empty list, or a bad interval.
        """
        key = key.strip().replace("-", "_")
        if key != BUDGET and key not in fields():
            raise ConfigError(f"--vary {key}: not a setting; see `psp-ray run --help-all`")
        text = text.strip()
        if ".." not in text:
            choices = tuple(parse_value(item) for item in text.split(",") if item.strip())
            if not choices or len(set(map(str, choices))) < len(choices):
                raise ConfigError(f"--vary {key}={text}: give different values, parted by commas, or LOW..HIGH")
            return cls(key, choices)
        body, _, scale = text.partition(":")
        parts = [parse_value(part) for part in body.split("..", 1)]
        if scale not in ("", "log") or not all(_is_number(part) for part in parts):
            raise ConfigError(f"--vary {key}={text}: an interval is LOW..HIGH or LOW..HIGH:log")
        low, high = float(parts[0]), float(parts[1])
        if not low < high or (scale == "log" and low <= 0):
            raise ConfigError(f"--vary {key}={text}: LOW must be below HIGH, and above 0 on a log scale")
        whole = all(isinstance(part, int) for part in parts) and _is_whole(key)
        return cls(key, (), low, high, scale == "log", whole)

    @property
    def bounds(self) -> tuple[Any, ...]:
        """Values that must be valid for all others to be."""
        if self.choices:
            return self.choices
        return (int(self.low), int(self.high)) if self.integer else (self.low, self.high)

    def draw(self, generator: Generator) -> Any:
        if self.choices:
            return self.choices[int(generator.integers(len(self.choices)))]
        if self.integer and not self.log:
            return int(generator.integers(int(self.low), int(self.high) + 1))
        at = generator.random()
        if self.log:
            value = math.exp(math.log(self.low) + at * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + at * (self.high - self.low)
        return round(value) if self.integer else _rounded(value)

    def suggest(self, trial: Trial) -> Any:
        """A value proposed by an Optuna trial."""
        if self.choices:
            # Optuna takes plain scalars only; a list or a mapping goes by its place
            place = trial.suggest_categorical(self.key, list(range(len(self.choices))))
            return self.choices[place]
        if self.integer:
            return trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, log=self.log)

    def optuna_distribution(self) -> BaseDistribution:
        from optuna import distributions

        if self.choices:
            return distributions.CategoricalDistribution(list(range(len(self.choices))))
        if self.integer:
            return distributions.IntDistribution(int(self.low), int(self.high), log=self.log)
        return distributions.FloatDistribution(self.low, self.high, log=self.log)

    def optuna_value(self, value: Any) -> Any:
        return self.choices.index(value) if self.choices else value

    def text(self) -> str:
        """The form that `parse` reads."""
        if self.choices:
            return ",".join(str(value) for value in self.choices)
        ends = [str(int(end)) if self.integer else f"{end:g}" for end in (self.low, self.high)]
        return f"{ends[0]}..{ends[1]}" + (":log" if self.log else "")


def shown(value: object) -> str:
    """A value as a report shows it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def told(point: Point) -> str:
    """A point on one line, its budget last."""
    values = [f"{key}={shown(value)}" for key, value in point.items() if key != BUDGET]
    return " ".join([*values, f"{BUDGET}={point[BUDGET]}"])


def parse_value(text: str) -> Any:
    """A number, a boolean, null or a string, as a config file would read it (`1e-3` is a number here)."""
    text = text.strip()
    try:
        return float(text) if "e" in text.lower() and _is_number(float(text)) else yaml.safe_load(text)
    except ValueError:
        return yaml.safe_load(text)


def random_points(space: Sequence[Dimension], budgets: Sequence[int], count: int, seed: int) -> list[Point]:
    """Up to `count` different points. Budgets take turns, so that each gets its share.

    The first points are the same whatever `count` is: a sweep can be made longer. Fewer come back where the space
    holds no more.
    """
    from numpy.random import default_rng

    generator = default_rng([seed, 0x5EED])
    points: list[Point] = []
    seen: set[str] = set()
    full: set[int] = set()
    turn = 0
    while len(points) < count and len(full) < len(budgets):
        budget = budgets[turn % len(budgets)]
        turn += 1
        if budget in full:
            continue
        for _ in range(_MOST_TRIES):
            point = {BUDGET: budget} | {dimension.key: dimension.draw(generator) for dimension in space}
            if str(point) not in seen:
                seen.add(str(point))
                points.append(point)
                break
        else:
            missing = [p for p in _grid(space, [budget]) if str(p) not in seen] if _is_finite(space) else []
            if missing:
                seen.add(str(missing[0]))
                points.append(missing[0])
            else:
                full.add(budget)
    return points


def grid_points(space: Sequence[Dimension], budgets: Sequence[int]) -> list[Point]:
    """Every combination of choices and budgets.

    Raises:
        ConfigError: a dimension is an interval.
    """
    for dimension in space:
        if not dimension.choices:
            raise ConfigError(f"--searcher grid: {dimension.key}={dimension.text()} is an interval; list its values")
    return list(_grid(space, budgets))


def _grid(space: Sequence[Dimension], budgets: Sequence[int]) -> Iterator[Point]:
    for values in itertools.product(*(dimension.choices for dimension in space), budgets):
        names = [dimension.key for dimension in space]
        yield {BUDGET: values[-1]} | dict(zip(names, values[:-1], strict=True))


def _is_finite(space: Sequence[Dimension]) -> bool:
    return all(dimension.choices for dimension in space)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(key: str) -> bool:
    return key == BUDGET or "int" in str(fields()[key].annotation)

"""What tells two plans of a sweep apart, in the words of its options."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from psp_ray.config.base import option_name

if TYPE_CHECKING:
    from psp_ray.studies.sweep.plan import Plan

MOST_SHOWN = 3


def difference(old: Plan, new: Plan, ledger_variable: str) -> str:
    """`begun with --seed 0, now it is 1`, of the first few options; empty where the plans agree."""
    both = old.datasets.keys() & new.datasets.keys()
    before, now = (_options(plan, both, ledger_variable) for plan in (old, new))
    found = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
    if not found:
        return ""
    shown = [_told(key, before.get(key), now.get(key)) for key in found[:MOST_SHOWN]]
    more = len(found) - MOST_SHOWN
    if more > 0:
        shown.append(f"{more} more {'differs' if more == 1 else 'differ'}")
    return f"begun {'; '.join(shown)}"


def _told(option: str, before: str | None, now: str | None) -> str:
    if before is None:
        return f"without {option}{now}"
    return f"with {option}{before}, now it is {now}" if now is not None else f"with {option}{before}, now without"


def _options(plan: Plan, names: Collection[str], ledger_variable: str) -> dict[str, str]:
    """The options that lead to a plan: what stands before a value, and the value; of data sets those of `names`."""
    found = {"--datasets ": ", ".join(plan.datasets)}
    for name in sorted(names):
        settings = plan.datasets[name]
        place = {f"{name} at ": str(settings["dataset"])} if "dataset" in settings else {}
        own = {key: value for key, value in settings.items() if key != "dataset"}
        found |= place | _pairs(f"--set {name}:", own)
        if name in plan.classes:
            found[f"the number of classes of {name}: "] = str(plan.classes[name])
    found["--labels-per-class "] = ",".join(map(str, plan.labels_per_class))
    found |= _pairs("--vary ", plan.space) | _pairs("--set ", plan.settings)
    found |= {f"{option_name(key)} ": str(getattr(plan, key)) for key in ("searcher", "scheduler", "seed")}
    found[f"{ledger_variable} set: "] = json.dumps(plan.ledger_from_environment)
    return found


def _pairs(option: str, values: Mapping[str, Any]) -> dict[str, str]:
    return {
        f"{option}{key}=": value if isinstance(value, str) else json.dumps(value)
        for key, value in sorted(values.items())
    }

"""The tables of settings in `docs/method.md`: `python -m psp_ray.cli.docs_tables docs/method.md` renews them.

With --check it only says whether they are up to date (exit code 1 where they are not).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from psp_ray.config.config import fields
from psp_ray.config.learn import LearnSettings
from psp_ray.config.policy import PolicySettings
from psp_ray.config.presets import PRESETS
from psp_ray.config.selftrain import SelfTrainingSettings
from psp_ray.core.files import write_text
from psp_ray.run.resolve import resolve
from psp_ray.studies.report import with_section
from psp_ray.studies.tables import markdown_table

SYMBOLS = {
    "rounds": "`R`",
    "labels_per_round": "`n_s`",
    "context_length": "`M`",
    "views": "`L`",
    "beta": "`beta`",
    "tau": "`tau`",
    "gamma": "`gamma`",
    "alpha": "`alpha`",
    "kappa": "`kappa`",
    "audit_fraction": "`eps`",
    "confidence_min": "`tau_c`",
    "uncertainty_max": "`tau_u`",
    "sdtw_gamma": "`gamma_sdtw`",
}
FULL = ("psp", "psp-paper")


def settings_table() -> str:
    """Every setting that has a symbol, or that the two methods set differently: its value in both."""
    values = {name: resolve({"strategy": name}).flat() for name in FULL}
    keys = [key for key in _keys() if key in SYMBOLS or values["psp"][key] != values["psp-paper"][key]]
    keys.sort(key=lambda key: (key not in SYMBOLS, list(SYMBOLS).index(key) if key in SYMBOLS else 0))
    rows = [
        [SYMBOLS.get(key, ""), f"`{key}`", *(shown(values[name][key], key) for name in FULL), _description(key)]
        for key in keys
    ]
    return markdown_table(["symbol", "setting", "`psp`", "`psp-paper`", "meaning"], rows, left=5)


def ablation_table() -> str:
    """What each other preset sets differently from the method that it is named after."""
    rows = []
    for name, own in PRESETS.items():
        if name in FULL:
            continue
        parent = "psp-paper" if name.startswith("psp-paper") else "psp" if name.startswith("psp") else ""
        base: dict[str, Any] = PRESETS.get(parent, {})
        changes = [f"`{key}: {value}`" for key, value in own.items() if base.get(key) != value]
        rows.append([f"`{name}`", f"`{parent}`" if parent else "–", ", ".join(changes)])
    return markdown_table(["preset", "differs from", "in"], rows, left=3)


def _keys() -> list[str]:
    own = ["rounds", "labels_per_round", "views", "audit_fraction"]
    return [*own, *PolicySettings.model_fields, *LearnSettings.model_fields, *SelfTrainingSettings.model_fields]


def shown(value: Any, key: str = "") -> str:
    if value is None:
        return "C" if key == "labels_per_round" else "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _description(key: str) -> str:
    return (fields()[key].description or "").replace("|", "/")


def renew(text: str) -> str:
    """A document with both tables in their marked places."""
    return with_section(with_section(text, "settings", settings_table()), "presets", ablation_table())


def main(arguments: list[str]) -> int:
    """Renew the tables of a file, or with --check only compare; returns the exit code."""
    check, names = "--check" in arguments, [word for word in arguments if word != "--check"]
    path = Path(names[0])
    text = path.read_text(encoding="utf-8")
    if renew(text) == text:
        return 0
    if check:
        print(f"{path}: tables of settings are out of date; run: python -m psp_ray.cli.docs_tables {path}")
        return 1
    write_text(path, renew(text))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The tables of settings in docs/method.md are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from psp_ray.cli.docs_tables import ablation_table, main, renew, settings_table, shown
from psp_ray.config.config import fields
from psp_ray.config.presets import PRESETS

METHOD = Path(__file__).parents[2] / "docs" / "method.md"


def test_settings_in_the_docs_are_those_of_the_code():
    text = METHOD.read_text()
    assert renew(text) == text, "run: python -m psp_ray.cli.docs_tables docs/method.md"


def test_the_settings_table_says_what_presets_do():
    table = settings_table()
    rows = {line.split("|")[2].strip(" `"): line for line in table.splitlines()[2:]}
    for key, paper in PRESETS["psp-paper"].items():
        ours = {**{key: fields()[key].default}, **PRESETS["psp"]}[key]
        if ours != paper:
            assert [cell.strip() for cell in rows[key].split("|")[3:5]] == [shown(ours), shown(paper)]
    for name in set(PRESETS) - {"psp", "psp-paper"}:
        assert f"| `{name}` |" in ablation_table()


def test_a_table_out_of_date_is_found_and_renewed(tmp_path, capsys):
    copy = tmp_path / "method.md"
    text = METHOD.read_text()
    copy.write_text(text.replace("| `tau` |", "| `tao` |"))
    assert main(["--check", str(copy)]) == 1
    assert "out of date" in capsys.readouterr().out
    assert main([str(copy)]) == 0
    assert copy.read_text() == text
    assert main(["--check", str(copy)]) == 0


def test_every_setting_named_in_the_docs_exists():
    text = METHOD.read_text()
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)*): [a-z-]+`", text)) | set(re.findall(r"`--([a-z-]+) ", text))
    assert len(named) > 5
    for key in named:
        assert key.replace("-", "_") in fields(), key

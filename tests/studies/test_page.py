"""The pages of comparisons and sweeps: the sentence they begin with, and names that stay text."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from psp_ray.core.errors import OutputError
from psp_ray.studies.collect import CURVE_COLUMNS, RESULT_COLUMNS, read_csv, write_csv
from psp_ray.studies.page import answer, write_report_page
from psp_ray.studies.plan import STUDY_FILE
from psp_ray.studies.sweep.analysis import Analysis
from tests.run.test_page import Parsed
from tests.studies.sweep.test_report import TRIALS, write_sweep

NASTY = "<b onclick=alert(1)> [x](http://example.com) ![y](http://example.com/y.png)"


def made(seeds, ahead=0.05):
    """Results and curves of random and psp, which is `ahead` on average."""
    rng = np.random.default_rng(0)
    results, curves = [], []
    for strategy, training, extra in (("random", "none", 0.0), ("psp", "ust", ahead)):
        for seed in range(seeds):
            keys = dict(zip(RESULT_COLUMNS[:5], (NASTY, strategy, training, 1, seed), strict=True))
            final = 0.6 + extra + rng.normal(0, 0.01)
            row = {"status": "finished", "final_accuracy": final, "mean_accuracy": final, "zero_shot_accuracy": 0.2}
            row |= {"final_macro_accuracy": final, "mean_macro_accuracy": final, "seconds": 1.0, "error": ""}
            results.append(keys | row)
            curves += [
                keys | {"round": number, "labels": 10 * number, "accuracy": final * number / 2} for number in (1, 2)
            ]
    return pd.DataFrame(results, columns=RESULT_COLUMNS), pd.DataFrame(curves, columns=CURVE_COLUMNS)


def test_the_sentence_is_the_paired_interval():
    results, curves = made(5)
    by = results.pivot(index="seed", columns="strategy", values="final_accuracy")
    found = stats.ttest_rel(by.psp, by.random).confidence_interval(0.95)
    text = answer(results, curves)
    assert text.startswith(f"psp ends highest, at {100 * by.psp.mean():.1f} %, ")
    assert f"(95 % interval {100 * found.low:+.1f} to {100 * found.high:+.1f}, 5 seeds)" in text
    assert "too few to tell that from chance" in answer(*made(2))
    assert "so it may be chance" in answer(*made(4, ahead=0.002))


def test_a_comparison_on_a_page(tmp_path):
    results, curves = made(3)
    write_csv(tmp_path, results, curves)
    (tmp_path / STUDY_FILE).write_text(yaml.safe_dump({"title": NASTY}))
    read = read_csv(tmp_path)
    pd.testing.assert_frame_equal(read[0], results.astype(read[0].dtypes.to_dict()))
    page = Parsed(write_report_page(tmp_path).read_text(encoding="utf-8"))
    assert not page.tags & {"script", "b", "a"}
    assert all(value.startswith("data:image/png") for name, value in page.attributes if name in ("src", "href"))
    assert {"table", "img"} <= page.tags
    assert sum("http://example.com" in words for words in page.words) >= 2


def test_a_sweep_on_a_page(tmp_path):
    write_sweep(tmp_path / "sweep", TRIALS)
    page = Parsed(write_report_page(tmp_path / "sweep").read_text(encoding="utf-8"))
    first = next(words for words in page.words if words.startswith("Best of"))
    assert first.startswith("Best of 4 trials: beta=0.9")
    assert "60.0 % on a, 68.0 % on b" in first
    assert [name for name, _ in page.attributes].count("src") == 2


def test_what_moves_nothing_is_said_to_move_nothing(tmp_path):
    rng = np.random.default_rng(0)
    betas = rng.uniform(0, 1, 18)
    trials = [("finished", 1, float(beta), (0.6 + 0.2 * beta, 0.65 + 0.02 * beta)) for beta in betas]
    write_sweep(tmp_path / "moved", trials)
    assert Analysis(tmp_path / "moved").matters().startswith("beta moved accuracy by 1")
    noise = np.random.default_rng(1)
    still = [(status, budget, beta, (0.7 + noise.normal(0, 0.01), 0.65)) for status, budget, beta, _ in trials]
    write_sweep(tmp_path / "still", still)
    assert Analysis(tmp_path / "still").matters() == "beta moved accuracy by no more than chance"


def test_a_folder_with_neither_is_one_line(tmp_path):
    with pytest.raises(OutputError, match="no run, comparison or sweep of psp-ray there"):
        write_report_page(tmp_path)

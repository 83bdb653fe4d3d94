"""The learning curve of a run: what stands where, and that nothing hides anything."""

from __future__ import annotations

import numpy as np

from psp_ray.posterior.accuracy import Estimate
from psp_ray.report.curve import learning_curve, plot_learning_curve
from tests.helpers import report_of


def row(total, new, accuracy, estimate=None):
    return report_of(labels_total=total, labels_new=new, test_accuracy=accuracy, pool_accuracy_estimate=estimate)


def test_zero_shot_stands_at_no_label_and_all_is_in_sight(tmp_path):
    """Also where labels were known beforehand: these 7 had taught the prompts something already."""
    estimate = Estimate(0.62, 0.27, 0.88, 9, 9)
    rows = [row(21, 14, 0.69, estimate), row(35, 14, 0.671)]
    figure = learning_curve(rows, 0.314, "title", "test")
    figure.savefig(tmp_path / "curve.png")  # lays it out
    (axes,) = figure.axes
    line = next(item for item in axes.lines if item.get_label() == "test accuracy")
    np.testing.assert_allclose(line.get_xydata(), [[0, 31.4], [21, 69.0], [35, 67.1]])
    frame = axes.get_window_extent()
    for text in axes.texts:
        box = text.get_window_extent()
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1, text.get_text()
    (legend,) = figure.legends
    assert not legend.get_window_extent().overlaps(frame)
    plot_learning_curve(tmp_path / "file.png", rows, 0.314, "title", "test")
    assert (tmp_path / "file.png").stat().st_size > 10_000

"""What `check-data` says of class names, by angles known beforehand."""

from __future__ import annotations

import numpy as np
import pytest

from psp_ray.run.check_data import names_said, suggested


@pytest.mark.parametrize(
    ("cosine", "said"),
    [(0.6, "all distinct"), (0.93, "some only just"), (0.97, "hardly tells these names apart")],
)
def test_names_are_distinct_only_where_they_are(cosine, said):
    embeddings = np.array([[1, 0, 0], [cosine, np.sqrt(1 - cosine**2), 0], [0, 0, 1]], np.float32)
    (line,) = names_said(["lily", "lily valley", "oak"], embeddings)
    assert said in line
    assert "'lily' and 'lily valley'" in line
    assert f"{cosine:.2f}" in line


@pytest.mark.parametrize(
    ("n", "classes", "rounds", "said"),
    [
        (1000, 10, 8, "20 (as many as classes, at least 20"),
        (1000, 40, 8, "40 (as many as classes"),
        (24, 3, 8, "3 (24 images in 8 rounds allow no more"),
        (3, 3, 8, "1 (3 images in 8 rounds"),
    ],
)
def test_a_suggestion_says_what_it_rests_on(n, classes, rounds, said):
    assert suggested(n, classes, rounds).startswith(f"suggested: --labels-per-round {said}")

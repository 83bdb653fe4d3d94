"""Zero-shot classifiers from hand-written templates (Radford et al., ICML 2021, section 3.1.4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from psp_ray.clip.text import TextTower
from psp_ray.core.errors import ConfigError
from psp_ray.core.records import TextState

DEFAULT_TEMPLATES = ("a photo of a {}.",)
"""CoOp's and PCB's template for general data sets."""


def zero_shot_text(
    tower: TextTower, class_names: Sequence[str], templates: Sequence[str] = DEFAULT_TEMPLATES
) -> TextState:
    """Class embeddings of hand-written prompts.

    Args:
        tower: the text tower.
        class_names: (C,) names; underscores read as spaces.
        templates: texts with one `{}` for the class name; embeddings are averaged over them.

    Returns:
        L2-normalized (C, dim) float32 and the model's logit scale.

    Raises:
        ConfigError: no template, or one without exactly one `{}`.
        ModelError: a text longer than the tower's positions.
    """
    if not templates:
        raise ConfigError("templates is empty; give at least one, such as 'a photo of a {}.'")
    for template in templates:
        if template.count("{}") != 1:
            raise ConfigError(f"template {template!r} must hold exactly one {{}} for the class name")
    names = [" ".join(name.replace("_", " ").split()) for name in class_names]
    texts = [template.replace("{}", name) for name in names for template in templates]
    features = tower.encode_texts(texts).double().cpu().numpy()
    means = features.reshape(len(names), len(templates), -1).mean(axis=1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return TextState(means.astype(np.float32), tower.logit_scale)

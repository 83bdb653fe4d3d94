"""Alignments of Q and its shorter target, one file each (`psp_ray.policy.alignment` says what one is)."""

"""Sources of pseudo-labels, one file each (`psp_ray.selftrain.source` says what one is)."""

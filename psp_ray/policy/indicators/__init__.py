"""Indicators of a draw, one file each (`psp_ray.policy.indicator` says what one is)."""

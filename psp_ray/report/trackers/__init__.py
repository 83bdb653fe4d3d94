"""Tracking tools, one file each; see `psp_ray.report.tracking`."""

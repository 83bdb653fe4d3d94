"""Sweeps over settings on Ray Tune: many trials across data sets, resumable, and a report on what mattered."""

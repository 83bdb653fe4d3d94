"""Sweeps over settings on Ray Tune, and their report. Run from the project's root: `python -m tuning.sweep --help`."""

"""Copies of runs and caches in remote storage."""

"""Comparing strategies over data sets and seeds: plan, run, collect, tabulate, draw. No run's mathematics in here."""

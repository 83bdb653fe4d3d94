"""A run: its components, the round loop, checkpoints and output folder."""

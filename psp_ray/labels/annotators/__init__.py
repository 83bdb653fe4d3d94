"""Annotators, one file each: whoever says which class an image has. `base.py` says what one is."""

"""Frozen features: decoding, encoding, the cache, and reading the pool."""

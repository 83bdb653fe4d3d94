"""The space of image features: nearest neighbors, spreading labels over them, coverage."""

"""Embeddings that users bring in place of images: tables read block by block, never all in memory."""

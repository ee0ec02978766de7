"""Embedding a music library: many decoding processes, one device, results on disk."""

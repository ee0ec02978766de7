"""All that decides a vector, and nothing else: from audio files to embeddings."""

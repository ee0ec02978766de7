"""Pre-training: the store of spectrograms, and what turns it into an encoder."""

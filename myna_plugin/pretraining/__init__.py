"""Pre-training: clip store, crops, masking, losses, objectives, training step and loop."""

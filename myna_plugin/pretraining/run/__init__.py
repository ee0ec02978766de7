"""A run of training: its settings, its plan, its files."""

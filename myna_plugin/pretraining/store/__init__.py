"""Clips as mel frames on disk."""

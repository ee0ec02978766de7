"""Myna inside the runners of others: one module a toolkit, each importing it on use only."""

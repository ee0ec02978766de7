"""What `python -m myna_plugin.recipes.NAME` runs; imported by nobody."""

"""What `python -m myna_plugin.recipes.NAME` runs: the commands of `myna`; imported by nobody."""

"""The `myna` command; one file a sub-command."""

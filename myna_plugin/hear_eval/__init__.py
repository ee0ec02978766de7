"""The `hear-eval` command: heareval on current libraries, on audio of any rate."""

"""The `hear-eval` command: any HEAR module scored with the unmodified heareval."""

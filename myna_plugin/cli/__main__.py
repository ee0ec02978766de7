"""The `myna` command; who stops it while it is imported sees a line."""

from myna_plugin.common.stopping import importing

with importing("myna"):
    from myna_plugin.cli.main import main

if __name__ == "__main__":
    main()

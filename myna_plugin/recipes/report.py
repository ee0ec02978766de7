"""`python -m myna_plugin.recipes.report` is `myna report`."""

from myna_plugin.common.stopping import importing

with importing("myna report"):
    from myna_plugin.cli.main import import_command

    main = import_command("report")

if __name__ == "__main__":
    main()

"""`python -m myna_plugin.recipes.prepare` is `myna prepare`."""

from myna_plugin.common.stopping import importing

with importing("myna prepare"):
    from myna_plugin.cli.main import import_command

    main = import_command("prepare")

if __name__ == "__main__":
    main()

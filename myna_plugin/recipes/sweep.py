"""`python -m myna_plugin.recipes.sweep` is `myna sweep`."""

from myna_plugin.common.stopping import importing

with importing("myna sweep"):
    from myna_plugin.cli.main import import_command

    main = import_command("sweep")

if __name__ == "__main__":
    main()

"""`python -m myna_plugin.recipes.probe` is `myna probe`."""

from myna_plugin.common.stopping import importing

with importing("myna probe"):
    from myna_plugin.cli.main import import_command

    main = import_command("probe")

if __name__ == "__main__":
    main()

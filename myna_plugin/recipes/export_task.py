"""`python -m myna_plugin.recipes.export_task` is `myna export-task`."""

from myna_plugin.common.stopping import importing

with importing("myna export-task"):
    from myna_plugin.cli.main import import_command

    main = import_command("export-task")

if __name__ == "__main__":
    main()

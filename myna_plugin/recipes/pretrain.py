"""`python -m myna_plugin.recipes.pretrain` is `myna pretrain`."""

from myna_plugin.common.stopping import importing

with importing("myna pretrain"):
    from myna_plugin.cli.main import import_command

    main = import_command("pretrain")

if __name__ == "__main__":
    main()

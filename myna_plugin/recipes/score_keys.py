"""`python -m myna_plugin.recipes.score_keys` is `myna score-keys`."""

from myna_plugin.common.stopping import importing

with importing("myna score-keys"):
    from myna_plugin.cli.main import import_command

    main = import_command("score-keys")

if __name__ == "__main__":
    main()

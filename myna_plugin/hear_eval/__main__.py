"""The `hear-eval` command; who stops it while it is imported sees a line."""

from myna_plugin.common.stopping import importing


def main() -> None:
    """Import it and run it; not at once, as heareval's process imports this module too."""
    with importing("hear-eval"):
        from myna_plugin.hear_eval.cli import main as hear_eval
    hear_eval()


if __name__ == "__main__":
    main()

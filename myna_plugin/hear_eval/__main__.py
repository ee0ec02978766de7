"""The `hear-eval` command; who stops it while it is imported sees a line."""

from myna_plugin.common.stopping import stoppable

with stoppable("hear-eval"):
    from myna_plugin.hear_eval.cli import main

if __name__ == "__main__":
    main()

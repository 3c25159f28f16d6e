"""Where the command starts: Ctrl-C ends it with exit code 130 and no traceback from here on, also while it imports."""

from __future__ import annotations

import sys

from parnet_deploy.errors import INTERRUPTED


def main() -> None:
    """Run the command line; exit 0, 1 (a check failed), 2 (bad input) or 130 (interrupted)."""
    try:
        from parnet_deploy.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)

"""Where the command starts: Ctrl-C ends it with exit code 130 and no traceback from here on, also while it imports."""

from __future__ import annotations

import signal
import sys
import threading

from parnet_deploy.errors import INTERRUPTED

_MOMENT_S = 0.01


def main() -> None:
    """Run the command line; exit 0, 1 (a check failed), 2 (bad input) or 130 (interrupted)."""
    sys.unraisablehook = interrupt_again
    try:
        from parnet_deploy.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def interrupt_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Repeat, a moment later, an interrupt that struck where Python can only print it.

    That is in a destructor, and in what logging does around a fork: `train` forks its workers in every epoch, and
    Ctrl-C would be lost there.
    """
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    # A signal to the thread itself, so that it also wakes up.
    main_thread = threading.main_thread().ident
    timer = threading.Timer(_MOMENT_S, signal.pthread_kill, (main_thread, signal.SIGINT))
    timer.daemon = True
    timer.start()

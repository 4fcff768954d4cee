"""What Ctrl-C does while a command imports its modules: an interrupted import shows a traceback, or hides it."""

from __future__ import annotations

import signal


def end_at_once() -> None:
    """Have Ctrl-C end the process from here on, in silence, unless it is ignored, as in the background."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_again() -> None:
    """Have Ctrl-C raise KeyboardInterrupt from here on, as Python does, after `end_at_once`."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)

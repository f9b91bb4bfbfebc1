"""Signals that end the work: none is lost, wherever Python happens to be when one comes."""

import signal
import sys
import threading
from collections.abc import Callable
from functools import partial

from segline.errors import StoppedError

AGAIN_S = 0.05
"""The seconds after which a lost signal comes again; Python is done with the destructor by then, or loses it again."""


def repeat_lost_signals() -> None:
    """Send SIGINT or SIGTERM again where the exception that its handler raised came to nothing.

    A handler runs between any two instructions of the main thread. In a destructor, as that of each answer of HTTP, or
    in a callback of the garbage collector, Python reports an exception to `sys.unraisablehook` and goes on.
    """
    sys.unraisablehook = partial(_report, sys.unraisablehook)


def _report(before: Callable[["sys.UnraisableHookArgs"], object], lost: "sys.UnraisableHookArgs") -> None:
    if issubclass(lost.exc_type, KeyboardInterrupt):
        # What a shell starts in the background ignores SIGINT; SIGTERM came then.
        number = signal.SIGINT if callable(signal.getsignal(signal.SIGINT)) else signal.SIGTERM
    elif issubclass(lost.exc_type, StoppedError):
        number = signal.SIGTERM
    else:
        before(lost)
        return
    # The main thread may wait in a call of the kernel, which only a signal of its own ends.
    again = threading.Timer(AGAIN_S, signal.pthread_kill, (threading.main_thread().ident, number))
    again.daemon = True
    again.start()

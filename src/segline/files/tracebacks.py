"""The end of a command by an error that nobody foresaw: one line for the user, and the traceback in a file."""

import errno
import os
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

from segline.errors import StageError, clip, one_line
from segline.files.cache import cache_dir
from segline.redaction import redact

DEBUG = "SEGLINE_DEBUG"
"""The environment variable with which a traceback is printed in place of being stored."""
CLUSTER = "KUBERNETES_SERVICE_HOST"
"""The variable of every container of Kubernetes, whose files are gone when it ends: its log keeps the traceback."""
KEPT = 50
"""The number of tracebacks that are kept."""
SHORTAGES = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOMEM,
    errno.EMFILE,
    errno.ENFILE,
    errno.EAGAIN,
    errno.EIO,
    errno.EROFS,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ETIMEDOUT,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
)
"""The numbers of errors of the machine or the network, which are no fault of Segline."""


def report(command: str, error: BaseException) -> int:
    """Print one line about an error, keep its traceback, and return the exit code of the command."""
    shown = f"{type(error).__name__}: {clip(one_line(error))}"
    if shortage := _shortage(error):
        code, line = StageError.exit_code, f"{shortage}; mend that, and run the same command again, which continues"
    else:
        code, line = 1, f"{shown}; this is a fault of Segline"
    print(f"segline {command}: {line}; {_keep(command, error)}", file=sys.stderr)
    return code


def _shortage(error: BaseException) -> str:
    """Return what this machine lacks, in words; empty for any other error."""
    if isinstance(error, MemoryError):
        return "this machine has too little free memory"
    is_short = isinstance(error, OSError) and error.errno in SHORTAGES
    return clip(one_line(error)) if is_short else ""


def _keep(command: str, error: BaseException) -> str:
    """Print the traceback or write it to a file of this user, and return where it is, in words."""
    text = redact("".join(traceback.format_exception(error)))
    if not (os.environ.get(DEBUG) or os.environ.get(CLUSTER)):
        with suppress(OSError):
            return f"its traceback is in {_write(command, text)}"
    print(text, file=sys.stderr, end="")
    return "its traceback is above"


def _write(command: str, text: str) -> Path:
    folder = cache_dir() / "tracebacks"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in sorted(folder.glob("*.txt"))[: -KEPT + 1]:
        old.unlink(missing_ok=True)
    path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{command}-{os.getpid()}.txt"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        stream.write(text)
    return path

"""UTF-8, whatever the locale of the user is: files, names of files, arguments, and what is printed."""

import codecs
import io
import locale
import os
import sys

VARIABLE = "PYTHONUTF8"
"""Python's variable for its UTF-8 mode, which child processes inherit."""


def use_utf8() -> None:
    """Start this process anew in Python's UTF-8 mode if its locale has another encoding, and never fail to print.

    The mode is set when an interpreter starts, and it covers what no argument ``encoding`` reaches: names of files,
    and what libraries read. What a stream cannot encode is printed with backslashes.
    """
    if not sys.flags.utf8_mode and not _is_utf8(locale.getencoding()) and os.environ.get(VARIABLE) != "1":
        os.environ[VARIABLE] = "1"
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _is_utf8(encoding: str) -> bool:
    try:
        return codecs.lookup(encoding).name == "utf-8"
    except LookupError:
        return False

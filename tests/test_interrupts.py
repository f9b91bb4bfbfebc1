"""A signal that comes in a destructor still ends the command."""

import signal
import subprocess
import sys

import pytest

LOSES = """
import signal, sys, time
from segline.cli import main
from segline.errors import StoppedError
with_help = sys.argv[:1] + ["--help"]
own, sys.argv = sys.argv[1], with_help
try:
    main()
except SystemExit:
    pass

def stop(*_):
    raise StoppedError("stopped")

class Slow:
    def __del__(self):
        print("in the destructor", flush=True)
        time.sleep(60)

if own == "ignores SIGINT":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
if own == "stops":
    signal.signal(signal.SIGTERM, stop)
try:
    Slow()
    print("went on", flush=True)
    time.sleep(60)
except (KeyboardInterrupt, StoppedError) as error:
    print("ended by", type(error).__name__)
"""


@pytest.mark.parametrize(
    ("own", "number", "error"),
    [
        ("", signal.SIGINT, "KeyboardInterrupt"),
        ("ignores SIGINT", signal.SIGTERM, "KeyboardInterrupt"),
        ("stops", signal.SIGTERM, "StoppedError"),
    ],
)
def test_a_signal_in_a_destructor_ends_the_command(own, number, error):
    """Python reports an exception there and goes on; the command then waited for what was not to come."""
    process = subprocess.Popen(
        [sys.executable, "-c", LOSES, own],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for line in process.stdout:
        if line == "in the destructor\n":
            break
    process.send_signal(number)
    shown, stderr = process.communicate(timeout=50)
    assert shown == f"went on\nended by {error}\n"
    assert stderr == ""


def test_another_error_of_a_destructor_is_reported_as_before():
    code = "from segline.interrupts import repeat_lost_signals\nrepeat_lost_signals()\nclass Bad:\n"
    code += "    def __del__(self): raise ValueError('bad')\nBad()\nprint('went on')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "went on\n"
    assert "ValueError: bad" in done.stderr

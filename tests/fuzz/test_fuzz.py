"""A short run of what ``make fuzz`` runs for minutes: broken parameters, classes, manifests and label files."""

import os
import re
import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).with_name("run.py")


def test_every_broken_file_is_handled():
    """Handled is: a documented exit code, no traceback, little text, at most 1 GiB, and no hang."""
    words = ["--cases", "6", "--seconds", "200", "--seed", "5"]
    done = subprocess.run([sys.executable, FUZZ, *words], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.findall(r"^(\w+): (\d+) tried, (\d+) handled", done.stdout, re.MULTILINE)
    assert [name for name, _, _ in counts] == ["params", "classes", "manifest", "labels", "files"]
    assert all(int(tried) == int(handled) > 0 for _, tried, handled in counts)

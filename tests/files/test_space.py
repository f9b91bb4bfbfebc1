"""Space for a file that is written through a memory map: it is there, or its lack is told before the first write."""

import errno
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from segline.files.space import reserve


def test_the_space_is_taken_at_once(tmp_path):
    path = tmp_path / "planes"
    reserve(path, 1 << 20)
    assert path.stat().st_size == 1 << 20
    assert path.stat().st_blocks * 512 >= 1 << 20
    assert not np.memmap(path, np.uint8, "r").any()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_the_file(tmp_path, monkeypatch, number):
    def full(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="cannot be written") as caught:
        reserve(tmp_path / "planes", 10)
    assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / "planes"))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_may_not_grow_is_told_and_no_signal_ends_the_process(tmp_path):
    """A limit on the size of files is the full disk that needs no root."""
    script = "from pathlib import Path; from segline.files.space import reserve; reserve(Path('p'), 99999)"
    words = ["bash", "-c", 'ulimit -f 8; exec "$0" -c "$1"', sys.executable, script]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode not in (-signal.SIGBUS, -signal.SIGXFSZ)
    assert "File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []

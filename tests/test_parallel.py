"""Tasks run in this process and on a real Ray, with the same outcome; and malloc keeps its memory."""

import ctypes
import json
import os
import re
import subprocess
import sys

import pytest

from segline.errors import DataError
from segline.parallel import (
    M_MMAP_THRESHOLD,
    M_TRIM_THRESHOLD,
    MMAP_THRESHOLDS,
    for_each,
    tune_malloc,
)


def squares():
    """What is run for each task. Ray copies a local function."""

    def square(task):
        if task == 13:
            raise DataError("13 is broken; mend it")
        return task, task**2, os.getpid()

    return square


def run(tasks, workers):
    results = []
    for_each(tasks, squares(), results.append, workers=workers)
    return results


def test_one_worker_is_this_process_and_keeps_the_order():
    assert run([3, 1, 2], 1) == [(3, 9, os.getpid()), (1, 1, os.getpid()), (2, 4, os.getpid())]
    assert run([], 4) == []


def test_more_workers_are_other_processes_with_the_same_results(one_ray_session):
    results = run(list(range(10)), 3)
    assert sorted(result[:2] for result in results) == [(task, task**2) for task in range(10)]
    assert os.getpid() not in {process for _, _, process in results}


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_task_is_the_same_one_line(one_ray_session, workers):
    with pytest.raises(DataError) as caught:
        run([1, 13, 2], workers)
    assert re.fullmatch("13 is broken; mend it", str(caught.value))


COUNT_FAULTS = """
import ctypes, json, resource, sys
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
if sys.argv[1] == "tuned":
    from segline.parallel import tune_malloc
    tune_malloc()

def faults(size):
    "The page faults of 20 blocks that are written one after another, beside the pages of all of them."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        block = libc.malloc(size)
        ctypes.memset(block, 1, size)
        libc.free(block)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / (20 * size)

print(json.dumps([faults(size * 2**20) for size in (1, 16, 31, 100)]))
"""


def fault_rates(how):
    command = [sys.executable, "-c", COUNT_FAULTS, how]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def is_modern_glibc():
    name = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else None
    return bool(name) and tuple(map(int, name.split()[1].split("."))) >= (2, 36)


@pytest.mark.skipif(not is_modern_glibc(), reason="an older glibc, or another C library")
def test_freed_blocks_are_used_again_and_not_cleared_by_the_kernel():
    assert fault_rates("untuned")[-1] > 0.9
    assert max(fault_rates("tuned")) < 0.1


@pytest.mark.parametrize("greatest", [2**30, 32 * 2**20, 0])
def test_a_c_library_that_refuses_large_blocks_gets_smaller_ones(monkeypatch, greatest):
    """The trim threshold without the other would make glibc return every block."""
    calls = []

    def mallopt(option, value):
        calls.append((option, value))
        return int(option == M_TRIM_THRESHOLD or value <= greatest)

    monkeypatch.setattr(ctypes, "CDLL", lambda _: type("Library", (), {"mallopt": staticmethod(mallopt)}))
    tune_malloc()
    accepted = [value for option, value in calls if option == M_MMAP_THRESHOLD and value <= greatest]
    assert accepted == [value for value in MMAP_THRESHOLDS if value <= greatest][:1]
    assert (calls[-1][0] == M_TRIM_THRESHOLD) == bool(greatest)


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    tune_malloc()

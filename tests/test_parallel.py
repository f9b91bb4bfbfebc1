"""Tasks run in this process and on a real Ray of this machine, with the same outcome."""

import os
import re

import pytest

from segline.errors import DataError
from segline.parallel import for_each


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


def test_more_workers_are_other_processes_with_the_same_results():
    results = run(list(range(10)), 3)
    assert sorted(result[:2] for result in results) == [(task, task**2) for task in range(10)]
    assert os.getpid() not in {process for _, _, process in results}


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_task_is_the_same_one_line(workers):
    with pytest.raises(DataError) as caught:
        run([1, 13, 2], workers)
    assert re.fullmatch("13 is broken; mend it", str(caught.value))

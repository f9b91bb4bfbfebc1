"""Processes that promote at the same moment: each lives for many rounds and meets the others at a barrier."""

import multiprocessing
import time
import traceback
from contextlib import contextmanager

PAUSE_S = 0.2
"""The time between the last look at the champion and the move of its alias, in which the others are there as well."""
ATTEMPTS = 5
"""The times that a promotion is run where the server gives no answer in time, as a platform repeats the exit code 7."""


def serve(barrier, orders, answers):
    """Promote once for each order, which holds the arguments of the stage, until None comes."""
    from segline.config.params import Params
    from segline.config.sections import Promote
    from segline.errors import TrackingError
    from segline.stages import promote
    from segline.tracking import registry

    def promote_with_retries(name, settings, folders):
        for _ in range(ATTEMPTS - 1):
            with suppress_timeouts():
                promote.run(Params(name=name, promote=Promote(**settings)), **folders)
                return
        promote.run(Params(name=name, promote=Promote(**settings)), **folders)

    @contextmanager
    def suppress_timeouts():
        try:
            yield
        except TrackingError as error:
            if "no answer in time" not in str(error):
                raise

    set_tags = registry.set_tags
    registry.set_tags = lambda *words: (set_tags(*words), time.sleep(PAUSE_S))
    while order := orders.get():
        barrier.wait(600)
        try:
            promote_with_retries(*order)
            answers.put("")
        except BaseException:
            answers.put(traceback.format_exc())


@contextmanager
def promoters(count):
    """Yield a function that gives an order to each of so many processes and returns their tracebacks, if any."""
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(count), context.Queue()
    queues = [context.Queue() for _ in range(count)]
    processes = [context.Process(target=serve, args=(barrier, queue, answers), daemon=True) for queue in queues]
    for process in processes:
        process.start()

    def promote_at_once(orders):
        for queue, order in zip(queues, orders, strict=True):
            queue.put(order)
        return [text for text in (answers.get(timeout=600) for _ in orders) if text]

    try:
        yield promote_at_once
    finally:
        for queue in queues:
            queue.put(None)
        for process in processes:
            process.join(30)
            process.kill()

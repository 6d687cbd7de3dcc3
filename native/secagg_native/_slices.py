"""Threads by slices: kernels release the interpreter's lock, so plain threads do run at once."""

import threading
from collections.abc import Callable
from itertools import count

MAX_THREADS = 1024
# Several slices a thread, so that a thread whose core is taken away for a while costs a slice and
# not half of the work.
_SLICES_PER_THREAD = 8


def run(work: Callable[[int, int], object], length: int, grain: int, threads: int) -> None:
    """Call `work(low, high)` until [0, length) is covered, by at most `threads` threads.

    Slices are whole multiples of `grain`, but for the last. No pool is kept: one would not
    survive a fork, and starting a thread costs less than a slice.
    """
    grains = -(-length // grain)
    threads = min(threads, grains)
    if threads <= 1:
        if length:
            work(0, length)
        return
    step = max(1, grains // (threads * _SLICES_PER_THREAD)) * grain
    turns = count()
    errors: list[BaseException] = []

    def take() -> None:
        try:
            while not errors and (low := next(turns) * step) < length:
                work(low, min(low + step, length))
        except BaseException as error:  # noqa: BLE001 - raised again by the caller's thread
            errors.append(error)

    others: list[threading.Thread] = []
    try:
        for _ in range(threads - 1):
            thread = threading.Thread(target=take, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                break  # the system gives no more threads: those that there are do the work
            others.append(thread)
        take()
    except BaseException as error:
        errors.append(error)
        raise
    finally:
        # Nobody may write to the caller's memory once this function was left.
        for thread in others:
            thread.join()
    if errors:
        raise errors[0]

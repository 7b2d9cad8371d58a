"""Our own threads: every item once, errors raised, children of a fork on their feet."""

import multiprocessing
import threading
import time

import pytest

from scclip_rt.decode.threads import parallel


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_item_is_done_once(threads: int) -> None:
    done: list[int] = []
    parallel(done.append, range(100), threads)
    assert sorted(done) == list(range(100))


def test_the_helpers_and_the_caller_work_at_the_same_time() -> None:
    together = threading.Barrier(3, timeout=60)
    parallel(lambda _: together.wait() and None, range(3), 3)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_error_is_raised_and_ends_the_work(threads: int) -> None:
    done: list[int] = []
    failing = threading.Event()

    def work(item: int) -> None:
        if item == 2:
            failing.set()
            raise ValueError("no such item")
        if item > 2:
            failing.wait()
        time.sleep(0.01)
        done.append(item)

    with pytest.raises(ValueError, match="no such item"):
        parallel(work, range(1000), threads)
    count = len(done)
    assert count < 900
    time.sleep(0.01)
    assert len(done) == count, "a helper still works after the call"


def test_calls_nest_and_share_helpers() -> None:
    done: list[tuple[int, int]] = []
    parallel(lambda i: parallel(lambda j: done.append((i, j)), range(20), 3), range(20), 3)
    assert len(set(done)) == len(done) == 400


def _in_child(queue: "multiprocessing.Queue[int]") -> None:
    together = threading.Barrier(2, timeout=60)
    parallel(lambda _: together.wait() and None, range(2), 2)
    queue.put(1)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_gets_helpers_of_its_own() -> None:
    parallel(lambda _: time.sleep(0.01), range(4), 2)
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[int] = context.Queue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    child.join(120)
    assert child.exitcode == 0
    assert queue.get(timeout=60) == 1

"""A live source: the newest frame wins."""

import threading

import pytest

from scclip_rt.video import LatestFrames


class Camera:
    """Gives the next number whenever the test says so."""

    def __init__(self):
        self.ready = threading.Semaphore(0)
        self.given = threading.Semaphore(0)
        self.number = -1
        self.last = None

    def __iter__(self):
        return self

    def __next__(self):
        if self.number >= 0:
            self.given.release()  # the one before has been taken
        self.ready.acquire()
        self.number += 1
        if self.number == self.last:
            raise StopIteration
        return self.number

    def give(self, count):
        for _ in range(count):
            self.ready.release()
            self.given.acquire()


def test_frames_that_nobody_asked_for_are_dropped():
    camera = Camera()
    with LatestFrames(camera) as frames:
        camera.give(1)
        assert next(frames) == 0
        camera.give(5)
        assert next(frames) == 5
        camera.give(1)
        assert next(frames) == 6
        assert frames.dropped == 4


def test_the_last_frame_is_given_before_the_end():
    assert list(LatestFrames(iter([1]))) == [1]


def test_an_error_of_the_source_comes_where_frames_are_awaited():
    def broken():
        yield 1
        raise OSError("unplugged")

    frames = LatestFrames(broken())
    with pytest.raises(OSError, match="unplugged"):
        list(frames)
    assert list(frames) == []


def test_a_closed_source_gives_nothing_more():
    camera = Camera()
    frames = LatestFrames(camera)
    camera.give(2)
    frames.close()
    assert list(frames) == []
    camera.ready.release()

"""A GPU of Python: the driver's fake in the driver's place."""

from collections.abc import Iterator

import pytest

pytest.importorskip("cuda.bindings", reason="cuda-python is not installed (extra dev)")

from fake_cuda import FakeDriver
from scclip_rt.backends.cuda import Device, Driver
from scclip_rt.backends.cuda import device as device_module


@pytest.fixture
def fake() -> Iterator[FakeDriver]:
    driver = FakeDriver()
    yield driver
    device_module._OPEN.clear()


@pytest.fixture
def device(fake: FakeDriver) -> Device:
    return Device.open(0, Driver(fake))

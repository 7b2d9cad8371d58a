"""A GPU of Python: the driver's fake in the driver's place."""

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from scclip_rt.backends.cuda import Device
    from stand_ins.cuda import FakeDriver

# The fake takes its structures from cuda-python (extra dev; Linux and Windows only).
if importlib.util.find_spec("cuda") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def fake() -> "Iterator[FakeDriver]":
    from scclip_rt.backends.cuda import device as device_module
    from stand_ins.cuda import FakeDriver

    yield FakeDriver()
    device_module._OPEN.clear()


@pytest.fixture
def device(fake: "FakeDriver") -> "Device":
    from scclip_rt.backends.cuda import Device, Driver

    return Device.open(0, Driver(fake))

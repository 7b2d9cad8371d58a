"""The driver layer: statuses, messages, and the functions that the real bindings have."""

import threading

import pytest
from cuda.bindings import driver as real

from scclip_rt.backends.cuda import (
    CudaError,
    Device,
    Driver,
    OutOfDeviceMemoryError,
    device_count,
    load_driver,
)
from scclip_rt.errors import BackendError
from stand_ins.cuda import FakeDriver


def test_every_faked_function_takes_what_the_real_one_takes() -> None:
    """The docstrings of cuda.bindings begin with the signature; the fake must not drift from it."""
    names = [name for name in vars(FakeDriver) if name.startswith("cu") and name[2].isupper()]
    assert len(names) > 30
    wrong = {}
    for name in names:
        signature = str(getattr(real, name).__doc__).split("\n")[0]
        inside = signature[signature.index("(") + 1 : signature.rindex(")")]
        wanted = inside.count(",") + 1 if inside.strip() else 0
        code = getattr(FakeDriver, name)
        if code.__name__ == "call" or hasattr(code, "__closure__"):
            cells = [cell.cell_contents for cell in code.__closure__ or ()]
            code = next((cell for cell in cells if callable(cell)), code)
        has_rest = code.__code__.co_flags & 0x04
        found = wanted if has_rest else code.__code__.co_argcount - 1
        if found != wanted:
            wrong[name] = (signature, found)
    assert wrong == {}


def test_without_a_driver_the_message_says_what_to_do() -> None:
    try:
        status = int(real.cuInit(0)[0])
    except RuntimeError:
        status = -1
    if status == 0:
        pytest.skip("this machine has a driver")
    load_driver.cache_clear()
    with pytest.raises(BackendError, match=r"--device cpu"):
        load_driver()
    assert device_count() == 0


def test_status_becomes_advice(fake: FakeDriver) -> None:
    fake.faults["cuInit"] = "NO_DEVICE"
    with pytest.raises(CudaError, match=r"cuInit: CUDA_ERROR_NO_DEVICE: .*CUDA_VISIBLE_DEVICES") as caught:
        Driver(fake)("cuInit", 0)
    assert caught.value.status == "CUDA_ERROR_NO_DEVICE"


def test_status_without_advice_keeps_cudas_words(fake: FakeDriver) -> None:
    fake.faults["cuInit"] = "MPS_RPC_FAILURE"
    with pytest.raises(CudaError, match="words about CUDA_ERROR_MPS_RPC_FAILURE"):
        Driver(fake)("cuInit", 0)


def test_a_lost_context_is_said(device: Device, fake: FakeDriver) -> None:
    fake.faults["cuMemGetInfo"] = "ILLEGAL_ADDRESS"
    with pytest.raises(CudaError, match="start it again"):
        device.memory()


def test_device_tells_what_it_is(device: Device) -> None:
    assert str(device) == "cuda:0 (Fake 0, sm_90)"
    assert device.memory() == (1 << 30, 1 << 30)


def test_a_number_that_is_not_there(fake: FakeDriver) -> None:
    fake.gpus = 2
    with pytest.raises(BackendError, match=r"no cuda:5; .* cuda:0 \(Fake 0\), cuda:1 \(Fake 1\)"):
        Device.open(5, Driver(fake))


def test_a_device_is_opened_once(fake: FakeDriver) -> None:
    driver = Driver(fake)
    devices: list[Device] = []
    threads = [threading.Thread(target=lambda: devices.append(Device.open(0, driver))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(devices) == 4
    assert fake.count("cuDevicePrimaryCtxRetain") == 1


def test_out_of_memory_is_its_own_kind(fake: FakeDriver) -> None:
    fake.faults["cuInit"] = "OUT_OF_MEMORY"
    with pytest.raises(OutOfDeviceMemoryError):
        Driver(fake)("cuInit", 0)

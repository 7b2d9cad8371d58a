"""Compiled kernels: which one a GPU gets, what a launch passes, and lists that are no lists."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scclip_rt.backends.cuda import (
    CudaError,
    Device,
    DeviceBuffer,
    KernelSet,
    Ledger,
    Stream,
    read_kernel_list,
)
from scclip_rt.backends.cuda.decode import DecodeKernels
from scclip_rt.bundle.bundle import Bundle
from scclip_rt.errors import BundleError
from stand_ins.cuda import FakeDriver
from stand_ins.kernels import add_kernels, kernel_list


def kernels(root: Path, device: Device) -> KernelSet:
    return KernelSet.load(Bundle.open(root), device)


@pytest.mark.parametrize(
    ("gpu", "compiled", "fits"),
    [
        ((8, 0), "8.0", True),
        ((8, 9), "8.0", True),
        ((8, 0), "8.6", False),
        ((9, 0), "8.9", False),
        ((9, 0), "9.0", True),
        ((12, 1), "12.0", False),  # from 9.0 on code is for exactly one architecture
    ],
)
def test_code_runs_where_nvidia_says(
    own_bundle: Path, device: Device, fake: FakeDriver, gpu: tuple[int, int], compiled: str, fits: bool
) -> None:
    add_kernels(own_bundle, fake, kernel_list(compiled))
    spec = read_kernel_list(Bundle.open(own_bundle))[0]
    assert spec.runs_on(gpu) is fits


def test_the_closest_architecture_is_taken(own_bundle: Path, device: Device, fake: FakeDriver) -> None:
    from dataclasses import replace

    add_kernels(own_bundle, fake, [*kernel_list("8.0"), *kernel_list("8.6")])
    ada = replace(device, compute_capability=(8, 9))
    found = kernels(own_bundle, ada).get("finite")
    assert found is not None
    assert found.spec.compute_capability == (8, 6)


def test_kernels_for_others_are_named(own_bundle: Path, device: Device, fake: FakeDriver) -> None:
    add_kernels(own_bundle, fake, [*kernel_list("8.0"), *kernel_list("12.0")])
    found = kernels(own_bundle, device)
    assert found.get("decode_rows") is None
    assert found.reason == "the bundle's kernels are for sm_120, sm_80, this GPU is sm_90"


def test_a_bundle_without_kernels(bundle_path: Path, device: Device) -> None:
    assert kernels(bundle_path, device).reason == "the bundle holds no compiled kernels"


def test_constants_and_types_choose_the_form(own_bundle: Path, device: Device, fake: FakeDriver) -> None:
    add_kernels(own_bundle, fake)
    found = kernels(own_bundle, device).get("decode_rows", types={"labels": "*u16"}, SOFT=True, MASKED=False)
    assert found is not None
    assert found.spec.entry == "decode_rows_u16_soft"


def test_kernels_of_an_earlier_version_are_left_to_the_host(
    own_bundle: Path, device: Device, fake: FakeDriver
) -> None:
    """Its `decode` takes other arguments: nothing launches it, and the bundle decodes on the host."""
    items = [item for item in kernel_list() if not item["name"].startswith("decode")]
    add_kernels(own_bundle, fake, [*items, items[0] | {"name": "decode", "entry": "decode_u8"}])
    found = DecodeKernels.of(kernels(own_bundle, device))
    assert found.missing == "the bundle has no kernel decode_columns, decode_rows for it"
    assert not found.takes(5)


@pytest.mark.parametrize("value", [None, 0, "32"])
def test_a_size_that_is_none_is_refused(
    own_bundle: Path, device: Device, fake: FakeDriver, value: Any
) -> None:
    items = kernel_list()
    items[0]["constants"] = items[0]["constants"] | {"BLOCK_Q": value}
    add_kernels(own_bundle, fake, items)
    kernel = kernels(own_bundle, device).get("decode_columns")
    assert kernel is not None
    with pytest.raises(BundleError, match="kernel 'decode_columns' has no usable BLOCK_Q; export the bundle"):
        kernel.constant("BLOCK_Q")


def test_a_launch_passes_every_parameter_in_order(own_bundle: Path, device: Device, fake: FakeDriver) -> None:
    add_kernels(own_bundle, fake)
    kernel = kernels(own_bundle, device).get("finite")
    assert kernel is not None
    stream, ledger = Stream(device), Ledger(device)
    values = DeviceBuffer.of(ledger, np.array([1, np.inf], np.float32), "a test")
    flag = DeviceBuffer.of(ledger, np.zeros(1, np.int32), "a test")
    kernel.launch(stream, (1, 1, 1), values=values.pointer, flag=flag.pointer, count=2)
    stream.synchronize()
    assert fake.view(flag.pointer, (1,), np.int32).tolist() == [1]
    with pytest.raises(TypeError, match="takes values, flag, count; got values"):
        kernel.launch(stream, (1, 1, 1), values=values.pointer)


def test_code_that_the_gpu_refuses(own_bundle: Path, device: Device, fake: FakeDriver) -> None:
    add_kernels(own_bundle, fake)
    fake.faults["cuModuleLoadData"] = "NO_BINARY_FOR_GPU"
    with pytest.raises(
        CudaError, match=r"kernels/decode_columns.*can't be loaded on cuda:0.*another architecture"
    ):
        kernels(own_bundle, device)


def test_much_shared_memory_is_asked_for(own_bundle: Path, device: Device, fake: FakeDriver) -> None:
    items = kernel_list()
    items[0]["shared_bytes"] = 100 << 10
    add_kernels(own_bundle, fake, items)
    kernels(own_bundle, device)
    assert [call.arguments[2] for call in fake.calls if call.name == "cuFuncSetAttribute"] == [100 << 10]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameters": [["x", "fp128"]]}, "unknown type 'fp128'"),
        ({"num_warps": "many"}, "not a list of kernels"),
        ({"file": "../../etc/passwd"}, "not listed in bundle.json"),
    ],
)
def test_other_lists_are_refused(
    own_bundle: Path, device: Device, fake: FakeDriver, change: dict[str, Any], message: str
) -> None:
    add_kernels(own_bundle, fake)
    path = own_bundle / "kernels/kernels.json"
    items = json.loads(path.read_text())
    items[0] |= change
    path.write_text(json.dumps(items))
    import hashlib

    document = json.loads((own_bundle / "bundle.json").read_text())
    content = path.read_bytes()
    document["files"]["kernels/kernels.json"] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    }
    (own_bundle / "bundle.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match=message):
        read_kernel_list(Bundle.open(own_bundle))


def test_the_fakes_have_the_compiled_kernels_parameters() -> None:
    """What the tests launch is what `scclip_kernels` compiles: names, types, order, constants."""
    pytest.importorskip("triton", reason="Triton is not installed (extra triton)")
    from scclip_kernels.aot.variants import runtime_variants

    real = {
        (v.name, str(v.types.get("labels")), v.constants.get("SOFT"), v.constants.get("MASKED")): v
        for v in runtime_variants()
    }
    for item in kernel_list():
        types = dict(map(tuple, item["parameters"]))
        constants = item["constants"]
        key = (item["name"], str(types.get("labels")), constants.get("SOFT"), constants.get("MASKED"))
        variant = real[key]
        assert list(types.items()) == list(variant.types.items()), item["name"]
        assert {**variant.constants, **variant.notes} == constants, item["name"]

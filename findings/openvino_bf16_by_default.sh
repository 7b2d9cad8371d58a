#!/usr/bin/env bash
# openvino 2026.4.1 takes bf16 by itself for float32 models wherever the processor has avx512_bf16, as its documentation says,
# "to achieve better performance". On an Intel processor with these instructions and without AMX (a virtual machine may hide
# it) its bf16 products need more time than its float32 ones: one leaves the hint out, gets other numbers, and waits longer.
# Seen on an Intel Xeon (family 6, model 207) without AMX, one thread, processor's time, best of 15 in turn, eight products of
# 1182×768 with 768×3072 and back: f32 302 ms (gemm_mlas_f32), no hint 563 ms (brgemm_avx512_bf16), 1.87 times as long; in
# four runs on a busy machine 1.81 to 1.88. On AMD (Zen 4, Zen 5) bf16 is the faster, and with AMX nobody tried: on those,
# and without avx512_bf16, it says so and ends.
set -euo pipefail
if ! grep -q '^vendor_id.*GenuineIntel' /proc/cpuinfo || ! grep -qE '^flags.* avx512_bf16( |$)' /proc/cpuinfo ||
    grep -qE '^flags.* amx_bf16( |$)' /proc/cpuinfo; then
    echo "this processor is not one of Intel's with avx512_bf16 and without AMX: nothing to see"
    exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 openvino-telemetry==2025.2.0 numpy==2.4.6
cd "$folder"
cat >products.py <<'PYTHON'
import sys
import time

sys.modules["openvino_telemetry"] = None  # its stub: no connection
import numpy as np
import openvino
from openvino import opset13 as op

drawn = np.random.default_rng(0)
x = op.parameter([1182, 768], np.float32)
y = x
for shape in [(768, 3072), (3072, 768)] * 4:
    weights = drawn.standard_normal(shape, dtype=np.float32) / np.float32(shape[0] ** 0.5)
    y = op.matmul(y, op.constant(weights), False, False)
model = openvino.Model([y], [x])
requests = {}
for name, hint in (("f32", {"INFERENCE_PRECISION_HINT": "f32"}), ("no hint", {})):
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": 1} | hint)
    taken = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    nodes = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    kinds = {node["primitiveType"].astype(str) for node in nodes if node["layerType"].astype(str) == "FullyConnected"}
    print(f"{name}: takes {taken}, {', '.join(sorted(kinds))}")
    assert taken == ("f32" if hint else "bf16"), "OpenVINO no longer takes bf16 by itself"
    requests[name] = compiled.create_infer_request()
values = drawn.standard_normal((1182, 768), dtype=np.float32)
seconds = {name: [] for name in requests}
for _ in range(15):
    for name, request in requests.items():
        start = time.process_time()
        request.infer([values])
        seconds[name].append(time.process_time() - start)
best = {name: min(each) for name, each in seconds.items()}
print(f"f32 {1000 * best['f32']:.0f} ms, no hint {1000 * best['no hint']:.0f} ms: {best['no hint'] / best['f32']:.2f} times as long")
if best["no hint"] < 1.15 * best["f32"]:
    raise SystemExit("bf16 is no slower now")
PYTHON
venv/bin/python -W ignore products.py

#!/usr/bin/env bash
# openvino 2026.4.1: oneDNN's variable ONEDNN_MAX_CPU_ISA holds the CPU plug-in to older instructions, and int8 and float32
# graphs go on. But on a processor with bf16 the plug-in still lists BF16 among its capabilities, takes the hint bf16 and then
# can't compile a product of two matrices; with the hint left out it takes bf16 by itself, and fails too. Asking the library
# what it can do does not help: the hint must be f32, said outright.
# Seen with AVX2: capabilities with BF16; f32: compiled; bf16 and none: RuntimeError ... could not create a primitive descriptor
# for the inner product forward propagation primitive. Without the variable all three compile.
# Needs a processor with avx512_bf16 or amx_bf16; on others it says so and ends.
set -euo pipefail
if ! grep -qE '^flags.* (avx512_bf16|amx_bf16)( |$)' /proc/cpuinfo; then
    echo "this processor has no bf16: nothing to see"
    exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 openvino-telemetry==2025.2.0 numpy==2.4.6
cd "$folder"
cat >product.py <<'PYTHON'
import sys

sys.modules["openvino_telemetry"] = None  # its stub: no connection
import numpy as np
import openvino
from openvino import opset13 as op

core = openvino.Core()
x = op.parameter([197, 768], np.float32)
weights = np.random.default_rng(0).standard_normal((768, 512), dtype=np.float32)
model = openvino.Model([op.matmul(x, op.constant(weights), False, False)], [x])
print("capability", "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
for hint in ("f32", "bf16", None):
    try:
        core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint} if hint else {})
        print(hint, "compiled")
    except RuntimeError as error:
        print(hint, "refused:", [line for line in str(error).splitlines() if line][-1][:100])
PYTHON
venv/bin/python -W ignore product.py | tee free.txt
ONEDNN_MAX_CPU_ISA=AVX2 venv/bin/python -W ignore product.py | tee held.txt
grep -qx "bf16 compiled" free.txt
grep -qx "None compiled" free.txt
grep -qx "capability True" held.txt
grep -qx "f32 compiled" held.txt
grep -q "^bf16 refused: could not create a primitive descriptor" held.txt
grep -q "^None refused: could not create a primitive descriptor" held.txt

#!/usr/bin/env bash
# triton 3.8.0, its interpreter (TRITON_INTERPRET=1) on the CPU: arithmetic of bfloat16 is done on the bits as integers, without
# a word. Its manual says that operations on bf16 "are not supported in interpreter mode"; there is no error, so a kernel for
# bf16 that is right on a GPU fails its test on the CPU by orders of magnitude, and one that is wrong may pass. float16 is
# computed as it should be, and so is bfloat16 that the kernel itself has cast to float32 before.
# Seen: tl.dot of 16 × 16 times 0.5 · 2.0 gives 4227858432 (0x3f00 · 0x4000 · 16) for 16; 1.5 · 1.5 gives 2.5e-29 for 2.25; the sum
# of 16 times 1.5 gives -2.7e36 for 24; all three are right in float16. Loads, stores and tl.max keep their values.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 triton==3.8.0 numpy==2.4.6
cd "$folder"
cat >kernels.py <<'PYTHON'
import torch
import triton
import triton.language as tl


@triton.jit
def product(a, b, out, WIDE: tl.constexpr):
    i = tl.arange(0, 16)
    x, y = tl.load(a + i[:, None] * 16 + i[None, :]), tl.load(b + i[:, None] * 16 + i[None, :])
    if WIDE:
        x, y = x.to(tl.float32), y.to(tl.float32)
    tl.store(out + i[:, None] * 16 + i[None, :], tl.dot(x, y))


@triton.jit
def elements(a, out):
    x = tl.load(a + tl.arange(0, 16))
    tl.store(out, tl.max(x * x).to(tl.float32))
    tl.store(out + 1, tl.sum(x).to(tl.float32))
    tl.store(out + 2, tl.max(x).to(tl.float32))


def results(dtype: torch.dtype, *, wide: bool = False) -> list[float]:
    halves, twos = (torch.full((16, 16), value, dtype=dtype) for value in (0.5, 2.0))
    dot, few = torch.empty(16, 16), torch.empty(3)
    product[(1,)](halves, twos, dot, wide)
    elements[(1,)](torch.full((16,), 1.5, dtype=dtype), few)
    return [dot[0, 0].item(), *few.tolist()]


right = [16.0, 2.25, 24.0, 1.5]
found = results(torch.float16), results(torch.bfloat16), results(torch.bfloat16, wide=True)
for name, row in zip(("float16", "bfloat16", "bfloat16, its product cast before"), found, strict=True):
    print(f"{name}: dot {row[0]:g}, square {row[1]:g}, sum {row[2]:g}, max {row[3]:g}")
assert found[0] == right
assert found[1][0] == 0x3F00 * 0x4000 * 16
assert found[1][1] < 1e-20
assert found[1][2] < -1e30
assert found[1][3] == 1.5
assert found[2][0] == 16.0
PYTHON
TRITON_INTERPRET=1 venv/bin/python kernels.py

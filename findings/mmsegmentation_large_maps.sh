#!/usr/bin/env bash
# mmsegmentation 1.2.2 (torch 2.14.1): IoUMetric counts a map's pixels with torch.histc in float32, where 16,777,216 + 1 is
# 16,777,216. Each thread counts its own part, so above 16.8 million pixels a class and thread the counts stop, and the
# mIoU of the same two maps depends on the number of threads (torchrun sets it to 1 for several processes).
# Seen, 5000 x 5000 pixels, all labelled 0, of which 4/5 are right: 2 threads: IoU 0.8; 1 thread: IoU 1.0, with areas of
# 16,777,216. Maps cut into tiles before they are compared are counted right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
pip=("$folder/venv/bin/pip" install --quiet --disable-pip-version-check)
"${pip[@]}" torch==2.14.1 numpy==2.4.6 mmengine==0.10.7 mmcv-lite==2.1.0 prettytable==3.18.0 opencv-python-headless==5.0.0.93
"${pip[@]}" --no-deps mmsegmentation==1.2.2 # its other packages (matplotlib, scipy, …) are not needed here
cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import torch
from mmseg.evaluation import IoUMetric

truth = torch.zeros(5000, 5000, dtype=torch.uint8)
truth[4000:] = 1
labels = torch.zeros_like(truth)
found = {}
for threads in (2, 1):
    torch.set_num_threads(threads)
    areas = IoUMetric.intersect_and_union(labels, truth, num_classes=2, ignore_index=255)
    found[threads] = float(IoUMetric.total_area_to_metrics(*areas)["IoU"][0])
    print(f"{threads} threads: IoU {found[threads]:.3f}, pixels labelled 0: {int(areas[2][0]):,} of {labels.numel():,}")
assert abs(found[2] - 0.8) < 1e-6, found
if found[1] < 0.99:
    raise SystemExit("mmsegmentation counts large maps right now")
PYTHON

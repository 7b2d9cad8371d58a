"""`scclip batch` with 1 and 2 workers, as processes and as Ray actors, beside `scclip segment FOLDER` on two CPUs.

    python -m benchmarks.cpu.scaling [--images 48] [--rounds 3] [--json benchmarks/results/scaling.json]

All segment the same folder into PNGs, in turn, each in a process of its own, kept to two CPUs. The clock runs from the
first label map on disk to the last, so that starting (of Ray: seconds) is told apart. First the gate: all label maps
are the same. Other processes disturb the wall clock, so the processor's time per image is told beside it: of the
command and all its descendants, Ray's own included, between the same two moments. Memory is the most that a worker's
process had of its own (USS) and in all (PSS, shared pages divided).
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.harness import Row, parser, ratios, spread, write_report
from scclip_rt.demo.scenes import test_scene

CPUS = 2
CONTENDERS: dict[str, list[str]] = {
    "segment FOLDER": [],
    "local, 1 worker": ["--engine", "local", "--actors", "1"],
    "local, 2 workers": ["--engine", "local", "--actors", "2"],
    "ray, 1 actor": ["--engine", "ray", "--actors", "1"],
    "ray, 2 actors": ["--engine", "ray", "--actors", "2"],
}


@dataclass
class Run:
    """One run: seconds until the first label map, images and processor time after it, MB of its largest worker."""

    start_seconds: float
    images_per_second: float
    cpu_seconds_per_image: float
    worker_pss: float
    worker_uss: float


def command(name: str, images: Path, output: Path) -> list[str]:
    """The command line of a contender; shards of half of the images, so that two workers have work to the end."""
    count = len(list(images.iterdir()))
    arguments = ["segment", "demo", images, "--output", output]
    if CONTENDERS[name]:
        arguments = ["batch", images, "--bundle", "demo", "--output", output]
        arguments += ["--format", "png", "--shard-size", -(-count // 2)]
    return [sys.executable, "-m", "scclip_rt.cli", *map(str, arguments), *CONTENDERS[name]]


def run(name: str, images: Path, output: Path) -> Run:
    """Run a contender and watch its output folder and its processes."""
    shutil.rmtree(output, ignore_errors=True)
    count = len(list(images.iterdir()))
    begun = time.perf_counter()
    process = subprocess.Popen(
        command(name, images, output),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"},
        preexec_fn=lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CPUS]),
    )
    first: tuple[float, int, float] | None = None
    last = (begun, 0.0)
    seen = memory_at = 0
    memory = (0.0, 0.0)
    while seen < count and process.poll() is None:
        found = sum(1 for path in output.rglob("*.labels.png") if not path.name.startswith("."))
        now = time.perf_counter()
        if found > seen:
            processor = processor_seconds(process.pid)
            seen, last = found, (now, max(last[1], processor))  # workers that ended are no longer counted
            first = first or (now, found, processor)
        if now - memory_at > 1:
            memory_at = now
            memory = max(memory, largest_worker(process.pid, name))
        time.sleep(0.02)
    if process.wait() != 0 or first is None:
        sys.exit(f"error: {name} failed")
    images = count - first[1]
    return Run(first[0] - begun, images / (last[0] - first[0]), (last[1] - first[2]) / images, *memory)


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    parents = {}
    for entry in Path("/proc").iterdir():
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
    found, news = {pid}, {pid}
    while news:
        news = {child for child, parent in parents.items() if parent in news} - found
        found |= news
    return sorted(found)


def processor_seconds(pid: int) -> float:
    """User and system time of a process and its descendants that are alive."""
    ticks = 0
    for member in family(pid):
        try:
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def largest_worker(pid: int, name: str) -> tuple[float, float]:
    """PSS and USS in MB of the worker with most memory: the process itself, a child, or a Ray actor."""
    best = (0.0, 0.0)
    for member in family(pid):
        try:
            line = Path(f"/proc/{member}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            rollup = Path(f"/proc/{member}/smaps_rollup").read_text()
        except OSError:
            continue
        if name.startswith("ray") and "ShardActor" not in line:
            continue
        kb = {row.split(":")[0]: float(row.split()[1]) for row in rollup.splitlines()[1:]}
        best = max(best, (kb["Pss"] / 1024, (kb["Private_Clean"] + kb["Private_Dirty"]) / 1024))
    return best


def labels(folder: Path) -> dict[str, Any]:
    """Every label map by its name."""
    return {path.name: np.asarray(Image.open(path)) for path in folder.rglob("*.labels.png")}


def check_equal(found: dict[str, Any], expected: dict[str, Any], name: str) -> None:
    """The gate: the same files with the same labels."""
    if found.keys() != expected.keys() or not all(np.array_equal(found[key], expected[key]) for key in found):
        sys.exit(f"error: {name} gives other labels; nothing is told about time")


def row_of(name: str, own: list[Run], base: list[Run]) -> Row:
    """A contender's figures, and its ratios to `segment FOLDER` round by round."""

    def median(figure: str) -> float:
        return statistics.median(getattr(run, figure) for run in own)

    rates = ratios([run.images_per_second for run in own], [run.images_per_second for run in base])
    cpu = ratios([run.cpu_seconds_per_image for run in base], [run.cpu_seconds_per_image for run in own])
    return {
        "contender": name,
        "images_per_second": median("images_per_second"),
        "ratio": statistics.median(rates),
        "ratios": rates,
        "cpu_seconds_per_image": median("cpu_seconds_per_image"),
        "cpu_ratio": statistics.median(cpu),
        "start_seconds": median("start_seconds"),
        "worker_pss_mb": max(run.worker_pss for run in own),
        "worker_uss_mb": max(run.worker_uss for run in own),
    }


def main() -> None:
    """Parse, measure, print, write."""
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=48, help="(%(default)s)")
    options.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    options.add_argument("--only", action="append", choices=CONTENDERS, help="beside segment; again for each")
    args = options.parse_args()
    names = [name for name in CONTENDERS if not CONTENDERS[name] or args.only is None or name in args.only]
    runs: dict[str, list[Run]] = {name: [] for name in names}
    expected: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        images, output = Path(folder) / "images", Path(folder) / "out"
        images.mkdir()
        for index in range(args.images):
            Image.fromarray(test_scene(index).image).save(images / f"{index:03}.jpg", quality=92)
        for number in range(args.rounds):
            for name in names:
                runs[name].append(run(name, images, output))
                if number == 0:
                    expected = expected or labels(output)
                    check_equal(labels(output), expected, name)
    rows = [row_of(name, own, runs[names[0]]) for name, own in runs.items()]
    for row in rows:
        print(
            f"{row['contender']:18} {row['images_per_second']:6.2f} images/s, {spread(row['ratios'])} segment's, "
            f"by processor time {row['cpu_ratio']:.2f}, first after {row['start_seconds']:.1f} s, "
            f"{row['worker_pss_mb']:.0f} MB a worker"
        )
    question = "workers of scclip batch on two CPUs, beside scclip segment FOLDER"
    write_report(args.json, question, images=args.images, rows=rows)


if __name__ == "__main__":
    main()

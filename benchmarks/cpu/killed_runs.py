"""`scclip batch` on 2,000 images, killed three times at random (`kill -9`) and resumed, beside an undisturbed run.

    python -m benchmarks.cpu.killed_runs [--images 2000] [--seed 0] [--json benchmarks/results/killed-runs.json]

For a WebDataset and for Parquet: every file of the two outputs must have the same bytes, every key must be there once,
and no process of a killed run may be left. Ends with 1 where one of these does not hold.
"""

import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.harness import Row, parser, write_report
from scclip_rt.demo.scenes import render

KILLS = 3


def photos(number: int) -> Iterator[bytes]:
    """JPEGs of one window each; every 97th is damaged."""
    scenes = [render(seed, split="test", size=(112, 112)).image for seed in range(min(number, 200))]
    for index in range(number):
        stream = io.BytesIO()
        Image.fromarray(scenes[index % len(scenes)]).save(stream, "JPEG", quality=80 + index % 15)
        yield stream.getvalue() if index % 97 != 13 else stream.getvalue()[:200]


def write_inputs(folder: Path, number: int) -> dict[str, list[Path]]:
    """The images in tars of 500 and in Parquet files of 500, in row groups of 100 as Hugging Face writes them."""
    images = list(photos(number))
    tars, tables = [], []
    for start in range(0, number, 500):
        part = list(enumerate(images[start : start + 500], start))
        tars.append(folder / f"photos-{start:06}.tar")
        with tarfile.open(tars[-1], "w") as tar:
            for index, data in part:
                for name, content in ((f"{index:06}.jpg", data), (f"{index:06}.json", b"{}")):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        tables.append(folder / f"photos-{start:06}.parquet")
        rows = [{"image": {"bytes": data, "path": f"{index}.jpg"}} for index, data in part]
        pq.write_table(pa.Table.from_pylist(rows), tables[-1], row_group_size=100)
    return {"webdataset": tars, "parquet": tables}


def start(inputs: list[Path], output: Path, kind: str, workers: int) -> "subprocess.Popen[bytes]":
    """A run, in a session of its own so that what it leaves behind can be found."""
    command = [
        sys.executable,
        "-m",
        "scclip_rt.cli",
        "batch",
        *inputs,
        "--bundle",
        "demo",
        "--output",
        output,
    ]
    options = ["--format", kind, "--precision", "fast", "--short-side", 112, "--shard-size", 50, "--resume"]
    return subprocess.Popen(
        [str(part) for part in (*command, *options, "--actors", workers)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def left_behind(session: int) -> list[int]:
    """Processes of a session that still run, after a second to notice that they are alone."""
    deadline = time.monotonic() + 10
    while True:
        found = []
        for entry in Path("/proc").iterdir():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (OSError, ValueError):
                continue
            if entry.name.isdigit() and int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def killed(
    inputs: list[Path], output: Path, kind: str, workers: int, draw: random.Random, shards: int
) -> list[int]:
    """A run that is killed three times; how many shards were done each time."""
    done = output / "_scclip" / "done"
    goals = sorted(draw.sample(range(1, shards - workers), KILLS))
    at = []
    for goal in goals:
        process = start(inputs, output, kind, workers)
        while process.poll() is None and len(list(done.glob("*.json"))) < goal:
            time.sleep(0.005)
        time.sleep(draw.random())  # somewhere inside a shard
        if process.poll() is not None:
            sys.exit("error: the run ended before it could be killed; take more --images")
        process.send_signal(signal.SIGKILL)
        process.wait()
        if left := left_behind(process.pid):
            sys.exit(f"error: processes {left} outlived the run that was killed")
        at.append(len(list(done.glob("*.json"))))
    if start(inputs, output, kind, workers).wait() != 0:
        sys.exit("error: the resumed run failed")
    return at


def outputs(folder: Path) -> dict[str, bytes]:
    """Every file but the ledger."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and "_scclip" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def keys(folder: Path, kind: str) -> list[str]:
    """The key of every row."""
    if kind == "parquet":
        names: list[str] = pq.read_table(folder, columns=["key"])["key"].to_pylist()
        return names
    found = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            found += [name.removesuffix(".json") for name in tar.getnames() if name.endswith(".json")]
    return found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=2000, help="(%(default)s)")
    options.add_argument("--actors", type=int, default=2, help="worker processes (%(default)s)")
    options.add_argument("--seed", type=int, default=0, help="of the moments of the kills (%(default)s)")
    args = options.parse_args()
    draw = random.Random(args.seed)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, inputs in write_inputs(folder, args.images).items():
            begun = time.perf_counter()
            if start(inputs, folder / kind / "whole", kind, args.actors).wait() != 0:
                sys.exit("error: the undisturbed run failed")
            seconds = time.perf_counter() - begun
            shards = len(list((folder / kind / "whole").glob("part-*")))
            at = killed(inputs, folder / kind / "killed", kind, args.actors, draw, shards)
            whole, again = outputs(folder / kind / "whole"), outputs(folder / kind / "killed")
            names = keys(folder / kind / "killed", kind)
            if whole != again or len(names) != args.images or len(set(names)) != args.images:
                sys.exit(f"error: {kind}: the resumed output differs from the undisturbed one")
            rate = args.images / seconds
            print(
                f"{kind}: killed at {at} of {shards} shards; {len(whole)} files equal, {len(names)} keys, each once; "
                f"{rate:.1f} images/s undisturbed"
            )
            row = {"input": kind, "shards": shards, "killed_at": at}
            rows.append(row | {"files": len(whole), "images_per_second": rate})
    question = "is the output of a run killed three times that of an undisturbed one?"
    facts = {"images": args.images, "actors": args.actors, "cpus": os.cpu_count()}
    write_report(args.json, question, **facts, rows=rows)


if __name__ == "__main__":
    main()

"""How much a service costs beside the library: latency, throughput, overload, memory, over loopback.

    python -m benchmarks.serving.load --bundle demo --json serving.json
    python -m benchmarks.serving.load --bundle vitb16.scclip --images 12 --rounds 2

In each round every contender gets the same images in turn: `Segmenter` called for one after the other, its `stream`,
`scclip serve`, the same with `--workers` processes, an endpoint that handles one request at a time
(benchmarks/serving/naive.py), and LitServe if it is installed (benchmarks/serving/lit.py). Caches are off.
Before the clock, every label map that comes over the wire is compared with Python's.
Ratios are medians of pairs of one round, so that a machine that slows down in between does not count.
"""

import argparse
import asyncio
import base64
import contextlib
import importlib.util
import io
import json
import operator
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.harness import parser, timed, write_report
from scclip_rt import Segmenter
from scclip_rt.demo.scenes import test_scene
from scclip_rt.serving.render import labels_png


@dataclass(frozen=True, slots=True)
class Request:
    """What is posted: an image for its label map, unless said otherwise."""

    body: bytes
    path: str = "/v1/segment"
    accept: str = "image/png"
    mime: str = "image/jpeg"


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: its status, its body and the seconds it took."""

    status: int
    seconds: float
    body: bytes


@dataclass
class Server:
    """A service in a process of its own."""

    name: str
    port: int
    process: subprocess.Popen[bytes]

    def request(self, file: bytes) -> Request:
        """What asks it for an image's labels."""
        if self.name != "litserve":
            return Request(file)
        body = json.dumps({"image": base64.b64encode(file).decode("ascii")}).encode()
        return Request(body, path="/predict", accept="*/*", mime="application/json")

    def labels(self, reply: Reply) -> bytes:
        """The PNG in its answer."""
        return reply.body if self.name != "litserve" else base64.b64decode(json.loads(reply.body)["labels"])

    def memory(self) -> float:
        """Resident memory, MiB."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def server(name: str, command: Sequence[str], port: int, first: bytes) -> Iterator[Server]:
    """Start a service and wait until it answers an image."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    made = Server(name, port, process)
    limit = time.monotonic() + 120
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError, IndexError):
            if asyncio.run(post_all(made, [made.request(first)], clients=1))[0].status == 200:
                break
        if process.poll() is not None or time.monotonic() > limit:
            sys.exit(f"{name} did not start: {' '.join(command)}")
        time.sleep(0.2)
    try:
        yield made
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.wait()


async def post_all(to: Server, requests: Sequence[Request], *, clients: int) -> list[Reply]:
    """Send every request once, by so many clients that each wait for their answer; replies in the same order."""
    left = iter(range(len(requests)))
    replies: list[Reply | None] = [None] * len(requests)

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", to.port)
        for index in left:
            replies[index] = await post(reader, writer, requests[index])
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return [reply for reply in replies if reply is not None]


async def post(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request) -> Reply:
    """One request on an open connection. A client of few lines: it must not take the cores that the server needs."""
    start = time.perf_counter()
    lines = [f"POST {request.path} HTTP/1.1", "Host: a", f"Accept: {request.accept}"]
    lines += [f"Content-Type: {request.mime}", f"Content-Length: {len(request.body)}", "", ""]
    writer.write("\r\n".join(lines).encode() + request.body)
    answer = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
    length = next(int(line[15:]) for line in answer if line.startswith(b"content-length:"))
    body = await reader.readexactly(length)
    return Reply(int(answer[0].split()[1]), time.perf_counter() - start, body)


async def open_loop(to: Server, body: bytes, *, rate: float, seconds: float) -> list[Reply]:
    """Requests at a steady rate whether answered or not, each on a connection of its own."""

    async def one() -> Reply:
        reader, writer = await asyncio.open_connection("127.0.0.1", to.port)
        try:
            return await post(reader, writer, Request(body))
        finally:
            writer.close()

    tasks, start = [], time.perf_counter()
    for number in range(round(rate * seconds)):
        await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
        tasks.append(asyncio.create_task(one()))
    return list(await asyncio.gather(*tasks))


def pictures(count: int, size: tuple[int, int]) -> list[bytes]:
    """JPEG files of rendered scenes, all different."""
    files = []
    for seed in range(count):
        image = Image.fromarray(test_scene(seed).image).resize(size, Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        image.save(stream, format="JPEG", quality=90)
        files.append(stream.getvalue())
    return files


def check(segment: Segmenter, to: Server, files: Sequence[bytes]) -> None:
    """The gate: what comes over the wire is what Python gives."""
    replies = asyncio.run(post_all(to, [to.request(file) for file in files], clients=4))
    for file, reply in zip(files, replies, strict=True):
        expected = segment(Image.open(io.BytesIO(file))).labels
        if reply.status != 200 or not np.array_equal(
            np.array(Image.open(io.BytesIO(to.labels(reply)))), expected
        ):
            sys.exit(f"{to.name}: another label map than Python's (status {reply.status})")


def one_call(segment: Segmenter, file: bytes) -> bytes:
    return labels_png(segment(Image.open(io.BytesIO(file))))


def rates(
    args: argparse.Namespace, segment: Segmenter, servers: Sequence[Server], files: Sequence[bytes]
) -> dict[str, list[float]]:
    """Seconds of one client's requests, and images a second at 4 and 16; contenders in turn, round by round."""
    samples: dict[str, list[float]] = {}
    many = [file for file in files for _ in range(args.repeat)]

    def note(name: str, value: float) -> None:
        samples.setdefault(name, []).append(value)

    def throughput(to: Server, clients: int) -> float:
        requests = [to.request(file) for file in many]
        return len(many) / timed(lambda: asyncio.run(post_all(to, requests, clients=clients)))[0]

    for turn in range(args.rounds):
        order = servers if turn % 2 else servers[::-1]
        for file in files:  # calls and requests one after the other, each image by everyone
            note("call", timed(partial(one_call, segment, file))[0])
            for each in order:
                note(
                    f"{each.name} 1", asyncio.run(post_all(each, [each.request(file)], clients=1))[0].seconds
                )
        for clients in (4, 16):
            opened = (Image.open(io.BytesIO(file)) for file in many)
            note(f"stream {clients}", len(many) / timed(partial(list, segment.stream(opened)))[0])
            for each in order:
                note(f"{each.name} {clients}", throughput(each, clients))
        print(f"round {turn + 1} of {args.rounds}:", last_of(samples), file=sys.stderr)
    return samples


def overload(to: Server, file: bytes, *, rate: float, seconds: float) -> dict[str, Any]:
    """Four times the sustainable load: what is accepted is answered in time, the rest is refused at once."""
    replies = asyncio.run(open_loop(to, file, rate=rate, seconds=seconds))
    accepted = [reply.seconds for reply in replies if reply.status == 200]
    refused = [reply.seconds for reply in replies if reply.status == 503]
    return {
        "rate": rate,
        "requests": len(replies),
        "accepted": len(accepted),
        "refused": len(refused),
        "other": len(replies) - len(accepted) - len(refused),
        "accepted_p99": float(np.percentile(accepted, 99)) if accepted else None,
        "refused_p50": float(np.percentile(refused, 50)) if refused else None,
        "refused_p99": float(np.percentile(refused, 99)) if refused else None,
    }


def last_of(samples: dict[str, list[float]]) -> dict[str, float]:
    """The latest value of each contender."""
    return {name: round(values[-1], 4) for name, values in samples.items()}


def pairs(samples: dict[str, list[float]], one: str, other: str, compare: Callable[..., float]) -> float:
    """The median over pairs of one round (and, for one client, one image)."""
    return round(statistics.median(map(compare, samples[one], samples[other])), 3)


def ratios(samples: dict[str, list[float]]) -> dict[str, float]:
    """What the question is about."""
    made = {"serve_1_minus_call_ms": 1000 * pairs(samples, "serve 1", "call", operator.sub)}
    for clients in (4, 16):
        for name in ("serve", "workers"):
            for other in ("stream", "fastapi", "litserve"):
                if f"{name} {clients}" in samples and f"{other} {clients}" in samples:
                    made[f"{name}_{clients}_over_{other}"] = pairs(
                        samples, f"{name} {clients}", f"{other} {clients}", operator.truediv
                    )
    return made


def main() -> None:
    """Start the services, check, measure, print, write."""
    options = parser(__doc__)
    options.add_argument("--bundle", default="demo")
    options.add_argument("--classes", help="for bundles without a list of their own")
    options.add_argument("--images", type=int, default=16)
    options.add_argument("--repeat", type=int, default=2, help="of each image, for throughput (%(default)s)")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--workers", type=int, default=2, help="of a second server; 1: none (%(default)s)")
    options.add_argument("--size", type=int, nargs=2, default=(640, 480), metavar=("WIDTH", "HEIGHT"))
    options.add_argument("--overload", type=float, default=8.0, help="seconds of it, 0: none (%(default)s)")
    args = options.parse_args()
    files = pictures(args.images, tuple(args.size))
    classes = [] if args.classes is None else ["--classes", args.classes]
    segment = Segmenter(args.bundle, classes=args.classes)
    ours = [sys.executable, "-m", "scclip_rt.cli", "serve", args.bundle, *classes]
    ours += ["--cache-mb", "0", "--no-access-log", "--max-queue", "24", "--port"]
    commands = {"serve": ours, "workers": [*ours[:-1], "--workers", str(args.workers), "--port"]}
    for name, module in (("fastapi", "naive"), ("litserve", "lit")):
        if importlib.util.find_spec(name) is not None:
            commands[name] = [sys.executable, "-m", f"benchmarks.serving.{module}", args.bundle]
    if args.workers < 2:
        del commands["workers"]
    with contextlib.ExitStack() as stack:
        servers = []
        for name, command in commands.items():
            port = free_port()
            line = [*command, str(port), *(classes[1:] if name in ("fastapi", "litserve") else [])]
            servers.append(stack.enter_context(server(name, line, port, files[0])))
            check(segment, servers[-1], files)
        samples = rates(args, segment, servers, files)
        found = {name: statistics.median(values) for name, values in samples.items()}
        report = {"backend": segment.backend.describe(), "medians": found, "ratios": ratios(samples)}
        if args.overload:
            rate = 4 * found["serve 16"]
            report["overload"] = overload(servers[0], files[0], rate=rate, seconds=args.overload)
    print(json.dumps(report, indent=2))
    write_report(args.json, "a service beside the library", bundle=args.bundle, **report)


if __name__ == "__main__":
    main()

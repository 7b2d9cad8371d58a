"""Whether a service grows: its resident memory after 500 and after 10,000 mixed requests.

    python benchmarks/serving/memory.py [--requests 10000]

Four clients send images of several sizes for PNG, JSON, raw labels and overlays, new class lists, Triton's protocol,
and damaged or wrong requests. The cache of features is on, and smaller than what passes through it.
"""

import argparse
import asyncio
import base64
import json
import sys
from collections import Counter
from pathlib import Path

from load import Server, free_port, pictures, server

SIZES = ((64, 48), (160, 120), (224, 224), (300, 200))


def requests(count: int) -> list[tuple[str, str, str, bytes]]:
    """Path, accepted type, content type and body of each request."""
    files = [pictures(2, size)[1] for size in SIZES]
    made = []
    for number in range(count):
        file, kind = files[number % len(files)], number % 10
        accept, path, mime, body = "image/png", "/v1/segment", "image/jpeg", file
        if kind in (1, 2):
            accept, path = "application/json", "/v1/segment?boxes=1&confidence=1"
        elif kind == 3:
            path = "/v1/segment?overlay=1"
        elif kind == 4:
            accept = "application/octet-stream"
        elif kind == 5:  # a list that is new three times in four
            path = f"/v1/segment?classes=thing%20{number % 997};grass"
        elif kind == 6:
            row = {
                "name": "image",
                "datatype": "BYTES",
                "shape": [1],
                "data": [base64.b64encode(file).decode()],
            }
            path, mime, body = (
                "/v2/models/demo/infer",
                "application/json",
                json.dumps({"inputs": [row]}).encode(),
            )
        elif kind == 7:
            body = file[: len(file) // 3]
        elif kind == 8:
            path, body = ("/nothing", b"") if number % 20 < 10 else ("/v1/segment?classes=a;a", file)
        elif kind == 9:
            body = file + number.to_bytes(4, "little")  # another hash: encoded anew
        made.append((path, accept, mime, body))
    return made


async def send_all(to: Server, work: list[tuple[str, str, str, bytes]]) -> Counter[int]:
    left, statuses = iter(work), Counter[int]()

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", to.port)
        for path, accept, mime, body in left:
            lines = [f"POST {path} HTTP/1.1", "Host: a", f"Accept: {accept}", f"Content-Type: {mime}"]
            head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
            writer.write(head.encode() + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            await reader.readexactly(
                next(int(line[15:]) for line in answer if line.startswith(b"content-length:"))
            )
            statuses[int(answer[0].split()[1])] += 1
        writer.close()

    await asyncio.gather(*(client() for _ in range(4)))
    return statuses


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=500)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    work, port = requests(args.requests), free_port()
    command = [sys.executable, "-m", "scclip_rt.cli", "serve", "demo", "--port", str(port), "--cache-mb", "4"]
    with server(
        "serve", [*command, "--templates", "none", "--no-access-log"], port, pictures(1, (64, 48))[0]
    ) as to:
        statuses = asyncio.run(send_all(to, work[: args.first]))
        before = to.memory()
        statuses += asyncio.run(send_all(to, work[args.first :]))
        after = to.memory()
    report = {
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "first_mib": round(before, 1),
        "last_mib": round(after, 1),
        "ratio": round(after / before, 3),
    }
    print(json.dumps(report, indent=2))
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Whether a service grows: its resident memory after 500 and after 10,000 mixed requests.

    python -m benchmarks.serving.memory [--requests 10000]

Four clients send images of several sizes for PNG, JSON, raw labels and overlays, new class lists, Triton's protocol,
and damaged or wrong requests. The cache of features is on, and smaller than what passes through it.
"""

import asyncio
import base64
import json
import sys
from collections import Counter

from benchmarks.harness import parser, write_report
from benchmarks.serving.load import Request, free_port, pictures, post_all, server

SIZES = ((64, 48), (160, 120), (224, 224), (300, 200))


def mixed(number: int, file: bytes) -> Request:
    """The request of a number: the last digit is its kind."""
    kind = number % 10
    if kind in (1, 2):
        return Request(file, path="/v1/segment?boxes=1&confidence=1", accept="application/json")
    if kind == 3:
        return Request(file, path="/v1/segment?overlay=1")
    if kind == 4:
        return Request(file, accept="application/octet-stream")
    if kind == 5:  # a list that is new three times in four
        return Request(file, path=f"/v1/segment?classes=thing%20{number % 997};grass")
    if kind == 6:
        row = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(file).decode()]}
        body = json.dumps({"inputs": [row]}).encode()
        return Request(body, path="/v2/models/demo/infer", mime="application/json")
    if kind == 7:
        return Request(file[: len(file) // 3])
    if kind == 8:
        return (
            Request(b"", path="/nothing")
            if number % 20 < 10
            else Request(file, path="/v1/segment?classes=a;a")
        )
    return Request(
        file + number.to_bytes(4, "little") if kind == 9 else file
    )  # 9: another hash, encoded anew


def main() -> None:
    """Start the service, send, print, write."""
    options = parser(__doc__)
    options.add_argument("--requests", type=int, default=10_000)
    options.add_argument("--first", type=int, default=500)
    args = options.parse_args()
    files = [pictures(2, size)[1] for size in SIZES]
    work, port = [mixed(number, files[number % len(files)]) for number in range(args.requests)], free_port()
    command = [sys.executable, "-m", "scclip_rt.cli", "serve", "demo", "--port", str(port), "--cache-mb", "4"]
    command += ["--templates", "none", "--no-access-log"]
    with server("serve", command, port, files[0]) as to:
        replies = asyncio.run(post_all(to, work[: args.first], clients=4))
        before = to.memory()
        replies += asyncio.run(post_all(to, work[args.first :], clients=4))
        after = to.memory()
    statuses = Counter(reply.status for reply in replies)
    report = {
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "first_mib": round(before, 1),
        "last_mib": round(after, 1),
        "ratio": round(after / before, 3),
    }
    print(json.dumps(report, indent=2))
    write_report(args.json, "the memory of a service", **report)


if __name__ == "__main__":
    main()

"""How cost grows: with queries, with the image, with windows; and what batch and threads do.

    python -m benchmarks.cpu.sweeps queries|images|windows|batch|threads|large [--target fp32] [--json FILE]

`large` is 10,000 queries on a 4K photo: its memory is the point.
"""

import sys
from dataclasses import replace

from benchmarks.harness import measure, parser
from benchmarks.models import add_model_options, bundle
from scclip_rt.bench import Case, Entry, Workload, entries, parse_target
from scclip_rt.cpus import default_threads

QUERIES = (1, 5, 20, 50, 150, 500, 1000)
SIZES = ((224, 224), (375, 500), (720, 1280), (1080, 1920), (2160, 3840))
SHORT_SIDES = (224, 336, 448, 560)
BATCHES = (1, 2, 3, 6)
STREAM = 4
LARGE = Workload(image_size=(2160, 3840), queries=10_000)


def groups(sweep: str, case: Case) -> list[list[Entry]]:
    """The groups of one sweep: what only differs in batch, threads or windows takes turns."""
    if sweep == "queries":
        return [entries([replace(case, workload=Workload(queries=n))]) for n in QUERIES]
    if sweep == "images":
        return [entries([replace(case, workload=Workload(image_size=size))]) for size in SIZES]
    if sweep == "windows":
        return [entries([replace(case, short_side=side) for side in SHORT_SIDES])]
    if sweep == "batch":
        streamed = replace(case, workload=Workload(stream=STREAM))
        return [entries([replace(streamed, batch=batch) for batch in BATCHES])]
    if sweep == "threads":
        return [entries([replace(case, threads=n) for n in range(1, default_threads() + 1)])]
    return [entries([replace(case, workload=LARGE)])]


def main() -> None:
    """Parse, measure, print, write."""
    arguments = parser(__doc__, iterations=5)
    arguments.add_argument("sweep", choices=("queries", "images", "windows", "batch", "threads", "large"))
    arguments.add_argument("--target", default="fp32", help="PRECISION, @BACKEND, @whole (%(default)s)")
    add_model_options(arguments)
    args = arguments.parse_args()
    path = bundle(args.model, args.work)
    case = parse_target(f"{path}@{args.target}", Case(bundle=str(path)))
    measure(f"growth: {args.sweep}", groups(args.sweep, case), args, limit=args.sweep in ("batch", "threads"))


if __name__ == "__main__":
    sys.exit(main())

"""One 375×500 photo: the runtime, in every precision and on every backend, beside the naive eager baseline.

    python -m benchmarks.cpu.photo --queries 20 [--targets fp32 int8 int8@whole …] [--json FILE]

Every contender has a process of its own and takes its turn in every round, so that a drift of the machine's speed
meets all; before that each must pass the correctness gate, and fp32 labels must be the baseline's.
"""

import importlib.util
import sys
from pathlib import Path

from benchmarks.harness import measure, parser
from benchmarks.models import add_model_options, bundle, photo
from scclip_rt.backends import BACKENDS
from scclip_rt.bench import Case, Entry, Workload, parse_target
from scclip_rt.bundle.bundle import Bundle


def default_targets(path: Path) -> list[str]:
    """Windows in every precision of the bundle on every backend that is installed here, and int8 (else fp32) whole."""
    held = {spec.precision for spec in Bundle.open(path).encoders}
    kept = [name for name in ("fp32", "int8") if name in held]
    targets = [f"{precision}@onnxruntime" for precision in kept]
    backends = ["onnxruntime"]
    if "openvino" in BACKENDS and importlib.util.find_spec("openvino") is not None:
        import openvino

        capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        # bf16 is the fp32 file with another arithmetic, where the processor has it.
        targets += [
            f"{precision}@openvino" for precision in (*kept, *(["bf16"] if "BF16" in capabilities else []))
        ]
        backends.append("openvino")
    return targets + [f"{kept[-1]}@{backend}@whole" for backend in backends]


def contenders(path: Path, targets: list[str], workload: Workload) -> list[Entry]:
    """The naive baseline, then one entry for each target (PRECISION, @BACKEND, @whole)."""
    # Not at the top: every contender's process imports this module again, and torch would count in its memory.
    from benchmarks.cpu.naive_contender import NaiveContender

    base = Case(bundle=str(path), workload=workload)
    named = [
        Entry(name=target.replace("@", " "), case=parse_target(f"{path}@{target}", base))
        for target in targets
    ]
    return [Entry(name="naive eager", case=base, factory=NaiveContender), *named]


def main() -> None:
    """Parse, measure, print, write."""
    arguments = parser(__doc__, iterations=7)
    add_model_options(arguments)
    arguments.add_argument("--queries", type=int, nargs="+", default=[20, 150], help="(20 150)")
    arguments.add_argument("--targets", nargs="+", help="(all that this machine and the bundle have)")
    args = arguments.parse_args()
    path = bundle(args.model, args.work)
    image = str(photo(args.work))
    workloads = [Workload(image=image, queries=queries) for queries in args.queries]
    groups = [contenders(path, args.targets or default_targets(path), workload) for workload in workloads]
    measure("one 375×500 photo against the naive eager baseline", groups, args)


if __name__ == "__main__":
    sys.exit(main())

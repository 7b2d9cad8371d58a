"""What the calibration costs: the calibrated encoder beside the plain one of the same precision and backend.

    python -m benchmarks.cpu.calibration [--targets fp32 int8] [--json benchmarks/results/calibration.json]

The plain encoder is the same checkpoint exported with `--calibration none`: CLIP's own last block, with its queries and
MLP. Each pair takes turns by itself.
"""

import sys
from dataclasses import replace

from benchmarks.harness import measure, parser
from benchmarks.models import add_model_options, bundle
from scclip_rt.bench import Case, Entry, parse_target


def main() -> None:
    """Parse, measure, print, write."""
    arguments = parser(__doc__, iterations=9)
    add_model_options(arguments)
    arguments.add_argument("--targets", nargs="+", default=["fp32", "int8"], help="(%(default)s)")
    args = arguments.parse_args()
    calibrated, plain = (bundle(args.model, args.work, calibration=method) for method in ("scclip", "none"))
    groups = []
    for target in args.targets:
        case = parse_target(f"{calibrated}@{target}", Case(bundle=str(calibrated)))
        groups.append(
            [
                Entry(name=f"plain {target}", case=replace(case, bundle=str(plain))),
                Entry(name=f"calibrated {target}", case=case),
            ]
        )
    measure("what the calibration costs", groups, args, limit=False)


if __name__ == "__main__":
    sys.exit(main())
